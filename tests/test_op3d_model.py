"""OP3D's networks and its way along rays against their definitions, and the authors' files."""
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.cameras import Cameras, eg3d_label
from common.errors import InputError
from common.layers.stylegan2 import modulated_conv2d
from common.rays import camera_rays, pixel_grid
from op3d.backbone import ToPlanes
from op3d.cameras import eg3d_cameras
from op3d.discriminator import Discriminator
from op3d.march import box_limits, composite, filled, fine_depths, merged, ordered, stratified
from op3d.model import Draws, Generator, ModelConfig
from op3d.published import build, read_nets
from op3d.superresolution import KINDS, SuperResolution
from tests.golden import golden

SNAPSHOT = Path(golden.__file__).parent / "op3d" / "tiny_snapshot.pkl"
TINY = ModelConfig(plane_side=16, cmax=8, z_dim=8, w_dim=16, map_depth=2, plane_number=3, fourier_L=2, sr_module="none", img_resolution=6,
                   neural_rendering_resolution=6, depth_resolution=6, depth_resolution_importance=5)


def normal(*shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def cameras(count: int = 2) -> Cameras:
    return eg3d_cameras(torch.linspace(1.2, 1.9, count), torch.full((count,), 1.5), (0, 0, 0.2), 2.7)


def tiny(**changes) -> Generator:
    torch.manual_seed(0)
    return Generator(replace(TINY, **changes)).eval()


# Networks

def test_the_planes_of_one_product_are_k_modulated_convolutions():
    torch.manual_seed(0)
    layer, x, coordinates = ToPlanes(5, 6, 9, clamp=1.0), normal(2, 5, 4, 4), normal(2, 3, 9, seed=1)
    planes = layer(x, coordinates)
    assert planes.is_contiguous(memory_format=torch.channels_last)
    for k in range(3):
        own = modulated_conv2d(x, layer.weight, layer.styles(coordinates[:, k]), demodulate=False) + layer.bias[:, None, None]
        torch.testing.assert_close(planes[:, 6 * k:6 * k + 6], own.clamp(-1, 1))


@pytest.mark.parametrize("model, changes", [
    ("op3d", {}), ("eg3d", {}), ("op3d", {"ray_start": None, "box_warp": 0.2, "white_back": True}), ("op3d", {"depth_resolution_importance": 0})])
@torch.no_grad()
def test_a_scene_is_made_once_and_asked_in_any_chunks(model, changes):
    generator = tiny(model=model, **changes)
    ws = generator.codes(normal(2, 8), eg3d_label(cameras()))
    scene, points = generator.scene(ws), uniform(2, 50, 3) - 0.5
    assert scene.planes.shape == (2, 3 if model == "op3d" else 1, 96, 16, 16) and ws.shape[1] == generator.backbone.synthesis.count
    densities, features = generator.field(scene, points)
    torch.testing.assert_close(generator.field(scene, points[:, 20:])[0], densities[:, 20:])
    draws = Draws(uniform(2, 36, 6), uniform(2, 36, 5, seed=1))
    whole, parts = (generator.pictures(scene, cameras(), draws=draws, chunk=chunk) for chunk in (None, 7))
    for name in ("image", "image_depth", "features", "opacity"):
        torch.testing.assert_close(parts[name], whole[name])
    assert whole["image"].shape == (2, 3, 6, 6) and whole["image"].abs().max() <= 1.002
    assert features.min() >= -0.001 and features.max() <= 1.001


def test_every_number_of_planes_takes_the_same_weights():
    weights = tiny().state_dict()
    for count in (1, 5):
        other = tiny(plane_number=count)
        other.load_state_dict(weights)
        assert other.scene(other.codes(normal(1, 8), normal(1, 25))).planes.shape[1] == count


def test_mixed_planes_are_the_same_for_one_code_and_not_for_several():
    generator = tiny()
    w = generator.codes(normal(1, 8), normal(1, 25))
    assert torch.equal(generator.scene(w).planes, generator.scene(w, mixed=True).planes)
    w[:, :2] = 0
    assert not torch.allclose(generator.scene(w).planes, generator.scene(w, mixed=True).planes)


def test_a_mapping_that_must_not_see_the_camera_does_not():
    for changes, same in (({}, False), ({"gen_pose_cond": False}, True), ({"c_scale": 0.0}, True)):
        generator = tiny(**changes)
        codes = [generator.codes(normal(1, 8), normal(1, 25, seed=seed)) for seed in (1, 2)]
        assert torch.equal(*codes) == same


@pytest.mark.parametrize("name", ["SuperresolutionHybrid2X", "SuperresolutionHybridDeepfp32"])
@torch.no_grad()
def test_super_resolution_is_as_large_as_it_says(name):
    torch.manual_seed(0)
    network, x = SuperResolution(name).eval(), normal(1, 32, 20, 20)
    picture = network(x[:, :3], x, normal(1, 4, 512))
    assert picture.shape == (1, 3, KINDS[name].output, KINDS[name].output)


def test_frozen_layers_are_the_first_from_the_picture():
    network = Discriminator(16, cbase=64, cmax=8, frozen=3)
    assert {name for name, parameter in network.named_parameters() if not parameter.requires_grad} == {
        f"b16.{layer}.{part}" for layer in ("fromrgb", "conv0", "conv1") for part in ("weight", "bias")}


def test_a_discriminator_without_labels():
    torch.manual_seed(0)
    network = Discriminator(16, label_dim=0, cbase=64, cmax=8)
    assert network(normal(2, 3, 16, 16), normal(2, 3, 5, 5), None).shape == (2, 1) and not any("mapping" in name for name in network.state_dict())


# Along the ray

def test_compositing_by_hand():
    colors, densities, depths = uniform(1, 1, 5, 2), normal(1, 1, 5, seed=1) * 3, uniform(1, 1, 5, seed=2).sort(-1).values
    passed, seen, mass, middle = 1.0, torch.zeros(2), 0.0, 0.0
    for i in range(4):
        density = math.log1p(math.exp(float(densities[0, 0, i] + densities[0, 0, i + 1]) / 2 - 1))
        step = float(depths[0, 0, i + 1] - depths[0, 0, i])
        weight = passed * (1 - math.exp(-density * step))
        passed *= math.exp(-density * step)
        seen, mass = seen + weight * (colors[0, 0, i] + colors[0, 0, i + 1]) / 2, mass + weight
        middle += weight * float(depths[0, 0, i] + depths[0, 0, i + 1]) / 2
    for white in (False, True):
        found = composite(colors, densities, depths, white)
        torch.testing.assert_close(found["colors"][0, 0], 2 * (seen + (1 - mass) * white) - 1)
        assert float(found["depth"]) == pytest.approx(middle / mass, rel=1e-5) and float(found["opacity"]) == pytest.approx(mass, rel=1e-5)


def test_sorted_weights_do_what_sorted_colors_do():
    depths, more = uniform(2, 3, 6).sort(-1).values, uniform(2, 3, 4, seed=1)
    colors, others, densities, dense = uniform(2, 3, 6, 5, seed=2), uniform(2, 3, 4, 5, seed=3), normal(2, 3, 6, 1), normal(2, 3, 4, 1, seed=4)
    both, order = merged(depths, more)
    raw = ordered(densities, dense, order)[..., 0]
    slow, fast = composite(ordered(colors, others, order), raw, both), composite(torch.cat([colors, others], dim=2), raw, both, order=order)
    torch.testing.assert_close(slow["colors"], fast["colors"])


def test_rays_enter_and_leave_the_box():
    origins, directions = camera_rays(cameras(1), pixel_grid(9, 9)[None])
    near, far = box_limits(origins, directions, 0.3)
    hit = near <= far
    assert 0 < hit.sum() < hit.numel() and (near[~hit] == -1).all() and (far[~hit] == -2).all()
    for depth in (near[hit], far[hit]):
        at = origins[hit] + directions[hit] * depth[:, None]
        torch.testing.assert_close(at.abs().amax(-1), torch.full_like(depth, 0.15), atol=1e-5, rtol=0)
    for published, last in ((False, far[hit].max()), (True, near[hit].max())):
        low, high = filled(near, far, published)
        assert (low[~hit] == near[hit].min()).all() and (high[~hit] == last).all() and torch.equal(high[hit], far[hit])
    nothing = filled(near[~hit], far[~hit])
    assert torch.equal(nothing[0], near[~hit])


def test_samples_fall_in_their_strata_and_where_the_weights_are():
    near, far = torch.full((1, 50), 2.0), torch.full((1, 50), 3.0)
    depths = stratified(near, far, 11, uniform(1, 50, 11))
    edges = 2 + 0.1 * torch.arange(12)
    assert ((depths >= edges[:-1] - 1e-6) & (depths <= edges[1:] + 1e-6)).all()
    torch.testing.assert_close(1 / stratified(near, far, 3, disparity=True)[0, 0], torch.tensor([1 / 2 - 1 / 24, 1 / 2 - 3 / 24, 1 / 2 - 5 / 24]))
    weights = torch.zeros(1, 50, 10)
    weights[..., 4] = 1e4
    fine = fine_depths(stratified(near, far, 11), weights, 40, uniform(1, 50, 40, seed=1))
    assert ((fine > 2.3) & (fine < 2.8)).float().mean() > 0.99


# The authors' files

def test_a_snapshot_runs_nothing_and_says_what_was_changed_after_its_making():
    nets = read_nets(SNAPSHOT)
    assert set(nets) == {"G", "D", "G_ema"}
    generator, discriminator = build(nets["G_ema"]), build(nets["D"])
    config = generator.config
    assert (config.model, config.published_scale, config.plane_number, config.fourier_L) == ("op3d", True, 4, 2)
    assert config.neural_rendering_resolution == nets["G_ema"].attributes["neural_rendering_resolution"] != ModelConfig.neural_rendering_resolution
    assert discriminator(normal(2, 3, 128, 128), normal(2, 3, 16, 16), normal(2, 25)).shape == (2, 1)


ATTACK = {"superresolution_module": "os.system", "ray_start": 1, "ray_end": 2}


@pytest.mark.parametrize("change, message", [
    (lambda net: replace(net, state={**net.state, "superresolution.resample_filter": torch.ones(4, 4)}), "expected the filter"),
    (lambda net: replace(net, state={key: value for key, value in net.state.items() if not key.endswith("b8.conv0.bias")}), "missing"),
    (lambda net: replace(net, init_kwargs={**net.init_kwargs, "z_dim": "rm -rf"}), "z_dim: expected a whole number"),
    (lambda net: replace(net, attributes={**net.attributes, "rendering_kwargs": ATTACK}), "sr_module"),
])
def test_a_snapshot_that_does_not_fit_is_named(change, message):
    with pytest.raises(InputError, match=message) as refused:
        build(change(read_nets(SNAPSHOT)["G_ema"]))
    assert "tiny_snapshot.pkl: G_ema" in str(refused.value)


def test_other_pickles_are_none_of_eg3ds(tmp_path):
    path = tmp_path / "other.pkl"
    path.write_bytes(b"\x80\x04}\x94.")
    with pytest.raises(InputError, match="none of EG3D's networks"):
        read_nets(path)
