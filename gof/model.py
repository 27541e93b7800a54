"""GOF's generator (Xu et al., NeurIPS 2021, arXiv 2111.00969), and the pi-GAN it stands on: a code to a field, a field to pictures.

    model = load("pretrained/gof_people.safetensors")
    scene = model.scene(model.codes(seeds=[0], psi=0.7))
    seen = shoot(model, scene, cameras, uv)                                 # colors, depth, surface_depth, hit, normals, surface_colors of pixels

The field is `common.pigan.Siren`, the march `common.march`. What this file adds is how GOF's options name them, and the files they come from.
"""
from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from common import config as options
from common.cameras import Cameras
from common.checkpoint import Opened, load_strict, open_checkpoint
from common.config import option
from common.errors import InputError
from common.files import replacing
from common.march import REGULAR, Draws, March, march
from common.pigan import NETWORKS, Scene, Siren, average_codes, truncate
from common.poses import DISTRIBUTIONS
from common.rays import camera_rays
from common.volume import ACTIVATIONS

PUBLISHED_SEARCH_RANGE = (0.88, 1.12)                         # of every released surface search, whatever the curriculum says
CONFIGS = Path(__file__).parent.parent / "configs" / "gof"

Codes = tuple[Tensor, Tensor]


@dataclass
class ModelConfig:
    """What a generator is and how its rays are sampled, by the names of the published curriculums."""

    model: str = option("SPATIALSIRENBASELINE", "network of the field", choices=NETWORKS)
    hidden_dim: int = option(0, "width of its layers; 0: as published", low=0)
    layers: int = option(8, "sine layers before the density; 8 as published", low=1)
    latent_dim: int = option(256, "numbers of a code", low=1)
    fov: float = option(12.0, "field of view, degrees", low=0)
    ray_start: float = option(0.88, "distance from the camera, on the unit sphere, at which rays start", low=0)
    ray_end: float = option(1.12, "distance at which they end", low=0)
    sample_dist: str = option("gaussian", "distribution of the cameras", choices=DISTRIBUTIONS)
    h_mean: float = option(math.pi / 2, "mean yaw of the cameras, radians; pi/2 is frontal")
    h_stddev: float = option(0.3, "spread of the yaw, radians: standard deviation, or half the range of a uniform one", low=0)
    v_mean: float = option(math.pi / 2, "mean pitch, radians from straight above")
    v_stddev: float = option(0.155, "spread of the pitch, radians", low=0)
    pred_occ: bool = option(True, "the field is an occupancy (GOF); false: a density (pi-GAN)")
    surface_sample: bool = option(True, "find the surface and sample a shell round it (GOF); false: composite the coarse samples (pi-GAN)")
    hierarchical_sample: bool = option(True, "add samples where the coarse weights are")
    num_steps_coarse: int = option(9, "samples that look for the surface", low=3)
    num_steps_surface: int = option(9, "samples in the shell", low=2)
    num_steps_fine: int = option(6, "samples by coarse weights", low=1)
    interval_max: float = option(0.12, "half the shell's thickness at the start of the training", low=0)
    interval_min: float = option(0.03, "and at least, and after it", low=0)
    n_secant_steps: int = option(4, "steps of the surface search", low=0)
    search: str = option("secant", "method of the surface search", choices=("secant", "bisection"))
    tau: float = option(0.5, "occupancy of the surface, 0 to 1", low=0)
    clamp_mode: str = option("relu", "activation of densities", choices=ACTIVATIONS)
    white_back: bool = option(False, "white behind the field")
    last_back: bool = option(False, "the last sample takes what light is left, in training")
    eval_last_back: bool = option(True, "the same in rendering")
    lock_view_dependence: bool = option(False, "colours as seen from the front, from everywhere")
    published_search_range: bool = option(False, "the release's defect: the shell is kept in 0.88 to 1.12 whatever ray_start and ray_end say")
    published_depth: bool = option(False, "the release's defect: with last_back, depth is divided by the weights from before it")


