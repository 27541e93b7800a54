"""Render label maps as faces, from all sides: python sem2nerf/render.py data/CelebAMask-HQ/mask_samples --render_videos   (or one mask.png)

    EXP_DIR/iter_T_infer_results_256/419_mask8_seed0.png      the mask, the original pose if asked for, five novel views
    EXP_DIR/iter_T_infer_videos_256/419_mask8_seed0.mp4       once round the front, or an orbit

A label map leaves a face's look open: --latent_mask names the blocks of its code that come from --inject_code_seed instead, several seeds give several looks.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import option, run_program
from common.images import contact_sheet, write_png
from common.march import March
from common.pigan import Scene
from common.ranks import device_of
from common.video import write_video
from sem2nerf.data import LAYOUTS, Face, find_masks, planes_of, read_labels
from sem2nerf.labels import MERGES
from sem2nerf.look import mask_picture, view_pictures
from sem2nerf.model import Codes, Sem2NeRF, blocks_of, load, march_options, mixed, view_of
from sem2nerf.pictures import encoder_input, overlay, published_row, rounded
from sem2nerf.poses import TRAJECTORIES, novel_angles, pose_of, read_poses, trajectory

SHIPPED = "pretrained/sem2nerf_people.safetensors"
FPS = 25 / 1.5                                                # the published films run at two thirds of ffmpeg's speed


@dataclass
class RenderConfig:
    data_path: str = option("data/CelebAMask-HQ/mask_samples", "a label map, or a folder of them", positional=True)
    checkpoint_path: str = option(SHIPPED, "run folder, file of ours or an author's .pt")
    exp_dir: str = option("out/sem2nerf", "folder to write to")
    infer_paths_conf: str = option("", "list of the masks to render, an id a line; empty: all")
    n_images: int = option(0, "render that many; 0: all", low=0)
    use_shuffle: bool = option(False, "in random order")
    test_output_size: int = option(256, "side of the pictures", low=2)
    latent_mask: str | None = option("last", "blocks of the code that come from the seed, as 6,7,8; last: the one that colours; none: none")
    inject_code_seed: list[int] = option([0], "seeds of the looks", low=0)
    use_original_pose: bool = option(False, "also the view from the mask's own camera, which the pose file knows")
    pose_path: str = option("", "the pose file; empty: as published beside the folder of masks")
    mask_overlay_weight: float = option(0.0, "with use_original_pose: also that view under its mask, at this share", low=0)
    render_videos: bool = option(False, "also a film of each mask")
    trajectory: str = option("front", "way of the film's camera", choices=TRAJECTORIES)
    num_frames: int = option(36, "frames of the film, the first and the last one the same", low=2)
    pigan_infer_ray_step: int = option(24, "samples a ray, and as many fine ones", low=3)
    pigan_infer_max_batch: int = option(0, "samples at once, to fit memory; 0: as suits the device", low=0)
    published_grid: bool = option(False, "the release's defect: the pictures of a row are stretched together to the full range of grey levels")
    dataset_type: str | None = option(None, "must be the checkpoint's, as the options below; not needed", choices=LAYOUTS)
    pigan_curriculum_type: str | None = option(None, "of the checkpoint", choices=MERGES)
    use_merged_labels: bool | None = option(None, "of the checkpoint")
    image_load_size: int | None = option(None, "of the checkpoint", low=0)
    image_crop_size: int | None = option(None, "of the checkpoint", low=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")


@dataclass(frozen=True)
class Places:
    """Where the files of one checkpoint and size go."""

    results: Path
    videos: Path
    postfix: str


@torch.no_grad()
def main(config: RenderConfig) -> None:
    """Render every mask in every look."""
    from tqdm import tqdm

    names = ("dataset_type", "pigan_curriculum_type", "use_merged_labels", "image_load_size", "image_crop_size")
    model = load(config.checkpoint_path, device_of(config.device), **{name: getattr(config, name) for name in names})
    blocks = blocks_of(config.latent_mask, model.config.layers)
    faces = chosen(config, model)
    seeds = config.inject_code_seed if blocks else config.inject_code_seed[:1]
    encoded = [encode(model, face) for face in faces]          # before anything is written: one bad mask stops them all
    with tqdm(total=len(faces) * len(seeds), desc="faces", unit="face", dynamic_ncols=True) as bar:
        for face, (labels, codes) in zip(faces, encoded):
            for seed in seeds:
                write(config, model, face, labels, mixed(codes, model.injected(seed), blocks, model.config.hidden_dim), places_of(config, blocks, seed))
                bar.update()
    print(f"{len(faces)} masks in {places_of(config, blocks, seeds[0]).results}")


def chosen(config: RenderConfig, model: Sem2NeRF) -> list[Face]:
    """The masks to render, with their own cameras if asked for. Raises InputError."""
    faces, layout = find_masks(config.data_path, config.infer_paths_conf), LAYOUTS[model.config.dataset_type]
    if config.use_shuffle:
        faces = [faces[i] for i in torch.randperm(len(faces)).tolist()]
    faces = faces[:config.n_images or len(faces)]
    if not config.use_original_pose:
        return faces
    root = Path(config.data_path).resolve()
    path = Path(config.pose_path or (root.parent if root.is_dir() else root.parent.parent) / layout.poses)
    poses = read_poses(path, layout.env)
    return [replace(face, angles=pose_of(poses, face.mask.name, str(path))) for face in faces]


def encode(model: Sem2NeRF, face: Face) -> tuple[Tensor, Codes]:
    """A mask as the network sees it, (1, S, S) uint8, and its codes."""
    view = view_of(model.config)
    planes = torch.from_numpy(planes_of(read_labels(face, view), view, str(face.mask)))[None]
    return planes[:, 0], model.codes(encoder_input(planes.to(model.latent_avg.device), view.label_nc))


def places_of(config: RenderConfig, blocks: list[int], seed: int) -> Places:
    """The published names: T is what follows the last underscore of the checkpoint's name."""
    step = Path(config.checkpoint_path).stem.rpartition("_")[2]
    name = lambda kind: Path(config.exp_dir) / f"iter_{step}_infer_{kind}_{config.test_output_size}"
    return Places(name("results"), name("videos"), f"_mask{''.join(map(str, blocks))}_seed{seed}")


