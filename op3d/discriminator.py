"""EG3D's discriminator: the picture and the rendered one together, so that they agree ("dual discrimination", EG3D, section 4.3), conditioned on labels.

    logits = Discriminator(512)(pictures, raw_pictures, labels)             (B, 1)
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from common.layers.fir import downsample2d, upsample2d
from common.layers.stylegan2 import Mapping, MappingShape
from common.layers.stylegan2_blocks import DiscriminatorBlock, Epilogue
from op3d.backbone import FIRST_SIDE, block_sides, half_from, widths
from op3d.superresolution import resized

Mode = str | float


class Discriminator(nn.Module):
    """StyleGAN2's residual discriminator of pictures of `side` pixels.

    Arguments: numbers of a label (0: none), channels (see `backbone.widths`), the largest blocks in half precision, the activations' bound, the group of the
    minibatch statistics, and how many layers from the pictures on are not trained (Freeze-D, Mo et al. 2020). `dual`: it also sees the raw pictures.
    """

    def __init__(self, side: int, label_dim: int = 25, cbase: int = 24576, cmax: int = 384, half_blocks: int = 4, clamp: float | None = 256.0,
                 group: int | None = 4, frozen: int = 0, map_depth: int = 8, dual: bool = True):
        super().__init__()
        channels, half_side, inputs = widths(side, cbase, cmax), half_from(side, half_blocks), 0
        self.blocks = []
        for s in reversed(block_sides(side)[1:]):
            block = DiscriminatorBlock(inputs, channels[s], channels[s // 2], 6 if dual else 3, clamp=clamp, half=s >= half_side)
            self.add_module(f"b{s}", block)
            self.blocks.append(block)
            inputs = channels[s // 2]
        last = channels[FIRST_SIDE]
        if label_dim:
            self.mapping = Mapping(MappingShape(0, label_dim, last, map_depth), average=False)
        self.b4 = Epilogue(last, last if label_dim else 0, FIRST_SIDE, group=group, clamp=clamp)
        self.side, self.dual = side, dual
        self._freeze(frozen)

    def _freeze(self, count: int) -> None:
        layers = [layer for block in self.blocks for name in ("fromrgb", "conv0", "conv1", "skip") if (layer := getattr(block, name, None)) is not None]
        for layer in layers[:count]:
            layer.requires_grad_(False)

    def forward(self, pictures: Tensor, raw: Tensor, labels: Tensor | None) -> Tensor:
        """Logits (B, 1) of pictures (B, 3, R, R), raw ones (B, 3, n, n) and labels (B, L)."""
        x, image = None, self.seen(pictures, raw)
        for block in self.blocks:
            x, image = block(x, image)
        return self.b4(x, image, self.mapping(None, labels) if hasattr(self, "mapping") else None)

    def seen(self, pictures: Tensor, raw: Tensor) -> Tensor:
        """What goes in (B, 6, R, R): the pictures and the raw ones at their size."""
        return torch.cat([pictures, resized(raw, self.side)], dim=1) if self.dual else pictures


def filtered_resizing(pictures: Tensor, side: int, kernel: Tensor, mode: Mode = "antialiased") -> Tensor:
    """Pictures (N, C, H, W) at side x side: "antialiased" or "none" (plain) bilinear, "classic" through the filter at twice the size, or a number: that share
    of the antialiased one and the rest of the plain one."""
    if mode == "antialiased":
        return resized(pictures, side)
    if mode == "classic":
        large = resized(upsample2d(pictures, kernel, up=2), 2 * side + 2, antialias=False)
        return downsample2d(large, kernel, down=2, flip=True, padding=-1)
    if mode == "none":
        return resized(pictures, side, antialias=False)
    return torch.lerp(resized(pictures, side, antialias=False), resized(pictures, side), float(mode))
