"""Geo-PIFu's files: the authors' and ours, both ways; what does not fit is refused in one line."""
from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from common import checkpoint
from common.errors import InputError
from geopifu.model import REPAIRS, GeoPIFu, ModelConfig
from geopifu.published import export_published, load, published_config
from scripts import convert
from tests.test_geopifu_networks import FUSIONS, SMALL, lively, points

RELEASED = dict.fromkeys(REPAIRS, True) | {"loadSize": 512}
PHOTO = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def write(path, model: GeoPIFu, part: str, prefix: str = "module.", change=lambda state: state) -> str:
    """An author's file: a bare state dict, every key with DataParallel's prefix."""
    torch.save({prefix + key: value for key, value in change(getattr(model, part).state_dict()).items()}, path)
    return str(path)


def released(name: str = "early", **options) -> GeoPIFu:
    """A small model as the release would have made it."""
    return lively(GeoPIFu(ModelConfig(**{**SMALL, **FUSIONS[name], **RELEASED, **options}))).eval()


def occupancies(model: GeoPIFu) -> torch.Tensor:
    with torch.no_grad():
        return model.field(model.scene(PHOTO), points(40).mT)


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "hg_down": "conv64"}, {"hg_down": "conv128", "no_residual": True}, {"skip_hourglass": True}],
                         ids=str)
@pytest.mark.parametrize("name", FUSIONS)
def test_options_are_read_from_the_tensors(name, options):
    model = released(name, **options)
    state, elsewhere = model.netG.state_dict(), lambda options: {key: value for key, value in options.items() if not key.startswith(("vrn_", "mlp_dim"))}
    config = published_config(state, "file")
    assert elsewhere(asdict(config)) == elsewhere(asdict(model.config)) and config.mlp_dim[1:] == model.config.mlp_dim[1:]
    GeoPIFu(config, ("netG",)).netG.load_state_dict(state)


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_both_networks_of_the_authors(tmp_path, prefix):
    model = released(multiRanges_deepVoxels=True)
    paths = [write(tmp_path / name, model, part, prefix) for name, part in (("netG_epoch_44_2415", "netG"), ("netV_epoch_29_2899", "netV"))]
    for order in (paths, paths[::-1]):
        loaded, options = load(*order)
        assert not loaded.training and options == {} and all(getattr(loaded.config, name) for name in REPAIRS)
        assert torch.equal(occupancies(loaded), occupancies(model))
    assert load(paths[0])[0].netV is None and load(paths[1])[0].netG is None


def test_unpublished_losses_of_a_vnet_are_left_out(tmp_path):
    model = released()
    more = {"gan_3d_dis_conv3d_1.1.weight": torch.zeros(8, 1, 4, 4, 4), "depth_coords": torch.zeros(1, 1, 2, 2, 2), "vis_conv3d_1.0.weight": torch.zeros(1)}
    path = write(tmp_path / "netV", model, "netV", change=lambda state: state | more)
    assert load(path)[0].state_dict().keys() == {key for key in model.state_dict() if key.startswith("netV.")}


def test_what_we_write_for_the_authors_is_what_they_wrote(tmp_path):
    model = released("late", features=256, num_stack=1, vrn_num_modules=1, z_size=200.0)
    export_published(model, tmp_path / "theirs.pth")
    for part, name in (("netG", "theirs.pth"), ("netV", "theirs_netV.pth")):
        state = torch.load(tmp_path / name, weights_only=True)
        expected = getattr(model, part).state_dict()
        assert list(state) == [f"module.{key}" for key in expected] and all(torch.equal(state[f"module.{key}"], value) for key, value in expected.items())
    with pytest.raises(InputError, match=r"theirs\.pth: .*published_voxels False"):
        export_published(released(published_voxels=False), tmp_path / "theirs.pth")


def test_a_file_of_ours_keeps_both_and_their_options(tmp_path):
    model = GeoPIFu(ModelConfig(**{**SMALL, **FUSIONS["multiLoss"]}))
    checkpoint.export_safetensors(tmp_path / "ours.safetensors", {"model": model.state_dict()}, {**asdict(model.config), "stage": "query"})
    loaded, options = load(tmp_path / "ours.safetensors")
    assert loaded.config == model.config and options["stage"] == "query" and torch.equal(occupancies(loaded), occupancies(model.eval()))


def test_what_does_not_fit_is_refused(tmp_path):
    model = released()
    netG, netV = write(tmp_path / "netG", model, "netG"), write(tmp_path / "netV", model, "netV")
    broken = write(tmp_path / "broken", model, "netG", change=lambda state: {key: value for key, value in state.items() if key != "image_filter.bn1.bias"})
    empty, foreign = tmp_path / "empty", tmp_path / "foreign"
    torch.save({"a": torch.zeros(2), "b": torch.ones(1)}, empty)
    foreign.write_bytes(b"no checkpoint at all")
    other = write(tmp_path / "other", released(num_hourglass=2), "netV")
    for paths, words in (([netG, netG], "holds netG as"), ([broken], r"1 missing: image_filter\.bn1\.bias"), ([empty], "neither netG nor netV"),
                         ([netG, other], "other: made with num_hourglass 2"), ([foreign], "foreign"), ([netV, tmp_path / "nothing"], "nothing")):
        with pytest.raises(InputError, match=words):
            load(*paths)


def test_the_authors_two_files_become_one_of_ours_and_two_again(tmp_path):
    model = released("early", features=256, num_stack=1, vrn_num_modules=1)
    netG, netV = write(tmp_path / "netG", model, "netG"), write(tmp_path / "netV", model, "netV")
    convert.main(convert.ConvertConfig(method="geopifu", source=netG, target=str(tmp_path / "both.safetensors"), netV=netV))
    convert.main(convert.ConvertConfig(method="geopifu", source=str(tmp_path / "both.safetensors"), target=str(tmp_path / "again.pth")))
    for first, second in ((netG, "again.pth"), (netV, "again_netV.pth")):
        a, b = (torch.load(path, weights_only=True) for path in (first, tmp_path / second))
        assert list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)
    assert load(tmp_path / "both.safetensors")[0].config.published_voxels
