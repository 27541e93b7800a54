"""Make licence-free people: heads in the layouts that SOF, EG3D and pi-GAN's kin read, clothed bodies as Geo-PIFu reads THUman's.

    python scripts/make_people.py prepare
    python scripts/make_people.py heads --count 64 --views 30 --out data/heads
    python scripts/make_people.py heads --count 1000 --layout both --split train --shard 3/8 --out data/heads
    python scripts/make_people.py heads --count 2000 --views 2 --layout pigan --resolution 64 --split train --out data/people_gof
    python scripts/make_people.py heads --count 2000 --views 2 --layout sem2nerf --split train --out data/people_sem2nerf
    python scripts/make_people.py bodies --count 200 --frames 2 --out data/bodies

OUT/00012/        person 12 as SOF reads it: seg_vis_00.png seg_00.png depth_00.png render_00.png ... cam2world.npy intrinsic.npy zRange.npy cameras.npy
OUT/eg3d.zip      all persons as EG3D reads them
OUT/pigan.zip     the same under pi-GAN's cameras, on white; with --depth, 00012/view_00.npz beside 00012/view_00.png: depth along unit rays, world normals
OUT/masks/37.png, OUT/CelebA-HQ-img/37.png, OUT/CelebAMask-HQ-pose-anno.txt       the layout sem2nerf, CelebAMask-HQ's: pi-GAN's views, its 19 labels
OUT/DeepHumanDataset/dataset/results_00012_F/0/     person 12, pose 0: mesh.obj, body.npz (see common/people/scans.py)
A person is whole or not there: a killed run goes on where it stopped, and the files do not depend on how the work is sharded.
"""
from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import config as configs
from common.config import option, run_commands
from common.errors import InputError
from common.files import replacing
from common.images import contact_sheet, encode_png, read_picture, write_eg3d_zip, write_png
from common.ranks import device_of

LAYOUTS = {"sof": ("sof",), "eg3d": ("eg3d",), "both": ("sof", "eg3d"), "pigan": ("pigan",), "sem2nerf": ("sem2nerf",)}
ZIPPED = ("eg3d", "pigan")                                                    # finished persons wait in OUT/.eg3d for eg3d.zip
RESOLUTION = {"sof": 128, "eg3d": 512, "pigan": 128, "sem2nerf": 128}
BACKGROUND = {"sof": "gray", "eg3d": "gray", "pigan": "white", "sem2nerf": "white"}
CELEBA_PICTURES, CELEBA_MASKS, CELEBA_POSES = "CelebA-HQ-img", "masks", "CelebAMask-HQ-pose-anno.txt"
SHEET_PEOPLE, SHEET_VIEWS = 12, 3


@dataclass
class PrepareConfig:
    """No options."""


@dataclass
class HeadsConfig:
    out: str = option("data/heads", "folder to write to; made if missing, gone on with if there", free=True)
    count: int = option(16, "number of people", low=1, free=True)
    views: int = option(30, "views of each, each camera drawn within 60 degrees to either side and 25 up and down; pigan, sem2nerf: gaussian", low=1)
    resolution: int | None = option(None, "side of the pictures in pixels; 512 for eg3d, else 128 where not given", low=8)
    layout: str = option("sof", "sof: a folder a person; eg3d: eg3d.zip; both; pigan: pigan.zip; sem2nerf: masks, pictures, poses", choices=LAYOUTS, free=True)
    split: str = option("all", "which people: every tenth is test, held out of every training", choices=("train", "test", "all"), free=True)
    seed: int = option(0, "the world that the people come from; person i is a function of the seed and i", low=0)
    shard: str = option("0/1", "i/n: this process makes every n-th person, from the i-th on, i = 0 ... n-1", free=True)
    rgb: bool = option(True, "also colour pictures in the sof layout (render_00.png); label maps alone are several times faster")
    h_stddev: float = option(0.3, "pigan, sem2nerf: standard deviation of the cameras' yaw about frontal, radians", low=0)
    v_stddev: float = option(0.155, "pigan, sem2nerf: standard deviation of the cameras' pitch about frontal, radians", low=0)
    depth: bool = option(False, "pigan: also each view's depth and normals")
    background: str | None = option(None, "behind the heads in colour pictures; gray where not given, for pigan and sem2nerf white", choices=("gray", "white"))
    samples: int = option(3, "samples a pixel along each side, of colour pictures", low=1)
    device: str = option("cpu", "where rays are cast: auto (a GPU if there is one), cpu, cuda or cuda:NUMBER", free=True)


