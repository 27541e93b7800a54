"""Super-resolution: the rendered features to the picture, two StyleGAN2 blocks (EG3D, section 4.2).

    picture = SuperResolution("SuperresolutionHybrid8XDC")(rgb, features, ws)            (N, 3, 512, 512)
"""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from common.layers.stylegan2_blocks import Noise, SynthesisBlock
from op3d.backbone import FEATURES

HALF_CLAMP = 256.0                                            # of blocks that may run in half precision


@dataclass(frozen=True)
class Kind:
    """Sides of what goes in and of the picture, channels of the two blocks; `enlarges` what comes smaller, but leaves what is larger."""

    input: int
    output: int
    widths: tuple[int, int]
    enlarges: bool = False
    antialias: bool = True


KINDS = {
    "SuperresolutionHybrid8XDC": Kind(128, 512, (256, 128)),
    "SuperresolutionHybrid8X": Kind(128, 512, (128, 64)),
    "SuperresolutionHybrid4X": Kind(128, 256, (128, 64), enlarges=True),
    "SuperresolutionHybrid2X": Kind(64, 128, (128, 64)),
    "SuperresolutionHybridDeepfp32": Kind(128, 256, (128, 64), enlarges=True, antialias=False),
}


class SuperResolution(nn.Module):
    """One of the published modules by name; in half precision on a GPU where `half`, and then clamped everywhere."""

    def __init__(self, name: str, half: bool = True, antialias: bool = True):
        super().__init__()
        self.kind = kind = KINDS[name]
        how = {"clamp": HALF_CLAMP if half else None, "half": half}
        self.block0 = SynthesisBlock(FEATURES, kind.widths[0], 512, kind.output // 2, up=kind.output // 2 != kind.input, **how)
        self.block1 = SynthesisBlock(kind.widths[0], kind.widths[1], 512, kind.output, **how)
        self.antialias = antialias and kind.antialias

    def forward(self, rgb: Tensor, x: Tensor, ws: Tensor, noise: Noise = "none") -> Tensor:
        """Pictures (N, 3, R, R) of raw ones rgb (N, 3, h, h), their features x (N, 32, h, h), and ws (N, L, 512), of which the last counts."""
        side = x.shape[-1]
        if side < self.kind.input or (side > self.kind.input and not self.kind.enlarges):
            x, rgb = (resized(picture, self.kind.input, self.antialias) for picture in (x, rgb))
        ws = ws[:, -1:].expand(-1, 3, -1)
        x, rgb = self.block0(x, rgb, ws, noise)
        return self.block1(x, rgb, ws, noise)[1]


def resized(pictures: Tensor, side: int, antialias: bool = True) -> Tensor:
    """Pictures (N, C, H, W) at side x side, bilinear."""
    return F.interpolate(pictures, size=(side, side), mode="bilinear", align_corners=False, antialias=antialias)
