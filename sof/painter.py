"""SofGAN's portrait generator: a label map says what is where, style codes say how it looks (SofGAN, section 4; published key names).

    labels = condition_labels(sof_labels)                       SOF's 20 classes -> the painter's 17
    plan = painter.plan(labels)                                 once per label map: what the networks make of it
    codes = style_codes(painter, [0, 1], psi=0.7)               (2, L, D), of sof.styles
    pictures = painter(plan, codes[:, None])                    (2, 3, R, R), about [-1, 1]

StyleGAN2 whose constant input is an encoding of the label map, and whose layers of 64, 128 and 256 pixels are modulated by it once more (SPADE).
Several styles in one picture, blended by a mask: `painter(plan, codes[None], mask)` with codes (1, K, L, D) and mask (1, K, H, W).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.checkpoint import load_strict, open_checkpoint
from common.errors import InputError
from common.labels import PAINTER_LABELS, SOF_TO_PAINTER
from common.layers.fir import fir_kernel, upfirdn2d
from common.layers.stylegan2 import EqualConv2d, EqualLinear, conv2d_per_sample, leaky_relu, modulated_weights, unit_second_moment
from common.published import tensors

LABEL_SIDE, ENCODER_SIDE, FIRST_SIDE = 128, 32, 4             # label maps are resized to the first, encoded from the second down to the third
MODULATED_SIDES = (64, 128, 256)                              # layers that the label map modulates
MOST_DOUBLINGS, MOST_NUMBERS = 9, 2**28                       # that a file may ask for; the published painter has 8 and 2^25
MAPPING_LR = 0.01


@dataclass(frozen=True)
class PainterConfig:
    """What shapes the painter; all of it can be read from a checkpoint but `split_norm`.

    widths: channels at 4, 8, 16, ... pixels; `split_norm`: the mapping normalises each half of its input by itself, as in training.
    """

    widths: tuple[int, ...]
    style_dim: int = 512
    mapping_layers: int = 8
    split_norm: bool = True
    classes: int = len(PAINTER_LABELS)
    encoder: tuple[int, ...] = (32, 64, 128)
    spade: int = 128


def published_widths(resolution: int, channel_multiplier: int = 2) -> tuple[int, ...]:
    """Channels at 4, 8, ... `resolution` pixels: 512 up to 32 pixels, then 16384 `channel_multiplier` / side; the release paints at 1024 with 2."""
    return tuple(512 if side <= 32 else 16384 * channel_multiplier // side for side in (2**k for k in range(2, resolution.bit_length())))


class Blur(nn.Module):
    """Padding on all sides, then the low-pass filter [1, 3, 3, 1]. The filter is a constant: checkpoints may hold it or not."""

    def __init__(self, padding: tuple[int, int, int, int], up: int = 1):
        super().__init__()
        self.register_buffer("kernel", fir_kernel(gain=up**2), persistent=False)
        self.padding = padding

    def forward(self, x: Tensor, up: int = 1) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return upfirdn2d(x, self.kernel, up=up, padding=self.padding)


class Activation(nn.Module):
    """`leaky_relu` with its bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.bias)


class DownBlock(nn.Module):
    """Residual block of the label encoder, to half the side."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Sequential(EqualConv2d(inputs, inputs, 3, padding=1), Activation(inputs))
        self.conv2 = nn.Sequential(Blur((2, 2, 2, 2)), EqualConv2d(inputs, outputs, 3, stride=2), Activation(outputs))
        self.skip = nn.Sequential(Blur((1, 1, 1, 1)), EqualConv2d(inputs, outputs, 1, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, S, S) -> (N, out, S/2, S/2)."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class Spade(nn.Module):
    """Scale and shift per pixel and channel from a one-hot label map."""

    def __init__(self, classes: int, hidden: int, channels: int):
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(classes, hidden, 3, padding=1), nn.LeakyReLU(0.2))
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, one_hot: Tensor) -> tuple[Tensor, Tensor]:
        """(N, classes, S, S) -> scale 1 + gamma and shift beta, both (N, C, S, S)."""
        hidden = self.mlp_shared(one_hot)
        return 1 + self.mlp_gamma(hidden), self.mlp_beta(hidden)


class ModulatedConv2d(nn.Module):
    """Convolution whose filters each style code modulates; the results of several codes are blended by their masks."""

    def __init__(self, inputs: int, outputs: int, side: int, style_dim: int, up: int = 1, demodulate: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, side, side))
        self.modulation = EqualLinear(style_dim, inputs, bias=1.0)
        self.blur = Blur((1, 1, 1, 1), up) if up > 1 else nn.Identity()
        self.up, self.demodulate = up, demodulate

    def forward(self, x: Tensor, codes: Tensor, mask: Tensor | None) -> Tensor:
        """x (N, in, S, S), codes (N, K, D), mask (N, K, up S, up S), None for K = 1 -> (N, out, up S, up S)."""
        weight, styles = self.weight[0] * self.weight[0, 0].numel() ** -0.5, self.modulation(codes)
        weights = modulated_weights(weight, styles.flatten(0, 1), self.demodulate).unflatten(0, styles.shape[:2])
        y = self.blur(conv2d_per_sample(x, weights.flatten(1, 2), self.up))
        return y if mask is None else (y.unflatten(1, weights.shape[1:3]) * mask[:, :, None]).sum(dim=1)


class Noise(nn.Module):
    """Adds weighted noise."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight * noise


