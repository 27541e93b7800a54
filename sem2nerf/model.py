"""Sem2NeRF (Chen et al., ECCV 2022, arXiv 2203.10821): a label map to the codes of a frozen pi-GAN, and so to a radiance field.

    model = load("pretrained/sem2nerf_people.safetensors")    a run folder, a file of ours, or an author's .pt
    scene = model.scene(model.codes(planes))                  # once per label map; planes as `sem2nerf.pictures.encoder_input` makes them
    seen = see(model, scene, origins, directions, march_options(model.config))

The field is `common.pigan.Siren`, the march `common.march`. The decoder's file says how its field is read: a density, or GOF's occupancy.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common import config as options
from common.cameras import Cameras, pigan_cameras
from common.checkpoint import Opened, load_strict, open_checkpoint
from common.config import option
from common.errors import InputError
from common.march import REGULAR, Draws, March, march
from common.pigan import NETWORKS, Scene, Siren, SirenConfig, average_codes
from common.rays import camera_rays
from common.volume import ACTIVATIONS
from sem2nerf import published
from sem2nerf.data import LAYOUTS, View, published_crop
from sem2nerf.labels import MERGES, classes
from sem2nerf.patches import patch_rays, whole_rays
from sem2nerf.pictures import Crop
from sem2nerf.swin import SwinConfig, SwinEncoder

Codes = tuple[Tensor, Tensor]
CONSTANTS = ("attn_mask", "relative_position_index")          # tensors that follow from the encoder's shape


@dataclass
class DecoderConfig:
    """The frozen field and how its rays are sampled, by the names of pi-GAN's curriculums. What is left empty is as its file says, else as the preset."""

    pigan_curriculum_type: str | None = option(None, "the preset, and the family of the labels; empty: the data set's", choices=MERGES)
    model: str | None = option(None, "network of the field", choices=NETWORKS)
    hidden_dim: int | None = option(None, "width of its layers", low=1)
    layers: int | None = option(None, "sine layers before the density", low=1)
    pigan_zdim: int | None = option(None, "numbers of a latent code of the decoder", low=1)
    alpha: str | None = option(None, "what the field's number is: a density (pi-GAN) or an occupancy (GOF)", choices=("density", "occupancy"))
    fov: float | None = option(None, "field of view, degrees", low=0)
    ray_start: float | None = option(None, "distance from the camera, on the unit sphere, at which rays start", low=0)
    ray_end: float | None = option(None, "distance at which they end", low=0)
    clamp_mode: str | None = option(None, "activation of densities", choices=ACTIVATIONS)
    white_back: bool | None = option(None, "white behind the field")
    last_back: bool | None = option(None, "the last sample takes what light is left, in training")
    eval_last_back: bool | None = option(None, "the same in rendering")
    lock_view_dependence: bool | None = option(None, "in rendering: colours as seen from the front, from everywhere")
    interval: float | None = option(None, "of an occupancy: half the thickness of the shell round the surface that is sampled, world units", low=0)


@dataclass
class ModelConfig(DecoderConfig):
    """What a model is. What is left empty is as the checkpoint says that it starts from, else as DEFAULTS."""

    dataset_type: str | None = option(None, "layout of the data set; celebahq_seg_to_3dface where empty", choices=LAYOUTS)
    image_load_size: int | None = option(None, "side that masks and pictures are scaled to; 0: nothing is cropped; empty: as published for the data set", low=0)
    image_crop_size: int | None = option(None, "side of their middle that is kept", low=0)
    use_merged_labels: bool | None = option(None, "left and right parts are one label; for cats, the body is background; true where empty")
    use_contour: bool | None = option(None, "the encoder also sees the contours of the regions and the distance to them; true where empty")
    label_nc: int | None = option(None, "labels; empty: as many as the data set has", low=1)
    input_nc: int | None = option(None, "planes that the encoder sees: label_nc, and two more with use_contour", low=1)
    src_input_size: int | None = option(None, "side of the planes; 224 where empty", low=8)
    embed_dim: int | None = option(None, "channels of the encoder's first stage; 96 where empty", low=1)
    depths: list[int] | None = option(None, "blocks of its stages; 2 2 6 2 where empty", low=1)
    num_heads: list[int] | None = option(None, "attention heads of its stages; 3 6 12 24 where empty", low=1)
    window_size: int | None = option(None, "side of the windows within which its tokens attend; 7 where empty", low=1)
    drop_path_rate: float | None = option(None, "stochastic depth in training: how often its last block is left out; 0.2 where empty", low=0)
    start_from_latent_avg: bool | None = option(None, "codes are offsets from the decoder's average code; true where empty")
    published_contour: bool | None = option(None, "the release's defect: the smallest label that is there gets no contour, background or not")


