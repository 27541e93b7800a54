"""First hits against every triangle tried one by one, in double precision."""
from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from common.raycast import build, first_hits, interpolate

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])]


def soup(seed=0, triangles=60):
    g = torch.Generator().manual_seed(seed)
    corners = torch.rand(triangles, 1, 3, generator=g) + 0.3 * torch.rand(triangles, 3, 3, generator=g)
    return corners.reshape(-1, 3), torch.arange(3 * triangles).reshape(-1, 3)


def rays(seed=1, count=500):
    g = torch.Generator().manual_seed(seed)
    origins = 0.5 + 2 * torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    return origins, torch.nn.functional.normalize(1.3 * torch.rand(count, 3, generator=g) - origins, dim=-1)


def brute_force(vertices, faces, origins, directions):
    """Distances (R, F) by Cramer's rule, inf where a ray misses."""
    a, b, c = vertices.double()[faces].unbind(1)
    o, d = origins.double()[:, None], directions.double()[:, None].expand(-1, len(faces), -1)
    system = torch.stack([(b - a).expand_as(d), (c - a).expand_as(d), -d], dim=-1)
    u, v, t = torch.linalg.solve(system, o - a).unbind(-1)
    return torch.where((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0), t, torch.inf)


@pytest.mark.parametrize("device", DEVICES)
def test_first_hits_equal_brute_force(device):
    vertices, faces = soup()
    origins, directions = rays()
    distances, nearest = brute_force(vertices, faces, origins, directions).min(1)
    hits = first_hits(build(vertices.to(device), faces.to(device)), origins.to(device), directions.to(device))
    hits = type(hits)(*(x.cpu() for x in hits))
    found = distances.isfinite()
    assert 0.2 < found.float().mean() < 1
    assert torch.equal(hits.faces, torch.where(found, nearest, -1))
    torch.testing.assert_close(hits.distances.double(), distances, rtol=1e-5, atol=1e-5)
    points = origins + hits.distances[:, None] * directions
    torch.testing.assert_close(interpolate(vertices, faces, hits)[found], points[found], rtol=1e-4, atol=1e-5)


def test_farthest_bounds_the_search():
    vertices, faces = soup()
    origins, directions = rays()
    mesh = build(vertices, faces)
    everything = first_hits(mesh, origins, directions)
    near = first_hits(mesh, origins, directions, farthest=1.6)
    assert torch.equal(near.faces >= 0, everything.distances <= 1.6)


def test_no_rays():
    vertices, faces = soup()
    assert first_hits(build(vertices, faces), torch.zeros(0, 3), torch.zeros(0, 3)).faces.shape == (0,)


def test_warp_is_lazy_and_silent(tmp_path):
    code = ("import sys, torch; from common.raycast import build, first_hits; assert 'warp' not in sys.modules;"
            "m = build(torch.eye(3), torch.tensor([[0, 1, 2]])); first_hits(m, torch.zeros(1, 3), torch.full((1, 3), 0.577))")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "warp" not in (done.stdout + done.stderr).lower()
