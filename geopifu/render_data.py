"""Render scans: photos from four sides before backgrounds, and what else training and evaluation read (specification: ``geopifu.layout``).

    python geopifu/render_data.py --meshDirSearch data/bodies --saveDir data/humanRender --splitNum 8 --splitIdx 0
    python geopifu/render_data.py --meshDirSearch data/DeepHuman --bgDirSearch data --saveDir data/humanRender --useConfig      the release's own settings

Scans are THUman's or clothed people by scripts/make_people.py. Backgrounds are LSUN's (LSUN/train_jpg/SCENE/*.jpg below --bgDirSearch), any folder of
photos, or, without one, plain and graded colours. Killed and started again it goes on; frames do not depend on how the work is split.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.config import option, run_program
from common.files import replacing
from common.images import encode_png, resize_nearest
from common.ranks import device_of
from geopifu import backgrounds, raster, scans, voxels
from geopifu.geometry import GRID, canonicalise, random_rotation, to_view
from geopifu.layout import ITEMS, all_frames, item_path, read_config, rotation_of_frame, shard
from geopifu.smpl import body_of

DEFAULT = ("rgbImage", "maskImage", "normalRGB", "meshVoxels")                 # what training and evaluation read
QUALITY = 95


@dataclass
class RenderConfig:
    meshDirSearch: str = option("data/bodies", "folder of scans, anywhere below it results_*/*/mesh.obj")
    bgDirSearch: str = option("", "folder of background photos; LSUN's where it has LSUN/train_jpg; empty: plain and graded colours")
    saveDir: str = option("data/humanRender", "folder to write to; made if missing, gone on with if there")
    items: list[str] = option(list(DEFAULT), f"what to write, of {', '.join(ITEMS)}; 'all' for everything", choices=(*ITEMS, "all"))
    w: int = option(256, "width of the pictures, pixels before resolutionScale", low=2)
    h: int = option(384, "height", low=2)
    f: int = option(384, "focal length: pixels that the canonical box is high", low=2)
    near: float = option(0.5, "kept in the settings; nothing lies nearer")
    far: float = option(25.0, "kept in the settings; nothing lies farther")
    resolutionScale: int = option(4, "w, h and f are multiplied by it; 4: 1024 x 1536", low=1)
    eachMeshWithBgNum: int = option(4, "backgrounds, rotations and lights of each scan, four views each", low=1)
    useConfig: bool = option(False, "render what saveDir/config/*.json say instead of new draws")
    addionalType: list[str] = option([], "with useConfig: these items instead (the release's spelling)", choices=ITEMS)
    splitNum: int = option(1, "the scans are split into so many chunks", low=1)
    splitIdx: int = option(0, "this process renders this chunk, from 0", low=0)
    published: bool = option(False, "JPEG for masks, normals and labels, as the release")
    smplDir: str = option("", "folder of SMPL's basicModel_{m,f}_lbs_10_207_0_v1.0.0.pkl, for items of the body under THUman's scans")
    facesAtlas: str = option("", "facesAtlas_Idx_U_V.npy by geopifu/faces_atlas.py, for smplIUV under THUman's scans")
    seed: int = option(0, "of backgrounds, rotations and lights", low=0)
    device: str = option("cpu", "where rays are cast: auto (a GPU if there is one), cpu, cuda or cuda:NUMBER")


@dataclass(frozen=True)
class Group:
    """Four views of a scan: where it is, its first frame, and its settings as the release keeps them."""

    path: Path
    first: int
    settings: dict


def main(config: RenderConfig) -> None:
    """Render every group of four views that is not whole yet."""
    device_of(config.device)
    items = config.addionalType or (list(ITEMS) if "all" in config.items else config.items)
    groups = recorded_groups(config) if config.useConfig else drawn_groups(config)
    read, done = None, 0
    for group in tqdm(groups, desc="groups", unit="group", disable=not groups, dynamic_ncols=True):
        todo = [item for item in items if not all(is_there(config, item, frame) for frame in range(group.first, group.first + 4))]
        if todo or not all(item_path(config.saveDir, "config", frame, ".json").is_file() for frame in range(group.first, group.first + 4)):
            if read is None or read[0] != group.path:
                read = group.path, scans.read_scan(group.path), body_of(group.path, config.smplDir, config.facesAtlas, todo)
            render_group(config, group, todo, *read[1:])
            done += 1
    print(f"{4 * len(groups)} frames in {config.saveDir}, {4 * done} of them new")


# Which frames, and their settings

def drawn_groups(config: RenderConfig) -> list[Group]:
    """The groups of this process's share of the scans, their settings drawn from (seed, scan, background)."""
    paths = scans.find_scans(config.meshDirSearch)
    pool = backgrounds.find(config.bgDirSearch)
    groups = []
    for mesh in shard(len(paths), config.splitNum, config.splitIdx):
        rng = np.random.default_rng([config.seed, mesh])
        chosen = backgrounds.draw(rng, pool, config.eachMeshWithBgNum)
        for number, background in enumerate(chosen):
            first = 4 * (mesh * config.eachMeshWithBgNum + number)
            settings = {"args": asdict(config), "meshPath": str(paths[mesh].resolve()), "bgImgPath": background, "dataPrefix": first,
                        "skyLightRotDegrees": draw_lights(rng), "randomRot": random_rotation(rng).tolist()}
            groups.append(Group(paths[mesh], first, settings))
    return groups