DEFAULTS = {
    "use_merged_labels": True, "use_contour": True, "src_input_size": 224, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24],
    "window_size": 7, "drop_path_rate": 0.2, "start_from_latent_avg": True, "published_contour": False,
    "model": "SPATIALSIRENBASELINE", "hidden_dim": 256, "layers": 8, "pigan_zdim": 256, "alpha": "density", "clamp_mode": "relu", "white_back": False,
    "eval_last_back": True, "lock_view_dependence": True, "interval": 0.03}
PRESETS = {
    "CelebAMask_HQ": {"fov": 12.0, "ray_start": 0.88, "ray_end": 1.12, "last_back": True},
    "CatMask": {"fov": 18.0, "ray_start": 0.8, "ray_end": 1.2, "last_back": False},
}


def resolve(config: ModelConfig, of_file: dict, where: str = "", side: int = 512) -> ModelConfig:
    """The config with every empty option filled in: as a file says, else as the preset. Raises InputError for what contradicts another.

    `of_file` are the options of a decoder's or a model's file `where`, which no flag may contradict; `side` is that of the targets, by which the published
    crop goes.
    """
    given = {field.name: value for field in fields(ModelConfig) if (value := getattr(config, field.name)) is not None}
    for name in given.keys() & of_file.keys():
        if given[name] != of_file[name]:
            raise InputError(f"--{name} {given[name]}: {where} was made with {of_file[name]}")
    known = of_file | given
    dataset = known.get("dataset_type", "celebahq_seg_to_3dface")
    layout = LAYOUTS[dataset]
    env = known.get("pigan_curriculum_type", layout.env)
    if layout.env != env:
        raise InputError(f"--pigan_curriculum_type {env}: --dataset_type {dataset} has the labels of {layout.env}")
    crop = published_crop(layout, side) or Crop(0, 0)
    filled = {"dataset_type": dataset, "pigan_curriculum_type": env, "image_load_size": crop.load, "image_crop_size": crop.size}
    filled = DEFAULTS | PRESETS[env] | filled | known
    count = classes(env, filled["use_merged_labels"])
    filled = {"label_nc": count, "input_nc": count + 2 * filled["use_contour"]} | filled
    _check(filled, count)
    return replace(config, **filled)


def _check(filled: dict, count: int) -> None:
    """Refuse options that do not go together: InputError."""
    for name, right in (("label_nc", count), ("input_nc", count + 2 * filled["use_contour"])):
        if filled[name] != right:
            raise InputError(f"--{name} {filled[name]}: {filled['pigan_curriculum_type']} with --use_merged_labels {filled['use_merged_labels']} and "
                             f"--use_contour {filled['use_contour']} makes {right}")
    load, size = filled["image_load_size"], filled["image_crop_size"]
    if bool(load) != bool(size) or load < size:
        raise InputError(f"--image_crop_size {size}: expected the smaller of a pair with --image_load_size {load}")


class Sem2NeRF(nn.Module):
    """The encoder, the decoder and its average code; published keys `encoder.*` and `decoder.siren.*`. The decoder is frozen unless it is told to learn."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.decoder = nn.ModuleDict({"siren": Siren(siren_config(config))})
        total = (config.layers + 1) * config.hidden_dim
        self.encoder = SwinEncoder(SwinConfig(
            in_chans=config.input_nc, num_classes=2 * total, img_size=config.src_input_size, embed_dim=config.embed_dim, depths=tuple(config.depths),
            num_heads=tuple(config.num_heads), window_size=config.window_size, drop_path_rate=config.drop_path_rate))
        self.register_buffer("latent_avg", torch.zeros(2, total))
        self.decoder.requires_grad_(False)

    @property
    def siren(self) -> Siren:
        """The field."""
        return self.decoder["siren"]

    @property
    def average(self) -> Codes:
        """The decoder's average code (1, total) each."""
        return self.latent_avg[:1], self.latent_avg[1:]

    def codes(self, planes: Tensor, u: Tensor | None = None) -> Codes:
        """Frequencies and phases (B, total) of planes (B, input_nc, S, S); with uniforms u (B, 2 x blocks) under the encoder's stochastic depth."""
        return with_average(self.encoder(planes, u).chunk(2, dim=1), self.average if self.config.start_from_latent_avg else None)

    def scene(self, codes: Codes) -> Scene:
        """The scenes (B) of codes."""
        return self.siren.scene(*codes)

    def injected(self, seed: int) -> Codes:
        """The code (1, total) of a seed's latent, drawn on the CPU as the release draws it: what gives a label map another look."""
        z = torch.randn(1, self.siren.config.latent, generator=torch.Generator().manual_seed(seed))
        return self.siren.mapping(z.to(self.latent_avg.device))

    def remember_average(self) -> None:
        """Compute the average code: of 10,000 latents, always the same ones."""
        self.latent_avg.copy_(torch.cat(average_codes(self.siren)))