@dataclass
class BodiesConfig:
    out: str = option("data/bodies", "folder to write to; made if missing, gone on with if there", free=True)
    count: int = option(16, "number of people", low=1, free=True)
    frames: int = option(1, "poses of each", low=1, free=True)
    split: str = option("all", "which people: every tenth is test, held out of every training", choices=("train", "test", "all"), free=True)
    seed: int = option(0, "the world that the people come from; person i is a function of the seed and i, in heads and bodies alike", low=0)
    shard: str = option("0/1", "i/n: this process makes every n-th body, from the i-th on, i = 0 ... n-1", free=True)


def prepare(config: PrepareConfig) -> None:
    """Load anny once, building its cache where it is missing."""
    from common.people.body import load_body

    start = time.perf_counter()
    load_body()
    print(f"people are ready ({time.perf_counter() - start:.0f} s)")


def heads(config: HeadsConfig) -> None:
    """Make heads."""
    which, shards = shard_of(config.shard)
    device_of(config.device)
    out = Path(config.out)
    remember(config, out / "people.yml")
    people = indices(config.count, config.split)
    todo = [i for i in people[which::shards] if not all(folder(out, layout, i).is_dir() for layout in LAYOUTS[config.layout])]
    for i in tqdm(todo, desc="heads", unit="person", disable=not todo):
        make(config, out, i)
    for layout in ZIPPED:
        if layout in LAYOUTS[config.layout] and all(folder(out, layout, i).is_dir() for i in people):
            zip_up(config, layout, out, people)
    if config.layout == "sem2nerf" and all(folder(out, "sem2nerf", i).is_dir() for i in people):
        join_poses(out, people)
    sheet = contact(config, out, people)
    print(f"{len(people)} people in {out}: look at {sheet}")


def bodies(config: BodiesConfig) -> None:
    """Make clothed bodies."""
    from common.people.persons import person
    from common.people.scans import scan_folder, write_body_model

    which, shards = shard_of(config.shard)
    out = Path(config.out)
    remember(config, out / "bodies.yml")
    wanted = [(person(config.seed, i), frame) for i in indices(config.count, config.split) for frame in range(config.frames)]
    todo = [(one, frame) for one, frame in wanted[which::shards] if not scan_folder(out, one, frame).is_dir()]
    for one, frame in tqdm(todo, desc="bodies", unit="body", disable=not todo, dynamic_ncols=True):
        make_body(one, frame, scan_folder(out, one, frame))
    write_body_model(out / "body_model.npz")
    print(f"{len(wanted)} bodies in {out}: look at {contact_bodies(out, [scan_folder(out, one, frame) for one, frame in wanted])}")


def make_body(one, frame: int, place: Path) -> None:
    """A person in a pose, written beside its place and renamed into it."""
    from common.people.bodies import clothed
    from common.people.scans import write_scan

    with whole_folder(place) as partial:
        write_scan(partial, clothed(one, frame))


def contact_bodies(out: Path, places: list[Path]) -> Path:
    """A contact sheet of the first bodies that are there, from four sides."""
    import torch

    from common.cameras import Cameras, intrinsics_matrix, orbit
    from common.meshes import load, picture
    from common.people.scans import upright

    quarter = torch.arange(4) * torch.pi / 2
    views = Cameras(orbit(quarter, torch.zeros(4), 3.0), intrinsics_matrix(torch.full((4,), 0.95)), orthographic=True)
    shown = [upright(load(place / "mesh.obj")) for place in places if place.is_dir()][:SHEET_PEOPLE]
    path = out / "contact_sheet.png"
    if shown:
        write_png(path, contact_sheet([view for mesh in shown for view in picture(mesh, views, 240, 240, 2)], 8))
    return path


def shard_of(text: str) -> tuple[int, int]:
    """(i, n) of "i/n". Raises InputError."""
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise InputError(f"--shard: expected i/n with 0 <= i < n, not {text}")
    return int(first), int(last)


def indices(count: int, split: str) -> list[int]:
    """The first `count` people of a split."""
    from common.people.persons import split as split_of

    wanted = (i for i in range(10 * count) if split in ("all", split_of(i)))
    return [i for _, i in zip(range(count), wanted)]


def remember(config: HeadsConfig | BodiesConfig, path: Path) -> None:
    """Keep the options beside the data. Raises InputError if the folder was made with others that change a person's files."""
    if path.exists():
        old = configs.load(type(config), path)
        for field in fields(config):
            before, now = getattr(old, field.name), getattr(config, field.name)
            if before != now and not field.metadata["free"]:
                raise InputError(f"{path.parent}: was made with --{field.name} {before}, not {now}; choose another --out")
    configs.save(config, path)


