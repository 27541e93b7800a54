"""GOF's figures for scripts/benchmark.py: the field, a picture, a film, a training step and a mesh, at the published size, against ``gof.plain``.

Weights are drawn: times do not depend on them. So that rays hit something, the last layer is scaled until a quarter of the space before the camera is
inside; the mesh, whose cost depends on its shape, is that of an analytic head, to which the network, evaluated in full, adds a thousandth of its logit.
Both sides are compared in double precision, on a picture of few pixels: a ray that grazes the surface is one that rounding decides.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from common import kernels, volume
from common.benchmark import BenchmarkConfig, Row, in_turns, largest_difference
from common.config import option
from common.layers.siren import sine_layer
from common.march import Draws, March
from common.meshes import Mesh, marching_cubes
from common.pigan import CACHED, Siren, average_codes
from common.surfaces import dense_grid, refine_grid
from gof import plain
from gof.discriminators import Discriminator
from gof.extract import cube
from gof.look import look, shoot_surface
from gof.losses import Weights, discriminator_losses, fake, generator_losses
from gof.model import Generator, ModelConfig, load, march_options
from gof.paths import ellipse

ROUNDING, CLOSE = 1e-5, 1e-3                                    # how far the two sides may part: in one call; after search, sorting and compositing
CHECK_SIDE = 16                                                 # pixels of the pictures that are compared
INSIDE = 0.25                                                   # share of the space before the camera that a drawn field fills
SPREAD = 4.0                                                    # standard deviation of its logits
PSI, CUBE = 0.7, 0.3                                            # of the released scripts
STRIPE, TIMED_FRAMES = 4, 2                                     # slices of the dense grid, frames of the film, that stand for all
ALPHA, KEPT, OPACITY = 1.0, 1.0, 0.05                           # of the training step: the fade, the share of fakes kept, the opacity prior's weight
# centre and radii of the ellipsoids of a head: skull, jaw, nose, ears, neck
HEAD = (((0, 0.015, 0), (0.062, 0.08, 0.072)), ((0, -0.04, 0.02), (0.045, 0.05, 0.05)), ((0, -0.01, 0.075), (0.01, 0.016, 0.016)),
        ((-0.064, 0, 0), (0.008, 0.02, 0.012)), ((0.064, 0, 0), (0.008, 0.02, 0.012)), ((0, -0.1, -0.01), (0.035, 0.05, 0.035)))
SHARPNESS, NETWORK_SHARE = 20.0, 1e-3


@dataclass
class GofBenchmark(BenchmarkConfig):
    """Options of `benchmark.py gof`; the defaults are the published sizes where a CPU can bear them."""

    points: int = option(2 * plain.CHUNK, "that the field is asked for", low=1)
    width: int = option(256, "of the field's layers", low=4)
    side: int = option(64, "of pictures, in pixels; published 256", low=8)
    multiplier: int = option(2, "times the training's samples on a ray, of pictures", low=1)
    views: int = option(36, "frames of the film", low=TIMED_FRAMES)
    train_side: int = option(32, "of the training's pictures, in pixels", low=4)
    batch_size: int = option(4, "of the training; published 16", low=1)
    critic_width: float = option(1.0, "times the discriminator's published channels", low=0)
    resolution: int = option(256, "points along each side of the mesh's grid", low=16)
    checkpoint: str = option("", "generator of the row picture; empty: drawn weights", free=True)


@torch.no_grad()
def drawn(config: GofBenchmark, device: torch.device) -> Generator:
    """A generator of drawn weights, always the same, INSIDE of whose space is inside."""
    torch.manual_seed(0)
    generator = Generator(ModelConfig(hidden_dim=config.width, published_depth=True)).to(device)
    siren = generator.siren
    scene = siren.scene(*siren.mapping(torch.randn(1, generator.config.latent_dim, device=device)))
    logits = siren.density(scene, 0.2 * (torch.rand(1, 4096, 3, device=device) - 0.5))
    scale = SPREAD / logits.std()
    siren.final_layer.bias.copy_(scale * (siren.final_layer.bias - logits.quantile(1 - INSIDE)))
    siren.final_layer.weight.mul_(scale)
    generator.average = average_codes(siren)
    return generator


def parameters_of(module: nn.Module) -> plain.Parameters:
    """As the plain side takes them."""
    return dict(module.named_parameters())


# The field

@torch.no_grad()
def field(config: GofBenchmark, device: torch.device) -> list[Row]:
    """Logits and colours of many points: the code folded into the weights, against the published formula and against the bare matrix products."""
    generator = drawn(config, device)
    siren, parameters = generator.siren, parameters_of(generator)
    codes = generator.codes(torch.randn(1, generator.config.latent_dim, device=device))
    points = CUBE * (torch.rand(1, config.points, 3, device=device) - 0.5)
    toward = nn.functional.normalize(torch.randn(1, config.points, 3, device=device), dim=-1)
    ours = lambda: siren.field(siren.scene(*codes), points, toward)
    published = lambda: plain.chunked(parameters, codes, points, toward)
    apart = largest_difference([torch.cat(ours()[::-1], dim=-1)], [published()])
    times = in_turns({"ours": ours, "plain": published, "bare": partial(bare_products, siren, config.points)}, config.rounds, device)
    size = f"{config.points:,} points"
    return [Row("fold", size, times["ours"], times["plain"], apart, ROUNDING, goal=2.0),
            Row("fold floor", size, times["ours"], times["bare"], apart, ROUNDING, goal=1.15)]


def bare_products(siren: Siren, points: int) -> None:
    """The matrix products alone of that many points, in our chunks."""
    hidden, device = siren.config.hidden, siren.final_layer.weight.device
    weights = [*(layer.layer.weight for layer in siren.network), siren.color_layer_sine.layer.weight[:, :3], siren.color_layer_sine.layer.weight[:, 3:],
               siren.final_layer.weight, siren.color_layer_linear[0].weight]
    chunk = points if device.type == "cuda" else CACHED // hidden * torch.get_num_threads()
    inputs = {n: torch.ones(chunk, n, device=device) for n in (3, hidden)}
    outputs = {n: torch.empty(chunk, n, device=device) for n in (1, 3, hidden)}
    for start in range(0, points, chunk):
        count = min(chunk, points - start)
        for weight in weights:
            torch.mm(inputs[weight.shape[1]][:count], weight.t(), out=outputs[weight.shape[0]][:count])


# Pictures

def plain_samples(by: March, draws: Draws) -> plain.Samples:
    """A march's samples as the plain side takes them."""
    return plain.Samples(by.coarse, by.surface, by.fine, by.interval, draws.surface, draws.fine.flatten(0, 1), by.search_steps)