def write(config: RenderConfig, model: Sem2NeRF, face: Face, labels: Tensor, codes: Codes, places: Places) -> None:
    """The pictures of a mask in one look, and its film."""
    scene, side, by = model.scene(codes), config.test_output_size, march_options(model.config, config.pigan_infer_ray_step)
    angles = novel_angles(model.config.pigan_curriculum_type)
    if face.angles is not None:
        angles = torch.cat([torch.tensor([face.angles], dtype=angles.dtype), angles])
    chunk = max(1, config.pigan_infer_max_batch // by.coarse) if config.pigan_infer_max_batch else None
    pictures = torch.cat([mask_picture(model, labels, side, config.published_grid), view_pictures(model, scene, angles, side, by, None, chunk).cpu()])
    row = published_row(pictures) if config.published_grid else contact_sheet(rounded(pictures), columns=len(pictures))
    write_png(places.results / f"{face.name}{places.postfix}.png", row)
    if face.angles is not None and config.mask_overlay_weight:
        write_png(places.results / f"{face.name}{places.postfix}_overlay.png", overlay(pictures[0], pictures[1], config.mask_overlay_weight))
    if config.render_videos:
        write_video(places.videos / f"{face.name}{places.postfix}.mp4", film(config, model, scene, by, chunk), FPS)


def film(config: RenderConfig, model: Sem2NeRF, scene: Scene, by: March, chunk: int | None) -> Iterator[np.ndarray]:
    """The frames (side, side, 3) uint8 of a scene's film."""
    for pitch, yaw, fov in trajectory(config.trajectory, config.num_frames, model.config.fov):
        yield rounded(view_pictures(model, scene, torch.stack([pitch, yaw])[None], config.test_output_size, by, fov, chunk))[0]


if __name__ == "__main__":
    run_program(main, RenderConfig, __doc__)
