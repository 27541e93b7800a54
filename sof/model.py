"""SOF's networks: an embedding of codes, the hypernetwork, the learned marcher and the classifier (SofGAN, section 3; published key names).

    scene = model.scene(codes)                                  once per head: the layers that the hypernetwork predicts
    scores = model.field(scene, points)                         class scores anywhere
    points, directions = model.rays(cameras, uv)                where the march along every pixel's ray begins
    points, scores = model.trace(scene, points, directions)     the surface point that it ends at, and its scores

SOF's own conventions (integer pixels, y up, head within a sphere about the origin) meet ``common.cameras`` in ``sof.cameras``. Of the published variants
the classifiers are in ``sof.renderers`` and the ancestor's marcher is in ``sof.srn``; where a head's code comes from is `SOF.codes`.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from common.cameras import Cameras
from common.checkpoint import check_fits, open_checkpoint
from common.config import from_dict, option
from common.errors import InputError
from common.files import replacing
from common.layers.hyper import FCBlock, HyperFC, Layers, evaluate
from common.published import tensors
from common.rays import camera_rays, unproject
from sof.cameras import PUBLISHED_DISTANCE, SINGLE_VIEW_DISTANCE
from sof.renderers import Deepvoxels, ImAE, aliases
from sof.srn import START_DEPTH, LSTMMarcher

EPS = 1e-6
CAMERA_COLUMNS = 3                                              # opt_cam: the first columns of a code are its camera centre
CODE_STD = 0.01
ENCODER = "mapping_fn.0.weight"


@dataclass
class ModelConfig:
    """What shapes the networks; the defaults are the published model's."""

    embedding_size: int = option(256, "numbers in a head's code", low=1)
    feat_dim: int = option(256, "width of the field, the hypernetwork, the marcher and the classifier", low=1)
    phi_layers: int = option(3, "layers of the field, all predicted by the hypernetwork", low=1)
    rendering_layers: int = option(3, "hidden layers of the classifier", low=0)
    marcher_layers: int = option(3, "hidden layers of the marcher (files of the first release: 6)", low=0)
    out_channels: int = option(20, "label classes", low=1)
    tracing_steps: int = option(10, "steps of the march; the original always takes 10", low=0)
    sphere_radius: float = option(1.5, "rays start where they enter this sphere about the origin, in world units", low=0)
    renderer: str = option("FC", "classifier: a network on each point, the wider ImAE, or a U-Net over whole pictures", choices=("FC", "Deepvoxels", "ImAE"))
    unet_levels: int = option(0, "with renderer Deepvoxels: times that it halves a picture; 0, as published: as often as img_sidelength can be", low=0)
    marcher: str = option("step", "what moves points along their rays: a network of feature and ray, or the LSTM of SOF's ancestor", choices=("step", "lstm"))
    use_encoder: bool = option(False, "codes are a function of each head's face parameters (params.npy) instead of learned one by one")
    encoder_size: int = option(228, "with use_encoder: face parameters of a head", low=1)
    orthogonal: bool = option(False, "orthographic cameras: parallel rays")
    opt_cam: bool = option(False, "keep a camera centre per head in the first three columns of its code, and learn it")
    published_camera: bool = option(False, "with opt_cam, the release's defect: the learned rotation is transposed")
    published_imae: bool = option(False, "with renderer ImAE, the release's defect: it encodes three features instead of the point")


NAMES = {field.name for field in fields(ModelConfig)}
FIXED = ("tracing_steps", "sphere_radius")                     # what the release never varies


class StepMLP(nn.Module):
    """The marcher's step: x <- A_l x + (B_l r + c_l) with ReLU between, r the ray's direction. Its published name is "lstm"."""

    def __init__(self, in_features: int, hidden: int, hidden_layers: int):
        super().__init__()
        widths = [in_features] + [hidden] * hidden_layers + [1]
        self.linear = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.bias = nn.ModuleList(nn.Linear(3, b) for b in widths[1:])

    def ray_terms(self, directions: Tensor) -> list[Tensor]:
        """B_l r + c_l of every layer for unit directions (B, R or 1, 3): they do not change along a ray."""
        return [bias(directions) for bias in self.bias]

    def forward(self, features: Tensor, terms: list[Tensor]) -> Tensor:
        """Step length (B, R, 1), in world units, from features (B, R, C) and `ray_terms`."""
        x = features
        for linear, term in zip(self.linear[:-1], terms):
            x = linear(x).add_(term).relu_()
        return self.linear[-1](x).add_(terms[-1])


