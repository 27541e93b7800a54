"""SOF's networks: an embedding of codes, the hypernetwork, the learned marcher and the classifier (SofGAN, section 3; published key names).

    scene = model.scene(codes)                                  once per head: the layers that the hypernetwork predicts
    scores = model.field(scene, points)                         class scores anywhere
    points, scores = model.trace(scene, points, directions)     the surface point that each ray's march ends at, and its scores

SOF's own conventions (integer pixels, y up, head within a sphere about the origin) meet ``common.cameras`` in ``sof.cameras``.
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from common.checkpoint import load_strict, open_checkpoint
from common.config import from_dict, option
from common.errors import InputError
from common.files import replacing
from common.layers.hyper import FCBlock, HyperFC, Layers, evaluate
from common.published import tensors

EPS = 1e-6
CAMERA_COLUMNS = 3                                              # opt_cam: the first columns of a code are its camera centre
FIRST_CAMERA = (0.0, 0.0, 1.1)
CODE_STD = 0.01


@dataclass
class ModelConfig:
    """What shapes the networks; the defaults are the published model's."""

    embedding_size: int = option(256, "numbers in a head's code")
    feat_dim: int = option(256, "width of the field, the hypernetwork, the marcher and the classifier")
    phi_layers: int = option(3, "layers of the field, all predicted by the hypernetwork")
    rendering_layers: int = option(3, "hidden layers of the classifier")
    marcher_layers: int = option(3, "hidden layers of the marcher (files of the first release: 6)")
    out_channels: int = option(20, "label classes")
    tracing_steps: int = option(10, "steps of the march; the original always takes 10")
    sphere_radius: float = option(1.5, "rays start where they enter this sphere about the origin, in world units")
    orthogonal: bool = option(False, "orthographic cameras: parallel rays")
    opt_cam: bool = option(False, "keep a camera centre per head in the first three columns of its code, and learn it")
    published_camera: bool = option(False, "with opt_cam, the release's defect: the learned rotation is transposed")


NAMES = {field.name for field in fields(ModelConfig)}


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


class SOF(nn.Module):
    """The semantic occupancy field of `heads` heads; 57 tensors at the published configuration (221 heads)."""

    def __init__(self, config: ModelConfig, heads: int):
        super().__init__()
        self.config = config = ModelConfig(**{name: getattr(config, name) for name in NAMES})
        width = config.feat_dim
        self.latent_codes = nn.Embedding(heads, config.embedding_size + CAMERA_COLUMNS * config.opt_cam)
        self.hyper_phi = HyperFC(config.embedding_size, width, 1, 3, width, config.phi_layers - 2, width)
        self.ray_marcher = RayMarcher(width, width, config.marcher_layers)
        self.pixel_generator = FCBlock(width, width, config.rendering_layers - 1, config.out_channels)
        self.new_codes()

    @torch.no_grad()
    def new_codes(self) -> None:
        """Draw the embedding anew: codes N(0, 0.01), cameras frontal at (0, 0, 1.1)."""
        nn.init.normal_(self.latent_codes.weight, std=CODE_STD)
        if self.config.opt_cam:
            self.latent_codes.weight[:, :CAMERA_COLUMNS] = torch.tensor(FIRST_CAMERA)

    def learn_networks(self, learn: bool) -> None:
        """Whether the networks learn beside the embedding; without them it is inverse rendering."""
        for network in (self.hyper_phi, self.ray_marcher, self.pixel_generator):
            network.requires_grad_(learn)

    def split_codes(self, codes: Tensor) -> tuple[Tensor | None, Tensor]:
        """Rows of the embedding (B, columns) -> camera centres (B, 3) or None, codes (B, embedding_size)."""
        return (codes[:, :CAMERA_COLUMNS], codes[:, CAMERA_COLUMNS:]) if self.config.opt_cam else (None, codes)

    def scene(self, codes: Tensor) -> Layers:
        """The fields of codes (B, embedding_size), as predicted layers."""
        return self.hyper_phi(codes)

    def field(self, scene: Layers, points: Tensor, directions: Tensor | None = None) -> Tensor:
        """Class scores (B, P, classes) at world points (B, P, 3), from any direction."""
        return self.pixel_generator(evaluate(scene, points))

    def march(self, scene: Layers, points: Tensor, directions: Tensor, noise: Tensor | None = None) -> Tensor:
        """End points (B, R, 3) of the learned march along the rays through points (B, R, 3) with unit directions (B, R or 1, 3).

        Wherever on the ray `points` are, the march starts at the sphere (`sphere_start`), displaced by `noise` (B, R, 1), in world units.
        """
        points = sphere_start(points, directions, self.config.sphere_radius)
        if noise is not None:
            points = points + directions * noise
        step = self.ray_marcher.lstm
        terms = step.ray_terms(directions)
        for _ in range(self.config.tracing_steps):
            points = points + directions * step(evaluate(scene, points), terms)
        return points

    def trace(self, scene: Layers, points: Tensor, directions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The end points (B, R, 3) of `march` and their class scores (B, R, classes)."""
        points = self.march(scene, points, directions, noise)
        return points, self.field(scene, points)


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
    opened = open_checkpoint(path)
    if opened.kind == "ours":
        state, config = opened.data.get("model", {}), from_dict(ModelConfig, {k: v for k, v in opened.config.items() if k in NAMES}, str(path))
    else:
        state = tensors(opened.data["model"] if isinstance(opened.data, dict) and "model" in opened.data else opened.data, str(path))
        config = published_config(state, str(path))
    if "latent_codes.weight" not in state:
        raise InputError(f"{path}: no SOF model: latent_codes.weight is not among its {len(state)} tensors")
    model = SOF(config, len(state["latent_codes.weight"]))
    load_strict(model, state, str(path))
    return model.to(device).eval(), opened.config or {}


def export_published(model: SOF, path: str | Path) -> None:
    """Write the release's container, torch.save of {"model": state dict}, for programs that read the original's files."""
    with replacing(path) as temporary:
        torch.save({"model": {key: value.cpu() for key, value in model.state_dict().items()}}, temporary)


def published_config(state: dict[str, Tensor], where: str, orthogonal: bool = True) -> ModelConfig:
    """The configuration of a published state dict, read from its keys and shapes. The released model is orthographic, which no tensor tells."""
    count = lambda prefix, suffix: sum(key.startswith(prefix) and key.endswith(suffix) for key in state)
    try:
        columns, code = state["latent_codes.weight"].shape[1], state["hyper_phi.layers.0.hyper_linear.hypo_params.net.0.net.0.weight"].shape[1]
        rendering_layers = count("pixel_generator.net.", ".net.0.weight")
        return ModelConfig(
            embedding_size=code,
            feat_dim=state["ray_marcher.lstm.linear.0.weight"].shape[1],
            phi_layers=count("hyper_phi.layers.", "hyper_linear.hypo_params.net.2.weight"),
            rendering_layers=rendering_layers,
            marcher_layers=count("ray_marcher.lstm.linear.", ".weight") - 1,
            out_channels=len(state[f"pixel_generator.net.{rendering_layers}.weight"]),
            orthogonal=orthogonal,
            opt_cam=columns == code + CAMERA_COLUMNS,
            published_camera=columns == code + CAMERA_COLUMNS,
        )
    except (KeyError, IndexError, ValueError) as missing:
        raise InputError(f"{where}: no SOF model ({missing}) among its {len(state)} tensors") from None
