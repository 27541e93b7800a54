"""SOF's figures for scripts/benchmark.py: a picture, a training step, a mesh and a turntable, at the published size, against ``sof.plain``.

Weights are drawn: times do not depend on them. Drawn weights have no surface, so the mesh is that of an analytic head, to which a network evaluated in
full adds a thousandth of its scores.
"""
from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from common.benchmark import BenchmarkConfig, Row, in_turns, largest_difference, peak_memory
from common.cameras import Cameras
from common.config import option
from common.layers.hyper import Layers
from common.meshes import Mesh
from common.rays import pixel_grid
from common.render import default_chunk, render
from sof import plain
from sof.cameras import PUBLISHED_DISTANCE, PUBLISHED_FOCAL, PUBLISHED_SIDE, path_poses, sof_cameras
from sof.losses import Rays, backward
from sof.model import SOF, ModelConfig
from sof.predict import shooter
from sof.train import TrainConfig
from sof.volume import LEVEL, background_margin, head_volume, volume_mesh

HEADS = 221
FLOOR_GOAL = 1.3
ROUNDING, LONG_ROUNDING = 1e-3, 1e-2                            # how far float32 may part the two sides: one march; gradients, crossings of grid lines
PLAIN_FLOATS = 300                                              # that the plain training step keeps for each ray, in units of the networks' width
STRIPE = 8                                                      # slices of the dense volume that the plain side is timed on
TIMED_VIEWS = 4                                                 # of the turntable
NEAR, FAR = PUBLISHED_DISTANCE - 1.5, PUBLISHED_DISTANCE + 1.5  # camera z of the volume
# class, centre, radii of the ellipsoids of a head: skin, nose, left ear, right ear, neck, hair
HEAD = ((1, (0, 0, 0.15), (0.62, 0.8, 0.65)), (6, (0, -0.05, 0.85), (0.1, 0.15, 0.15)), (11, (-0.64, 0, 0.1), (0.08, 0.2, 0.12)),
        (12, (0.64, 0, 0.1), (0.08, 0.2, 0.12)), (15, (0, -0.9, 0), (0.35, 0.5, 0.35)), (18, (0, 0.25, -0.05), (0.72, 0.75, 0.7)))
SHARPNESS, NETWORK_SHARE = 20.0, 1e-3


@dataclass
class SofBenchmark(BenchmarkConfig):
    """Options of `benchmark.py sof`; the defaults are the published sizes."""

    side: int = option(PUBLISHED_SIDE, "of the pictures, in pixels", low=8)
    width: int = option(256, "of codes and networks", low=8)
    batch_size: int = option(8, "pictures of a training step; 1 where the plain step would not fit the memory", low=1)
    resolution: int = option(256, "voxels along each side of the mesh's grid", low=16)
    views: int = option(36, "of the turntable", low=TIMED_VIEWS)


@dataclass(frozen=True)
class Setting:
    """A model and cameras, in ours and in the plain side's form."""

    model: SOF
    parameters: plain.Parameters
    z: Tensor                                                   # (1, width) the code of head 0
    cam2world: Tensor                                           # (views, 4, 4)
    intrinsics: Tensor                                          # (1, 3, 3) pixels of side x side
    side: int

    def cameras(self, index: list[int]) -> Cameras:
        """Ours."""
        return sof_cameras(self.cam2world[index], self.intrinsics.expand(len(index), 3, 3), self.side, orthographic=True)

    def plain_cameras(self, index: list[int]) -> tuple[Tensor, ...]:
        """Poses, intrinsics and pixels, as `plain.forward` takes them."""
        uv = plain.pixels(self.side, self.z.device).expand(len(index), -1, -1)
        return self.cam2world[index], self.intrinsics.expand(len(index), 3, 3), uv