def our_frames(generator: Generator, config: GofBenchmark, angles: Tensor, side: int) -> dict[str, Tensor]:
    """Everything that the released scripts show of one code, from cameras (N, 2): the scene once."""
    by = replace(march_options(generator.config, multiplier=config.multiplier), last_back=True)
    with torch.no_grad():
        scene = generator.scene(generator.codes(generator.latents([0]).to(generator.siren.final_layer.weight), PSI))
    return look(generator, scene, angles, side, by)


def plain_frame(generator: Generator, config: GofBenchmark, angles: Tensor, side: int) -> dict[str, Tensor]:
    """The same of one camera (1, 2), as released: the average code of 10,000 latents drawn again."""
    like, by = generator.siren.final_layer.weight, march_options(generator.config, multiplier=config.multiplier)
    unmoved = Draws(surface=like.new_full((1, side**2, by.surface), 0.5), fine=torch.linspace(0, 1, by.fine).to(like).expand(1, side**2, -1))
    return plain.picture(parameters_of(generator), generator.latents([0]).to(like), averaged_latents(generator), PSI, angles.to(like), side,
                         plain_samples(by, unmoved))


def averaged_latents(generator: Generator) -> Tensor:
    """The latents whose codes make our average."""
    return torch.randn(plain.LATENTS, generator.config.latent_dim, generator=torch.Generator().manual_seed(0)).to(generator.siren.final_layer.weight)


