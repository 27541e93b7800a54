"""SofGAN's generator beyond its golden case: its size, its styles and masks, and the files that it does and does not take."""
from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from common.errors import InputError
from common.layers.fir import fir_kernel
from sof import painter as painters
from sof.painter import Painter, PainterConfig, condition_labels, published_widths
from sof.styles import REGIONS, choose, in_region, mean_code, region, region_by_region, style_codes

TINY = PainterConfig(widths=(8, 8, 8, 8, 8, 6), style_dim=16, mapping_layers=2, encoder=(4, 6, 8), spade=5)     # 128 pixels, modulated at 64 and 128


def tiny(**changes) -> Painter:
    torch.manual_seed(0)
    painter = Painter(replace(TINY, **changes)).eval().requires_grad_(False)
    for name, parameter in painter.named_parameters():
        if name.endswith("noise.weight"):
            parameter.fill_(0.1)
    return painter


def maps(count: int = 1, side: int = 128, classes: int = 17) -> torch.Tensor:
    blocks = torch.randint(classes, (count, 8, 8), generator=torch.Generator().manual_seed(count))
    return blocks.repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2)


@pytest.fixture(scope="module")
def painter():
    return tiny()


@pytest.fixture(scope="module")
def codes(painter):
    return style_codes(painter, [0, 1, 2], psi=1.0)


