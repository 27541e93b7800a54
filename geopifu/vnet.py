"""Geo-PIFu's V-net: a photo to latent voxels of the body, and to its coarse occupancy (paper, section 3.1; published key names).

    latents = net.latents(photos)             (B, 8, D, H, W) of every stack: the maps of an hourglass read as voxels, refined by a 3D U-Net
    occupancy = net.occupancy(latents[-1])    (B, 1, 4D, 4H, 4W) in (0, 1)

Voxels are in the photo's own view: D from the camera into the picture, H down, W to the right; at the published input 384 x 256 the latents are
32 x 48 x 32 and the occupancy 128 x 192 x 128.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from common.errors import InputError
from geopifu.hourglass import ConvBlock, Stacks, initialise, norm_layer

CHANNELS = 8                                                  # of a latent voxel
SLOPE = 0.2
UPSAMPLING = 4                                                # occupancy voxels along a latent one


class Padded(nn.Module):
    """A 3D convolution that keeps the size, the border repeated."""

    def __init__(self, channels: int, out: int, kernel: int, bias: bool):
        super().__init__()
        self.net = nn.Sequential(nn.ReplicationPad3d(kernel // 2), nn.Conv3d(channels, out, kernel, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def down(channels: int, out: int, norm: bool) -> nn.Sequential:
    """Half the side: a 4^3 convolution of stride 2, and a norm instead of its bias where there is one."""
    layers = [nn.ReplicationPad3d(1), nn.Conv3d(channels, out, 4, stride=2, bias=not norm)]
    return nn.Sequential(*layers, *([nn.BatchNorm3d(out)] if norm else []), nn.LeakyReLU(SLOPE))


def up(channels: int, out: int, norm: bool) -> nn.Sequential:
    """Twice the side."""
    layer = nn.ConvTranspose3d(channels, out, 4, stride=2, padding=1, bias=not norm)
    return nn.Sequential(layer, *([nn.BatchNorm3d(out)] if norm else []), nn.ReLU())


class Unet3D(nn.Module):
    """Two halvings with skips: voxels (B, 8, D, H, W) -> non-negative voxels of the same shape, for sides that 4 divides."""

    def __init__(self, channels: int = CHANNELS, out: int = CHANNELS):
        super().__init__()
        self.conv3d_pre_process = nn.Sequential(Padded(channels, channels, 3, bias=False), nn.BatchNorm3d(channels), nn.LeakyReLU(SLOPE))
        self.conv3d_enc_1, self.conv3d_enc_2 = down(channels, 2 * channels, norm=True), down(2 * channels, 4 * channels, norm=False)
        self.deconv3d_dec_2, self.deconv3d_dec_1 = up(4 * channels, 2 * channels, norm=False), up(4 * channels, channels, norm=True)
        self.conv3d_final_process = nn.Sequential(Padded(2 * channels, out, 3, bias=False), nn.BatchNorm3d(out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        skip0 = self.conv3d_pre_process(x)
        skip1 = self.conv3d_enc_1(skip0)
        x = self.deconv3d_dec_2(self.conv3d_enc_2(skip1))
        x = self.deconv3d_dec_1(torch.cat([skip1, x], dim=1))
        return self.conv3d_final_process(torch.cat([skip0, x], dim=1))


class VNet(Stacks):
    """The coarse network (netV): `vrn_num_modules` stacks, whose maps have one channel for each latent number of a column of voxels.

    published_pixels, published_voxels: the release's half-pixel shift of the resized photo, and its half-voxel shift of the upsampled latents.
    """

    def __init__(self, vrn_num_modules: int = 4, num_hourglass: int = 2, features: int = 256, norm: str = "group", upsample_mode: str = "bicubic",
                 vrn_net_input_height: int = 384, vrn_net_input_width: int = 256, published_pixels: bool = False, published_voxels: bool = False):
        depth = vrn_net_input_width // 8                        # as many latents deep as wide: the box is as deep as wide
        super().__init__(vrn_num_modules, num_hourglass, features, CHANNELS * depth, norm, upsample_mode)
        step = 8 * max(self.divisor, 4)                         # an hourglass halves, and so does the 3D U-Net, twice
        if vrn_net_input_height % step or vrn_net_input_width % step or vrn_net_input_width > vrn_net_input_height:
            raise InputError(f"--vrn_net_input_width {vrn_net_input_width} --vrn_net_input_height {vrn_net_input_height}: expected multiples of {step}, the "
                             "width no larger")
        self.height, self.width, self.depth = vrn_net_input_height, vrn_net_input_width, depth
        self.published_pixels, self.published_voxels = published_pixels, published_voxels
        stem, half = features // 4, features // 2
        self.conv1 = nn.Sequential(nn.Conv2d(3, stem, 7, stride=2, padding=3), norm_layer(norm, stem), nn.ReLU())
        self.conv2, self.conv3 = ConvBlock(stem, half, norm), ConvBlock(half, half, norm)
        self.conv4, self.conv5 = ConvBlock(half, half, norm), ConvBlock(half, features, norm)
        for i in range(vrn_num_modules):
            self.add_module(f"branch_out_3d_unet{i}", Unet3D())
        self.conv3d_cls_1 = nn.Sequential(Padded(CHANNELS, CHANNELS, 3, bias=False), nn.BatchNorm3d(CHANNELS), nn.LeakyReLU(SLOPE))
        self.conv3d_cls_2 = nn.Sequential(Padded(CHANNELS, 1, 1, bias=True), nn.Sigmoid())
        initialise(self)

    def cropped(self, images: Tensor) -> Tensor:
        """Square photos (B, 3, S, S) at the network's height, cut to its width about the middle column: (B, 3, height, width)."""
        images = interpolate(images, (self.height, self.height), mode="bilinear", align_corners=self.published_pixels)
        left = (self.height - self.width) // 2
        return images[..., left:left + self.width]

    def refine(self, i: int, out: Tensor) -> Tensor:
        """The maps of stack i, (B, 8 D, H, W), through its 3D U-Net."""
        return getattr(self, f"branch_out_3d_unet{i}")(self._voxels(out)).flatten(1, 2)

    def latents(self, images: Tensor) -> list[Tensor]:
        """Latent voxels (B, 8, D, H, W) of square photos (B, 3, S, S) with values -1 to 1, 0 where the mask is 0: of every stack, or in eval mode the last."""
        x = avg_pool2d(self.conv2(self.conv1(self.cropped(images))), 2)
        x = self.conv5(self.conv4(avg_pool2d(self.conv3(x), 2)))
        outs = [self._voxels(out) for out in self.stacks(x)]
        return outs if self.training else outs[-1:]

    def occupancy(self, latents: Tensor) -> Tensor:
        """Occupancy (B, 1, 4D, 4H, 4W) from 0 to 1 of latent voxels (B, 8, D, H, W)."""
        fine = interpolate(latents, scale_factor=UPSAMPLING, mode="trilinear", align_corners=self.published_voxels)
        return self.conv3d_cls_2(self.conv3d_cls_1(fine))

    def _voxels(self, maps: Tensor) -> Tensor:
        return maps.unflatten(1, (CHANNELS, self.depth))
