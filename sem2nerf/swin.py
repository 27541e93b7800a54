"""The Swin Transformer (Liu et al., ICCV 2021) as Sem2NeRF's encoder, with the published key names.

    encoder = SwinEncoder(SwinConfig(in_chans=18))
    codes = encoder(planes)                                   # (B, C, 224, 224) -> (B, 4608): frequencies, then phases

Tokens (B, H, W, C) attend within windows of 7 x 7, shifted by half a window in every other block; between stages four neighbours become one token.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError

FAR = -100.0                                                  # added to the scores of tokens that lie side by side only because the picture was rolled
SPREAD = 0.02                                                 # standard deviation of the initial weights


@dataclass(frozen=True)
class SwinConfig:
    """The shape of an encoder; the defaults are swin_tiny_patch4_window7_224 with a head for pi-GAN's codes."""

    in_chans: int = 18
    num_classes: int = 4608
    img_size: int = 224
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.2                               # of the last block; the first is never dropped


class SwinEncoder(nn.Module):
    """Planes (B, C, S, S) to codes (B, num_classes). A new encoder says 0 whatever it sees: its head is 0."""

    def __init__(self, config: SwinConfig = SwinConfig()):
        super().__init__()
        sides = check(config)
        count = sum(config.depths)
        rates = iter([config.drop_path_rate * i / max(1, count - 1) for i in range(count)])
        widths = [config.embed_dim * 2**i for i in range(len(config.depths))]
        self.config = config
        self.patch_embed = PatchEmbed(config.in_chans, config.embed_dim, config.patch_size)
        self.layers = nn.ModuleList(
            Stage(width, heads, [next(rates) for _ in range(depth)], side, config.window_size, config.mlp_ratio, last=width == widths[-1])
            for width, heads, depth, side in zip(widths, config.num_heads, config.depths, sides))
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], config.num_classes)
        self.apply(_initialise)
        nn.init.zeros_(self.head.weight)

    def forward(self, planes: Tensor, u: Tensor | None = None) -> Tensor:
        """The codes; with uniforms u (B, 2 x blocks) under stochastic depth (Huang et al. 2016), as in training."""
        return self.head(self.pooled(self.features(planes, u)[-1]))

    def features(self, planes: Tensor, u: Tensor | None = None) -> list[Tensor]:
        """The tokens (B, H, W, C) that go into the first stage and that come out of each."""
        tokens = [self.patch_embed(planes)]
        for stage, draws in zip(self.layers, u.split([2 * depth for depth in self.config.depths], dim=1) if u is not None else [None] * len(self.layers)):
            tokens.append(stage(tokens[-1], draws))
        return tokens

    def pooled(self, tokens: Tensor) -> Tensor:
        """The mean (B, C) of the last stage's normalised tokens."""
        return self.norm(tokens).mean(dim=(1, 2))


