"""Augmentations of what the discriminator sees, adapted so that none leaks into the generator (ADA: Karras et al., NeurIPS 2020, appendix B).

    pictures = augment(pictures, BGC, p, Seeded(generator))                 (N, 3 or 6, H, W): of 6 channels both halves are treated alike

Every augmentation draws its amount and then, with probability p times its multiplier, applies it; a multiplier of 0 draws nothing. Geometry is one affine
warp per picture, colour one affine map per pixel; both are products of the matrices of their augmentations.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.layers.fir import downsample2d, fir_kernel, upsample2d
from op3d.schedules import next_probability

SYM6 = (0.010892349, 0.0024683059, -0.0834316, -0.03416156, 0.34722894, 0.5569464, 0.23895217, -0.05136248, -0.014891874, 0.03162528, 0.001249961,
        -0.0055159335)                                        # the wavelet's low-pass
RIM = 3                                                       # pixels warped beyond the picture, for the filter
QUARTER = 0.25                                                # sym6 is not centred: it moves both ends of the warp by half an upsampled pixel
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)                     # of natural pictures in the four bands


@dataclass(frozen=True)
class Augmentations:
    """Multipliers (0: off) of the augmentations, and how strong they are; lengths in picture sizes, spreads of factors in doublings."""

    xflip: float = 0
    rotate90: float = 0
    xint: float = 0
    scale: float = 0
    rotate: float = 0
    aniso: float = 0
    xfrac: float = 0
    brightness: float = 0
    contrast: float = 0
    lumaflip: float = 0
    hue: float = 0
    saturation: float = 0
    imgfilter: float = 0
    noise: float = 0
    cutout: float = 0
    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1
    saturation_std: float = 1
    imgfilter_bands: tuple[float, ...] = (1, 1, 1, 1)
    imgfilter_std: float = 1
    noise_std: float = 0.1
    cutout_size: float = 0.5


BGC = Augmentations(xflip=1, rotate90=1, xint=1, scale=1, rotate=1, aniso=1, xfrac=1, brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)


# Where draws come from

class Seeded:
    """Draws of a generator for a batch of `total` pictures, of which `rows` are augmented here; by default for just those that are."""

    def __init__(self, generator: torch.Generator, total: int | None = None, rows: slice = slice(None)):
        self.generator, self.total, self.rows = generator, total, rows

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1)."""
        return torch.rand(self.total or shape[0], *shape[1:], generator=self.generator, device=self.generator.device)[self.rows]

    def normal(self, *shape: int) -> Tensor:
        """Standard normals."""
        return torch.randn(self.total or shape[0], *shape[1:], generator=self.generator, device=self.generator.device)[self.rows]

    def opens(self, probability: float, *shape: int) -> Tensor:
        """Whether an augmentation is applied."""
        return self.uniform(*shape) < probability

    again = uniform


class Given(Seeded):
    """Draws that were made before, in order."""

    def __init__(self, draws: list[Tensor]):
        self.draws = list(draws)

    def uniform(self, *shape: int) -> Tensor:
        return self.draws.pop(0).reshape(shape)

    normal = again = uniform


class Percentile(Seeded):
    """Every augmentation at one percentile of its amounts: the same for each picture, and all applied. Normals are as the release's, a factor sqrt 2 less."""

    def __init__(self, q: float):
        self.q = q

    def uniform(self, *shape: int) -> Tensor:
        return torch.full(shape, self.q)

    def normal(self, *shape: int) -> Tensor:
        return torch.erfinv(2 * self.uniform(*shape) - 1)

    def opens(self, probability: float, *shape: int) -> Tensor:
        return torch.ones(shape, dtype=torch.bool)

    def again(self, *shape: int) -> Tensor:
        """A second uniform of one kind is in the middle."""
        return torch.full(shape, 0.5)


