"""Sem2NeRF's networks, optimiser and losses against brute force, closed forms and the packages they stand for."""
from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from common.errors import InputError
from sem2nerf import perceptual
from sem2nerf.discriminator import PatchDiscriminator, side_for
from sem2nerf.losses import Weights, code_norm, discriminator_terms, generator_terms, picture_terms, weighted
from sem2nerf.model import ModelConfig, Sem2NeRF, blocks_of, march_options, mixed, resolve, see, view_of
from sem2nerf.ranger import Ranger, rectified_step
from sem2nerf.swin import Block, PatchMerging, SwinConfig, SwinEncoder, WindowAttention, join, relative_position_index, shift_mask, windows
from tests.programs import ROOT

TINY = SwinConfig(in_chans=3, num_classes=6, img_size=32, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4)
SMALL = {"src_input_size": 32, "embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 4, "hidden_dim": 8, "layers": 2, "pigan_zdim": 4}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# --- the encoder --------------------------------------------------------------------------------------------------------------------------

def test_published_size_and_keys():
    with torch.device("meta"):
        encoder = SwinEncoder()
    keys = encoder.state_dict()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 31_085_946
    assert len(keys) == 190
    assert {key: tuple(keys[key].shape) for key in keys if "attn_mask" in key} == {
        "layers.0.blocks.1.attn_mask": (64, 49, 49), "layers.1.blocks.1.attn_mask": (16, 49, 49),
        **{f"layers.2.blocks.{i}.attn_mask": (4, 49, 49) for i in (1, 3, 5)}}
    assert keys["layers.3.blocks.0.attn.relative_position_index"].dtype == torch.int64


def test_windows_are_squares_and_join_again():
    grid = torch.arange(2 * 8 * 8).view(2, 8, 8, 1)
    cut = windows(grid, 4)
    assert torch.equal(cut[1, 3, :, 0].view(4, 4), grid[1, 4:, 4:, 0])
    assert torch.equal(join(cut, 8), grid)


def test_shift_mask_by_neighbourhood():
    """Tokens of one window of the rolled grid see one another where they were within reach in the picture itself."""
    side, window, shift = 12, 4, 2
    mask = shift_mask(side, window, shift)
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), dim=-1)
    rolled = windows(torch.roll(place, (-shift, -shift), (0, 1))[None], window)[0]
    apart = (rolled[:, :, None] - rolled[:, None]).abs().amax(-1) >= window
    assert torch.equal(mask == 0, ~apart) and mask.min() == -100


def test_attention_by_hand():
    """Token by token, head by head, with the bias of each offset."""
    attention = WindowAttention(6, 2, 3).double()
    x = torch.randn(1, 2, 9, 6, dtype=torch.float64)
    mask = torch.where(torch.rand(2, 9, 9) < 0.3, -100.0, 0.0).double()
    index = relative_position_index(3)
    expected = torch.zeros_like(x)
    for w in range(2):
        q, k, v = (attention.qkv(x[0, w])[:, i * 6:(i + 1) * 6] for i in range(3))
        for head in range(2):
            span = slice(3 * head, 3 * head + 3)
            for i in range(9):
                scores = torch.stack([q[i, span] @ k[j, span] / math.sqrt(3) + attention.relative_position_bias_table[index[i, j], head] + mask[w, i, j]
                                      for j in range(9)])
                expected[0, w, i, span] = scores.softmax(0) @ v[:, span]
    torch.testing.assert_close(attention(x, mask), attention.proj(expected))


def test_offsets_have_one_row_each():
    index = relative_position_index(3)
    y, x = torch.arange(9) // 3, torch.arange(9) % 3
    offsets = {}
    for i in range(9):
        for j in range(9):
            offsets.setdefault(int(index[i, j]), set()).add((int(y[i] - y[j]), int(x[i] - x[j])))
    assert len(offsets) == 25 and all(len(of) == 1 for of in offsets.values())


def test_merging_takes_columns_first():
    merging = PatchMerging(1)
    seen = []
    merging.norm.register_forward_hook(lambda module, given, result: seen.append(given[0]))
    merging(torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None])
    assert seen[0].flatten().tolist() == [1, 3, 2, 4]


def test_a_shifted_block_looks_over_the_edge_of_its_windows():
    x = torch.randn(1, 8, 8, 8)
    for shift, reaches in ((0, False), (2, True)):
        block = Block(8, 2, 8, 4, shift)
        other = x.clone()
        other[0, 3, 3] += 1
        changed = (block(other) - block(x)).abs().sum(-1)[0] > 1e-9
        assert bool(changed[5, 5]) is reaches and changed[3, 3]


