"""sof/portrait.py as a user runs it, on tiny networks in the authors' containers: what it writes, what it repeats, what it refuses."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import parse
from common.errors import InputError
from common.images import read_labels, read_picture, write_png
from common.labels import NOTEBOOK_PALETTE
from common.parser import BiSeNet
from sof import portrait
from sof.model import SOF, ModelConfig, export_published
from sof.painter import Painter, PainterConfig

SCRIPT = Path(portrait.__file__)
HAIR = 18


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """generator.pt (32 px), segNet.pth, sof.pth, label maps of 64 px with and without hair, and two photos."""
    root = tmp_path_factory.mktemp("files")
    torch.manual_seed(3)
    torch.save({"g_ema": Painter(PainterConfig((8, 8, 8, 8), style_dim=16, mapping_layers=2, encoder=(4, 6, 8))).state_dict()}, root / "generator.pt")
    torch.save(BiSeNet(width=4).state_dict(), root / "segNet.pth")
    export_published(SOF(ModelConfig(embedding_size=8, feat_dim=16), heads=2), root / "sof.pth")
    labels = np.zeros((64, 64), np.uint8)
    labels[20:, 16:48] = 1
    write_png(root / "head" / "seg_01.png", labels)
    labels[8:24, 16:48] = HAIR
    write_png(root / "head" / "seg_00.png", labels)
    write_png(root / "head" / "seg_vis_00.png", NOTEBOOK_PALETTE[labels])
    (root / "empty").mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a", (80, 100, 3)), ("b", (64, 64))):
        write_png(root / f"{name}.png", rng.integers(0, 256, shape, dtype=np.uint8))
    return root


def run(command: str, *arguments, files: Path, out: Path, **flags) -> dict[str, np.ndarray]:
    """The pictures that a command writes, by name."""
    Config = {"paint": portrait.PaintConfig, "mix": portrait.MixConfig, "restyle": portrait.RestyleConfig, "parse": portrait.ParseConfig}[command]
    given = {"out": out, "device": "cpu"} | ({} if command == "parse" else {"generator": files / "generator.pt"}) | flags
    words = [str(word) for key, value in given.items() for word in (f"--{key}", *(value if isinstance(value, list) else [value]))]
    getattr(portrait, command)(parse(Config, [*map(str, arguments), *words]))
    return {str(path.relative_to(out)): read_picture(path) for path in sorted(out.rglob("*.png"))}


def frames(path: Path) -> np.ndarray:
    import imageio.v3 as imageio

    return imageio.imread(path)


def test_paint_label_maps(files, tmp_path):
    made = run("paint", files=files, out=tmp_path, labels=[files / "head"], styles=[5, 7])
    assert set(made) == {"portraits.png"} | {f"seg_0{k}_style{seed}.png" for k in (0, 1) for seed in (5, 7)}
    assert made["portraits.png"].shape == (2 * 32 + 2, 3 * 32 + 4, 3)
    assert np.array_equal(made["portraits.png"][:32, 34:66], made["seg_00_style5.png"])
    assert np.array_equal(made["portraits.png"][:32, :32], NOTEBOOK_PALETTE[read_labels(files / "head/seg_00.png", 32)])
    assert not np.array_equal(made["seg_00_style5.png"], made["seg_00_style7.png"]) and not np.array_equal(made["seg_00_style5.png"], made["seg_01_style5.png"])
    assert frames(tmp_path / "portraits.mp4").shape == (2, 64, 64, 3)


def test_a_style_is_its_seed(files, tmp_path):
    first = run("paint", files=files, out=tmp_path / "1", labels=[files / "head/seg_00.png"], styles=[5, 7])
    again = run("paint", files=files, out=tmp_path / "2", labels=[files / "head/seg_00.png"], styles=[7])
    assert np.abs(first["seg_00_style7.png"].astype(int) - again["seg_00_style7.png"]).max() <= 1 and not (tmp_path / "2/portraits.mp4").exists()
    mean = run("paint", files=files, out=tmp_path / "3", labels=[files / "head/seg_00.png"], styles=[5, 7], psi=0)
    assert np.array_equal(mean["seg_00_style5.png"], mean["seg_00_style7.png"])


def test_style_mask(files, tmp_path):
    plain = run("paint", files=files, out=tmp_path / "1", labels=[files / "head"], styles=[5, 7])
    hair = run("paint", files=files, out=tmp_path / "2", labels=[files / "head"], styles=[5, 7], style_mask=["hair"])
    near = lambda a, b: np.abs(a.astype(int) - b).max() <= 1
    assert near(hair["seg_01_style7.png"], plain["seg_01_style5.png"])          # no hair: the first style
    assert not near(hair["seg_00_style7.png"], plain["seg_00_style5.png"]) and not near(hair["seg_00_style7.png"], plain["seg_00_style7.png"])
    whole = run("paint", files=files, out=tmp_path / "3", labels=[files / "head"], styles=[5, 7], style_mask=["global"])
    assert near(whole["seg_00_style7.png"], plain["seg_00_style7.png"])


def test_paint_a_head_from_a_path(files, tmp_path):
    flags = {"checkpoint": files / "sof.pth", "instance": 1, "path": "turntable", "count": 5, "side": 16, "styles": [0, 1, 2]}
    made = run("paint", files=files, out=tmp_path, **flags)
    assert set(made) == {"portraits.png"} and frames(tmp_path / "portraits.mp4").shape == (5, 64, 64, 3)
    made = run("paint", files=files, out=tmp_path / "saved", save_frames=True, **flags)
    assert len(made) == 1 + 5 * 3 and np.array_equal(made["portraits.png"][34:66, 34:66], made["001_style0.png"])


def test_mix(files, tmp_path):
    run("mix", files=files, out=tmp_path, labels=files / "head/seg_00.png", styles=[5, 7], frames=4, regions=["hair", "wearings", "global"])
    film = frames(tmp_path / "mix.mp4").astype(int)
    assert film.shape == (8, 32, 32, 3)                          # nothing is worn
    ends = run("paint", files=files, out=tmp_path / "ends", labels=[files / "head/seg_00.png"], styles=[5, 7])
    five, seven = (ends[f"seg_00_style{seed}.png"] for seed in (5, 7))
    assert np.abs(film[0] - five).mean() < 6 and np.abs(film[-1] - seven).mean() < 6 < np.abs(film[0] - film[-1]).mean()


def test_parse_and_restyle(files, tmp_path):
    made = run("parse", files / "a.png", files / "b.png", files=files, out=tmp_path / "labels", parser=files / "segNet.pth", side=48)
    assert set(made) == {"a.png", "b.png", "vis/a.png", "vis/b.png"} and made["a.png"].shape == (48, 48) and made["a.png"].max() < 20
    assert np.array_equal(made["vis/b.png"], NOTEBOOK_PALETTE[made["b.png"]])
    flags = {"parser": files / "segNet.pth", "styles": [4], "filter_styles": True}
    made = run("restyle", files / "a.png", files / "b.png", files=files, out=tmp_path / "anew", **flags)
    assert len(made) == 3 and made["portraits.png"].shape == (2 * 32 + 2, 3 * 32 + 4, 3)


def test_photos_are_cut_to_their_middle(tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = (10, 200, 90)
    write_png(tmp_path / "wide.png", picture)
    assert np.array_equal(portrait.square_photo(tmp_path / "wide.png", 32), np.broadcast_to(np.uint8([10, 200, 90]), (32, 32, 3)))
    Image.fromarray(np.full((8, 8), 70, np.uint8)).save(tmp_path / "gray.jpg")
    assert portrait.square_photo(tmp_path / "gray.jpg", 8).shape == (8, 8, 3)
    assert portrait.distinct([Path("x/1.png"), Path("y/1.png")]) == ["000_1", "001_1"] and portrait.distinct([Path("x/1.png"), Path("2.png")]) == ["1", "2"]


@pytest.mark.parametrize("command, arguments, flags, said", [
    ("paint", [], {"labels": ["head"], "generator": "nowhere.pt"}, r"--generator: nowhere.pt is not there; expected generator.pt.*README"),
    ("paint", [], {"labels": ["head"], "generator": "none"}, "--generator: not given"),
    ("paint", [], {"labels": ["head"], "generator": "segNet.pth"}, "segNet.pth: not SofGAN's generator"),
    ("paint", [], {}, "--labels, --checkpoint"),
    ("paint", [], {"labels": ["head"], "checkpoint": "sof.pth"}, "--labels, --checkpoint"),
    ("paint", [], {"checkpoint": "sof.pth", "instance": 2}, "head 2: expected a row 0-1"),
    ("paint", [], {"labels": ["head"], "styles": []}, "--styles"),
    ("paint", [], {"labels": ["head"], "styles": [1], "style_mask": ["hair"]}, "--styles: expected 2 or more, got 1"),
    ("paint", [], {"labels": ["head"], "style_mask": ["beard"]}, "style_mask"),
    ("paint", [], {"labels": ["a.png"]}, "a.png"),
    ("paint", [], {"labels": ["empty"]}, "empty holds no"),
    ("paint", [], {"labels": ["head"], "filter_styles": True}, "--parser: not given; expected segNet-20Class.pth"),
    ("mix", [], {"labels": "head/seg_00.png", "styles": [1]}, "--styles: mixing takes two"),
    ("mix", [], {"labels": "head/seg_00.png", "regions": ["wearings"]}, "--regions wearings"),
    ("restyle", ["a.png"], {}, "--parser"),
    ("restyle", [], {"parser": "segNet.pth"}, "PHOTOS"),
    ("parse", ["a.png"], {"parser": "generator.pt"}, "not a face parser"),
    ("parse", ["generator.pt"], {"parser": "segNet.pth"}, "generator.pt: broken"),
])
def test_what_is_refused(files, tmp_path, monkeypatch, command, arguments, flags, said):
    monkeypatch.chdir(files)
    with pytest.raises(InputError, match=said) as error:
        run(command, *arguments, files=files, out=tmp_path / "out", **flags)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_parser_of_other_classes(files, tmp_path):
    torch.save(BiSeNet(5, 4).state_dict(), tmp_path / "five.pth")
    with pytest.raises(InputError, match="tells 5 classes apart"):
        run("parse", files / "a.png", files=files, out=tmp_path, parser=tmp_path / "five.pth")


def test_the_command_line_and_drawn_weights(files, tmp_path):
    def command(*words):
        line = [sys.executable, SCRIPT, "paint", "--labels", files / "head/seg_00.png", "--out", "portraits", *words]
        return subprocess.run([*map(str, line)], cwd=tmp_path, capture_output=True, text=True)

    done = command("--generator", "generator.pt")
    assert done.returncode == 2 and done.stderr.startswith("error: --generator: generator.pt is not there") and done.stderr.count("\n") == 1
    assert not (tmp_path / "portraits").exists()
    done = command("--draw_weights", 1, "--draw_resolution", 64, "--styles", 3, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    picture = read_picture(tmp_path / "portraits/seg_00_style3.png")
    assert "drawn weights" in done.stdout and picture.shape == (64, 64, 3) and picture.std() > 5