def frames_apart(generator: Generator, config: GofBenchmark, angles: Tensor) -> float:
    """The largest difference between the two sides' frames of a few pixels, in double precision."""
    exact = in_double(generator)
    ours, reference = our_frames(exact, config, angles, CHECK_SIDE), plain_frame(exact, config, angles, CHECK_SIDE)
    names = ("colors", "depth", "surface_depth", "normals", "surface_colors")
    return largest_difference([ours[name].flatten(1, 2) for name in names], [reference[name] for name in names])


def in_double(generator: Generator) -> Generator:
    """A copy of the generator in double precision."""
    exact = Generator(generator.config).to(generator.siren.final_layer.weight).double()
    exact.load_state_dict(generator.state_dict())
    exact.average = average_codes(exact.siren, averaged_latents(exact))
    return exact


def picture(config: GofBenchmark, device: torch.device) -> list[Row]:
    """One frontal picture: the colours of the surface found, against the published number of samples; its likeness in the row's size."""
    generator = load(config.checkpoint, device=device) if config.checkpoint else drawn(config, device)
    angles = torch.full((1, 2), math.pi / 2, device=device)
    by = march_options(generator.config, multiplier=config.multiplier)
    with torch.no_grad():
        scene = generator.scene(generator.codes(generator.latents([0]), PSI))
    ours = lambda: look(generator, scene, angles, config.side, by, shoot=shoot_surface)["surface_colors"]
    likeness = -10 * math.log10(nn.functional.mse_loss(ours(), our_frames(generator, config, angles, config.side)["colors"]))
    times = in_turns({"ours": ours, "plain": lambda: plain_frame(generator, config, angles, config.side)}, config.rounds, device)
    weights = Path(config.checkpoint).name if config.checkpoint else "drawn weights"
    return [Row("picture", f"{config.side}x{config.side}, {weights}, PSNR {likeness:.1f} dB", times["ours"], times["plain"],
                frames_apart(generator, config, angles), CLOSE)]


