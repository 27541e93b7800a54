"""From one photo of a standing person to a coloured mesh (the release's test_shape_iccv), of rendered frames or of anybody's photos.

    python geopifu/reconstruct.py photo.jpg                       whoever stands in the photo: found, cut out and framed as the training photos are
    python geopifu/reconstruct.py photo.jpg --mask mask.png       with your own mask
    python geopifu/reconstruct.py --quickDemo                     a person made now, whom no training saw
    python geopifu/reconstruct.py --checkpoint log/query --datasetDir data/humanRender --splitNum 7 --splitIdx 0              rendered frames

Of a photo: NAME.glb NAME.ply NAME.obj, 1 high, y up, facing +z; NAME.mp4, the mesh turning; NAME.png, the photo as the network sees it, and four sides.
Of a frame: 000123_meshRefined.obj, canonical, in the photo's own view, and 000123_meshRefined.png, as released. Frames that are there are left.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.cameras import Cameras, intrinsics_matrix, orbit
from common.config import option, run_program
from common.errors import InputError
from common.images import contact_sheet, write_png
from common.meshes import FORMATS, Mesh, largest_component, picture, save
from common.ranks import device_of
from geopifu import meshes, published, render_data
from geopifu.data import Frames
from geopifu.geometry import calibration
from geopifu.layout import item_path, shard
from geopifu.model import GeoPIFu, ModelConfig
from geopifu.options import DataConfig
from geopifu.photos import FINDERS, find_person, framed, read_mask, read_photo, spread

SHIPPED = "pretrained/geopifu_people.safetensors"
DEMO_PERSON = 9                                               # every tenth is held out of every training
RADIUS = 3.0                                                  # of the cameras' circle about a mesh of height 1; they are orthographic
ZOOM = 0.9                                                    # of the picture's height, that the mesh takes


@dataclass
class FramesConfig(DataConfig):
    """Which frames, and how their meshes are made: what geopifu/reconstruct.py and geopifu/eval.py share."""

    checkpoint: list[str] = option([], "run folder, checkpoint or author's file, or two, netG's and netV's; a V-net alone makes coarse meshes")
    split: str = option("test", "which frames: test, train, all", choices=("test", "train", "all"))
    give_idx: list[int] = option([], "these frames alone")
    num_skip_frames: int = option(1, "of every so many groups of four views one is taken", low=1)
    splitNum: int = option(1, "the frames are split into so many chunks", low=1)
    splitIdx: int = option(0, "this process takes this chunk, from 0", low=0)
    resolution_x: int = option(171, "points of the meshes' grid along x", low=2)
    resolution_y: int = option(256, "along y", low=2)
    resolution_z: int = option(171, "along z", low=2)
    dense: bool = option(False, "ask the field at every point of the grid, as released, instead of near the surface")
    device: str = option("auto", "auto (a GPU if there is one), cpu, cuda or cuda:NUMBER, of the networks")


@dataclass
class ReconstructConfig(FramesConfig):
    """Options of geopifu/reconstruct.py."""

    photos: list[str] = option([], "photos of a standing person each; without any, frames of datasetDir", positional=True)
    mask: list[str] = option([], "their masks, in the same order, white where the person is; none: the person is looked for")
    finder: str = option("auto", "what finds the person: rembg, grabcut, or auto: rembg where it is installed", choices=FINDERS)
    as_is: bool = option(False, "do not cut or pad the photos: they are framed as the rendered frames are")
    formats: list[str] = option(["glb"], "files of a photo's mesh", choices=[kind[1:] for kind in FORMATS])
    num_frames: int = option(48, "frames of the film of a photo's mesh; 0: no film", low=0)
    fps: float = option(24.0, "frames a second", low=1)
    size: int = option(384, "side of its pictures, in pixels", low=16)
    quickDemo: bool = option(False, "reconstruct a person that is made now")
    visual_demo_mesh: int = option(0, "stop after so many frames; 0: all", low=0)
    resultsDir: str = option("out/geopifu", "folder to write to")


@dataclass
class FrameConfig(ModelConfig, DataConfig):
    """What frames are read with: the model's sizes, the user's folders."""


def main(config: ReconstructConfig) -> None:
    """Make the meshes that were asked for."""
    if config.mask and len(config.mask) != len(config.photos):
        raise InputError(f"--mask: {len(config.mask)} for {len(config.photos)} photos; expected one each, or none")
    model = opened(replace(config, checkpoint=config.checkpoint or [SHIPPED]))
    if config.quickDemo:
        photo, mask = demo(Path(config.resultsDir) / "demo")
        config = replace(config, photos=[photo], mask=[mask], as_is=True)
    if config.photos:
        for path, mask in zip(config.photos, config.mask or [""] * len(config.photos)):
            of_photo(config, model, path, mask)
    else:
        of_frames(config, model)


def opened(config: FramesConfig) -> GeoPIFu:
    """The model that was asked for. Raises InputError, also where it needs a V-net that is not there."""
    model, _ = published.load(*config.checkpoint, device=device_of(config.device))
    if model.netG is not None and model.config.deepVoxels_fusion and model.netV is None and not config.deepVoxelsDir:
        raise InputError(f"{config.checkpoint[0]}: needs latent voxels; give the V-net too, --checkpoint {config.checkpoint[0]} NETV, or --deepVoxelsDir")
    return model


@torch.no_grad()
def body(config: FramesConfig, model: GeoPIFu, views: Tensor, calibs: Tensor | None = None, voxels: Tensor | None = None) -> Mesh:
    """The surface of a person in V photos (V, 3, S, S) with calibrations (V, 4, 4), in the first one's own view; of a V-net alone, its coarse one.

    Raises InputError where there is none.
    """
    if model.netG is None:
        return meshes.coarse_surface(model.netV.occupancy(model.latents(views[:1]))[0, 0], model.config.published_voxels)
    scene = model.scene(views[None], None if calibs is None else calibs[None], None if voxels is None else voxels[None])
    resolution = (config.resolution_x, config.resolution_y, config.resolution_z)
    return meshes.body(model, scene, resolution, "dense" if config.dense else "refine")


def colors(model: GeoPIFu, mesh: Mesh, photo: Tensor) -> np.ndarray:
    """Colours (V, 3) from 0 to 1 of a mesh in the view of its photo (3, S, S)."""
    return meshes.vertex_colors(mesh.vertices, photo, torch.from_numpy(calibration(0)), model.config.published_pixels)


# Rendered frames

def of_frames(config: ReconstructConfig, model: GeoPIFu) -> None:
    """Meshes of this process's share of the frames; a frame whose field has no surface is said and passed over."""
    frames = Frames(frame_options(config, model.config), config.split)
    chosen = wanted(config, frames)
    mine = [chosen[k] for k in shard(len(chosen), config.splitNum, config.splitIdx)][:config.visual_demo_mesh or None]
    todo = [i for i in mine if not mesh_path(config.resultsDir, frames.numbers[i]).is_file()]
    made = 0
    for i in tqdm(todo, desc="frames", unit="frame", disable=not todo, dynamic_ncols=True):
        made += write_frame(config, model, frames, i, tqdm.write)
    print(f"{len(mine) - len(todo) + made} meshes of {len(mine)} frames in {config.resultsDir}, {made} of them new")