class Adaptive:
    """The probability p of augmentation, moved every `interval` batches by how sure the discriminator is of real pictures. A Run keeps it."""

    def __init__(self, p: float, target: float | None, kimg: float = 500.0, interval: int = 4):
        self.p, self.target, self.kimg, self.interval = p, target, kimg, interval
        self.sign, self.batches = 0.0, 0

    def see(self, sign: float, batch: int) -> None:
        """The mean sign of D(real) of a batch of so many pictures; without a target p stays."""
        self.sign, self.batches = self.sign + sign, self.batches + 1
        if self.target is not None and self.batches == self.interval:
            self.p = next_probability(self.p, self.sign / self.batches, self.target, batch, self.interval, self.kimg)
            self.sign, self.batches = 0.0, 0

    def state_dict(self) -> dict[str, float | int]:
        """p and what was seen since it last moved."""
        return {"p": self.p, "sign": self.sign, "batches": self.batches}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Take over what `state_dict` gave."""
        self.p, self.sign, self.batches = state["p"], state["sign"], state["batches"]


def augment(pictures: Tensor, how: Augmentations, p: float, draws: Seeded) -> Tensor:
    """Pictures (N, C, H, W), C = 1, 3 or 6, each augmented with probability p of each kind."""
    count, channels, height, width = pictures.shape
    warp = geometry(count, height, width, how, p, draws)
    if warp is not None:
        pictures = warped(pictures, warp.to(pictures))
    colors = color(count, channels, how, p, draws)
    if colors is not None:
        pictures = recolored(pictures, colors.to(pictures))
    if how.imgfilter:
        pictures = filtered(pictures, band_gains(count, how, p, draws).to(pictures))
    if how.noise:
        spread = torch.where(draws.opens(how.noise * p, count), draws.normal(count).abs() * how.noise_std, 0.0).to(pictures)
        pictures = pictures + draws.normal(*pictures.shape).to(pictures) * spread.view(-1, 1, 1, 1)
    if how.cutout:
        size = torch.where(draws.opens(how.cutout * p, count), how.cutout_size, 0.0).to(pictures)
        pictures = pictures * cutout(size, draws.uniform(count, 2).to(pictures), height, width)
    return pictures


# Geometry

def geometry(count: int, height: int, width: int, how: Augmentations, p: float, draws: Seeded) -> Tensor | None:
    """The warps (N, 3, 3) from a picture's pixels, about its centre, x right and y down, to those that they are read from; None for no such augmentation."""
    warp = torch.eye(3)
    gated = lambda amount, neutral, probability, *shape: torch.where(draws.opens(probability, *shape).to(amount.device), amount, neutral)
    if how.xflip:
        warp = warp @ scaling(1 - 2 * gated((draws.uniform(count) * 2).floor(), 0.0, how.xflip * p, count), 1.0)
    if how.rotate90:
        warp = warp @ rotation(math.pi / 2 * gated((draws.uniform(count) * 4).floor(), 0.0, how.rotate90 * p, count))
    if how.xint:
        x, y = gated((draws.uniform(count, 2) * 2 - 1) * how.xint_max, 0.0, how.xint * p, count, 1).unbind(-1)
        warp = warp @ translation(-(x * width).round(), -(y * height).round())
    if how.scale:
        factor = gated((draws.normal(count) * how.scale_std).exp2(), 1.0, how.scale * p, count)
        warp = warp @ scaling(1 / factor, 1 / factor)
    rotates = 1 - math.sqrt(max(1 - how.rotate * p, 0))       # twice, so that one of them comes with probability p
    if how.rotate:
        warp = warp @ rotation(gated((draws.uniform(count) * 2 - 1) * math.pi * how.rotate_max, 0.0, rotates, count))
    if how.aniso:
        factor = gated((draws.normal(count) * how.aniso_std).exp2(), 1.0, how.aniso * p, count)
        warp = warp @ scaling(1 / factor, factor)
    if how.rotate:
        warp = warp @ rotation(gated((draws.again(count) * 2 - 1) * math.pi * how.rotate_max, 0.0, rotates, count))
    if how.xfrac:
        x, y = gated(draws.normal(count, 2) * how.xfrac_std, 0.0, how.xfrac * p, count, 1).unbind(-1)
        warp = warp @ translation(-x * width, -y * height)
    return warp if warp.dim() == 3 else None


