"""People of the simplest kind for tests of training: ellipsoids before black, seen from four sides, with query points, volumes and latent voxels.

As a program it trains on them: python tests/geopifu_frames.py --stage pifu ...
"""
from __future__ import annotations

import torch

from common import draws
from common.config import run_program
from geopifu.geometry import BOX, VIEWS, calibration, view_rotation
from geopifu.train import TrainConfig, checked, fit

SIDE, POINTS, VOXELS = 48, 200, (32, 48, 32)
TINY = {"features": 16, "num_stack": 1, "num_hourglass": 1, "hourglass_dim": 16, "mlp_dim": [0, 32, 16, 1], "mlp_dim_3d": [0, 16, 1],
        "mlp_dim_joint": [0, 16, 1], "loadSize": SIDE, "z_size": 20, "vrn_num_modules": 1, "vrn_net_input_height": 96, "vrn_net_input_width": 64,
        "batch_size": 4, "device": "cpu", "resolution_x": 22, "resolution_y": 32, "resolution_z": 22}


class Ellipsoids:
    """Frames in groups of four views; ellipsoid k has its own centre and radii. `count` frames, the first of them number `first`."""

    def __init__(self, config: TrainConfig, first: int, count: int):
        self.config, self.first, self.names = config, first, [f"{first + i:06d}" for i in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def body(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre and radii (3,) in the front frame."""
        u = torch.rand(2, 3, generator=draws.generator(7, (self.first + i) // 4, "body"))
        return (u[0] - 0.5) * torch.tensor([0.1, 0.1, 0.1]), torch.tensor([0.15, 0.3, 0.1]) * (0.7 + 0.6 * u[1])

    def item(self, i: int, epoch: int) -> dict[str, torch.Tensor]:
        center, radii = self.body(i)
        view, inside = (self.first + i) % len(VIEWS), lambda points: (((points - center) / radii) ** 2).sum(-1) < 1
        points = (torch.rand(POINTS, 3, generator=draws.generator(7, self.first + i, f"points {epoch}")) * 2 - 1) * torch.tensor([0.25, 0.4, 0.2])
        volume = self.volume(i, view, inside)
        shading = torch.linspace(0.2, 1.0, SIDE)[:, None]
        picture = torch.nn.functional.pad(volume.amax(0) * shading, ((SIDE - VOXELS[0]) // 2,) * 2)
        item = {"img": picture.expand(1, 3, SIDE, SIDE).clone(), "calib": torch.from_numpy(calibration(view))[None], "samples": points.T.contiguous(),
                "labels": inside(points)[None].float(), "meshVoxels": volume[None]}
        if self.config.deepVoxelsDir:
            item["deepVoxels"] = volume.expand(8, -1, -1, -1)[:, ::4, ::4, ::4].clone()
        return item

    def volume(self, i: int, view: int, inside) -> torch.Tensor:
        """Whether voxels (D, H, W) of a view's box are inside."""
        x, y, z = (((torch.arange(n) + 0.5) / n * 2 - 1) * float(reach) for n, reach in zip(VOXELS, BOX[1]))
        z, y, x = torch.meshgrid(z, y, x, indexing="ij")
        return inside(torch.stack([x, y, z], dim=-1) @ torch.from_numpy(view_rotation(view)).float().T).float()


def main(config: TrainConfig) -> None:
    fit(checked(config), Ellipsoids(config, 0, 24), Ellipsoids(config, 24, 8))


if __name__ == "__main__":
    run_program(main, TrainConfig, __doc__)