def test_a_new_encoder_says_nothing_and_depth_is_stochastic():
    encoder = SwinEncoder(TINY)
    x = torch.randn(2, 3, 32, 32)
    assert not encoder(x).any()
    nn.init.normal_(encoder.head.weight)
    plain, kept = encoder(x), encoder(x, torch.ones(2, 8) - 1e-3)
    assert not torch.allclose(plain, kept)                                     # what is kept counts for what is dropped elsewhere
    rates = [block.drop_path for stage in encoder.layers for block in stage.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.2, 4))
    last = encoder.layers[-1].blocks[-1]
    tokens = torch.randn(1, 4, 4, 16)
    draws = torch.rand(20_000, 2)
    dropped = torch.floor(1 - last.drop_path + draws) == 0
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(last(tokens, torch.zeros(1, 2)), tokens)                # both branches left out
    one, other = encoder(x, torch.tensor([[0.0] * 8, [0.9] * 8])), encoder(x, torch.tensor([[0.0] * 8, [0.0] * 8]))
    assert torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


@pytest.mark.parametrize("options, words", [({"img_size": 40}, "--src_input_size 40"), ({"num_heads": (3, 6)}, "--num_heads: 3"),
                                            ({"num_heads": (1,)}, "--num_heads: 1 numbers")])
def test_shapes_that_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        SwinEncoder(SwinConfig(**{**vars(TINY), **options}))


# --- codes and the field ------------------------------------------------------------------------------------------------------------------

def small(**options) -> Sem2NeRF:
    return Sem2NeRF(resolve(ModelConfig(**SMALL, **options), {}))


def test_codes_begin_at_the_average():
    model = small()
    model.remember_average()
    codes = model.codes(torch.rand(3, 18, 32, 32))
    for code, mean in zip(codes, model.average):
        assert torch.equal(code, mean.expand(3, -1))
    assert not any(code.any() for code in small(start_from_latent_avg=False).codes(torch.rand(1, 18, 32, 32)))


def test_the_decoder_is_frozen_and_whole():
    with torch.device("meta"):
        model = Sem2NeRF(resolve(ModelConfig(), {}))
    assert len([key for key in model.state_dict() if key != "latent_avg"]) == 220
    assert sum(parameter.numel() for parameter in model.decoder.parameters()) == 1_910_788
    assert {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad} == {"encoder"}


def test_mixing_takes_whole_blocks():
    codes, other = (torch.zeros(2, 12), torch.zeros(2, 12)), (torch.ones(1, 12), 2 * torch.ones(1, 12))
    frequencies, phases = mixed(codes, other, [2], 4)
    assert frequencies[1].tolist() == [0.0] * 8 + [1.0] * 4 and phases[0].tolist() == [0.0] * 8 + [2.0] * 4
    assert torch.equal(mixed(codes, other, [], 4)[0], codes[0])


def test_the_last_block_only_colours():
    model = small()
    nn.init.normal_(model.encoder.head.weight)
    codes, points = model.codes(torch.rand(1, 18, 32, 32)), torch.rand(1, 50, 3) * 0.1
    fields = [model.siren.field(model.scene(mixed(codes, model.injected(3), blocks, 8)), points, points) for blocks in ([], [2], [1])]
    assert torch.equal(fields[0][0], fields[1][0]) and not torch.allclose(fields[0][1], fields[1][1])
    assert not torch.allclose(fields[0][0], fields[2][0])


@pytest.mark.parametrize("text, blocks", [("last", [4]), (None, []), ("", []), ("1, 3", [1, 3])])
def test_blocks_by_name(text, blocks):
    assert blocks_of(text, 4) == blocks


@pytest.mark.parametrize("text", ["5", "-1", "a", "1;2"])
def test_blocks_that_are_not_there(text):
    with pytest.raises(InputError, match="--latent_mask"):
        blocks_of(text, 4)