class RayMarcher(nn.Module):
    """Holds the StepMLP under its published name."""

    def __init__(self, in_features: int, hidden: int, hidden_layers: int):
        super().__init__()
        self.lstm = StepMLP(in_features, hidden, hidden_layers)

    def along(self, directions: Tensor) -> Callable[[Tensor], Tensor]:
        """Step lengths (B, R, 1) from features (B, R, C) along rays of these directions."""
        terms = self.lstm.ray_terms(directions)
        return lambda features: self.lstm(features, terms)


class SOF(nn.Module):
    """The semantic occupancy field of `heads` heads; 57 tensors at the published configuration (221 heads).

    key_frames: frames at which a moving face's code is learned beside the head's: `animated` more numbers of it (the release has no option for it either).
    """

    def __init__(self, config: ModelConfig, heads: int, animated: int = 0, key_frames: tuple[float, ...] = ()):
        super().__init__()
        self.config = config = ModelConfig(**{name: getattr(config, name) for name in NAMES})
        width, code = config.feat_dim, config.embedding_size
        if config.use_encoder:
            self.mapping_fn = nn.Sequential(nn.Linear(config.encoder_size, code), nn.Tanh())
            self.register_buffer("face_params", torch.zeros(heads, config.encoder_size))
        else:
            own = code - animated or code                       # an expression as large as the code is added to it instead
            self.latent_codes = nn.Embedding(heads, own + CAMERA_COLUMNS * config.opt_cam)
        self.key_frames = key_frames
        if animated:
            self.ami_code = nn.Embedding(len(key_frames), animated)
        self.hyper_phi = HyperFC(code, width, 1, 3, width, config.phi_layers - 2, width)
        self.ray_marcher = RayMarcher(width, width, config.marcher_layers) if config.marcher == "step" else LSTMMarcher(width)
        self.pixel_generator = classifier(config)
        self.new_codes()

    @torch.no_grad()
    def new_codes(self) -> None:
        """Draw the embedding anew: codes N(0, 0.01), cameras frontal at (0, 0, 1.1); orthographic ones at 4.5, so that the head is before them."""
        if not self.config.use_encoder:
            nn.init.normal_(self.latent_codes.weight, std=CODE_STD)
        if self.config.opt_cam:
            distance = PUBLISHED_DISTANCE if self.config.orthogonal else SINGLE_VIEW_DISTANCE
            self.latent_codes.weight[:, :CAMERA_COLUMNS] = torch.tensor([0.0, 0.0, distance])

    def learn_networks(self, learn: bool) -> None:
        """Whether the networks learn beside the embedding; without them, and without their dropout, it is inverse rendering."""
        for network in (self.hyper_phi, self.ray_marcher, self.pixel_generator):
            network.requires_grad_(learn).train(learn)

    @property
    def heads(self) -> int:
        """How many heads it knows."""
        return len(self.face_params) if self.config.use_encoder else self.latent_codes.num_embeddings

    @property
    def whole_pictures(self) -> bool:
        """Whether points are classified by the picture round them, so that pictures cannot be cut into chunks of rays."""
        return self.config.renderer == "Deepvoxels"

    def codes(self, heads: Tensor, frames: Tensor | None = None) -> Tensor:
        """Codes (B, columns) of heads (B,), their cameras' columns included; of a model with key frames as they are at `frames` (B,)."""
        if self.config.use_encoder:
            return self.mapping_fn(self.face_params[heads])
        codes = self.latent_codes(heads)
        if not self.key_frames:
            return codes
        expression = between(self.ami_code.weight, codes.new_tensor(self.key_frames), frames)
        return codes + expression if expression.shape == codes.shape else torch.cat([codes, expression], dim=-1)

    def split_codes(self, codes: Tensor) -> tuple[Tensor | None, Tensor]:
        """Rows of the embedding (B, columns) -> camera centres (B, 3) or None, codes (B, embedding_size)."""
        return (codes[:, :CAMERA_COLUMNS], codes[:, CAMERA_COLUMNS:]) if self.config.opt_cam else (None, codes)

    def scene(self, codes: Tensor) -> Layers:
        """The fields of codes (B, embedding_size), as predicted layers."""
        return self.hyper_phi(codes)

    def scene_of(self, heads: Tensor) -> Layers:
        """The fields of heads (B,)."""
        return self.scene(self.split_codes(self.codes(heads))[1])

    def field(self, scene: Layers, points: Tensor, directions: Tensor | None = None) -> Tensor:
        """Class scores (B, P, classes) at world points (B, P, 3), from any direction."""
        features = evaluate(scene, points)
        return self.pixel_generator(features) if self.config.renderer == "FC" else self.pixel_generator(features, points)

    def rays(self, cameras: Cameras, uv: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, R, 3) on the rays of pixels uv (B, R, 2), from which `march` sets out, and their unit directions (B, R or 1, 3)."""
        points, directions = camera_rays(cameras, uv)
        if self.config.marcher == "lstm":
            points = unproject(cameras, uv, START_DEPTH)
        return points, directions[:, :1] if cameras.orthographic else directions

    def march(self, scene: Layers, points: Tensor, directions: Tensor, noise: Tensor | None = None) -> Tensor:
        """End points (B, R, 3) of the learned march along the rays through points (B, R, 3) with unit directions (B, R or 1, 3).

        Wherever on the ray `points` are, the march starts at the sphere (`sphere_start`), the ancestor's at the points themselves; displaced by
        `noise` (B, R, 1), in world units.
        """
        if self.config.marcher == "step":
            points = sphere_start(points, directions, self.config.sphere_radius)
        if noise is not None:
            points = points + directions * noise
        return self.advance(scene, points, directions, self.config.tracing_steps)

    def advance(self, scene: Layers, points: Tensor, directions: Tensor, steps: int) -> Tensor:
        """Points (B, R, 3) after `steps` steps of the learned march from wherever they are."""
        step = self.ray_marcher.along(directions)
        for _ in range(steps):
            points = points + directions * step(evaluate(scene, points))
        return points

    def trace(self, scene: Layers, points: Tensor, directions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The end points (B, R, 3) of `march` and their class scores (B, R, classes)."""
        points = self.march(scene, points, directions, noise)
        return points, self.field(scene, points)