def siren_config(config: DecoderConfig) -> SirenConfig:
    """The shape of a resolved decoder."""
    return replace(NETWORKS[config.model], hidden=config.hidden_dim, layers=config.layers, latent=config.pigan_zdim)


def view_of(config: ModelConfig, target: int = 512) -> View:
    """How a resolved model sees masks, and pictures at target x target."""
    crop = Crop(config.image_load_size, config.image_crop_size) if config.image_load_size else None
    return View(config.pigan_curriculum_type, config.label_nc, config.use_merged_labels, config.use_contour, config.src_input_size, target, crop,
                config.published_contour)


# Codes

def with_average(codes: Codes, average: Codes | None) -> Codes:
    """Offsets (B, total) as codes: on top of the average (1, total)."""
    return tuple(codes) if average is None else tuple(code + mean for code, mean in zip(codes, average))


def mixed(codes: Codes, other: Codes, blocks: list[int], width: int) -> Codes:
    """Codes (B, total) whose blocks of `width` numbers, a block a layer, are those of other codes (B or 1, total); the last block colours."""
    chosen = torch.zeros(codes[0].shape[1] // width, dtype=torch.bool, device=codes[0].device)
    chosen[blocks] = True
    return tuple(torch.where(chosen.repeat_interleave(width), new, code) for code, new in zip(codes, other))


def blocks_of(text: str | None, layers: int) -> list[int]:
    """The blocks that a --latent_mask such as 6,7,8 names: "last" the one that colours, None none. Raises InputError for one that the decoder has not."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    blocks = [layers] if words == ["last"] else [int(word) if word.isdecimal() else -1 for word in words]
    if not all(0 <= block <= layers for block in blocks):
        raise InputError(f"--latent_mask {text}: expected blocks from 0 to {layers}, as 6,7,8; or last, which colours; or none")
    return blocks


# Pictures

def march_options(config: DecoderConfig, steps: int, hierarchical: bool = True, lock_view: bool | None = None, training: bool = False) -> March:
    """The march of a resolved decoder with `steps` samples a ray, and as many fine ones if hierarchical; an occupancy's sample its surface's shell as well."""
    occupancy = config.alpha == "occupancy"
    return March(
        near=config.ray_start, far=config.ray_end, coarse=steps, fine=steps * hierarchical, surface=steps * occupancy, occupancy=occupancy,
        interval=config.interval, activation=config.clamp_mode, last_back=config.last_back if training else config.eval_last_back,
        white_back=config.white_back, lock_view=config.lock_view_dependence if lock_view is None else lock_view)


def see(model: Sem2NeRF, scene: Scene, origins: Tensor, directions: Tensor, march_by: March, draws: Draws = REGULAR,
        recompute: bool = False) -> dict[str, Tensor]:
    """What rays (B, R, 3) see of B scenes: `common.march.march`'s dict. With `recompute` the backward pass asks the field again and features are not kept."""
    field, density = partial(model.siren.field, scene), partial(model.siren.density, scene)
    if recompute:
        field = partial(checkpoint, field, use_reentrant=False, preserve_rng_state=False)
    return march(field, density, origins, directions, march_by, draws)


def see_patches(model: Sem2NeRF, scene: Scene, angles: Tensor, grid: Tensor | None, side: int, march_by: March, draws: Draws = REGULAR,
                recompute: bool = False) -> Tensor:
    """Pictures (B, 3, V, V) in [-1, 1] of a pattern (B, V, V, 2) in side x side views of B scenes from [pitch, yaw] (B, 2); whole views without pattern."""
    cameras = pigan_cameras(angles, model.config.fov, side).move(scene.toward.dtype)
    rays = whole_rays(cameras, side) if grid is None else patch_rays(cameras, side, grid)
    return as_pictures(see(model, scene, *rays, march_by, draws, recompute)["colors"], side if grid is None else grid.shape[1])


def shoot(model: Sem2NeRF, scene: Scene, march_by: March, cameras: Cameras, uv: Tensor) -> dict[str, Tensor]:
    """{"colors" [0, 1], "depth", "opacity"} of pixels uv (B, R, 2), each (B, R, ...), for `common.render.render`; sampled regularly, so always the same."""
    seen = see(model, scene, *camera_rays(cameras, uv), march_by)
    return {name: seen[name] for name in ("colors", "depth", "opacity")}


def as_pictures(colors: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, side, side) in [-1, 1] of the colours (B, side * side, 3) in [0, 1] of their rays."""
    return 2 * colors.transpose(1, 2).unflatten(2, (side, side)) - 1


# Files

def decoder_options(opened: Opened) -> dict:
    """What a decoder's file says of itself, by the names of DecoderConfig; an author's says nothing."""
    stored = opened.config or {}
    names = {field.name for field in fields(DecoderConfig)} - {"pigan_curriculum_type", "hidden_dim"}
    found = {name: value for name, value in stored.items() if name in names and value is not None}
    renamed = {"latent_dim": "pigan_zdim", "interval_min": "interval"}
    found |= {name: stored[theirs] for theirs, name in renamed.items() if theirs in stored}
    if "hidden_dim" in stored:
        found["hidden_dim"] = stored["hidden_dim"] or NETWORKS[stored["model"]].hidden
    if "pred_occ" in stored:
        found["alpha"] = "occupancy" if stored["pred_occ"] else "density"
    return found


def load_decoder(model: Sem2NeRF, opened: Opened) -> None:
    """Give a model the decoder of an opened file, and its average code. Raises InputError where a tensor is missing or does not fit."""
    load_strict(model.siren, published.decoder_state(opened), str(opened.path))
    if opened.kind == "ours" and "average" in opened.data:
        model.latent_avg.copy_(torch.cat([opened.data["average"][name].float() for name in ("frequencies", "phases")]))
    else:
        model.remember_average()


def load(path: str | Path, device: torch.device | str = "cpu", **flags) -> Sem2NeRF:
    """The model of a run folder, a file of ours or an author's checkpoint, which carry their options: a flag (None: not given) that differs is an error.

    Raises InputError if the file is none of these or does not fit.
    """
    opened = open_checkpoint(path)
    stored = stored_options(opened)
    for name, value in flags.items():
        if value is not None and value != getattr(stored, name):
            raise InputError(f"--{name} {value}: {opened.path} was trained with {getattr(stored, name)}")
    model = Sem2NeRF(stored)
    load_strict(model, with_constants(model, model_state(opened, model)), str(opened.path))
    return model.to(device).eval()


def stored_options(opened: Opened) -> ModelConfig:
    """The options that a file carries. Raises InputError."""
    if opened.kind == "published":
        return resolve(options.from_dict(ModelConfig, published.options_of(opened), str(opened.path)), {})
    if "model" not in opened.data:
        raise InputError(f"{opened.path}: not a model of Sem2NeRF; it holds {', '.join(opened.data)}")
    known = {field.name for field in fields(ModelConfig)}
    return options.from_dict(ModelConfig, {key: value for key, value in opened.config.items() if key in known}, str(opened.path))


def model_state(opened: Opened, model: Sem2NeRF) -> dict[str, Tensor]:
    """A file's weights as the model's state dict."""
    if opened.kind == "published":
        return published.model_state(opened, model)
    return {key: value.float() if value.is_floating_point() else value for key, value in opened.data["model"].items()}


def model_options(config: ModelConfig) -> dict:
    """The options of a model alone, as a file's config keeps them."""
    return {field.name: asdict(config)[field.name] for field in fields(ModelConfig)}


def export_state(model: Sem2NeRF) -> dict[str, dict[str, Tensor]]:
    """What a shipped file holds: the weights and the average code, without what follows from the encoder's shape."""
    return {"model": {key: value for key, value in model.state_dict().items() if key.rpartition(".")[2] not in CONSTANTS}}


def with_constants(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the tensors that follow from the encoder's shape, which small files leave out."""
    constants = {key: value for key, value in model.state_dict().items() if key.rpartition(".")[2] in CONSTANTS}
    return constants | state