def march_options(config: ModelConfig, interval: float | None = None, training: bool = False, multiplier: int = 1, num_steps: int | None = None) -> March:
    """The march of a config: `interval` (by default the least) is half the shell's thickness; `multiplier` times the samples; `num_steps` for pi-GAN's."""
    return March(
        near=config.ray_start, far=config.ray_end, coarse=(num_steps or config.num_steps_coarse) * multiplier,
        fine=(num_steps or config.num_steps_fine) * multiplier * config.hierarchical_sample,
        surface=config.num_steps_surface * multiplier * config.surface_sample,
        occupancy=config.pred_occ, interval=config.interval_min if interval is None else interval, search=config.search, search_steps=config.n_secant_steps,
        search_range=PUBLISHED_SEARCH_RANGE if config.published_search_range else None, tau=config.tau, activation=config.clamp_mode,
        last_back=config.last_back if training else config.eval_last_back, white_back=config.white_back,
        lock_view=config.lock_view_dependence, published_depth=config.published_depth)


class Generator(nn.Module):
    """The field with its mapping network under the published key `siren`, and the config it was made by."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        shape = NETWORKS[config.model]
        self.config = config
        self.siren = Siren(replace(shape, hidden=config.hidden_dim or shape.hidden, layers=config.layers, latent=config.latent_dim))
        self._average: Codes | None = None

    def codes(self, z: Tensor, psi: float = 1.0) -> Codes:
        """Frequencies and phases (B, total) of latents (B, Z), pulled towards the average code by psi < 1."""
        codes = self.siren.mapping(z)
        return codes if psi == 1 else truncate(codes, self.average, psi)

    @property
    def average(self) -> Codes:
        """The mean code (1, total) of 10,000 latents, always the same ones; computed once, or read from the file."""
        if self._average is None:
            self._average = average_codes(self.siren)
        return self._average

    @average.setter
    def average(self, codes: Codes) -> None:
        self._average = codes

    def scene(self, codes: Codes) -> Scene:
        """The scenes (B) of codes."""
        return self.siren.scene(*codes)

    def latents(self, seeds: list[int]) -> Tensor:
        """The standard normal latents (len(seeds), Z) of seeds, as `torch.manual_seed(seed); torch.randn(1, Z)` draws them."""
        draw = lambda seed: torch.randn(1, self.config.latent_dim, generator=torch.Generator().manual_seed(seed))
        return torch.cat([draw(seed) for seed in seeds]).to(self.siren.final_layer.weight.device)


def see(generator: Generator, scene: Scene, cameras: Cameras, uv: Tensor, march_by: March, draws: Draws = REGULAR) -> dict[str, Tensor]:
    """What pixels uv (1 or B, R, 2) of B cameras see of B scenes: `common.march.march`'s dict, with origins and directions (B, R, 3)."""
    siren = generator.siren
    origins, directions = camera_rays(cameras, uv)
    seen = march(partial(siren.field, scene), partial(siren.density, scene), origins, directions, march_by, draws)
    return seen | {"origins": origins, "directions": directions}


def shoot(generator: Generator, scene: Scene, march_by: March, cameras: Cameras, uv: Tensor, draws: Draws = REGULAR, of_surface: bool = True,
          in_full: bool = False) -> dict[str, Tensor]:
    """Everything that the inference of GOF shows of pixels uv (B, R, 2), each (B, R, ...), for `common.render.render`.

    colors [0, 1], depth and surface_depth within the ray's range, hit, depth_variance, opacity; with `of_surface` also normals (world, outward)
    and surface_colors of the field at the surface (at the rendered depth for a field without surface search); `in_full` keeps every sample too.
    """
    seen = see(generator, scene, cameras, uv, march_by, draws)
    depth = seen.get("surface_depth", seen["depth"])
    names = ("colors", "depth", "depth_variance", "opacity", "surface_depth", "hit")
    picture = dict(seen) if in_full else {name: seen[name] for name in names if name in seen}
    if of_surface:
        points = seen["origins"] + seen["directions"] * depth[..., None]
        picture["normals"] = generator.siren.normals(scene, points)
        picture["surface_colors"] = generator.siren.field(scene, points, seen["directions"])[1]
    within = lambda name: {name: picture[name].clamp(march_by.near, march_by.far)} if name in picture else {}
    return picture | within("depth") | within("surface_depth")