def classifier(config: ModelConfig) -> nn.Module:
    """The network of `renderer`: scores from features (B, P, C), and for all but FC from points (B, P, 3) too."""
    width, classes = config.feat_dim, config.out_channels
    if config.renderer == "FC":
        return FCBlock(width, width, config.rendering_layers - 1, classes)
    return ImAE(width, classes, config.published_imae) if config.renderer == "ImAE" else Deepvoxels(width, classes, config.unet_levels)


def between(codes: Tensor, keys: Tensor, frames: Tensor) -> Tensor:
    """Codes (B, C) at `frames` (B,): linear between those (K, C) at the ascending `keys` (K,), constant before and after."""
    frames = frames.clamp(keys[0], keys[-1])
    k = (torch.searchsorted(keys, frames, right=True) - 1).clamp_max(len(keys) - 2)
    w = ((frames - keys[k]) / (keys[k + 1] - keys[k]))[:, None]
    return (1 - w) * codes[k] + w * codes[k + 1]


def sphere_start(points: Tensor, directions: Tensor, radius: float, center: tuple = (0.0, 0.0, 0.0)) -> Tensor:
    """Where rays through points (B, R, 3) with unit directions (B, R or 1, 3) enter a sphere; their point closest to its centre when they miss.

    Missed rays take no part in the square root, so that cameras have finite gradients.
    """
    to_center = torch.tensor(center, dtype=points.dtype, device=points.device) - points
    distance = to_center.norm(dim=-1, keepdim=True)
    cosine = (to_center / distance.clamp_min(EPS**2) * directions).sum(-1, keepdim=True)
    across = distance * (1 - cosine**2 + EPS).sqrt()            # of the ray from the centre
    closest = points + directions * cosine * distance
    hit = across < radius
    back = torch.where(hit, radius**2 - across**2 + EPS, 1.0).sqrt()
    return torch.where(hit, closest - directions * back, closest)


def resize_scores(scores: Tensor, side: int) -> Tensor:
    """Scores (B, S*S, C) -> (B, side*side, C), bilinear with aligned corners; as published, the scores are made probabilities first when the side changes."""
    source = int(scores.shape[1] ** 0.5)
    if source == side:
        return scores
    image = scores.transpose(1, 2).unflatten(2, (source, source)).softmax(dim=1)
    image = nn.functional.interpolate(image, size=(side, side), mode="bilinear", align_corners=True)
    return image.flatten(2).transpose(1, 2)


# Files

