"""scripts/convert.py: there and back gives the same tensors, whichever container a checkpoint comes in; what does not fit is refused."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common import checkpoint
from common.errors import InputError
from common.gan import Ema
from gof import model as gof_model
from gof.model import Generator
from scripts.convert import ConvertConfig, main
from sof.model import SOF, ModelConfig, export_published
from tests.foreign import torch_bytes

SCRIPT = Path(__file__).parents[1] / "scripts" / "convert.py"


def convert(source: Path, target: Path, method: str = "sof", **options) -> None:
    main(ConvertConfig(method=method, source=str(source), target=str(target), **options))


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def model() -> SOF:
    torch.manual_seed(0)
    return SOF(ModelConfig(embedding_size=8, feat_dim=16, marcher_layers=6, orthogonal=True), 5)


def run(*args, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, args)], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("option", [{"tracing_steps": 4}, {"sphere_radius": 1.0}])
def test_the_published_container_refuses_what_it_would_lose(tmp_path, option):
    sof = SOF(ModelConfig(embedding_size=8, feat_dim=16, **option), 2)
    with pytest.raises(InputError, match=next(iter(option))):
        export_published(sof, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_as_a_user_runs_it(tmp_path, model):
    (tmp_path / "a file.pth").write_bytes(torch_bytes({"model": model.state_dict(), "optimizer": torch.optim.Adam(model.parameters()).state_dict()}))
    done = run("sof", "a file.pth", "out.safetensors", folder=tmp_path)
    assert done.returncode == 0 and not done.stderr and (tmp_path / "out.safetensors").exists(), done.stderr
    refused = run("sof", "a file.pth", "out.safetensors", folder=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("error: out.safetensors: exists") and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("wrap", [
    lambda m: {"model": m.state_dict()}, lambda m: m.state_dict(), lambda m: {"model": nn.DataParallel(m).state_dict()},
    nn.DataParallel, lambda m: {"model": m},
], ids=["published", "state dict", "DataParallel state dict", "DataParallel module", "module"])
@pytest.mark.parametrize("zipped", [True, False])
def test_there_and_back(tmp_path, model, wrap, zipped):
    (tmp_path / "in.pth").write_bytes(torch_bytes(wrap(model), zipped))
    convert(tmp_path / "in.pth", tmp_path / "ours.safetensors")
    ours = checkpoint.open_checkpoint(tmp_path / "ours.safetensors")
    assert ours.kind == "ours" and same(dict(sorted(ours.data["model"].items())), dict(sorted(model.state_dict().items())))
    assert ours.config["marcher_layers"] == 6 and ours.config["orthogonal"] is True
    convert(tmp_path / "ours.safetensors", tmp_path / "epoch_0000_iter_000000.pth")
    back = torch.load(tmp_path / "epoch_0000_iter_000000.pth", weights_only=True)
    assert list(back) == ["model"] and same(back["model"], model.state_dict())


def test_run_folders_keep_their_options(tmp_path, model):
    options = {"embedding_size": 8, "feat_dim": 16, "marcher_layers": 6, "orthogonal": False, "lr": 0.1}
    checkpoint.save(tmp_path / "run" / "checkpoints" / "step_00000007.pt", {"step": 7, "config": options, "state": {"model": dict(model.state_dict())}})
    convert(tmp_path / "run", tmp_path / "ours.safetensors")
    config = checkpoint.open_checkpoint(tmp_path / "ours.safetensors").config
    assert options.items() <= config.items() and config["out_channels"] == 20


def test_what_does_not_fit_is_refused(tmp_path, model):
    state = model.state_dict()
    files = {
        "missing.pth": torch_bytes({"model": {key: value for key, value in state.items() if key != "pixel_generator.net.0.net.0.weight"}}),
        "misshapen.pth": torch_bytes({"model": state | {"pixel_generator.net.0.net.0.bias": torch.ones(3)}}),
        "other.pth": torch_bytes({"generator": nn.Linear(2, 2).state_dict()}), "broken.pth": torch_bytes({"model": state})[:-100], "text.pth": b"text",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            convert(tmp_path / name, tmp_path / "out.safetensors")
    (tmp_path / "in.pth").write_bytes(torch_bytes({"model": state}))
    for target in ("out.txt", "out", "in.pth"):
        with pytest.raises(InputError, match=target):
            convert(tmp_path / "in.pth", tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "in.pth"])


# GOF

@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(gof_model.ModelConfig()).eval()


def test_a_generator_there_and_back(tmp_path, generator):
    """The authors' state dict, ours with options and average code, and theirs again: the same tensors under the same names."""
    (tmp_path / "generator.pth").write_bytes(torch_bytes(generator.state_dict()))
    convert(tmp_path / "generator.pth", tmp_path / "ours.safetensors", "gof", curriculum="CelebA")
    loaded = gof_model.load(tmp_path / "ours.safetensors")
    assert loaded.config == gof_model.load(tmp_path / "generator.pth", "CelebA").config and same(loaded.state_dict(), generator.state_dict())
    assert "average" in checkpoint.open_checkpoint(tmp_path / "ours.safetensors").data and torch.equal(loaded.average[0], generator.average[0])
    convert(tmp_path / "ours.safetensors", tmp_path / "back_generator.pth", "gof")
    assert same(torch.load(tmp_path / "back_generator.pth", weights_only=True), generator.state_dict())
    convert(tmp_path / "ours.safetensors", tmp_path / "half.safetensors", "gof", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * (tmp_path / "ours.safetensors").stat().st_size
    for key, value in gof_model.load(tmp_path / "half.safetensors").state_dict().items():
        torch.testing.assert_close(value, generator.state_dict()[key], rtol=1e-3, atol=1e-6)


def test_a_run_gives_its_averaged_weights_and_keeps_its_options(tmp_path):
    config = gof_model.ModelConfig(hidden_dim=8, latent_dim=4, white_back=True)
    raw, averaged = Generator(config), Generator(config)
    state, options = {"generator": raw.state_dict(), "ema": Ema(averaged, 0.9).state_dict()}, gof_model.model_options(raw) | {"img_size": [8, 16]}
    checkpoint.save(tmp_path / "run" / "checkpoints" / "step_00000007.pt", {"step": 7, "config": options, "state": state})
    convert(tmp_path / "run", tmp_path / "ours.safetensors", "gof")
    assert same(gof_model.load(tmp_path / "ours.safetensors").state_dict(), averaged.state_dict())
    assert checkpoint.open_checkpoint(tmp_path / "ours.safetensors").config["img_size"] == [8, 16]
    with pytest.raises(InputError, match="published size"):
        convert(tmp_path / "ours.safetensors", tmp_path / "generator.pth", "gof")


def test_generators_that_do_not_fit_are_refused(tmp_path, generator, model):
    (tmp_path / "generator.pth").write_bytes(torch_bytes(generator.state_dict()))
    (tmp_path / "sof.pth").write_bytes(torch_bytes({"model": model.state_dict()}))
    checkpoint.export_safetensors(tmp_path / "sof.safetensors", {"model": model.state_dict()}, {})
    for source, method, curriculum, words in (("generator.pth", "gof", None, "--curriculum"), ("generator.pth", "gof", "pigan_CARLX", "pigan_CARLX"),
                                              ("sof.safetensors", "gof", None, "missing"), ("sof.pth", "gof", "CelebA", "sof.pth"),
                                              ("sof.pth", "sof", "CelebA", "--curriculum")):
        with pytest.raises(InputError, match=words):
            convert(tmp_path / source, tmp_path / "out.safetensors", method, curriculum=curriculum)
    assert not (tmp_path / "out.safetensors").exists()