@pytest.mark.parametrize("alpha", ["density", "occupancy"])
def test_recomputing_the_field_changes_no_gradient(alpha):
    model = small(alpha=alpha)
    nn.init.normal_(model.encoder.head.weight, std=0.1)
    origins = torch.tensor([0.0, 0.0, 1.0]).expand(1, 9, 3)
    directions = nn.functional.normalize(torch.randn(1, 9, 3) * 0.05 - torch.tensor([0.0, 0.0, 1.0]), dim=-1)
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        scene = model.scene(model.codes(torch.ones(1, 18, 32, 32)))
        see(model, scene, origins, directions, march_options(model.config, 5, training=True), recompute=recompute)["colors"].square().sum().backward()
        gradients.append(model.encoder.head.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_options_must_go_together():
    with pytest.raises(InputError, match="--label_nc 19"):
        resolve(ModelConfig(label_nc=19), {})
    with pytest.raises(InputError, match="--pigan_curriculum_type"):
        resolve(ModelConfig(dataset_type="catmask_seg_to_3dface", pigan_curriculum_type="CelebAMask_HQ"), {})
    with pytest.raises(InputError, match=r"--fov 13.0: a.pt was made with 12.0"):
        resolve(ModelConfig(fov=13.0), {"fov": 12.0}, "a.pt")
    with pytest.raises(InputError, match="--image_crop_size"):
        resolve(ModelConfig(image_load_size=100, image_crop_size=120), {})
    cats = resolve(ModelConfig(dataset_type="catmask_seg_to_3dface", pigan_curriculum_type="CatMask", label_nc=8, input_nc=10), {})
    assert (cats.fov, cats.ray_end, cats.last_back, cats.image_load_size, view_of(cats).crop) == (18.0, 1.2, False, 0, None)
    assert [resolve(ModelConfig(), {}, side=side).image_load_size for side in (512, 256, 128)] == [640, 320, 320]


# --- the discriminator --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("side, places", [(128, [0, 2, 5, 8, 11, 14]), (64, [0, 2, 5, 8, 11]), (32, [0, 3, 6, 9])])
def test_published_discriminators(side, places):
    critic = PatchDiscriminator(side, 3)
    assert [key for key in critic.state_dict() if key.endswith("weight_orig")] == [f"model.main.{i}.weight_orig" for i in places]
    assert critic(torch.randn(2, 3, side, side)).shape == (2, 1)
    assert critic.state_dict()[f"model.main.{places[-2]}.weight_orig"].shape[0] == 512


def test_convolutions_are_divided_by_their_largest_singular_value():
    critic = PatchDiscriminator(16, 3, ndf=2)
    for _ in range(200):
        critic(torch.zeros(1, 3, 16, 16))
    critic.eval()
    critic(torch.zeros(1, 3, 16, 16))
    for layer in critic.model["main"]:
        if isinstance(layer, nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_the_view_of_a_conditional_discriminator():
    critic = PatchDiscriminator(16, 5, ndf=2)
    patches, planes = torch.rand(2, 3, 24, 24), torch.rand(2, 2, 40, 40)
    seen = critic.view(patches, planes)
    assert seen.shape == (2, 5, 16, 16)
    at = [int(i * 40 / 16) for i in range(16)]
    assert torch.equal(seen[:, 3:], planes[:, :, at][..., at])
    assert critic.view(torch.rand(2, 3, 16, 16)).shape[1] == 3
    assert [side_for(v) for v in (10, 16, 48, 64, 200)] == [16, 16, 32, 64, 128]


def test_the_penalty_by_finite_differences():
    critic = PatchDiscriminator(16, 3, ndf=1).double().eval()
    reals = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    penalty = discriminator_terms(critic, reals, reals)["D/r1"]
    squares, eps = 0.0, 1e-5
    for i in range(2):
        for at in torch.randperm(768)[:40].tolist():
            step = torch.zeros(768, dtype=torch.float64)
            step[at] = eps
            slope = (critic(reals[i:i + 1] + step.view(1, 3, 16, 16)) - critic(reals[i:i + 1] - step.view(1, 3, 16, 16))).sum() / (2 * eps)
            x = reals[i:i + 1].clone().requires_grad_()
            gradient, = torch.autograd.grad(critic(x).sum(), x)
            assert gradient.flatten()[at].item() == pytest.approx(slope.item(), abs=1e-6)
        squares += gradient.square().sum().item()
    assert penalty.item() == pytest.approx(10 * squares / 2)


# --- losses -------------------------------------------------------------------------------------------------------------------------------

def test_the_code_norm():
    codes = torch.full((2, 8), 3.0), torch.full((2, 8), 4.0)
    assert code_norm(codes).item() == pytest.approx(math.sqrt(8 * 25))
    assert code_norm(codes, (torch.full((1, 8), 3.0), torch.full((1, 8), 3.0))).item() == pytest.approx(math.sqrt(8))


def test_samples_from_random_cameras_lose_no_picture_terms():
    x, y = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    weights = Weights(l1_lambda=0.5, lpips_lambda=0.0)
    every, half = (picture_terms(x, y, weights, None, torch.tensor(posed)) for posed in ([True] * 4, [True, False, True, False]))
    assert every["loss_l2"].item() == pytest.approx((x - y).square().mean().item()) and set(every) == {"loss_l2", "loss_l1"}
    assert half["loss_l1"].item() == pytest.approx((x - y)[::2].abs().mean().item() / 2)
    assert not any(picture_terms(x.requires_grad_(), y, weights, None, torch.zeros(4, dtype=torch.bool)).values())


def test_weights_make_the_loss():
    x = torch.rand(2, 3, 16, 16)
    codes = (torch.ones(2, 4), torch.ones(2, 4))
    weights = Weights(lpips_lambda=0.0, w_norm_lambda=0.25)
    terms = generator_terms(x, torch.zeros_like(x), codes, None, weights, None, PatchDiscriminator(16, ndf=1).eval())
    total = sum(weighted(terms, weights).values())
    assert total.item() == pytest.approx((terms["loss_l2"] + 0.25 * math.sqrt(8) + 0.08 * terms["loss_g"]).item())


def test_lpips_is_the_packages():
    from lpips import LPIPS

    theirs = LPIPS(pretrained=True, pnet_rand=True, net="alex", verbose=False)
    trunk = {f"features.{key.split('.', 1)[1]}": value for key, value in theirs.net.state_dict().items()}
    ours = perceptual.with_trunk(trunk, "theirs")
    x, y = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(ours(x, y), theirs(x, y).flatten())


def test_the_parsers_distance_needs_no_download(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="--lpips_lambda 0"):
        perceptual.load("alex")
    with pytest.raises(InputError, match="no such file"):
        perceptual.load(str(tmp_path / "none.pth"))
    distance = perceptual.load(str(ROOT / "pretrained/people_parser.safetensors"))
    x = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    apart = distance(x, torch.zeros(2, 3, 64, 64))
    apart.sum().backward()
    assert apart.shape == (2,) and (apart > 0).all() and x.grad.abs().max() > 0 and not distance(x, x).any()


# --- Ranger -------------------------------------------------------------------------------------------------------------------------------

def test_the_rectifier():
    assert [rectified_step(t, 0.95, 0.999)[1] for t in (1, 5, 6, 100)] == [False, False, True, True]
    assert rectified_step(10**5, 0.95, 0.999)[0] == pytest.approx(1, rel=1e-3)               # Adam, in the long run
    assert rectified_step(1, 0.95, 0.999)[0] == pytest.approx(20)


def test_centred_gradients_move_no_rows_mean():
    weight, bias = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3))
    before = weight.mean(dim=1).clone(), bias.clone()
    optimizer = Ranger([weight, bias], lr=0.1)
    for _ in range(4):
        (weight.square().sum() + weight.sum() + bias.sum()).backward()
        optimizer.step()
    torch.testing.assert_close(weight.mean(dim=1), before[0])
    assert (bias < before[1]).all()