def draw_lights(rng: np.random.Generator) -> list[int | None]:
    """Degrees of the left, right and back sky lights; at least one of the first two goes out: the one nearer the front, else those within 40 degrees."""
    left, right = -int(rng.integers(3, 91)), int(rng.integers(3, 91))
    if left >= -40 and right <= 40:
        return [left, None, 180] if -left >= right else [None, right, 180]
    return [None if left >= -40 else left, None if right <= 40 else right, 180]


def recorded_groups(config: RenderConfig) -> list[Group]:
    """The groups whose settings lie in saveDir/config, their scans looked for below meshDirSearch."""
    first_frames = sorted({frame - frame % 4 for frame in all_frames(config.saveDir)})
    mine = [first_frames[k] for k in shard(len(first_frames), config.splitNum, config.splitIdx)]
    settings = {first: read_config(config.saveDir, min(n for n in range(first, first + 4) if item_path(config.saveDir, "config", n, ".json").is_file()))
                for first in mine}
    return [Group(scans.rerooted(s["meshPath"], config.meshDirSearch), first, s) for first, s in settings.items()]


# A group

def render_group(config: RenderConfig, group: Group, items: list[str], scan: scans.Scan, body: scans.Underneath | None) -> None:
    """Write the items of a group's four views, then their settings."""
    rotation = rotation_of_frame(group.settings)
    front, mean, scale = canonicalise(scan.vertices, rotation, str(group.path))
    under = None if body is None else Posed(body, scan, scale * (body.vertices - mean) @ rotation.T,
                                            None if body.joints is None else scale * (body.joints - mean) @ rotation.T)
    solid = volume = None
    if {"meshVoxels", "maskFromVoxels"} & set(items):
        solid = voxels.voxelise(front, scan.faces, str(group.path))
    if "smplSemVoxels" in items:
        volume = under.semantic_voxels()
    for view in range(4):
        frame = group.first + view
        write_view(config, group, items, frame, scan, to_view(front, view), to_view(scan.normals @ rotation.T, view))
        if under is not None:
            write_body(config, group, items, frame, scan, to_view(front, view), under.in_view(view))
        solid = write_voxels(config, items, frame, solid)
        volume = write_semantic_voxels(config, items, frame, volume)
        write_json(item_path(config.saveDir, "config", frame, ".json"), group.settings)


@dataclass(frozen=True)
class Posed:
    """A body in the canonical front frame, or in a view's: its vertices (B, 3) and joints (24, 3); what is known of it and its scan."""

    body: scans.Underneath
    scan: scans.Scan
    vertices: np.ndarray
    joints: np.ndarray | None

    def in_view(self, view: int) -> Posed:
        """The same in a view's frame."""
        return Posed(self.body, self.scan, to_view(self.vertices, view), None if self.joints is None else to_view(self.joints, view))

    def semantic_voxels(self) -> np.ndarray:
        """uint8 (128, 192, 128, 3): where at rest the body's nearest vertices are, inside it; 0 outside."""
        filled = voxels.voxelise(self.vertices, self.body.faces, "the body under the scan")
        index = np.argwhere(filled)
        values = voxels.semantic_values(voxels.centers(index), self.vertices, scans.rest_colors(self.body.rest))
        result = np.zeros((*GRID, 3), np.uint8)
        result[tuple(index.T)] = voxels.eight_bit(values)
        return result


def size_of(config: RenderConfig) -> tuple[int, int, int]:
    """Height, width and focal length in pixels."""
    return config.h * config.resolutionScale, config.w * config.resolutionScale, config.f * config.resolutionScale


def write_view(config: RenderConfig, group: Group, items: list[str], frame: int, scan: scans.Scan, vertices: np.ndarray, normals: np.ndarray) -> None:
    """Photo, mask, normals of one view."""
    if not {"rgbImage", "maskImage", "normalRGB"} & set(items):
        return
    height, width, focal = size_of(config)
    seen = raster.rasterise(vertices, scan.faces, height, width, focal, device_of(config.device))
    save = lambda item, make: write_picture(config, item, frame, make()) if item in items else None
    save("maskImage", lambda: raster.mask(seen))
    save("normalRGB", lambda: raster.normal_image(normals, scan.faces, seen))

    def photo() -> np.ndarray:
        lit = raster.lit_colors(vertices, scans.face_normals(vertices, scan.faces), scan.colors, group.settings["skyLightRotDegrees"])
        return raster.rgb_image(lit, scan.faces, seen, backgrounds.read(group.settings["bgImgPath"], config.bgDirSearch, height, width))
    save("rgbImage", photo)