def load(path: str | Path, device: torch.device | str = "cpu") -> tuple[SOF, dict]:
    """The model of a run folder, a checkpoint of ours or an author's file, in eval mode, and the options it was made with ({} for an author's).

    Raises InputError naming the file and every key that is missing, unexpected or misshapen.
    """
    opened, animated, frames = open_checkpoint(path), 0, 0
    if opened.kind == "ours":
        state, config = opened.data.get("model", {}), from_dict(ModelConfig, {k: v for k, v in opened.config.items() if k in NAMES}, str(path))
    else:
        state = tensors(opened.data["model"] if isinstance(opened.data, dict) and "model" in opened.data else opened.data, str(path))
        config = published_config(state, str(path))
        state = {key: value for key, value in state.items() if key not in aliases(state)}
        if config.use_encoder:                                  # the release keeps face parameters with the data
            state["face_params"] = torch.zeros(0, config.encoder_size)
        frames, animated = state["ami_code.weight"].shape if getattr(state.get("ami_code.weight"), "ndim", 0) == 2 else (0, 0)
    codes = "face_params" if config.use_encoder else "latent_codes.weight"
    if getattr(state.get(codes), "ndim", 0) != 2:
        raise InputError(f"{path}: no SOF model: no matrix {codes} among its {len(state)} tensors")
    sizes = config, len(state[codes]), animated, tuple(range(frames))
    check_fits(_skeleton(*sizes, path), state, str(path))
    model = SOF(*sizes)
    model.load_state_dict(state)
    return model.to(device).eval(), opened.config or {}


def _skeleton(config: ModelConfig, heads: int, animated: int, key_frames: tuple[float, ...], path: str | Path) -> SOF:
    """The model without memory, so that a file is refused before room is made for what it claims to be."""
    try:
        with torch.device("meta"):
            return SOF(config, heads, animated, key_frames)
    except RuntimeError:                                        # more numbers than can be counted
        raise InputError(f"{path}: no SOF model: feat_dim {config.feat_dim} and embedding_size {config.embedding_size} are beyond any network") from None


def export_published(model: SOF, path: str | Path) -> None:
    """Write the release's container, torch.save of {"model": state dict}, for programs that read the original's files.

    Raises InputError for a model that the release's fixed march (10 steps from a sphere of 1.5) would show otherwise: the container holds weights alone.
    """
    released, ours = ModelConfig(), model.config
    lost = [f"{name} {getattr(ours, name)} (there {getattr(released, name)})" for name in FIXED if getattr(ours, name) != getattr(released, name)]
    if lost:
        raise InputError(f"{path}: the release's container has no room for {', '.join(lost)}; write a .safetensors")
    state = {key: value.cpu() for key, value in model.state_dict().items() if key != "face_params"}
    with replacing(path) as temporary:
        torch.save({"model": state | {second: state[key] for second, key in aliases(state).items()}}, temporary)


def published_config(state: dict[str, Tensor], where: str, orthogonal: bool = True) -> ModelConfig:
    """The configuration of a published state dict, read from its keys and shapes.

    The released model is orthographic, which no tensor tells; one with the ancestor's marcher is not.
    """
    count = lambda prefix, suffix: sum(key.startswith(prefix) and key.endswith(suffix) for key in state)
    try:
        hyper = "hyper_phi.layers.0.hyper_linear.hypo_params.net."
        code, width = state[f"{hyper}0.net.0.weight"].shape[1], len(state[f"{hyper}2.bias"]) // 4
        columns = code if ENCODER in state else state["latent_codes.weight"].shape[1]
        marcher = "lstm" if "ray_marcher.lstm.weight_ih" in state else "step"
        return ModelConfig(
            embedding_size=code,
            feat_dim=width,
            phi_layers=count("hyper_phi.layers.", "hyper_linear.hypo_params.net.2.weight"),
            marcher=marcher,
            marcher_layers=count("ray_marcher.lstm.linear.", ".weight") - 1 if marcher == "step" else 3,
            use_encoder=ENCODER in state,
            encoder_size=state[ENCODER].shape[1] if ENCODER in state else 228,
            orthogonal=orthogonal and marcher == "step",
            opt_cam=columns == code + CAMERA_COLUMNS,
            published_camera=columns == code + CAMERA_COLUMNS,
            **_published_classifier(state),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        what = f"without {error}" if isinstance(error, KeyError) else "with shapes that no such network has"
        raise InputError(f"{where}: no SOF model: {len(state)} tensors {what}") from None


def _published_classifier(state: dict[str, Tensor]) -> dict:
    name = "pixel_generator."
    if f"{name}linear_7.weight" in state:
        return {"renderer": "ImAE", "published_imae": True, "out_channels": len(state[f"{name}linear_7.weight"])}
    if f"{name}net.0.out_layer.0.net.1.weight" in state:
        levels = 1 + max(key.count("model.1.") for key in state if key.endswith(".model.0.net.1.weight"))
        return {"renderer": "Deepvoxels", "unet_levels": levels, "out_channels": len(state[f"{name}net.0.out_layer.0.net.1.weight"])}
    layers = sum(key.startswith(f"{name}net.") and key.endswith(".net.0.weight") for key in state)
    return {"rendering_layers": layers, "out_channels": len(state[f"{name}net.{layers}.weight"])}