class StyledConv(nn.Module):
    """Modulated convolution, noise, activation; with `spade` (classes, hidden) a modulation by the label map after it."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, up: int = 1, spade: tuple[int, int] | None = None):
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_dim, up)
        self.noise = Noise()
        self.activate = Activation(outputs)
        if spade:
            self.segEncoder = Spade(*spade, outputs)

    def forward(self, x: Tensor, codes: Tensor, mask: Tensor | None, noise: Tensor, spade: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x (N, in, S, S) -> (N, out, up S, up S); `spade` is what this layer's Spade makes of the label map."""
        x = self.activate(self.noise(self.conv(x, codes, mask), noise))
        return x if spade is None else x * spade[0] + spade[1]


class ToRGB(nn.Module):
    """Features to colours, added to the colours so far at twice their size."""

    def __init__(self, inputs: int, style_dim: int, first: bool = False):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = ModulatedConv2d(inputs, 3, 1, style_dim, demodulate=False)
        if not first:
            self.upsample = Blur((2, 1, 2, 1), up=2)

    def forward(self, x: Tensor, codes: Tensor, mask: Tensor | None, image: Tensor | None = None) -> Tensor:
        """x (N, in, S, S), image (N, 3, S/2, S/2) -> (N, 3, S, S)."""
        rgb = self.conv(x, codes, mask) + self.bias
        return rgb if image is None else rgb + self.upsample(image, up=2)


class PixelNorm(nn.Module):
    """`unit_second_moment` of each of `parts` equal parts of a code."""

    def __init__(self, parts: int):
        super().__init__()
        self.parts = parts

    def forward(self, z: Tensor) -> Tensor:
        return unit_second_moment(z.unflatten(-1, (self.parts, -1))).flatten(-2)


@dataclass(frozen=True)
class Plan:
    """What the painter makes of label maps: its first features (N, C, 4, 4), and scale and shift of each layer that they modulate."""

    features: Tensor
    spades: dict[int, tuple[Tensor, Tensor]]