def folder(out: Path, layout: str, i: int) -> Path:
    """Where person i stands."""
    return (out if layout == "sof" else out / f".{layout}") / f"{i:05d}"


def view_name(kind: str, view: int, views: int) -> str:
    """kind_07.png: as many digits as keep the names of all views in order, two at least."""
    return f"{kind}_{view:0{max(2, len(str(views - 1)))}d}.png"


def truth_name(view: int, views: int) -> str:
    """view_07.npz beside view_07.png: depth (H, W) float32 along unit rays, 0 where nothing is seen; normals (H, W, 3) float16, unit, in the world."""
    return view_name("view", view, views).replace(".png", ".npz")


def truth_channels(config: HeadsConfig, layout: str) -> tuple[str, ...]:
    """What a layout's zip holds beside the pictures."""
    return ("depth", "normals") if layout == "pigan" and config.depth else ()


def make(config: HeadsConfig, out: Path, i: int) -> None:
    """Person i in each layout that lacks it, written beside its place and renamed into it."""
    from common.people.heads import head_scene
    from common.people.persons import person

    scene = head_scene(person(config.seed, i))
    for layout in LAYOUTS[config.layout]:
        place = folder(out, layout, i)
        if place.is_dir():
            continue
        with whole_folder(place) as partial:
            if layout == "sem2nerf":
                write_celeba(config, scene, i, out, partial)
            else:
                write_sof(config, scene, i, partial) if layout == "sof" else write_zipped(config, layout, scene, i, partial)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder beside `place` to write to, renamed into it at the end."""
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(place)


def render(config: HeadsConfig, layout: str, scene, cameras, side: int, channels: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The square views of a scene in a layout's world, on that layout's background."""
    from common.people import renderer

    background = {"white": (1.0, 1.0, 1.0), "gray": renderer.BACKGROUND}[config.background or BACKGROUND[layout]]
    return renderer.render(scene, cameras, side, side, channels, config.samples, device_of(config.device), background)


def write_sof(config: HeadsConfig, scene, i: int, place: Path) -> None:
    """One folder of SOF's multi-view training layout: label maps, their colours, 8-bit z_depth, cameras, and RGB beside."""
    from common.cameras import invert_rigid
    from common.labels import colorize
    from common.people.layouts import sof_cameras, sof_similarity

    side = config.resolution or RESOLUTION["sof"]
    cameras, pixels = sof_cameras(config.seed, i, config.views, side)
    channels = ("labels", "z_depth", "mask") + ("rgb",) * config.rgb
    views = render(config, "sof", scene.transform(sof_similarity(), 0.0), cameras, side, channels)
    ranges = np.array([depth_range(depth, mask) for depth, mask in zip(views["z_depth"], views["mask"])], np.float32)
    for v in range(config.views):
        near, far = ranges[v]
        depth = np.where(views["mask"][v], np.round((views["z_depth"][v] - near) / (far - near) * 255), 0).astype(np.uint8)
        files = {"seg_vis": colorize(views["labels"][v]), "seg": views["labels"][v], "depth": depth} | ({"render": views["rgb"][v]} if config.rgb else {})
        for name, picture in files.items():
            (place / view_name(name, v, config.views)).write_bytes(encode_png(picture))
    extrinsics = invert_rigid(cameras.cam2world).numpy()
    np.save(place / "cam2world.npy", cameras.cam2world.numpy())
    np.save(place / "intrinsic.npy", pixels.numpy())
    np.save(place / "zRange.npy", ranges)
    calibration = {"extrinsics": list(extrinsics), "intrinsic": pixels.numpy(), "zRange": ranges, "instance": np.array([config.seed, i])}
    np.save(place / "cameras.npy", np.array(calibration, dtype=object))