def test_the_published_size():
    with torch.device("meta"):
        whole = Painter(PainterConfig(published_widths(1024)))
    assert sum(parameter.numel() for parameter in whole.parameters()) == 30_677_574
    assert (whole.resolution, whole.code_count, len(list(whole.noises.buffers()))) == (1024, 18, 17)
    assert [noise.shape[-1] for noise in whole.noises.buffers()] == [4, 8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    assert published_widths(256, 1) == (512, 512, 512, 512, 256, 128, 64)


def test_each_style_and_each_map_by_itself(painter, codes):
    labels = maps(2)
    plan = painter.plan(labels)
    together = painter(plan, codes[:2, None])
    assert together.shape == (2, 3, 128, 128) and together.std() > 0.01
    for n in range(2):
        torch.testing.assert_close(painter(painter.plan(labels[n:n + 1]), codes[n:n + 1, None])[0], together[n], rtol=1e-4, atol=1e-5)
    on_one = painter(painter.plan(labels[:1]), codes[:, None])
    torch.testing.assert_close(on_one[0], together[0], rtol=1e-4, atol=1e-5)
    assert (on_one[1] - on_one[0]).abs().max() > 1e-3 and (together[1] - on_one[1]).abs().max() > 1e-3


def test_label_maps_of_any_size_are_taken_at_128(painter, codes):
    small, large = maps(side=128), maps(side=512)
    assert torch.equal(painter(painter.plan(small), codes[:1, None]), painter(painter.plan(large), codes[:1, None]))


def test_masks_blend_styles(painter, codes):
    plan = painter.plan(maps())
    alone = painter(plan, codes[:2, None])
    both = codes[None, :2]
    constant = lambda *weights: torch.tensor(weights).view(1, -1, 1, 1).expand(1, -1, 32, 32)
    torch.testing.assert_close(painter(plan, both, constant(1.0, 0.0))[0], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(painter(plan, both, constant(0.0, 1.0))[0], alone[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(painter(plan, codes[None, [0, 0, 0]], constant(0.2, 0.5, 0.3))[0], alone[0], rtol=1e-4, atol=1e-5)
    mixed = painter(plan, both, constant(0.5, 0.5))[0]
    assert (mixed - alone[0]).abs().max() > 1e-3 and (mixed - alone[1]).abs().max() > 1e-3
    halves = torch.zeros(1, 2, 128, 128)
    halves[:, 0, :, :64], halves[:, 1, :, 64:] = 1, 1
    left, right = ((painter(plan, both, halves)[0] - picture).abs().mean((0, 1)) for picture in alone)
    assert left[:32].mean() < left[-32:].mean() and right[-32:].mean() < right[:32].mean()
    with pytest.raises(AssertionError):
        painter(plan, both)


def test_noise_is_the_buffers(painter, codes):
    plan = painter.plan(maps())
    first = painter(plan, codes[:1, None])
    assert torch.equal(first, painter(plan, codes[:1, None]))
    other = tiny()
    other.noises.noise_8.zero_()
    assert (other(plan, codes[:1, None]) - first).abs().max() > 1e-3


def test_split_norm_sees_each_half_by_itself():
    z = torch.randn(3, 16)
    louder = torch.cat([5 * z[:, :8], z[:, 8:]], dim=1)
    split, joint = tiny(), tiny(split_norm=False)
    torch.testing.assert_close(split.style(louder), split.style(z))
    assert (joint.style(louder) - joint.style(z)).abs().max() > 1e-2
    torch.testing.assert_close(joint.style(5 * z), joint.style(z))


def test_truncation(painter):
    mean = mean_code(painter)
    w = [style_codes(painter, [4], psi)[0, 0] for psi in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(w[0], mean)
    torch.testing.assert_close(w[1], (mean + w[2]) / 2)
    torch.testing.assert_close(style_codes(painter, [9, 4], 0.7)[1], style_codes(painter, [4], 0.7)[0])
    assert (mean - w[2]).abs().max() > 0.1


# Regions and the choice of styles

def test_regions_share_out_the_classes():
    parts = [k for name, classes in REGIONS.items() if name != "global" for k in classes]
    left_out = {"brow"}                                          # the published groups name no brows
    assert len(parts) == len(set(parts)) and set(range(17)) - set(parts) == {painters.PAINTER_LABELS.index(name) for name in left_out}
    labels = torch.arange(17)[None, None]
    assert region(labels, ["hair", "background"]).flatten().nonzero().flatten().tolist() == [0, 15]
    assert region(labels, ["global"]).all() and condition_labels(torch.tensor([18, 19, 5])).tolist() == [15, 16, 3]


def test_in_region_confines_a_style(painter, codes):
    labels = torch.zeros(1, 128, 128, dtype=torch.long)
    rows, mask = in_region(codes, labels, ["hair"])              # no hair anywhere: the first style everywhere
    pictures = painter(painter.plan(labels), rows, mask)
    torch.testing.assert_close(pictures[2], pictures[0], rtol=1e-4, atol=1e-5)
    rows, mask = in_region(codes, labels, ["global"])
    torch.testing.assert_close(painter(painter.plan(labels), rows, mask), painter(painter.plan(labels), codes[:, None]), rtol=1e-4, atol=1e-5)


def test_region_by_region_starts_at_one_style_and_ends_at_the_other(codes):
    labels = maps()
    labels[labels == 15] = 0
    steps = list(region_by_region(codes[0], codes[1], labels, ["background", "hair", "complexion", "global"], 5))
    assert len(steps) == 15                                      # no hair to change
    style = lambda step: torch.einsum("nkld,nkhw->nhwld", *step)[0]
    assert torch.equal(style(steps[0]), codes[0].expand_as(style(steps[0]))) and torch.equal(style(steps[-1]), codes[1].expand_as(style(steps[-1])))
    for step in steps:
        assert (step[1].sum(1) == 1).all()
    torch.testing.assert_close(style(steps[4]), style(steps[5]))                # where one region ends the next begins
    background = style(steps[4])[labels[0] == 0]
    torch.testing.assert_close(background, codes[1].expand_as(background))


def test_the_filter_lowers_its_demands_as_published():
    asked = []

    def constant(value):
        def score(seeds):
            asked.append(seeds)
            return torch.full((len(seeds),), value)
        return score

    for value, rounds in ((0.5, 1), (0.45, 16), (0.4, 21), (0.1, 31), (0.0, 31)):
        asked.clear()
        found = choose(2, 10, constant(value))
        assert len(asked) == rounds and asked[0] == [10, 11] and asked[-1] == [8 + 2 * rounds, 9 + 2 * rounds]
        assert [seed for seed, _ in found] == asked[-1]
    found = choose(2, 0, lambda seeds: torch.tensor([0.5 if seed == 2 else 0.6 if seed == 7 else 0.0 for seed in seeds]))
    assert [seed for seed, _ in found] == [7, 2]


# Files

def published_state(painter: Painter) -> dict[str, torch.Tensor]:
    """As the authors' file has it: with the blur kernels."""
    return painter.state_dict() | {name: buffer for name, buffer in painter.named_buffers() if name.endswith(".kernel")}


@pytest.mark.parametrize("wrap", [
    lambda state: {"g": {}, "d": {"weight": torch.ones(3)}, "g_ema": state},
    lambda state: state,
    lambda state: {"g_ema": {f"module.{key}": value for key, value in state.items()}},
    lambda state: {"g_ema": {key: value for key, value in state.items() if not key.endswith(".kernel")}},
])
def test_published_files(painter, codes, tmp_path, wrap):
    torch.save(wrap(published_state(painter)), tmp_path / "generator.pt")
    loaded = painters.load(tmp_path / "generator.pt")
    assert loaded.config == TINY and not loaded.training
    plan = painter.plan(maps())
    assert torch.equal(loaded(plan, codes[:1, None]), painter(plan, codes[:1, None]))


def test_a_small_painter_without_modulated_layers(tmp_path):
    small = tiny(widths=(8, 8, 8, 8))
    torch.save({"g_ema": published_state(small)}, tmp_path / "generator.pt")
    assert painters.load(tmp_path / "generator.pt").resolution == 32


def altered(state, key, value=None):
    state = dict(state)
    state.pop(key, None)
    return state if value is None else state | {key: value}


@pytest.mark.parametrize("key, value, said", [
    ("convs.3.activate.bias", None, "1 missing: convs.3.activate.bias"),
    ("convs.3.activate.bias", torch.zeros(9), "convs.3.activate.bias 9 instead of 8"),
    ("extra.weight", torch.zeros(9), "1 unexpected: extra.weight"),
    ("convs.0.conv.blur.kernel", fir_kernel(), r"convs.0.conv.blur.kernel: expected the filter \[1, 3, 3, 1\] that sums to 4"),
    ("convs.0.conv.blur.kernel", torch.ones(2), "convs.0.conv.blur.kernel"),
    ("convs.1.conv.blur.kernel", fir_kernel(gain=4), "1 unexpected: convs.1.conv.blur.kernel"),
    ("conv1.conv.weight", None, "not SofGAN's generator"),
    ("conv1.conv.weight", torch.tensor(1.0), "not SofGAN's generator"),
    ("segEncoder.1.skip.1.weight", torch.tensor(1.0), "not SofGAN's generator"),
    ("convs.6.segEncoder.mlp_shared.0.bias", torch.tensor(1.0), "not SofGAN's generator"),
    ("conv1.conv.modulation.weight", torch.zeros(0, 10**6), "expected at most"),
    ("style.2.weight", torch.zeros(16, 15), "style.2.weight 16x15 instead of 16x16"),
])
def test_files_that_do_not_fit(painter, tmp_path, key, value, said):
    torch.save({"g_ema": altered(published_state(painter), key, value)}, tmp_path / "generator.pt")
    with pytest.raises(InputError, match=said) as error:
        painters.load(tmp_path / "generator.pt")
    assert str(tmp_path / "generator.pt") in str(error.value) and "\n" not in str(error.value)


def test_endless_upsampling_is_refused(painter, tmp_path):
    layer = {f"convs.{k}.conv.weight": torch.ones(1, 8, 8, 3, 3) for k in range(80)}
    torch.save(painter.state_dict() | layer, tmp_path / "generator.pt")
    with pytest.raises(InputError, match="unexpected"):
        painters.load(tmp_path / "generator.pt")


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def test_hostile_and_broken_files(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"g_ema": painter.state_dict(), "args": Attack()}, tmp_path / "attack.pt")
    torch.save(painter.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:20_000])
    (tmp_path / "text.pt").write_text("<html>404</html>")
    for name in ("attack", "cut", "text", "missing"):
        with pytest.raises(InputError, match=f"{name}.pt"):
            painters.load(tmp_path / f"{name}.pt")
    assert not (tmp_path / "attacked").exists()
