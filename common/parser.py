"""The face parser: pictures of people to label maps, by BiSeNet (Yu et al. 2018; SofGAN's `segNet-20Class.pth`, published key names) of any width.

    parser = load("pretrained/people_parser.safetensors")       or an author's file
    labels = parse(parser, pictures)                            (N, H, W) uint8 of pictures (N, H, W, 3) uint8
    describe(parser, pictures)                                  (N, F): features for the Frechet distance called FD_people (never FID)
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.checkpoint import load_strict, open_checkpoint
from common.chunks import in_chunks
from common.errors import InputError
from common.labels import SOF_LABELS
from common.published import tensors

PUBLISHED_WIDTH, PUBLISHED_SIDE, WIDEST = 64, 512, 256
PICTURES = 8                                                  # parsed at once


class Block(nn.Module):
    """ResNet's basic block: two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class ResNet18(nn.Module):
    """The trunk, with w channels in its first stage."""

    def __init__(self, w: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w)
        self.layer1 = nn.Sequential(Block(w, w, 1), Block(w, w, 1))
        self.layer2 = nn.Sequential(Block(w, 2 * w, 2), Block(2 * w, 2 * w, 1))
        self.layer3 = nn.Sequential(Block(2 * w, 4 * w, 2), Block(4 * w, 4 * w, 1))
        self.layer4 = nn.Sequential(Block(4 * w, 8 * w, 2), Block(8 * w, 8 * w, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> features of an eighth (2w channels), a sixteenth (4w) and a 32nd (8w) of the side."""
        x = self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        f8 = self.layer2(x)
        f16 = self.layer3(f8)
        return f8, f16, self.layer4(f16)


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, side: int = 3):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Refinement(nn.Module):
    """Attention refinement: features times a gate per channel, made of their own mean."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = ConvBNReLU(inputs, outputs)
        self.conv_atten, self.bn_atten = nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * torch.sigmoid(self.bn_atten(self.conv_atten(mean(y))))


class ContextPath(nn.Module):
    """What is around: the trunk's deep features, refined and brought up to an eighth of the side."""

    def __init__(self, w: int):
        super().__init__()
        self.resnet = ResNet18(w)
        self.arm16, self.arm32 = Refinement(4 * w, 2 * w), Refinement(8 * w, 2 * w)
        self.conv_head32, self.conv_head16 = ConvBNReLU(2 * w, 2 * w), ConvBNReLU(2 * w, 2 * w)
        self.conv_avg = ConvBNReLU(8 * w, 2 * w, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shallow features and context of an eighth of the side, context of a sixteenth; all of 2w channels."""
        f8, f16, f32 = self.resnet(x)
        t = self.conv_head32(resized(self.arm32(f32) + self.conv_avg(mean(f32)), f16))
        return f8, self.conv_head16(resized(self.arm16(f16) + t, f8)), t


class Fusion(nn.Module):
    """Joins shallow and deep features, with a gate per channel."""

    def __init__(self, w: int):
        super().__init__()
        self.convblk = ConvBNReLU(4 * w, 4 * w, 1)
        self.conv1, self.conv2 = nn.Conv2d(4 * w, w, 1, bias=False), nn.Conv2d(w, 4 * w, 1, bias=False)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        y = self.convblk(torch.cat([shallow, deep], dim=1))
        return y * torch.sigmoid(self.conv2(F.relu(self.conv1(mean(y))))) + y


class Head(nn.Module):
    """Features to class scores."""

    def __init__(self, inputs: int, hidden: int, classes: int):
        super().__init__()
        self.conv, self.conv_out = ConvBNReLU(inputs, hidden), nn.Conv2d(hidden, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """Class scores of every pixel; `width` 64 is the published network, whose two further heads only training uses."""

    def __init__(self, classes: int = len(SOF_LABELS), width: int = PUBLISHED_WIDTH):
        super().__init__()
        self.cp, self.ffm = ContextPath(width), Fusion(width)
        self.conv_out = Head(4 * width, 4 * width, classes)
        self.conv_out16, self.conv_out32 = Head(2 * width, width, classes), Head(2 * width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] -> scores (N, classes, H, W)."""
        return resized(self.conv_out(self.ffm(*self.cp(x)[:2])), x)

    def all_scores(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For training: the scores and those of the two further heads, all of an eighth of the side but the last, of a sixteenth."""
        shallow, u, t = self.cp(x)
        return self.conv_out(self.ffm(shallow, u)), self.conv_out16(u), self.conv_out32(t)


def mean(x: Tensor) -> Tensor:
    """(N, C, 1, 1) over the picture."""
    return x.mean(dim=(2, 3), keepdim=True)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """x at the size of `like`, bilinear with aligned corners."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


# Use

@dataclass(frozen=True)
class Parser:
    """A network and the side of the pictures that it was trained on."""

    network: BiSeNet
    side: int

    @property
    def classes(self) -> int:
        """How many labels it tells apart."""
        return self.network.conv_out.conv_out.out_channels


def load(path: str | Path, device: torch.device | str = "cpu") -> Parser:
    """The parser of a run folder, a file of ours or the authors' state dict, in eval mode. Raises InputError naming what is missing or does not fit."""
    opened = open_checkpoint(path)
    if opened.kind == "ours":
        state, side = opened.data.get("model", {}), opened.config.get("side")
        if not isinstance(side, int):
            raise InputError(f"{path}: not a parser: its options name no side")
    else:
        state, side = tensors(opened.data, str(path)), PUBLISHED_SIDE
    return Parser(from_state(state, str(path)).to(device), side)


def from_state(state: dict[str, Tensor], where: str) -> BiSeNet:
    """The network of a state dict, with or without the counters of its batch norms, in eval mode; width and classes are read from it."""
    try:
        classes, width = state["conv_out.conv_out.weight"].shape[0], state["cp.resnet.conv1.weight"].shape[0]
    except (KeyError, IndexError) as missing:
        raise InputError(f"{where}: not a face parser: {missing} is missing or misshapen among its {len(state)} tensors") from None
    if not (0 < classes <= 256 and 0 < width <= WIDEST):
        raise InputError(f"{where}: a face parser of {classes} classes and width {width}, expected at most 256 and {WIDEST}")
    network = BiSeNet(classes, width)
    counters = {key: value for key, value in network.state_dict().items() if key.endswith(".num_batches_tracked")}
    load_strict(network, counters | state, where)
    return network.eval()


def network_input(pictures: Tensor, side: int) -> Tensor:
    """Pictures (N, H, W, 3) uint8 -> (N, 3, side, side) in [-1, 1], bilinear, antialiased where they shrink."""
    x = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    return x if x.shape[2:] == (side, side) else F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def parse(parser: Parser, pictures: np.ndarray, side: int | None = None) -> np.ndarray:
    """Label maps uint8 of pictures (N, H, W, 3) uint8, at the pictures' size or (N, side, side): the scores are resized before the best is taken."""
    device = next(parser.network.parameters()).device

    def labels(some: Tensor) -> Tensor:
        scores = parser.network(network_input(some.to(device), parser.side))
        size = some.shape[1:3] if side is None else (side, side)
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=True).argmax(dim=1).to("cpu", torch.uint8)

    return in_chunks(labels, torch.from_numpy(pictures), chunk=PICTURES).numpy()


@torch.no_grad()
def describe(parser: Parser, pictures: np.ndarray) -> np.ndarray:
    """Features (N, 14 width) float32 of pictures (N, H, W, 3) uint8: the means over the picture of the trunk's three outputs.

    A Frechet distance of these between two sets of pictures is called FD_people; its numbers compare with those of the same parser alone.
    """
    device = next(parser.network.parameters()).device

    def means(some: Tensor) -> Tensor:
        return torch.cat([f.mean(dim=(2, 3)) for f in parser.network.cp.resnet(network_input(some.to(device), parser.side))], dim=1).cpu()

    return in_chunks(means, torch.from_numpy(pictures), chunk=PICTURES).numpy()
