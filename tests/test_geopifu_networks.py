"""Geo-PIFu's networks, samples and losses against what they are said to be: sizes, recursions, places, views, gradients."""
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn.functional import interpolate

from common.errors import InputError
from geopifu import sampling
from geopifu.geometry import calibration
from geopifu.hourglass import ConvBlock, HGFilter, HourGlass
from geopifu.losses import coarse_backward, coarser, cross_entropy, iou_precision_recall, occupancy_loss
from geopifu.model import GeoPIFu, ModelConfig, PIFu, vnet
from geopifu.vnet import Unet3D

SMALL = {"features": 16, "num_stack": 2, "num_hourglass": 1, "hourglass_dim": 12, "mlp_dim": [0, 24, 16, 8, 1], "mlp_dim_3d": [0, 16, 8, 1],
         "mlp_dim_joint": [0, 16, 8, 1], "loadSize": 32, "vrn_num_modules": 2, "vrn_net_input_height": 96, "vrn_net_input_width": 64}
WIDE = {"multiRanges_deepVoxels": True, "deepVoxels_c_len": 56}
FUSIONS = {"pifu": {}, "early": {"deepVoxels_fusion": "early", **WIDE}, "single": {"deepVoxels_fusion": "early"},
           "late": {"deepVoxels_fusion": "late", "deepVoxels_c_len": 10, "deepVoxels_c_len_intoLateFusion": 56, "multiRanges_deepVoxels": True},
           "multiLoss": {"deepVoxels_fusion": "multiLoss", **WIDE}}
VIEWS = torch.from_numpy(np.stack([calibration(k) for k in range(4)]))


def small(**options) -> ModelConfig:
    return ModelConfig(**{**SMALL, **options})


