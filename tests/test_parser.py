"""The face parser against torchvision's trunk, its files, and its training on people made of flat colours."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common import parser as parsers
from common.checkpoint import export_safetensors
from common.errors import InputError
from common.images import write_png
from common.labels import SOF_LABELS, TRAINING_PALETTE
from common.parser import BiSeNet, Parser
from scripts import train_parser
from scripts.train_parser import augmented, class_weights

SCRIPT = Path(train_parser.__file__)


def network(classes: int = 20, width: int = 4) -> BiSeNet:
    torch.manual_seed(0)
    made = BiSeNet(classes, width)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval()


@pytest.fixture(scope="module")
def parser() -> Parser:
    return Parser(network(), 64)


def pictures(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_the_trunk_is_resnet18():
    from torchvision.models import resnet18

    ours, theirs = network(width=64).cp.resnet, resnet18(weights=None).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 96, 64)
    f8, f16, f32 = ours(x)
    expected = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
    for got, layer in ((f8, theirs.layer2), (f16, theirs.layer3), (f32, theirs.layer4)):
        expected = layer(expected)
        torch.testing.assert_close(got, expected)


def test_one_picture_or_many_of_any_size(parser):
    several = pictures(11)
    labels = parsers.parse(parser, several)
    assert labels.shape == (11, 64, 64) and labels.dtype == np.uint8 and labels.max() < 20 and len(np.unique(labels)) > 1
    assert np.array_equal(parsers.parse(parser, several[3:4])[0], labels[3])
    assert parsers.parse(parser, pictures(2, 40, 56)).shape == (2, 40, 56) and parsers.parse(parser, several[:2], side=32).shape == (2, 32, 32)
    described = parsers.describe(parser, several)
    assert described.shape == (11, 14 * 4)
    np.testing.assert_allclose(parsers.describe(parser, several[3:4])[0], described[3], rtol=1e-4, atol=1e-5)
    assert np.abs(described[0] - described[1]).max() > 1e-3


def test_network_input():
    flat = torch.tensor([[0, 255, 51]], dtype=torch.uint8).expand(1, 30, 40, 3)
    x = parsers.network_input(flat, 16)
    torch.testing.assert_close(x, torch.tensor([-1, 1, -0.6]).view(1, 3, 1, 1).expand(1, 3, 16, 16))
    same = torch.from_numpy(pictures(1))
    assert torch.equal(parsers.network_input(same, 64)[0, 1], same[0, ..., 1] / 127.5 - 1)


# Files

@pytest.mark.parametrize("counters", [True, False])
def test_published_files(tmp_path, counters):
    made = network()
    torch.save({key: value for key, value in made.state_dict().items() if counters or "num_batches" not in key}, tmp_path / "segNet-20Class.pth")
    loaded = parsers.load(tmp_path / "segNet-20Class.pth")
    assert loaded.side == 512 and loaded.classes == 20 and not loaded.network.training
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.network(x), made(x))


def test_a_file_of_ours_in_half_precision(tmp_path, parser):
    path = tmp_path / "parser.safetensors"
    export_safetensors(path, {"model": parser.network.state_dict()}, {"width": 4, "side": 64}, torch.float16)
    loaded = parsers.load(path)
    assert loaded.side == 64
    assert (parsers.parse(loaded, pictures(4)) == parsers.parse(parser, pictures(4))).mean() > 0.98
    np.testing.assert_allclose(parsers.describe(loaded, pictures(4)), parsers.describe(parser, pictures(4)), atol=0.02)


def test_the_parser_that_ships_is_small(tmp_path):
    export_safetensors(tmp_path / "parser.safetensors", {"model": BiSeNet(20, 16).state_dict()}, {"width": 16, "side": 256}, torch.float16)
    assert (tmp_path / "parser.safetensors").stat().st_size < 2 * 2**20


@pytest.mark.parametrize("key, value, said", [
    ("cp.arm16.conv.conv.weight", None, "1 missing: cp.arm16.conv.conv.weight"),
    ("cp.arm16.conv.conv.weight", torch.zeros(8, 16, 1, 1), "misshapen"),
    ("cp.extra", torch.zeros(1), "1 unexpected: cp.extra"),
    ("conv_out.conv_out.weight", None, "not a face parser"),
    ("cp.resnet.conv1.weight", torch.tensor(0.0), "not a face parser"),
    ("cp.resnet.conv1.weight", torch.zeros(10**6, 0), "expected at most"),
    ("conv_out.conv_out.weight", torch.zeros(0, 1), "0 classes"),
])
def test_files_that_do_not_fit(tmp_path, parser, key, value, said):
    state = {name: tensor for name, tensor in parser.network.state_dict().items() if name != key}
    torch.save(state | ({} if value is None else {key: value}), tmp_path / "seg.pth")
    with pytest.raises(InputError, match=said) as error:
        parsers.load(tmp_path / "seg.pth")
    assert "seg.pth" in str(error.value) and "\n" not in str(error.value)


def test_files_of_other_kinds(tmp_path, parser):
    export_safetensors(tmp_path / "other.safetensors", {"model": parser.network.state_dict()}, {"width": 4})
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("other.safetensors", "text.pth", "missing.pth"):
        with pytest.raises(InputError, match=name):
            parsers.load(tmp_path / name)


# Training

def test_what_is_mirrored_keeps_its_sides(monkeypatch):
    for name in ("TURN", "ZOOM", "SHIFT", "GAIN", "NOISE", "COARSE"):
        monkeypatch.setattr(train_parser, name, 0.0)
    rgb, labels = torch.from_numpy(pictures(6, 16, 16)), torch.randint(20, (6, 16, 16), dtype=torch.uint8)
    x, y = augmented(rgb, labels, 16, torch.Generator().manual_seed(0))
    as_it_is = rgb.permute(0, 3, 1, 2) / 127.5 - 1
    swaps = {"l_brow": "r_brow", "l_eye": "r_eye", "l_nose": "r_nose", "l_ear": "r_ear"}
    other = swaps | {right: left for left, right in swaps.items()}
    table = torch.tensor([SOF_LABELS.index(other.get(name, name)) for name in SOF_LABELS])
    flipped = [torch.allclose(x[k], as_it_is[k].flip(-1), atol=1e-4) for k in range(6)]
    assert 0 < sum(flipped) < 6
    for k in range(6):
        if not flipped[k]:
            torch.testing.assert_close(x[k], as_it_is[k], rtol=0, atol=1e-4)
        assert torch.equal(y[k], table[labels[k].long()].flip(-1) if flipped[k] else labels[k].long())


def test_picture_and_labels_move_together():
    """Of a picture that shows its labels as brightness, whatever way it is moved."""
    labels = torch.zeros(8, 64, 64, dtype=torch.uint8)
    labels[:, 20:40, 10:50] = 1
    x, y = augmented((labels * 255)[..., None].expand(-1, -1, -1, 3), labels, 64, torch.Generator().manual_seed(1))
    assert ((x.mean(1) > 0) == (y == 1)).float().mean() > 0.97 and (y != labels).float().mean() > 0.03


def test_class_weights():
    labels = torch.tensor([0] * 75 + [3] * 25, dtype=torch.uint8)
    weights = class_weights(labels, 0.5)
    assert weights[3] / weights[0] == pytest.approx(3**0.5) and 0.75 * weights[0] + 0.25 * weights[3] == pytest.approx(1)
    assert weights[1] == 0 and torch.equal(class_weights(labels, 0.0)[[0, 3]], torch.ones(2))


@pytest.fixture(scope="module")
def flat_people(tmp_path_factory) -> Path:
    """Twenty people whose pictures are label maps in colours of other names: a parser can learn them in a minute."""
    root = tmp_path_factory.mktemp("people")
    for i in range(20):
        rng = np.random.default_rng(i)
        labels = np.zeros((32, 32), np.uint8)
        for name in ("cloth", "skin", "hair"):
            top, left = rng.integers(0, 16, 2)
            labels[top:top + 16, left:left + 16] = SOF_LABELS.index(name)
        write_png(root / f"{i:05d}" / "seg_00.png", labels)
        write_png(root / f"{i:05d}" / "render_00.png", TRAINING_PALETTE[(labels + 4) % 20])
    return root


def test_train_export_eval(flat_people, tmp_path, capsys):
    options = ("--name", "small", "--data_root", flat_people, "--width", 4, "--side", 64, "--max_steps", 80, "--batch_size", 8, "--lr", 0.01, "--lr_warmup", 5,
               "--steps_til_val", 80, "--steps_til_ckpt", 80, "--log_every", 10, "--pictures_every", 320, "--device", "cpu")
    done = subprocess.run([sys.executable, str(SCRIPT), "train", *map(str, options)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "log/small/log.jsonl").read_text().splitlines()]
    losses = [line["class"] for line in lines if "class" in line]
    assert losses[-1] < losses[0] / 2
    assert len(list((tmp_path / "log/small/pictures").glob("*.png"))) == 2
    target = tmp_path / "small.safetensors"
    train_parser.export(train_parser.ExportConfig(checkpoint=str(tmp_path / "log/small"), target=str(target)))
    train_parser.evaluate(train_parser.EvalConfig(checkpoint=str(target), data_root=str(flat_people), out=str(tmp_path / "measured"), device="cpu"))
    assert "hair" in capsys.readouterr().out
    figures = json.loads((tmp_path / "measured/metrics.json").read_text())
    assert figures["pictures"] == 2 and set(figures["iou"]) <= {"background", "cloth", "skin", "hair"} and figures["miou"] > 0.4
    assert figures["miou"] == pytest.approx(lines[-1]["val/mIoU"], abs=0.02) and (tmp_path / "measured/labels.png").exists()


def test_people_are_split_and_checked(flat_people, tmp_path):
    assert len(train_parser.read_people(flat_people, "train").labels) == 18 and len(train_parser.read_people(flat_people, "test").labels) == 2
    with pytest.raises(InputError, match="no such checkpoint"):
        train_parser.evaluate(train_parser.EvalConfig(checkpoint=str(tmp_path / "none.safetensors"), data_root=str(flat_people)))
    write_png(tmp_path / "00009/seg_00.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match="render"):
        train_parser.read_people(tmp_path, "test")
    write_png(tmp_path / "00009/render_00.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(InputError, match=r"00009/render_00\.png"):
        train_parser.read_people(tmp_path, "test")