def video(config: GofBenchmark, device: torch.device) -> list[Row]:
    """A film of one code, its scene once and its average code never again: against the published work for every frame. Frames cost alike; a few are timed."""
    generator, angles = drawn(config, device), ellipse(config.views).to(device)
    some, share = angles[::config.views // TIMED_FRAMES][:TIMED_FRAMES].float(), config.views / TIMED_FRAMES
    sides = {"ours": lambda: our_frames(generator, config, some, config.side),
             "plain": lambda: [plain_frame(generator, config, angle[None], config.side) for angle in some]}
    times = in_turns(sides, math.ceil(config.rounds / 2), device)
    return [Row("video", f"{config.views} x {config.side}x{config.side}, from {TIMED_FRAMES}", times["ours"] * share, times["plain"] * share,
                frames_apart(generator, config, angles[:1]), CLOSE, goal=3.0)]


# Training

def training(config: GofBenchmark, device: torch.device) -> list[Row]:
    """Both players' losses and gradients on one batch, all terms on, as released."""
    generator = drawn(config, device)
    torch.manual_seed(1)
    critic = Discriminator("ProgressiveEncoderDiscriminator", config.critic_width).to(device)
    exact = in_double(generator), Discriminator("ProgressiveEncoderDiscriminator", config.critic_width).to(device).double()
    exact[1].load_state_dict(critic.state_dict())
    check = [side(*exact, config.batch_size, CHECK_SIDE)() for side in (our_step, plain_step)]
    sides = {name: side(generator, critic, config.batch_size, config.train_side) for name, side in (("ours", our_step), ("plain", plain_step))}
    times = in_turns(sides, config.rounds, device)
    size = f"{config.batch_size} x {config.train_side}x{config.train_side}"
    return [Row("train", size, times["ours"], times["plain"], largest_difference(*check), CLOSE, goal=1.3)]


@dataclass(frozen=True)
class Batch:
    """What a training step draws, for the discriminator or for the generator."""

    z: Tensor
    angles: Tensor
    draws: Draws
    neighbours: Tensor


def batches(generator: Generator, count: int, side: int) -> tuple[Tensor, Batch, Batch]:
    """Real pictures and the draws of both players, always the same."""
    source, like, by = torch.Generator().manual_seed(0), generator.siren.final_layer.weight, march_options(generator.config)
    uniform = lambda *shape: torch.rand(*shape, generator=source).to(like)
    batch = lambda: Batch(torch.randn(count, generator.config.latent_dim, generator=source).to(like), math.pi / 2 + 0.3 * (uniform(count, 2) - 0.5),
                          Draws(surface=uniform(count, side**2, by.surface), fine=uniform(count, side**2, by.fine)), uniform(count, side**2, 3))
    return 2 * uniform(count, 3, side, side) - 1, batch(), batch()


def our_step(generator: Generator, critic: Discriminator, count: int, side: int) -> Callable[[], list[Tensor]]:
    """A training step of ours; every call gives all gradients."""
    weights = Weights(published_opacity_prior=True, published_normal_loss=True)
    by = march_options(generator.config, generator.config.interval_max, training=True)
    reals, for_critic, for_generator = batches(generator, count, side)

    def step() -> list[Tensor]:
        learn(critic, generator)
        with torch.no_grad():
            fakes = fake(generator, for_critic.z, for_critic.angles, side, by, for_critic.draws)
        sum(discriminator_losses(critic, weights, reals, fakes, ALPHA).values()).backward()
        learn(generator, critic)
        fakes = fake(generator, for_generator.z, for_generator.angles, side, by, for_generator.draws, for_generator.neighbours, weights.h_sample)
        sum(generator_losses(critic, weights, fakes, ALPHA, KEPT, OPACITY).values()).backward()
        return gradients(generator, critic)

    return step


def plain_step(generator: Generator, critic: Discriminator, count: int, side: int) -> Callable[[], list[Tensor]]:
    """The published one."""
    weights, by = Weights(), march_options(generator.config, generator.config.interval_max, training=True)
    field_parameters, critic_parameters = parameters_of(generator), parameters_of(critic)
    reals, for_critic, for_generator = batches(generator, count, side)
    fakes = lambda batch, *beside: plain.fakes(field_parameters, batch.z, batch.angles, side, plain_samples(by, batch.draws), *beside)

    def step() -> list[Tensor]:
        learn(critic, generator)
        with torch.no_grad():
            seen = fakes(for_critic)
        plain.discriminator_loss(critic_parameters, reals, seen["pictures"], for_critic.angles, ALPHA, weights.r1_lambda, weights.pos_lambda).backward()
        learn(generator, critic)
        seen = fakes(for_generator, for_generator.neighbours, weights.h_sample)
        plain.generator_loss(critic_parameters, seen, for_generator.angles, ALPHA, count, weights.pos_lambda, weights.normal_lambda, OPACITY).backward()
        return gradients(generator, critic)

    return step


def learn(player: nn.Module, other: nn.Module) -> None:
    """One player learns, the other holds still."""
    player.requires_grad_(True).zero_grad()
    other.requires_grad_(False)


def gradients(*modules: nn.Module) -> list[Tensor]:
    """Of all parameters that have one; the released fade gives its idle branch zeros."""
    return [parameter.grad.clone() for module in modules for parameter in module.parameters() if parameter.grad is not None and parameter.grad.any()]


# Meshing

@torch.no_grad()
def meshing(config: GofBenchmark, device: torch.device) -> list[Row]:
    """Coarse to fine against every voxel. The plain side is timed on a stripe of slices; both meshes of the analytic head alone must be one."""
    n, generator = config.resolution, drawn(config, device)
    box, codes = cube(CUBE).float().to(device), generator.codes(generator.latents([0]).to(device))
    scene, parameters = generator.scene(codes), parameters_of(generator)
    ours = lambda points: head_logits(points) + NETWORK_SHARE * generator.siren.density(scene, points[None])[0, :, 0]
    published = lambda points: head_logits(points) + NETWORK_SHARE * plain.voxels(parameters, codes, points)
    exact = largest_difference(_arrays(refine_grid(head_logits, box, n, 0.0)[0], box), _arrays(dense_grid(head_logits, box, n)[0], box))
    values, evaluations = refine_grid(ours, box, n, 0.0)
    slices = slice(n // 2, n // 2 + STRIPE)
    axis = torch.linspace(-CUBE / 2, CUBE / 2, n, device=device)
    stripe = torch.stack(torch.meshgrid(axis[slices], axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    slab = published(stripe).view(STRIPE, n, n)
    apart = largest_difference(_arrays(values[slices], box), _arrays(slab, box))
    sides = {"ours": lambda: our_mesh(ours, box, n), "stripe": lambda: published(stripe), "cubes": lambda: surface(values, box)}
    times = in_turns(sides, math.ceil(config.rounds / 2), device)
    return [Row("mesh evaluations", f"{n}^3", evaluations, n**3, exact, 0.0, unit="points", goal=20.0),
            Row("mesh", f"{n}^3, plain from {STRIPE} slices", times["ours"], times["stripe"] * n / STRIPE + times["cubes"], apart, CLOSE, goal=20.0)]


def head_logits(points: Tensor) -> Tensor:
    """Logits (P,) of an analytic head at points (P, 3): positive within one of its ellipsoids."""
    centers, radii = (torch.tensor(part, device=points.device, dtype=points.dtype) for part in zip(*HEAD))
    return SHARPNESS * (1 - ((points[:, None] - centers) / radii).norm(dim=-1)).max(dim=-1).values


def our_mesh(field: Callable[[Tensor], Tensor], box: Tensor, resolution: int) -> Mesh:
    """The mesh, asked for where it passes."""
    return surface(refine_grid(field, box, resolution, 0.0)[0], box)


def surface(values: Tensor, box: Tensor) -> Mesh:
    """The mesh of a grid or of some slices of it (stretched over the box, for all sides alike)."""
    return marching_cubes(values.cpu(), 0.0, box.cpu())


def _arrays(values: Tensor, box: Tensor) -> list[Tensor]:
    mesh = surface(values, box)
    return [torch.from_numpy(mesh.vertices.copy()), torch.from_numpy(mesh.faces.copy()).double()]


# Triton's kernels

def fused(config: GofBenchmark, device: torch.device) -> list[Row]:
    """Forward and backward of a sine layer and of compositing, fused against torch's; where there is a GPU with Triton."""
    if not kernels.usable(torch.zeros(1, device=device)):
        return []
    torch.manual_seed(0)
    leaf = lambda *shape: torch.rand(*shape, device=device, requires_grad=True)
    x, weight, bias = leaf(1, config.points, config.width), leaf(1, config.width, config.width), leaf(1, 1, config.width)
    alphas, colors, depths = leaf(config.points, 15), leaf(config.points, 15, 3), leaf(config.points, 15)
    sines = {name: partial(_both_ways, partial(sine_layer, twice=twice), [x, weight, bias]) for name, twice in (("ours", False), ("plain", True))}
    sums = {name: partial(_both_ways, lambda *rays, by=by: by(*rays, False), [alphas, colors, depths])
            for name, by in (("ours", kernels.accumulate), ("plain", volume.accumulate))}
    rows = []
    for name, sides, size in (("fused sine", sines, f"{config.points:,} x {config.width}"), ("fused compositing", sums, f"{config.points:,} rays x 15")):
        apart = largest_difference(sides["ours"](), sides["plain"]())
        times = in_turns(sides, config.rounds, device)
        rows.append(Row(name, size, times["ours"], times["plain"], apart, CLOSE))
    return rows


def _both_ways(function: Callable, leaves: list[Tensor]) -> list[Tensor]:
    """Results and gradients."""
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    return [*results, *torch.autograd.grad(sum(result.square().sum() for result in results), leaves)]


FIGURES = {"field": field, "picture": picture, "video": video, "training": training, "meshing": meshing, "fused": fused}