def setting(config: SofBenchmark, device: torch.device, side: int | None = None) -> Setting:
    """A drawn model, the same for every figure, before turntable cameras of side x side pixels."""
    torch.manual_seed(0)
    side = side or config.side
    model = SOF(ModelConfig(embedding_size=config.width, feat_dim=config.width, orthogonal=True), HEADS).to(device)
    focal = PUBLISHED_FOCAL * side / PUBLISHED_SIDE
    intrinsics = torch.tensor([[[focal, 0, side // 2], [0, focal, side // 2], [0, 0, 1]]], device=device)
    parameters = dict(model.named_parameters())
    return Setting(model, parameters, model.latent_codes.weight[:1].detach(), path_poses("turntable", config.views).float().to(device), intrinsics, side)


# Rendering

@torch.no_grad()
def rendering(config: SofBenchmark, device: torch.device) -> list[Row]:
    """One head from one camera, its weights predicted on the way: against the published algorithm and against the bare matrix products."""
    s, size = setting(config, device), f"{config.side}x{config.side}"
    apart = pictures_apart(our_picture(s, 0, scores=True), plain_picture(s, 0))
    sides = {"ours": partial(our_picture, s, 0), "plain": partial(plain_picture, s, 0), "bare": partial(bare_products, s.model, config.side**2)}
    times = in_turns(sides, config.rounds, device)
    return [Row("rendering", size, times["ours"], times["plain"], apart, ROUNDING),
            Row("rendering floor", size, times["ours"], times["bare"], apart, ROUNDING, goal=FLOOR_GOAL)]


def our_picture(s: Setting, view: int, scene: Layers | None = None, scores: bool = False) -> dict[str, Tensor]:
    """Labels and depth of a view, of a scene that is there or built first."""
    return render(shooter(s.model, scene or s.model.scene(s.z), scores), s.cameras([view]), s.side, s.side)


def plain_picture(s: Setting, view: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (1, N, C), depth (1, N, 1) and labels (1, N) of a view."""
    scores, depth = plain.forward(s.parameters, s.z, *s.plain_cameras([view]), orthographic=True)
    return scores, depth, scores.argmax(-1)


def pictures_apart(ours: dict[str, Tensor], reference: tuple[Tensor, ...]) -> float:
    """The largest difference between their scores and depths."""
    return largest_difference([ours["scores"].flatten(1, 2), ours["z_depth"].flatten(1)[..., None]], reference[:2])


def bare_products(model: SOF, rays: int) -> None:
    """The matrix products alone of a picture's rays, in our chunks, and those of the hypernetwork."""
    for block in (layer.hyper_linear.hypo_params for layer in model.hyper_phi.layers):
        products([layer.net[0].weight for layer in block.net[:-1]] + [block.net[-1].weight], [1])
    width, device = model.config.feat_dim, model.latent_codes.weight.device
    field = [torch.zeros(width, 3 if i == 0 else width, device=device) for i in range(model.config.phi_layers)]
    step = [layer.weight for layer in model.ray_marcher.lstm.linear]
    classifier = [layer.net[0].weight for layer in model.pixel_generator.net[:-1]] + [model.pixel_generator.net[-1].weight]
    chunk = default_chunk(device)
    products((field + step) * model.config.tracing_steps + field + classifier, [min(chunk, rays - start) for start in range(0, rays, chunk)])


def products(weights: list[Tensor], counts: list[int]) -> None:
    """x W^T of each weight (out, in), for chunks of so many rows."""
    inputs = {n: weights[0].new_ones(max(counts), n) for n in {weight.shape[1] for weight in weights}}
    outputs = {n: weights[0].new_empty(max(counts), n) for n in {weight.shape[0] for weight in weights}}
    for count in counts:
        for weight in weights:
            torch.mm(inputs[weight.shape[1]][:count], weight.t(), out=outputs[weight.shape[0]][:count])


# Training

def training(config: SofBenchmark, device: torch.device) -> list[Row]:
    """Loss, gradients of everything and Adam's update: time, and peak memory in a process of its own."""
    pictures = fitting_batch(config, device)
    size = f"{pictures} x {config.side}x{config.side}" + f" ({config.batch_size} fill the memory)" * (pictures < config.batch_size)
    sides = {side: step_of(side, config, pictures, device) for side in ("ours", "plain")}
    apart = largest_difference(sides["ours"](), sides["plain"]())
    times = in_turns(sides, config.rounds, device)
    memory = {side: peak_memory(train_once, side, config, pictures, device) for side in sides}
    return [Row("training step", size, times["ours"], times["plain"], apart, LONG_ROUNDING),
            Row("training memory", size, memory["ours"], memory["plain"], apart, LONG_ROUNDING, unit="MB")]


def fitting_batch(config: SofBenchmark, device: torch.device) -> int:
    """batch_size, or 1 if the plain step over so many pictures would not fit."""
    need = 4 * PLAIN_FLOATS * config.width * config.side**2 * config.batch_size
    here = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return config.batch_size if need < 0.8 * here else 1


def train_once(side: str, config: SofBenchmark, pictures: int, device: torch.device) -> torch.device:
    """One step of one side, for `peak_memory`."""
    if config.threads:
        torch.set_num_threads(config.threads)
    step_of(side, config, pictures, device)()
    return device


def step_of(side: str, config: SofBenchmark, pictures: int, device: torch.device) -> Callable[[], list[Tensor]]:
    """A training step of "ours" or "plain", both on the same batch of another head in each picture; every call gives the gradients."""
    s = setting(config, device)
    optimizer = torch.optim.Adam(s.model.parameters(), lr=5e-5)
    instances = torch.arange(pictures, device=device)
    views = [i % config.views for i in range(pictures)]
    labels = torch.randint(s.model.config.out_channels, (pictures, config.side**2)).to(device)
    noise = 0.01 * torch.randn(pictures, config.side**2, 1).to(device)
    rays = Rays(instances, s.cameras(views), pixel_grid(config.side, config.side, device).expand(pictures, -1, -1), labels, noise)

    def step() -> list[Tensor]:
        optimizer.zero_grad()
        if side == "ours":
            backward(s.model, rays, TrainConfig(), TrainConfig().ray_chunk)
        else:
            plain.total_loss(s.parameters, s.model.latent_codes(instances), *s.plain_cameras(views), True, noise, labels).backward()
        optimizer.step()
        return [parameter.grad for parameter in s.model.parameters()]

    return step


# Meshing

@torch.no_grad()
def meshing(config: SofBenchmark, device: torch.device) -> list[Row]:
    """Coarse to fine against every voxel. The plain side is timed, and compared, on a stripe of slices; its whole mesh on the analytic head alone."""
    n, s = config.resolution, setting(config, device, config.resolution)
    exact = largest_difference(_arrays(our_mesh(s, analytic(), LEVEL)[0]), _arrays(our_mesh(s, analytic(), None)[0]))
    head, stripe = analytic(s.model), range(n // 2 - STRIPE // 2, n // 2 + STRIPE // 2)
    volume, evaluations = our_volume(s, head, LEVEL)
    slab = plain_volume(s, stripe)
    apart = largest_difference(_arrays(surface(s, volume[:, :, stripe.start:stripe.stop])), _arrays(surface(s, slab)))
    sides = {"ours": lambda: our_mesh(s, head, LEVEL), "stripe": lambda: plain_volume(s, stripe), "cubes": lambda: surface(s, volume)}
    times = in_turns(sides, config.rounds, device)
    dense = times["stripe"] * n / STRIPE + times["cubes"]
    return [Row("mesh evaluations", f"{n}^3", evaluations, n**3, exact, 0.0, unit="points"),
            Row("mesh", f"{n}^3, plain from {STRIPE} slices", times["ours"], dense, apart, LONG_ROUNDING)]


def analytic(model: SOF | None = None) -> SimpleNamespace:
    """A stand-in for a model, for `head_volume`: an analytic head's scores, plus a share of those of the model if there is one."""
    def field(scene: Layers, points: Tensor) -> Tensor:
        return head_scores(points) if model is None else head_scores(points) + NETWORK_SHARE * model.field(scene, points)

    return SimpleNamespace(field=field)


def head_scores(points: Tensor) -> Tensor:
    """Scores (..., 20) at points (..., 3): 0 for the background, those of the nearest part's class positive within it, all others far below."""
    classes, centers, radii = (torch.tensor(part, device=points.device) for part in zip(*HEAD))
    within, nearest = (1 - ((points[..., None, :] - centers) / radii).norm(dim=-1)).max(dim=-1, keepdim=True)
    scores = points.new_full((*points.shape[:-1], 20), -SHARPNESS)
    scores[..., 0] = 0
    return scores.scatter_(-1, classes[nearest], SHARPNESS * within)


def our_volume(s: Setting, head: SimpleNamespace, level: float | None) -> tuple[Tensor, int]:
    """Background margins before the frontal camera, the scene built first, and how many voxels were asked for."""
    return head_volume(head, s.model.scene(s.z), s.cameras([0]), s.side, s.side, (NEAR, FAR), level)


def our_mesh(s: Setting, head: SimpleNamespace, level: float | None) -> tuple[Mesh, int]:
    """The mesh and how many voxels were asked for."""
    volume, evaluations = our_volume(s, head, level)
    return surface(s, volume), evaluations


def surface(s: Setting, volume: Tensor) -> Mesh:
    """The mesh of a volume or of some slices of it (its depths stretched, for all sides alike)."""
    return volume_mesh(volume, s.cameras([0]), (NEAR, FAR))


def plain_volume(s: Setting, slices: range) -> Tensor:
    """Background margins of some slices, as released: the hypernetwork for each, all probabilities of all slices kept until the end."""
    cameras, probabilities = s.plain_cameras([0]), []
    for k in slices:
        depth = NEAR + k / (s.side - 1) * (FAR - NEAR)
        scores, _ = plain.forward(s.parameters, s.z, *cameras, orthographic=True, slice_depth=depth)
        scores = head_scores(plain.unproject(*cameras, depth, orthographic=True)) + NETWORK_SHARE * scores
        probabilities.append(scores[0].softmax(-1).unflatten(0, (s.side, s.side)))
    return background_margin(torch.stack(probabilities, dim=2))


def _arrays(mesh: Mesh) -> list[Tensor]:
    return [torch.from_numpy(mesh.vertices.copy()), torch.from_numpy(mesh.faces.copy()).double()]


# A turntable

@torch.no_grad()
def turntable(config: SofBenchmark, device: torch.device) -> list[Row]:
    """All views of one head, its scene built once: against the published algorithm, and against our own with the scene built for every view.

    Views cost alike: a few of them, evenly spread, are timed in turns and stand for all.
    """
    s = setting(config, device)
    scene, again = s.model.scene(s.z), s.model.scene(s.z)
    some = range(0, config.views, config.views // TIMED_VIEWS)[:TIMED_VIEWS]
    apart = pictures_apart(our_picture(s, some[1], scene, scores=True), plain_picture(s, some[1]))
    every = lambda picture, *rest: [picture(s, k, *rest) for k in some]
    sides = {"scene": lambda: s.model.scene(s.z), "views": lambda: every(our_picture, scene), "plain": lambda: every(plain_picture)}
    times = in_turns(sides, math.ceil(config.rounds / 2), device)
    size, views = f"{config.views} x {config.side}x{config.side}, from {TIMED_VIEWS}", times["views"] * config.views / TIMED_VIEWS
    ours, per_view, published = times["scene"] + views, times["scene"] * config.views + views, times["plain"] * config.views / TIMED_VIEWS
    return [Row("turntable", size, ours, published, apart, ROUNDING),
            Row("turntable, our scene per view", size, ours, per_view, largest_difference(sum(scene, ()), sum(again, ())), 0.0)]


FIGURES = {"rendering": rendering, "training": training, "meshing": meshing, "turntable": turntable}
