"""Pictures of a field: every pixel by itself, whatever the chunk, also when memory runs out."""
from __future__ import annotations

import pytest
import torch

from common import chunks
from common.cameras import Cameras, intrinsics_matrix, orbit
from common.rays import camera_rays, pixel_grid
from common.render import CPU_RAYS, GPU_RAYS, default_chunk, render


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(chunks, "_fitting", {})


def cameras(count: int = 3) -> Cameras:
    poses = orbit(torch.linspace(-1, 1, count), torch.tensor(0.2), 3.0)
    return Cameras(poses, intrinsics_matrix(torch.full((count,), 1.5)))


def shoot(camera: Cameras, uv: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a pixel says of itself: its ray and where it lies."""
    origins, directions = camera_rays(camera, uv)
    return {"ray": torch.cat([origins, directions], -1), "u": uv[..., 0]}


@pytest.mark.parametrize("chunk", [1, 5, 7, 35, 1000, None])
def test_every_pixel_of_every_camera_in_its_place(chunk):
    views, uv = cameras(), pixel_grid(5, 7)[None]
    seen = render(shoot, views, 5, 7, chunk)
    assert seen["ray"].shape == (3, 5, 7, 6) and seen["u"].shape == (3, 5, 7)
    assert torch.equal(seen["u"][2, 4], (torch.arange(7) + 0.5) / 7)
    expected = torch.cat(camera_rays(views, uv), -1).unflatten(1, (5, 7))
    torch.testing.assert_close(seen["ray"], expected)


def test_no_graph_is_kept():
    weight = torch.ones(1, requires_grad=True)
    assert not render(lambda camera, uv: {"x": uv[..., 0] * weight}, cameras(), 4, 4)["x"].requires_grad


def test_chunks_by_device(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert default_chunk("cpu") == 2 * CPU_RAYS < default_chunk("cuda:1") == GPU_RAYS
    asked = []
    render(lambda camera, uv: asked.append(uv.shape[1]) or shoot(camera, uv), cameras(1), 64, 48)
    assert asked == [2 * CPU_RAYS, 64 * 48 - 2 * CPU_RAYS]


def test_out_of_memory_halves_and_the_picture_is_the_same():
    """torch's own error: a piece larger than any address space is asked for above 100 rays."""
    def hungry(camera, uv):
        if uv.shape[1] > 100:
            torch.empty(2**60, dtype=torch.uint8)
        return shoot(camera, uv)

    views = cameras()
    expected = render(shoot, views, 20, 30)
    with pytest.warns(RuntimeWarning, match="out of memory") as warned:
        seen = render(hungry, views, 20, 30, 500)
    assert len(warned) == 1 and all(torch.equal(seen[name], expected[name]) for name in expected)


def test_another_error_is_no_lack_of_memory():
    def broken(camera, uv):
        raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError, match="of another kind"):
        render(broken, cameras(), 4, 4)
