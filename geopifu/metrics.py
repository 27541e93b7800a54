"""The four measures of the paper as its authors computed them (specification, section 4.7), and what their names promise, on surfaces.

    CD   10^4 (mean_g min_e |g - e|^2 + mean_e min_g |e - g|^2) / 2     over the vertices g of the truth and e of the estimate, canonical units
    PSD  10^4  mean_e min_g |e - g|^2
    cosine  sum_m (1 - n_e . n_g) / sum_m        L2  sum_m |n_e - n_g| / sum_m        over the pixels of the true mask m, 384 x 256

On surfaces, in centimetres, not squared: P2S, from points on the estimate to the truth's surface, and the mean of both directions, CD.
"""
from __future__ import annotations

import numpy as np

from common.images import resize_nearest
from common.proximity import surface_points, to_points, to_surface
from geopifu import raster
from geopifu.scans import face_normals

SCALE = 1e4
HEIGHT, WIDTH, FOCAL = 384, 256, 384
SURFACE_POINTS = 20_000


def vertex_measures(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(CD, PSD) of vertices (E, 3) and (G, 3) in one frame."""
    forth, back = (float(np.square(to_points(a, b), dtype=np.float64).mean()) for a, b in ((estimate, truth), (truth, estimate)))
    return SCALE * (forth + back) / 2, SCALE * forth


def surface_measures(estimate: tuple, truth: tuple, rng: np.random.Generator, count: int = SURFACE_POINTS) -> tuple[float, float]:
    """(CD, P2S) of meshes (vertices, faces), in their own unit: unsquared distances of `count` points on each to the other's surface."""
    sample = lambda mesh: surface_points(*mesh, rng.uniform(size=count), rng.uniform(size=(count, 2)))
    forth, back = (float(to_surface(sample(a), *b).mean()) for a, b in ((estimate, truth), (truth, estimate)))
    return (forth + back) / 2, forth


def unit(normals: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of length 1; zero stays zero."""
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)


def rendered_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (384, 256, 3), as (x right, y up, z to the viewer), that a picture of 8 bits shows of a mesh in the view's frame; 0 where it is not."""
    seen = raster.rasterise(vertices, faces, HEIGHT, WIDTH, FOCAL)
    colors = (face_normals(vertices, faces) * (1, -1, -1) + 1) / 2
    picture = np.round(raster.mixed(colors, faces, seen) * 255) / 255
    return unit(picture * 2 - 1) * (seen.face >= 0)[..., None]


def stored_normals(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(unit normals (384, 256, 3), 0 outside the mask, mask (384, 256) of 0 and 1) of a normalRGB (H, W, 3) uint8 and a mask (H, W) of 0 and 1."""
    import cv2

    normals = cv2.resize(picture.astype(np.float32) / 255 * 2 - 1, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    kept = resize_nearest(mask, HEIGHT, WIDTH).astype(np.float32)
    return unit(normals) * kept[..., None], kept


def normal_measures(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """(cosine, L2) of normals (H, W, 3) over a mask (H, W)."""
    cosine, length = 1 - (estimate * truth).sum(-1), np.linalg.norm(estimate - truth, axis=-1)
    return float((mask * cosine).sum() / mask.sum()), float((mask * length).sum() / mask.sum())