def write_body(config: RenderConfig, group: Group, items: list[str], frame: int, scan: scans.Scan, vertices: np.ndarray, under: Posed) -> None:
    """Skeletons, semantic maps and IUV of one view."""
    height, width, focal = size_of(config)
    colors = lambda more: scans.rest_colors(under.body.rest, keep_ratio=bool(more))
    draw = lambda points, faces: raster.rasterise(points, faces, height, width, focal, device_of(config.device))
    if "skeleton3D" in items:
        write_text(item_path(config.saveDir, "skeleton3D", frame, ".obj"), "".join(f"v {x} {y} {z}\n" for x, y, z in under.joints.tolist()))
    if "skeleton2D" in items:
        write_array(item_path(config.saveDir, "skeleton2D", frame, ".npy"), raster.pixels_of(under.joints, height, width, focal))
    if "meshSem" in items:
        seen = draw(vertices, scan.faces)
        for more in ("", "_KeepRatio"):
            values = voxels.semantic_values(scan.vertices, under.body.vertices, colors(more)).clip(0, 1)
            write_picture(config, "meshSem", frame, raster.label_image(values, scan.faces, seen), more)
    if {"smplSem", "smplIUV"} & set(items):
        seen = draw(under.vertices, under.body.faces)
        for more in ("", "_KeepRatio") if "smplSem" in items else ():
            write_picture(config, "smplSem", frame, raster.label_image(colors(more), under.body.faces, seen), more)
        if "smplIUV" in items:
            write_picture(config, "smplIUV", frame, raster.iuv_image(under.body.atlas, seen))


def write_voxels(config: RenderConfig, items: list[str], frame: int, solid: np.ndarray | None) -> np.ndarray | None:
    """The voxels of one view and their silhouette; those of the next view."""
    if solid is None:
        return None
    if "meshVoxels" in items:
        write_array(item_path(config.saveDir, "meshVoxels", frame, ".npy"), np.ascontiguousarray(solid))
    if "maskFromVoxels" in items:
        outline, (_, _, focal) = 255 * voxels.silhouette(solid).astype(np.uint8), size_of(config)
        write_picture(config, "maskFromVoxels", frame, outline)
        write_picture(config, "maskFromVoxels", frame, resize_nearest(outline, focal, focal * 128 // 192), "_Resized")
    return voxels.turned(solid)


def write_semantic_voxels(config: RenderConfig, items: list[str], frame: int, volume: np.ndarray | None) -> np.ndarray | None:
    """The body's semantic voxels of one view; those of the next."""
    if volume is None:
        return None
    write_array(item_path(config.saveDir, "smplSemVoxels", frame, ".npy"), np.ascontiguousarray(volume))
    return np.flip(volume.swapaxes(0, 2), axis=2)


# Files, whole or not there

def suffix_of(config: RenderConfig, item: str) -> str:
    """.jpg for photos and, with --published, for all pictures; .png else; .obj and .npy for the rest."""
    if item in ("meshVoxels", "smplSemVoxels", "skeleton2D"):
        return ".npy"
    return ".obj" if item == "skeleton3D" else ".jpg" if config.published or item == "rgbImage" else ".png"


def is_there(config: RenderConfig, item: str, frame: int) -> bool:
    """Whether a frame has all files of an item."""
    more = {"meshSem": ("", "_KeepRatio"), "smplSem": ("", "_KeepRatio"), "maskFromVoxels": ("", "_Resized")}.get(item, ("",))
    return all(item_path(config.saveDir, item, frame, suffix_of(config, item), name).is_file() for name in more)


def write_picture(config: RenderConfig, item: str, frame: int, picture: np.ndarray, more: str = "") -> None:
    """A picture of a frame's item."""
    path = item_path(config.saveDir, item, frame, suffix_of(config, item), more)
    data = encode_jpeg(picture) if path.suffix == ".jpg" else encode_png(picture)
    write(path, lambda temporary: temporary.write_bytes(data))


def encode_jpeg(picture: np.ndarray) -> bytes:
    """The bytes of an .jpg file."""
    import io

    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_array(path: Path, array: np.ndarray) -> None:
    """An .npy file."""
    def save(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, array)
    write(path, save)


def write_text(path: Path, text: str) -> None:
    """A text file."""
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: dict) -> None:
    """A JSON file."""
    write_text(path, json.dumps(values))


def write(path: Path, save: Callable[[Path], object]) -> None:
    """A file made by save(temporary path)."""
    with replacing(path) as temporary:
        save(temporary)


if __name__ == "__main__":
    run_program(main, RenderConfig, __doc__)