def check(config: SwinConfig) -> list[int]:
    """The sides of the stages' grids of tokens. Raises InputError for a picture that the windows do not tile."""
    sides = [config.img_size // config.patch_size // 2**i for i in range(len(config.depths))]
    whole = config.img_size == sides[-1] * config.patch_size * 2 ** (len(sides) - 1)
    if not whole or any(side % min(side, config.window_size) for side in sides) or not sides[-1]:
        raise InputError(f"--src_input_size {config.img_size}: expected a multiple of {config.patch_size * 2 ** (len(sides) - 1) * config.window_size}, "
                         f"which {len(sides)} stages of windows of {config.window_size} tile")
    if len(config.depths) != len(config.num_heads):
        raise InputError(f"--num_heads: {len(config.num_heads)} numbers for the {len(config.depths)} stages of --depths")
    for i, heads in enumerate(config.num_heads):
        if config.embed_dim * 2**i % heads:
            raise InputError(f"--num_heads: {heads} heads do not share the {config.embed_dim * 2**i} channels of stage {i}")
    return sides


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=SPREAD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class PatchEmbed(nn.Module):
    """Squares of pixels to tokens: (B, C, S, S) -> (B, S / patch, S / patch, width)."""

    def __init__(self, inputs: int, width: int, patch: int):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(inputs, width, patch, patch), nn.LayerNorm(width)

    def forward(self, planes: Tensor) -> Tensor:
        return self.norm(self.proj(planes).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks at one resolution, every second one shifted, and the merging that follows all but the last stage."""

    def __init__(self, width: int, heads: int, rates: list[float], side: int, window: int, mlp_ratio: float, last: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, side, window, window // 2 * (i % 2), mlp_ratio, rate) for i, rate in enumerate(rates))
        self.downsample = None if last else PatchMerging(width)

    def forward(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        for block, draws in zip(self.blocks, u.split(2, dim=1) if u is not None else [None] * len(self.blocks)):
            x = block(x, draws)
        return x if self.downsample is None else self.downsample(x)


class PatchMerging(nn.Module):
    """Four neighbouring tokens to one of twice the width, column by column: (B, H, W, C) -> (B, H / 2, W / 2, 2 C)."""

    def __init__(self, width: int):
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * width, 2 * width, bias=False), nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        neighbours = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(neighbours, dim=-1)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on tokens (B, side, side, width)."""

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int, mlp_ratio: float = 4.0, drop_path: float = 0.0):
        super().__init__()
        self.window, self.shift, self.drop_path = min(window, side), 0 if side <= window else shift, drop_path
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = WindowAttention(width, heads, self.window), Mlp(width, int(width * mlp_ratio))
        self.register_buffer("attn_mask", shift_mask(side, self.window, self.shift) if self.shift else None)

    def forward(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        keep = (None, None) if u is None else (torch.floor(1 - self.drop_path + u) / (1 - self.drop_path)).unbind(dim=1)
        x = x + _kept(self.attend(self.norm1(x)), keep[0])
        return x + _kept(self.mlp(self.norm2(x)), keep[1])

    def attend(self, x: Tensor) -> Tensor:
        """Attention within the windows of the rolled grid."""
        roll = lambda x, by: torch.roll(x, (by, by), dims=(1, 2)) if by else x
        return roll(join(self.attn(windows(roll(x, -self.shift), self.window), self.attn_mask), x.shape[1]), self.shift)


def _kept(branch: Tensor, keep: Tensor | None) -> Tensor:
    return branch if keep is None else branch * keep[:, None, None, None]


class Mlp(nn.Module):
    """Two linear layers and a GELU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class WindowAttention(nn.Module):
    """Attention among the N = window^2 tokens of each window, with a learned bias for every offset between two of them."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=SPREAD)
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, windows, N, C) of (B, windows, N, C); mask (windows, N, N) is added to the scores."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias if mask is None else bias + mask[:, None]
        return self.proj(F.scaled_dot_product_attention(q, k, v, bias).transpose(2, 3).flatten(3))


# Windows

def windows(x: Tensor, side: int) -> Tensor:
    """The windows (B, number, side^2, C) of a grid (B, H, W, C), row by row."""
    return x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join(x: Tensor, height: int) -> Tensor:
    """The grid (B, H, W, C) of its windows (B, number, side^2, C); the inverse of `windows`."""
    side = int(x.shape[2] ** 0.5)
    return x.unflatten(2, (side, side)).unflatten(1, (height // side, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_position_index(side: int) -> Tensor:
    """(N, N) int64: the row of the bias table for a query (row) and a key (column), by their offset."""
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), dim=-1).flatten(0, 1)
    dy, dx = (place[:, None] - place[None] + side - 1).unbind(-1)
    return dy * (2 * side - 1) + dx


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """(windows, N, N): 0 between tokens of one region of the rolled grid, -100 between those of two."""
    span = torch.bucketize(torch.arange(side), torch.tensor([side - window, side - shift]), right=True)
    region = windows((3 * span[:, None] + span)[None, :, :, None], window)[0, :, :, 0]
    return torch.where(region[:, :, None] == region[:, None], 0.0, FAR)