class Painter(nn.Module):
    """The generator; L = 2 (layers of sides) style codes of D numbers paint one picture of R x R pixels."""

    def __init__(self, config: PainterConfig):
        super().__init__()
        self.config, widths, dim = config, config.widths, config.style_dim
        mapping = [EqualLinear(dim, dim, lr_mul=MAPPING_LR, activation="lrelu") for _ in range(config.mapping_layers)]
        self.style = nn.Sequential(PixelNorm(2 if config.split_norm else 1), *mapping)
        self.segEncoder = nn.Sequential(*(DownBlock(a, b) for a, b in pairwise((config.classes, *config.encoder))))
        self.conv1 = StyledConv(config.encoder[-1], widths[0], dim)
        self.to_rgb1 = ToRGB(widths[0], dim, first=True)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList(ToRGB(width, dim) for width in widths[1:])
        for level, (a, b) in enumerate(pairwise(widths), start=1):
            spade = (config.classes, config.spade) if FIRST_SIDE << level in MODULATED_SIDES else None
            self.convs.extend([StyledConv(a, b, dim, up=2, spade=spade), StyledConv(b, b, dim)])
        self.noises = nn.Module()
        for k in range(len(self.convs) + 1):
            side = FIRST_SIDE << (k + 1) // 2
            self.noises.register_buffer(f"noise_{k}", torch.randn(1, 1, side, side))

    @property
    def resolution(self) -> int:
        """The side R of the pictures."""
        return FIRST_SIDE << len(self.to_rgbs)

    @property
    def device(self) -> torch.device:
        """Where it paints."""
        return self.to_rgb1.bias.device

    @property
    def code_count(self) -> int:
        """The number L of codes of one style: one per layer."""
        return len(self.convs) + 2

    def plan(self, labels: Tensor) -> Plan:
        """The plan of label maps (N, H, W), 0 ... classes - 1."""
        small = F.interpolate(labels[:, None].float(), size=(LABEL_SIDE, LABEL_SIDE), mode="nearest")[:, 0]
        one_hot = F.one_hot(small.long(), self.config.classes).permute(0, 3, 1, 2).float()
        spades = {k: conv.segEncoder(resized(one_hot, FIRST_SIDE << (k + 2) // 2)) for k, conv in enumerate(self.convs) if hasattr(conv, "segEncoder")}
        return Plan(self.segEncoder(resized(one_hot, ENCODER_SIDE)), spades)

    def forward(self, plan: Plan, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pictures (N, 3, R, R), about [-1, 1], of codes (N, K, L, D) on the plan of N label maps, or of one for all.

        mask (N or 1, K, H, W) says how much each of K styles counts at each pixel, used as it is; needed where K > 1. The noise is the buffers'.
        """
        assert (mask is None) == (codes.shape[1] == 1), "a mask goes with several styles"
        noises = list(self.noises.buffers())
        x = plan.features.expand(len(codes), -1, -1, -1)
        at_side = None if mask is None else resized(mask, FIRST_SIDE)
        x = self.conv1(x, codes[:, :, 0], at_side, noises[0])
        image = self.to_rgb1(x, codes[:, :, 1], at_side)
        for k in range(0, len(self.convs), 2):
            at_side = None if mask is None else resized(mask, 2 * x.shape[-1])
            x = self.convs[k](x, codes[:, :, k + 1], at_side, noises[k + 1], plan.spades.get(k))
            x = self.convs[k + 1](x, codes[:, :, k + 2], at_side, noises[k + 2])
            image = self.to_rgbs[k // 2](x, codes[:, :, k + 3], at_side, image)
        return image


def resized(pictures: Tensor, side: int) -> Tensor:
    """Pictures (N, C, H, W) at side x side, bilinear with aligned corners; as they are where their height is `side`."""
    return pictures if pictures.shape[2] == side else F.interpolate(pictures, size=(side, side), mode="bilinear", align_corners=True)


def condition_labels(labels: Tensor) -> Tensor:
    """SOF's 20 classes -> the painter's 17, of label maps of any shape; its left and right parts become one."""
    return torch.from_numpy(SOF_TO_PAINTER).to(labels.device)[labels.long()]


# Files

def load(path: str | Path, split_norm: bool = True) -> Painter:
    """The painter of an author's file (`generator.pt`: its "g_ema") or of a bare state dict, in eval mode.

    `split_norm` False maps as the release's Painter app does. Raises InputError naming every key that is missing, unexpected or misshapen.
    """
    data = open_checkpoint(path).data
    state = tensors(data["g_ema"] if isinstance(data, dict) and "g_ema" in data else data, str(path))
    return from_state(state, split_norm, str(path))


def from_state(state: dict[str, Tensor], split_norm: bool, where: str) -> Painter:
    """The painter of a published state dict, with or without the constant blur kernels. Raises InputError naming `where`."""
    config = config_of(state, split_norm, where)
    with torch.device("meta"):                                # an empty tensor can tell of any width
        numbers = sum(tensor.numel() for tensor in Painter(config).state_dict().values())
    if numbers > MOST_NUMBERS:
        raise InputError(f"{where}: a painter of {numbers} numbers, expected at most {MOST_NUMBERS}")
    painter = Painter(config)
    for name, kernel in painter.named_buffers():
        given = state.get(name, kernel)
        if name.endswith(".kernel") and (given.shape != kernel.shape or not torch.allclose(given.float(), kernel)):
            raise InputError(f"{where}: {name}: expected the filter [1, 3, 3, 1] that sums to {kernel.sum():.0f}")
    constants = {name for name, _ in painter.named_buffers()} - painter.state_dict().keys()
    load_strict(painter, {key: value for key, value in state.items() if key not in constants}, where)
    return painter.eval()


def config_of(state: dict[str, Tensor], split_norm: bool, where: str) -> PainterConfig:
    """The configuration that the keys and shapes of a state dict tell. Raises InputError naming `where` if they are not a painter's."""
    try:
        ups = takewhile(lambda name: name in state, (f"convs.{2 * k}.conv.weight" for k in range(MOST_DOUBLINGS)))
        widths = (state["conv1.conv.weight"].shape[1], *(state[name].shape[1] for name in ups))
        spade = state.get("convs.6.segEncoder.mlp_shared.0.bias", torch.empty(PainterConfig.spade))
        return PainterConfig(
            widths=widths,
            style_dim=state["conv1.conv.modulation.weight"].shape[1],
            mapping_layers=sum(key.startswith("style.") and key.endswith(".weight") for key in state),
            split_norm=split_norm,
            classes=state["segEncoder.0.conv1.0.weight"].shape[1],
            encoder=tuple(state[f"segEncoder.{k}.skip.1.weight"].shape[0] for k in range(3)),
            spade=spade.shape[0],
        )
    except (KeyError, IndexError) as missing:
        raise InputError(f"{where}: not SofGAN's generator ({missing} is missing or misshapen among its {len(state)} tensors)") from None