def write_frame(config: FramesConfig, model: GeoPIFu, frames: Frames, i: int, complain=None) -> bool:
    """Write a frame's mesh and the photo that the network sees; whether there is a surface. Without one, complain(one line), or raise InputError."""
    number, device = frames.numbers[i], next(model.parameters()).device
    item = {name: value.to(device) for name, value in frames.item(i, 0).items() if name in ("img", "calib", "extrinsic", "deepVoxels")}
    try:
        mesh = body(config, model, item["img"], item["calib"] @ item["extrinsic"][0].T, item.get("deepVoxels"))
    except InputError as error:
        if complain is None:
            raise InputError(f"frame {number}: {error}") from None
        complain(f"frame {number}: {error}")
        return False
    path = mesh_path(config.resultsDir, number)
    write_png(path.with_suffix(".png"), meshes.picture(item["img"][0]))
    meshes.write_obj(path, mesh, colors(model, mesh, item["img"][0]))
    return True


def frame_options(config: DataConfig, model: ModelConfig) -> FrameConfig:
    """What the frames of a model are read with; no query points."""
    return FrameConfig(**vars(model), **{field.name: getattr(config, field.name) for field in fields(DataConfig)} | {"num_sample_inout": 0})


def wanted(config: FramesConfig, frames: Frames) -> list[int]:
    """The places of the frames asked for. Raises InputError for frames that the split does not have."""
    missing = set(config.give_idx) - set(frames.numbers)
    if missing:
        raise InputError(f"--give_idx {min(missing)}: not a frame of the {config.split} split")
    given = set(config.give_idx or frames.numbers)
    return [i for i, n in enumerate(frames.numbers) if n in given and n // 4 % config.num_skip_frames == 0]


def mesh_path(results: str | Path, frame: int) -> Path:
    """The release's file of a frame's mesh."""
    return Path(results) / f"{frame:06d}_meshRefined.obj"


# Anybody's photos

def of_photo(config: ReconstructConfig, model: GeoPIFu, path: str, mask_path: str = "") -> None:
    """Mesh, pictures and film of a photo."""
    photo = read_photo(path)
    mask = read_mask(mask_path, photo.shape[:2]) if mask_path else find_person(photo, config.finder, path)
    seen = framed(photo[..., :3], mask, model.side, config.as_is)
    try:
        mesh = person_mesh(config, model, seen)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    target = Path(config.resultsDir) / Path(path).stem
    for kind in config.formats:
        save(target.with_suffix(f".{kind}"), mesh)
    show(config, target, mesh, meshes.picture(seen))
    print(f"{target}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")


def person_mesh(config: FramesConfig, model: GeoPIFu, seen: Tensor) -> Mesh:
    """The upright mesh, in its colours and one piece, of the person in a photo as the network sees it (3, S, S). Raises InputError where there is none."""
    from common.people.scans import upright

    mesh = largest_component(body(config, model, seen[None].to(next(model.parameters()).device)))
    return upright(replace(mesh, colors=(255 * colors(model, mesh, spread(seen))).round().clip(0, 255).astype(np.uint8)))


def show(config: ReconstructConfig, target: Path, mesh: Mesh, seen: np.ndarray) -> None:
    """TARGET.png: the photo and the mesh from the front, the sides and behind; TARGET.mp4: the mesh turning."""
    import cv2

    from common.video import write_video

    side = config.size
    photo = cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA)
    write_png(target.with_suffix(".png"), contact_sheet([photo, *picture(mesh, around(4), side, side)], columns=5))
    if config.num_frames:
        turning = around(config.num_frames)
        shots = (picture(mesh, turning.pick([k]), side, side, samples=2)[0] for k in range(config.num_frames))
        write_video(target.with_suffix(".mp4"), tqdm(shots, desc="film", total=config.num_frames, dynamic_ncols=True), config.fps)


def around(count: int) -> Cameras:
    """Orthographic cameras once about an upright mesh of height 1, from the front on."""
    azimuths = torch.arange(count) * (2 * math.pi / count)
    return Cameras(orbit(azimuths, torch.zeros(count), RADIUS), intrinsics_matrix(torch.full((count,), ZOOM)), orthographic=True)


def demo(folder: Path) -> tuple[str, str]:
    """Photo and mask of a clothed person, made now."""
    from common.people.bodies import clothed
    from common.people.persons import person
    from common.people.scans import scan_folder, write_scan

    one = person(0, DEMO_PERSON)
    place = scan_folder(folder, one, 0)
    if not (place / "mesh.obj").is_file():
        place.mkdir(parents=True, exist_ok=True)
        write_scan(place, clothed(one, 0))
    options = {"meshDirSearch": str(folder), "saveDir": str(folder), "eachMeshWithBgNum": 1, "items": ["rgbImage", "maskImage"]}
    render_data.main(render_data.RenderConfig(**options))
    return str(item_path(folder, "rgbImage", 0, ".jpg")), str(item_path(folder, "maskImage", 0, ".png"))


if __name__ == "__main__":
    run_program(main, ReconstructConfig, __doc__)
