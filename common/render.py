"""Fields to pictures: what every pixel of every camera sees, in chunks that fit memory."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from common.cameras import Cameras
from common.chunks import in_chunks
from common.rays import pixel_grid

CPU_RAYS, GPU_RAYS = 2**10, 2**16                             # on a CPU for each thread, whose cache should hold their features

Shoot = Callable[[Cameras, Tensor], dict[str, Tensor]]        # one camera, uv (1, R, 2) -> {name: (1, R, ...)}


def default_chunk(device: torch.device | str) -> int:
    """Rays at once on this kind of device."""
    return CPU_RAYS * torch.get_num_threads() if torch.device(device).type == "cpu" else GPU_RAYS


@torch.no_grad()
def render(shoot: Shoot, cameras: Cameras, height: int, width: int, chunk: int | None = None) -> dict[str, Tensor]:
    """{name: (N, H, W, ...)}: what `shoot` says of every pixel of N cameras, `chunk` rays at once."""
    device = cameras.cam2world.device
    uv = pixel_grid(height, width, device, cameras.cam2world.dtype)[None]
    chunk = chunk or default_chunk(device)
    pictures = [in_chunks(partial(shoot, cameras.pick([i])), uv, chunk=chunk, axis=1) for i in range(len(cameras))]
    return {name: torch.cat([picture[name] for picture in pictures]).unflatten(1, (height, width)) for name in pictures[0]}