# Files

def curriculum_path(name: str) -> Path:
    """The YAML of a published curriculum (BFM, CelebA, CATS, pigan_CelebA ...) by name, or the file itself. Raises InputError listing the names."""
    path = Path(name)
    if path.suffix in (".yml", ".yaml"):
        return path
    known = sorted(file.stem for file in CONFIGS.glob("*.yml"))
    if name.lower() not in known:
        raise InputError(f"--curriculum {name}: no such curriculum; expected one of {', '.join(known)}, or a YAML file")
    return CONFIGS / f"{name.lower()}.yml"


def load(path: str | Path, curriculum: str | None = None, device: torch.device | str = "cpu") -> Generator:
    """The generator of a run folder (its EMA weights), a file of ours, or an author's file, whose options are those of `curriculum`.

    Raises InputError if the file is none of these or does not fit.
    """
    opened = open_checkpoint(path)
    if opened.kind == "published":
        return _load_published(opened, curriculum).to(device).eval()
    if curriculum:
        raise InputError(f"--curriculum {curriculum}: {path} carries its own options")
    known = {field.name for field in fields(ModelConfig)}
    config = options.from_dict(ModelConfig, {key: value for key, value in opened.config.items() if key in known}, str(opened.path))
    generator = Generator(config)
    load_strict(generator, _averaged_weights(opened), str(opened.path))
    if "average" in opened.data:
        generator.average = tuple(opened.data["average"][name].float().to(device) for name in ("frequencies", "phases"))
    return generator.to(device).eval()


def export_state(generator: Generator) -> dict[str, dict[str, Tensor]]:
    """What a shipped file holds: the weights and the average code."""
    return {"generator": generator.state_dict(), "average": dict(zip(("frequencies", "phases"), generator.average))}


def model_options(generator: Generator) -> dict:
    """The options of a generator alone, as a file's config keeps them."""
    return {field.name: asdict(generator.config)[field.name] for field in fields(ModelConfig)}


def export_published(generator: Generator, path: str | Path) -> None:
    """Write the weights as the release's generator.pth, a state dict by its names. Raises InputError for a network of other widths, which it cannot build."""
    if generator.siren.config != NETWORKS[generator.config.model]:
        raise InputError(f"{path}: the authors' programs build {generator.config.model} in its published size alone; write a .safetensors")
    with replacing(path) as temporary:
        torch.save({key: value.cpu() for key, value in generator.state_dict().items()}, temporary)


def _averaged_weights(opened: Opened) -> dict[str, Tensor]:
    """The EMA's weights of a run's checkpoint, or the weights of an exported file."""
    if "ema" in opened.data:
        return {key.removeprefix("shadow."): value for key, value in opened.data["ema"].items() if key.startswith("shadow.")}
    return {key: value.float() for key, value in opened.data.get("generator", {}).items()}


def _load_published(opened: Opened, curriculum: str | None) -> Generator:
    """An author's generator; as in their scripts, with the averaged weights of an ema.pth beside it."""
    from gof.published import generator_state

    if not curriculum:
        raise InputError(f"{opened.path}: an author's file carries no options; add --curriculum with the one it was trained by (BFM, CelebA, CATS, ...)")
    generator = Generator(options.load(ModelConfig, curriculum_path(curriculum), others=True))
    load_strict(generator, generator_state(opened.path, generator), str(opened.path))
    return generator