def depth_range(depth: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Near and far of a view's z_depth, with room before the nearest point, whose value 0 would mean background."""
    if not mask.any():
        return 0.0, 1.0
    near, far = depth[mask].min(), depth[mask].max()
    return near - max((far - near) / 100, 1e-3), far


def write_zipped(config: HeadsConfig, layout: str, scene, i: int, place: Path) -> None:
    """The square colour pictures of a person for EG3D's or pi-GAN's zip, and what is known of their surface."""
    from common.people import layouts

    side = config.resolution or RESOLUTION[layout]
    cameras = cameras_of(config, layout, i)
    similarity = {"eg3d": layouts.eg3d_similarity, "pigan": layouts.pigan_similarity}[layout]()
    truth = truth_channels(config, layout)
    views = render(config, layout, scene.transform(similarity, 0.0), cameras, side, ("rgb", *truth))
    for v, picture in enumerate(views["rgb"]):
        (place / view_name("view", v, config.views)).write_bytes(encode_png(picture))
        if truth:
            np.savez_compressed(place / truth_name(v, config.views), depth=views["depth"][v], normals=views["normals"][v].astype(np.float16))


def write_celeba(config: HeadsConfig, scene, i: int, out: Path, place: Path) -> None:
    """A person's masks and pictures among all others, in CelebAMask-HQ's folders and labels; `place` keeps its lines of the pose file."""
    from common.cameras import pigan_angles
    from common.labels import relabel
    from common.people.layouts import pigan_similarity
    from sem2nerf.labels import SOF_TO_CELEBA

    cameras, lines = cameras_of(config, "sem2nerf", i), []
    views = render(config, "sem2nerf", scene.transform(pigan_similarity(), 0.0), cameras, config.resolution or RESOLUTION["sem2nerf"], ("rgb", "labels"))
    for v, (pitch, yaw) in enumerate(pigan_angles(cameras.cam2world.double()).rad2deg().tolist()):
        number = i * config.views + v
        write_png(out / CELEBA_MASKS / f"{number}.png", relabel(views["labels"][v], SOF_TO_CELEBA))
        write_png(out / CELEBA_PICTURES / f"{number}.png", views["rgb"][v])
        lines.append(f"{number}.png {90 - yaw:.6f} {pitch - 90:.6f} 0")
    (place / CELEBA_POSES).write_text("".join(f"{line}\n" for line in lines))


def join_poses(out: Path, people: list[int]) -> None:
    """The pose file of all people: their number, the columns' names, a line a view in degrees from frontal."""
    lines = "".join((folder(out, "sem2nerf", i) / CELEBA_POSES).read_text() for i in people)
    with replacing(out / CELEBA_POSES) as temporary:
        temporary.write_text(f"{lines.count(chr(10))}\nyaw pitch roll\n{lines}")


def cameras_of(config: HeadsConfig, layout: str, i: int):
    """The cameras of a person's views in EG3D's world, or in pi-GAN's, which is Sem2NeRF's too."""
    from common.people import layouts

    if layout == "eg3d":
        return layouts.eg3d_cameras(config.seed, i, config.views)
    return layouts.pigan_cameras(config.seed, i, config.views, config.resolution or RESOLUTION[layout], config.h_stddev, config.v_stddev)


def zip_up(config: HeadsConfig, layout: str, out: Path, people: list[int]) -> None:
    """EG3D's or pi-GAN's zip of all people."""
    import torch

    from common.cameras import Cameras

    cameras = [cameras_of(config, layout, i) for i in people]
    all_cameras = Cameras(torch.cat([c.cam2world for c in cameras]), torch.cat([c.intrinsics for c in cameras]))
    files = lambda name_of: ((f"{i:05d}/{name_of(v)}", (folder(out, layout, i) / name_of(v)).read_bytes()) for i in people for v in range(config.views))
    pictures, truth = files(lambda v: view_name("view", v, config.views)), files(lambda v: truth_name(v, config.views))
    write_eg3d_zip(out / f"{layout}.zip", pictures, all_cameras, truth if truth_channels(config, layout) else ())


def contact(config: HeadsConfig, out: Path, people: list[int]) -> Path:
    """A contact sheet of the first people that are there, beside the data."""
    layout = LAYOUTS[config.layout][0]
    kinds = ("view",) if layout in ZIPPED else ("render", "seg_vis") if config.rgb else ("seg_vis",)
    shown = [i for i in people if folder(out, layout, i).is_dir()][:SHEET_PEOPLE]
    views = range(min(SHEET_VIEWS, config.views))
    place = lambda i, kind, v: folder(out, layout, i) / view_name(kind, v, config.views)
    if layout == "sem2nerf":
        kinds, place = ("view",), lambda i, kind, v: out / CELEBA_PICTURES / f"{i * config.views + v}.png"
    pictures = [read_picture(place(i, kind, v)) for i in shown for kind in kinds for v in views]
    path = out / "contact_sheet.png"
    if pictures:
        write_png(path, contact_sheet(pictures, 2 * len(kinds) * len(views)))
    return path


if __name__ == "__main__":
    commands = {"prepare": (prepare, PrepareConfig), "heads": (heads, HeadsConfig), "bodies": (bodies, BodiesConfig)}
    run_commands(commands, "Make licence-free people for the five methods.")