def _matrix(rows: list[list[Tensor | float]]) -> Tensor:
    """Matrices (N, n, n) of entries that are numbers or (N,)."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    return torch.stack([torch.stack([entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in row], dim=-1) for row in rows], dim=-2)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """(N, 3, 3)."""
    return _matrix([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaling(x: Tensor, y: Tensor | float) -> Tensor:
    """(N, 3, 3)."""
    return _matrix([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def rotation(angle: Tensor) -> Tensor:
    """(N, 3, 3), from x towards y."""
    c, s = angle.cos(), angle.sin()
    return _matrix([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def warped(pictures: Tensor, warp: Tensor) -> Tensor:
    """Pictures (N, C, H, W) read through warps (N, 3, 3): reflected outside, twice enlarged, read linearly, and reduced again."""
    height, width = pictures.shape[2:]
    kernel = fir_kernel(SYM6).to(pictures)
    left, right, top, bottom = margins(warp, height, width)
    x = upsample2d(F.pad(pictures, (left, right, top, bottom), mode="reflect"), kernel, up=2)
    places = lambda size: (torch.arange(2 * (size + 2 * RIM), device=x.device, dtype=x.dtype) + 0.5) / 2 - (size / 2 + RIM) + QUARTER
    rows, columns = torch.meshgrid(places(height), places(width), indexing="ij")
    read = torch.stack([columns, rows], dim=-1).flatten(0, 1) @ warp[:, :2, :2].transpose(1, 2) + warp[:, None, :2, 2] - QUARTER
    shift = read.new_tensor([left - right, top - bottom]) / 2
    span = read.new_tensor([width + left + right, height + top + bottom]) / 2
    grid = ((read + shift) / span).unflatten(1, rows.shape)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return downsample2d(x, kernel, down=2, padding=-2 * RIM, flip=True)


def margins(warp: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """How far (left, right, top, bottom) the warps read beyond the pictures, at most their size less one; more changes nothing."""
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = warp.new_tensor([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]]) @ warp[:, :2].transpose(1, 2)
    low, high = corners.amin(dim=(0, 1)), corners.amax(dim=(0, 1))
    left, top = (2 * RIM - low - low.new_tensor([x, y])).ceil().int().tolist()
    right, bottom = (2 * RIM + high - high.new_tensor([x, y])).ceil().int().tolist()
    held = lambda margin, size: min(max(margin, 0), size - 1)
    return held(left, width), held(right, width), held(top, height), held(bottom, height)


# Colour

def color(count: int, channels: int, how: Augmentations, p: float, draws: Seeded) -> Tensor | None:
    """The maps (N, 4, 4) of homogeneous colours; None for no such augmentation. Gray pictures have neither hue nor saturation."""
    matrix = torch.eye(4)
    gray = torch.full((3, 3), 1 / 3)                          # v v^T of the axis of grays v
    gated = lambda amount, neutral, probability: torch.where(draws.opens(probability, count).to(amount.device), amount, neutral)
    if how.brightness:
        shift = gated(draws.normal(count) * how.brightness_std, 0.0, how.brightness * p)
        matrix = _affine(torch.eye(3).expand(count, 3, 3), shift) @ matrix
    if how.contrast:
        factor = gated((draws.normal(count) * how.contrast_std).exp2(), 1.0, how.contrast * p)
        matrix = _affine(torch.eye(3).to(factor) * factor.view(-1, 1, 1)) @ matrix
    if how.lumaflip:
        flips = gated((draws.uniform(count) * 2).floor(), 0.0, how.lumaflip * p)
        matrix = _affine(torch.eye(3).to(flips) - 2 * gray.to(flips) * flips.view(-1, 1, 1)) @ matrix
    if how.hue and channels > 1:
        angle = gated((draws.uniform(count) * 2 - 1) * math.pi * how.hue_max, 0.0, how.hue * p)
        matrix = _affine(_about_gray(angle)) @ matrix
    if how.saturation and channels > 1:
        factor = gated((draws.normal(count) * how.saturation_std).exp2(), 1.0, how.saturation * p)
        matrix = _affine(gray.to(factor) + (torch.eye(3) - gray).to(factor) * factor.view(-1, 1, 1)) @ matrix
    return matrix if matrix.dim() == 3 else None


def _affine(linear: Tensor, shift: Tensor | None = None) -> Tensor:
    """(N, 4, 4) of linear maps (N, 3, 3) and one shift (N,) for all channels."""
    matrix = F.pad(linear, (0, 1, 0, 1))
    corner = torch.zeros(len(linear), 4, 4, device=linear.device)
    corner[:, 3, 3] = 1
    if shift is not None:
        corner[:, :3, 3] = shift[:, None]
    return matrix + corner


def _about_gray(angle: Tensor) -> Tensor:
    """Rotations (N, 3, 3) about the axis of grays (Rodrigues)."""
    v = 3**-0.5
    cross = torch.tensor([[0.0, -v, v], [v, 0.0, -v], [-v, v, 0.0]]).to(angle)
    c, s = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    return c * torch.eye(3).to(angle) + s * cross + (1 - c) / 3


def recolored(pictures: Tensor, matrix: Tensor) -> Tensor:
    """Pictures (N, C, H, W) of 1 channel, or of 3 or 6, three by three, through maps (N, 4, 4)."""
    flat = pictures.flatten(2)
    if pictures.shape[1] == 1:
        mean = matrix[:, :3].mean(dim=1, keepdim=True)
        flat = flat * mean[..., :3].sum(-1, keepdim=True) + mean[..., 3:]
    else:
        flat = (matrix[:, None, :3, :3] @ flat.unflatten(1, (-1, 3)) + matrix[:, None, :3, 3:]).flatten(1, 2)
    return flat.view_as(pictures)


# Bands of frequencies, and holes

def filter_bank() -> Tensor:
    """The taps (4, 43) of four bands of frequencies, low to high, which add up to one pixel: made of the wavelet sym2."""
    root = math.sqrt(3)
    low = torch.tensor([1 - root, 3 - root, 3 + root, 1 + root], dtype=torch.float64) / (4 * math.sqrt(2))
    high = low * torch.tensor([1.0, -1.0, 1.0, -1.0])
    low, high = (_convolved(taps[None], taps.flip(0))[0] / 2 for taps in (low, high))
    bank = torch.eye(4, 1, dtype=torch.float64)
    for band in range(1, 4):
        spread = torch.zeros(4, 2 * bank.shape[1] - 1, dtype=torch.float64)
        spread[:, ::2] = bank
        bank = _convolved(spread, low)
        rim = (bank.shape[1] - len(high)) // 2
        bank[band, rim:rim + len(high)] += high
    return bank.float()


def _convolved(rows: Tensor, taps: Tensor) -> Tensor:
    return F.conv1d(rows[:, None], taps.flip(0)[None, None], padding=len(taps) - 1)[:, 0]


def band_gains(count: int, how: Augmentations, p: float, draws: Seeded) -> Tensor:
    """What each of the four bands is multiplied by (N, 4), such that natural pictures keep their power."""
    gains, power = torch.ones(count, 4), torch.tensor(POWER)
    for band, strength in enumerate(how.imgfilter_bands):
        amount = (draws.normal(count) * how.imgfilter_std).exp2()
        amount = torch.where(draws.opens(how.imgfilter * p * strength, count).to(amount.device), amount, 1.0)
        own = torch.ones(count, 4, device=amount.device)
        own[:, band] = amount
        gains = gains.to(own) * own / (power.to(own) * own.square()).sum(-1, keepdim=True).sqrt()
    return gains


def filtered(pictures: Tensor, gains: Tensor) -> Tensor:
    """Pictures (N, C, H, W) with their bands times gains (N, 4), reflected outside."""
    count, channels, height, width = pictures.shape
    taps = (gains @ filter_bank().to(gains)).repeat_interleave(channels, dim=0)[:, None]
    rim = taps.shape[-1] // 2
    x = F.pad(pictures, (rim,) * 4, mode="reflect").reshape(1, count * channels, height + 2 * rim, width + 2 * rim)
    x = F.conv2d(F.conv2d(x, taps[..., None], groups=count * channels), taps[:, :, None], groups=count * channels)
    return x.view_as(pictures)


def cutout(size: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """Masks (N, 1, H, W), 0 in a rectangle of `size` (N,) of the picture about `center` (N, 2)."""
    places = lambda length: (torch.arange(length, device=size.device) + 0.5) / length
    outside = lambda line, middle: (line - middle[:, None]).abs() >= size[:, None] / 2
    x, y = outside(places(width), center[:, 0]), outside(places(height), center[:, 1])
    return (x[:, None, None] | y[:, None, :, None]).to(size)