def test_the_slow_weights_catch_up():
    parameter = nn.Parameter(torch.ones(4))
    optimizer, start = Ranger([parameter], lr=0.1, alpha=0.25, k=3), parameter.detach().clone()
    for step in range(1, 4):
        parameter.grad = torch.ones(4)
        before = parameter.detach().clone()
        optimizer.step()
        if step < 3:
            torch.testing.assert_close(before - parameter, torch.full((4,), 0.1))
    torch.testing.assert_close(parameter.detach(), start - 0.25 * 0.3)


def test_it_descends_and_goes_on_from_its_state():
    def descend(steps: int, at=None) -> tuple[nn.Parameter, Ranger]:
        parameter = nn.Parameter(torch.full((4, 4), 2.0) + torch.arange(16.0).view(4, 4) if at is None else at[0].detach().clone())
        optimizer = Ranger([parameter], lr=0.05)
        if at is not None:
            optimizer.load_state_dict(at[1].state_dict())
        for _ in range(steps):
            parameter.grad = 2 * (parameter.detach() - torch.eye(4))
            optimizer.step()
        return parameter, optimizer

    straight, half = descend(40), descend(17)
    assert torch.equal(descend(23, half)[0], straight[0])
    away = lambda x: (x - x.mean(1, keepdim=True) - torch.eye(4) + 0.25).square().sum().item()
    assert away(descend(400)[0].detach()) < 0.2 * away(descend(0)[0].detach())
