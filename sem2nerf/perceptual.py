"""How alike two pictures look: LPIPS (Zhang et al., CVPR 2018), or the same distance in the features of a face parser, which needs no download.

    distance = load("alex")          or load("pretrained/people_parser.safetensors")
    distance(x, y)                                            # (B,) of pictures (B, 3, S, S) in [-1, 1]
"""
from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from common import parser as parsers
from common.checkpoint import load_strict, open_checkpoint
from common.errors import InputError
from common.published import tensors

Distance = Callable[[Tensor, Tensor], Tensor]

ALEXNET = "alexnet-owt-7be5be79.pth"                          # torchvision's file of the trunk, as its cache names it
TAPS = (0, 2, 5, 8, 10, 12)                                   # the trunk's layers between which features are compared
EPS = 1e-10                                                   # LPIPS adds it to the norm, outside the root
LEAST_SIDE = 31                                               # pixels that AlexNet needs


class Lpips(nn.Module):
    """LPIPS v0.1 on AlexNet: `net` holds torchvision's features up to the last tap, `lin` a weight for each of their channels."""

    def __init__(self):
        from torchvision.models import alexnet

        super().__init__()
        self.net = alexnet(weights=None).features[:TAPS[-1]]
        self.lin = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in (64, 192, 384, 256, 256))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.requires_grad_(False).eval()
        for layer in self.net:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The unit-normalised features (B, C, h, w) of the five taps."""
        x, taps = (pictures - self.shift) / self.scale, []
        for start, stop in pairwise(TAPS):
            x = self.net[start:stop](x)
            taps.append(unit(x))
        return taps

    def layers(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance (B, 5) that each tap contributes."""
        pairs = zip(self.lin, self.features(x), self.features(y))
        return torch.stack([lin((a - b).square()).mean(dim=(1, 2, 3)) for lin, a, b in pairs], dim=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(x, y).sum(dim=1)


def unit(features: Tensor) -> Tensor:
    """Features (B, C, h, w) divided by their length at every place."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + EPS)


class ParserDistance(nn.Module):
    """The mean squared difference of a face parser's unit-normalised features, summed over the three depths of its trunk."""

    def __init__(self, parser: parsers.Parser):
        super().__init__()
        self.trunk = parser.network.cp.resnet.requires_grad_(False).eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return sum((unit(a) - unit(b)).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(self.trunk(x), self.trunk(y)))


# Where the weights come from

def load(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """The distance (x, y) -> (B,) by name: "alex" with the trunk from torchvision's cache, torchvision's AlexNet file, or a face parser's file.

    Raises InputError saying what to do where the weights are missing.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if name != "alex" and not Path(name).exists():
        raise InputError(f"--lpips {name}: no such file; expected alex, torchvision's {ALEXNET}, or a face parser such as pretrained/people_parser.safetensors")
    if name == "alex" and not cached.is_file():
        raise InputError(f"--lpips alex: torchvision's AlexNet is not at {cached}; put {ALEXNET} there, or give its path, or take "
                         "--lpips pretrained/people_parser.safetensors, or leave the term out by --lpips_lambda 0")
    opened = open_checkpoint(cached if name == "alex" else name)
    if opened.kind == "published" and "features.0.weight" in (state := tensors(opened.data, str(opened.path))):
        return with_trunk(state, str(opened.path)).to(device)
    return ParserDistance(parsers.load(name, device)).to(device)


def with_trunk(state: dict[str, Tensor], where: str) -> Lpips:
    """LPIPS with torchvision's AlexNet `features.*` and the heads that the lpips package brings."""
    heads = torch.load(str(files("lpips") / "weights/v0.1/alex.pth"), weights_only=True, map_location="cpu")
    trunk = {f"net.{key.removeprefix('features.')}": value for key, value in state.items() if key.startswith("features.")}
    lins = {f"lin.{key.removeprefix('lin').replace('.model.1', '')}": value for key, value in heads.items()}
    network = Lpips()
    load_strict(network, trunk | lins, where)
    return network