def lively(module: nn.Module) -> nn.Module:
    """Weights large enough that outputs depend on inputs visibly."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def points(n: int, batch: int = 1, reach: float = 1.0) -> torch.Tensor:
    """(batch, 3, n) in the canonical box times `reach`."""
    return (torch.rand(batch, 3, n, generator=torch.Generator().manual_seed(1)) * 2 - 1) * torch.tensor([1 / 3, 1 / 2, 1 / 3])[:, None] * reach


# Networks

@pytest.mark.parametrize(("options", "count", "tensors"), [({}, 15_604_738, 441), (FUSIONS["early"], 15_712_314, 442)])
def test_published_sizes(options, count, tensors):
    with torch.device("meta"):
        network = PIFu(ModelConfig(**options))
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert len(network.state_dict()) == tensors


def test_published_size_of_the_vnet():
    with torch.device("meta"):
        network = vnet(ModelConfig())
    state = network.state_dict()
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_906_393
    assert (len(state), sum(key.endswith("num_batches_tracked") for key in state)) == (562, 17)


def test_bn4_stands_in_the_file_twice_and_is_one_tensor():
    changing, equal = ConvBlock(8, 16), ConvBlock(16, 16)
    assert changing.state_dict()["bn4.weight"].data_ptr() == changing.state_dict()["downsample.0.weight"].data_ptr()
    assert "bn4.weight" in equal.state_dict() and not any("downsample" in key for key in equal.state_dict())
    assert len(list(equal.parameters())) == 11 and len(list(changing.parameters())) == 12


@pytest.mark.parametrize("mode", ["bicubic", "nearest"])
def test_an_hourglass_is_its_recursion(mode):
    torch.manual_seed(0)
    glass, x = lively(HourGlass(2, 16, upsample_mode=mode)), torch.randn(1, 16, 8, 12)
    up = lambda low: interpolate(low, scale_factor=2, mode=mode, **({} if mode == "nearest" else {"align_corners": True}))
    half = lambda x: x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
    inner = glass.b2_2(half(x))
    low = glass.b3_1(glass.b2_plus_1(glass.b2_1(half(inner))))
    expected = glass.b1_2(x) + up(glass.b3_2(glass.b1_1(inner) + up(low)))
    assert torch.allclose(glass(x), expected, atol=1e-4)


@pytest.mark.parametrize("side", [24, 30, 0])
def test_sides_that_do_not_divide_are_refused(side):
    with pytest.raises(InputError, match="sides that 16 divides"):
        HGFilter(1, 2, 8, 16)(torch.zeros(1, 3, 16, side))


@pytest.mark.parametrize("down", ["ave_pool", "conv64", "conv128"])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_every_filter_gives_maps_of_a_quarter(down, norm):
    stacks, stem, half = HGFilter(3, 1, 12, 16, norm, down)(torch.randn(2, 3, 32, 48))
    assert [tuple(stack.shape) for stack in stacks] == [(2, 12, 8, 12)] * 3
    assert stem.shape == (2, 4, 16, 24) and not stem.requires_grad and half.shape == (2, 8, 8, 12)


def test_later_stacks_read_what_earlier_ones_say():
    network, image = lively(HGFilter(2, 1, 12, 16)), torch.randn(1, 3, 32, 32)
    before = network(image)[0]
    nn.init.zeros_(network.al0.weight)
    after = network(image)[0]
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1])


def test_the_unet_keeps_shape_and_gives_no_negative_voxel():
    out = Unet3D()(torch.randn(1, 8, 4, 12, 8))
    assert out.shape == (1, 8, 4, 12, 8) and out.min() >= 0


def test_maps_are_read_as_channels_of_depth():
    network = vnet(small()).eval()
    maps = torch.randn(1, 64, 12, 8)
    assert torch.equal(network._voxels(maps)[0, 3, 5], maps[0, 3 * 8 + 5])
    assert network.latents(torch.randn(2, 3, 32, 32))[0].shape == (2, 8, 8, 12, 8)
    assert len(network.train().latents(torch.randn(2, 3, 32, 32))) == 2


def test_the_vnet_sees_the_middle_of_the_photo_where_it_is():
    side, config = 32, small()
    ramp = ((torch.arange(side) + 0.5) / side * 2 - 1).expand(1, 3, side, side)                 # x at the pixels' centres
    columns = (torch.arange(64) + 16.5) / 96 * 2 - 1
    assert torch.allclose(vnet(config).cropped(ramp)[0, 0, 0], columns, atol=1e-5)
    shifted = vnet(small(published_pixels=True)).cropped(ramp)[0, 0, 0]
    assert 0.001 < (shifted - columns).abs().max() < 1 / side


def test_occupancies_lie_where_their_latents_do():
    """A latent that is its own coordinate stays one at the centres of the finer voxels; as released it is pulled from them."""
    network = vnet(small())
    latents = ((torch.arange(8) + 0.5) / 8 * 2 - 1).expand(1, 8, 8, 12, 8).clone()
    fine = (torch.arange(32) + 0.5) / 32 * 2 - 1
    seen = []
    network.conv3d_cls_1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for network.published_voxels in (False, True):
        network.occupancy(latents)
    assert torch.allclose(seen[0][0, 0, 0, 0, 2:-2], fine[2:-2], atol=1e-6)
    assert not torch.allclose(seen[1][0, 0, 0, 0, 2:-2], fine[2:-2], atol=1e-2)


# Samples

@pytest.mark.parametrize("align", [False, True])
def test_samplers_have_right_gradients(align):
    torch.manual_seed(0)
    uv, xyz = (torch.rand(2, 2, 5, dtype=torch.float64) * 2.2 - 1.1).requires_grad_(), (torch.rand(2, 3, 5, dtype=torch.float64) * 2.2 - 1.1).requires_grad_()
    maps, voxels = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True), torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda maps, uv: sampling.sample_picture(maps, uv, align), (maps, uv))
    assert gradcheck(lambda voxels, xyz: sampling.sample_volume(voxels, xyz, sampling.displacements(0.3), align), (voxels, xyz))
    assert gradcheck(lambda voxels, xyz: sampling.sample_volume(voxels, xyz, None, align), (voxels, xyz))
    assert gradcheck(sampling.sample_volume_swapped, (voxels, xyz))


def test_samples_lie_where_pixels_and_voxels_do():
    """Features that are their own coordinates give the point asked for: axes in order, centres at (i + 1/2) / n."""
    center = lambda n: (torch.arange(n) + 0.5) / n * 2 - 1
    maps = torch.stack(torch.meshgrid(center(6), center(8), indexing="ij")[::-1])[None]
    voxels = torch.stack(torch.meshgrid(center(6), center(8), center(10), indexing="ij")[::-1])[None]
    uv, xyz = (torch.rand(1, 2, 50) * 2 - 1) * 0.7, (torch.rand(1, 3, 50) * 2 - 1) * 0.7
    assert torch.allclose(sampling.sample_picture(maps, uv, False), uv, atol=1e-6)
    assert torch.allclose(sampling.sample_volume(voxels, xyz, None, False), xyz, atol=1e-6)
    offsets = sampling.displacements(0.05)
    moved = sampling.sample_volume(voxels, xyz, offsets, False).unflatten(1, (3, 7))            # the offset counts fastest
    assert torch.allclose(moved, xyz[:, :, None] + offsets.T[None, :, :, None], atol=1e-6)


def test_the_swapped_sampler_errs_where_fractions_differ():
    voxels, xyz = torch.randn(1, 2, 8, 8, 8), (torch.rand(1, 3, 40) * 2 - 1) * 0.9
    xyz[:, 2, :20] = xyz[:, 0, :20]
    right, swapped = sampling.sample_volume(voxels, xyz), sampling.sample_volume_swapped(voxels, xyz)
    assert torch.allclose(right[..., :20], swapped[..., :20], atol=1e-5) and not torch.allclose(right[..., 20:], swapped[..., 20:], atol=1e-2)


def test_depth_grows_towards_the_camera_and_views_turn_about_y():
    front, right = (sampling.project(torch.tensor([[[0.1], [0.2], [-0.3]]]), VIEWS[k:k + 1])[0, :, 0] for k in (0, 1))
    assert torch.allclose(front, torch.tensor([0.2, 0.4, 0.6])) and torch.allclose(right, 2 * torch.tensor([-0.3, 0.2, 0.1]))
    assert sampling.in_picture(torch.tensor([[[1.0, 1.01], [-1.0, 0.0], [5.0, 0.0]]])).tolist() == [[True, False]]


# Fields

@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("options", [{}, {"no_residual": True}, {"skip_hourglass": True}], ids=str)
def test_predictions_of_every_fusion(name, options):
    network = PIFu(small(**FUSIONS[name], **options))
    voxels = torch.rand(2, 8, 8, 12, 8) if network.config.deepVoxels_fusion else None
    scene = network.scene(torch.randn(2, 3, 32, 32), VIEWS[:2], voxels)
    predictions = network.predict(scene, points(9, 2))
    assert len(predictions) == 2 * (3 if name == "multiLoss" else 1) and all(p.shape == (2, 1, 9) for p in predictions)
    network.eval()
    last = network.predict(network.scene(torch.randn(2, 3, 32, 32), VIEWS[:2], voxels), points(9, 2))
    assert len(last) == 1 and ((last[0] > 0) & (last[0] < 1)).all()


@pytest.mark.parametrize("name", FUSIONS)
def test_equal_views_say_what_one_says(name):
    model, photo = GeoPIFu(small(**FUSIONS[name]), ("netG", "netV")).eval(), torch.randn(1, 3, 32, 32)
    lively(model.netG)
    one = model.field(model.scene(photo), points(20).mT)
    three = model.field(model.scene(photo[:, None].expand(1, 3, 3, 32, 32), VIEWS[:1].expand(1, 3, 4, 4)), points(20).mT)
    assert torch.allclose(one, three, atol=1e-5) and one.std() > 1e-3


def test_a_point_counts_that_any_view_sees():
    network = PIFu(small()).eval()
    beyond = torch.tensor([0.6, 0.0, 0.0]).reshape(1, 3, 1)                                      # outside of the front's photo, before the right one's middle
    photos = torch.randn(2, 3, 32, 32)
    assert network.predict(network.scene(photos[:1], VIEWS[:1]), beyond)[0] == 0
    assert network.predict(network.scene(photos, VIEWS[:2]), beyond)[0] > 0


def test_voxels_are_sampled_in_the_photos_view():
    """A network that reads nothing but one latent number finds it at the point turned into the view, for every view."""
    network = PIFu(small(deepVoxels_fusion="early", mlp_dim=[0, 1])).eval()
    nn.init.zeros_(network.surface_classifier.conv0.weight)
    nn.init.ones_(network.surface_classifier.conv0.weight[:, :1])
    nn.init.zeros_(network.surface_classifier.conv0.bias)
    voxels = torch.zeros(4, 8, 16, 24, 16)
    centers = (torch.arange(16) + 0.5) / 16 * 2 - 1
    voxels[:, 0] = centers                                                                       # latent 0 is x of the view
    asked = points(30, 4, 0.8)
    asked[:] = asked[:1]
    found = network.predict(network.scene(torch.randn(4, 3, 32, 32), VIEWS, voxels), asked)[0][:, 0].logit()
    x, _, z = asked[0]
    assert torch.allclose(found, 3 * torch.stack([x, z, -x, -z]), atol=1e-4)


def test_the_model_makes_the_voxels_that_it_needs():
    config = small(**FUSIONS["early"])
    model, photo = GeoPIFu(config).eval(), torch.randn(1, 3, 32, 32)
    lively(model.netG)
    made = model.field(model.scene(photo), points(9).mT)
    assert torch.equal(made, model.field(model.scene(photo, voxels=model.latents(photo)), points(9).mT))
    assert not torch.allclose(made, model.field(model.scene(photo, voxels=torch.rand(1, 8, 8, 12, 8) * 9), points(9).mT))
    with pytest.raises(InputError, match="no V-net"):
        GeoPIFu(config, ("netG",)).scene(photo)


@pytest.mark.parametrize("options", [{"deepVoxels_fusion": "early", "deepVoxels_c_len": 56}, {"deepVoxels_fusion": "late", "multiRanges_deepVoxels": True},
                                     {"multiRanges_deepVoxels": True}], ids=str)
def test_counts_of_voxel_features_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=r"--(deepVoxels_c_len|deepVoxels_c_len_intoLateFusion|multiRanges_deepVoxels)"):
        PIFu(small(**options))


@pytest.mark.parametrize(("options", "words"), [
    ({"features": 24}, "--features 24"), ({"vrn_net_input_width": 72}, "--vrn_net_input_width 72"), ({"vrn_net_input_width": 128}, "the width no larger"),
    ({"mlp_dim": [0, 8, 2]}, "--mlp_dim 0 8 2"), ({"mlp_dim": [257]}, "--mlp_dim 257"),
    ({"deepVoxels_fusion": "multiLoss", "mlp_dim_3d": [0, 1]}, "--mlp_dim_3d")])
def test_sizes_that_no_network_has_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        GeoPIFu(small(**options))


# Losses

def test_what_is_inside_counts_seven_tenths():
    half = torch.full((1, 1, 8), 0.5)
    inside, outside = (float(cross_entropy(half, labels)) for labels in (torch.ones_like(half), torch.zeros_like(half)))
    assert inside == pytest.approx(700 * np.log(2)) and outside == pytest.approx(300 * np.log(2))


def test_losses_of_points():
    p, q, y = torch.tensor([[[0.2, 0.9]]]), torch.tensor([[[0.6, 0.9]]]), torch.tensor([[[0.0, 1.0]]])
    assert torch.allclose(occupancy_loss([p, q], y), torch.tensor((0.04 + 0.01 + 0.36 + 0.01) / 4))
    assert torch.allclose(occupancy_loss([p], y, "l1"), torch.tensor(0.15))
    assert torch.allclose(occupancy_loss([p], y, "ce"), torch.tensor(-1000 * (0.7 * np.log(0.9) + 0.3 * np.log(0.8)) / 2, dtype=torch.float32))


def test_stacks_differentiated_one_by_one_are_one_pass():
    torch.manual_seed(0)
    network, image = vnet(small()).double(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    labels = (torch.rand(1, 1, 64, 96, 64) > 0.7).double()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    loss, occupancy = coarse_backward(network, image, labels, 10.0, share=0.5)
    ours, statistics = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None], network.conv3d_cls_1[1].running_var.clone()
    network.load_state_dict(state)
    network.zero_grad()
    volumes = [network.occupancy(latents) for latents in network.latents(image)]
    plain = torch.stack([cross_entropy(volume, coarser(labels, volume), 10.0) for volume in volumes]).mean()
    (0.5 * plain).backward()
    theirs = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert torch.allclose(loss, plain) and torch.allclose(occupancy, volumes[-1]) and len(ours) == len(theirs)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs))
    assert torch.allclose(statistics, network.conv3d_cls_1[1].running_var)


def test_iou_precision_recall_by_counting():
    for bits in itertools.product((0, 1), repeat=4):
        for truth in itertools.product((0, 1), repeat=4):
            P, G = {i for i in range(4) if bits[i]}, {i for i in range(4) if truth[i]}
            expected = [len(P & G) / max(len(s), 1) for s in (P | G, P, G)]
            assert torch.allclose(iou_precision_recall(torch.tensor(bits) * 0.6, torch.tensor(truth).float()), torch.tensor(expected))
