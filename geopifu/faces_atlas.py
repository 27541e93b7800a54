"""DensePose's atlas for SMPL's faces: python geopifu/faces_atlas.py UV_Processed.mat basicModel_m_lbs_10_207_0_v1.0.0.pkl facesAtlas_Idx_U_V.npy

The table (F, 7) float32 has each face's part 1..24 and the U and V of its corners. Both inputs are a user's own (their licences forbid handing them on).
"""
from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from common.config import option, run_program
from common.errors import InputError
from geopifu import smpl
from geopifu.render_data import write_array

KEYS = ("All_Faces", "All_FaceIndices", "All_U_norm", "All_V_norm", "All_vertices")


@dataclass
class AtlasConfig:
    mat: str = option(..., "DensePose's UV_Processed.mat", positional=True)
    model: str = option(..., "an SMPL model, for its faces", positional=True)
    out: str = option(..., "the table, .npy", positional=True)


def main(config: AtlasConfig) -> None:
    """Write the table."""
    table = faces_atlas(read_charts(config.mat), smpl.load(Path(config.model)).faces)
    write_array(Path(config.out), table)
    print(f"{len(table)} faces in {config.out}")


def read_charts(path: str) -> dict[str, np.ndarray]:
    """The charts' arrays, flat but for the faces, numbered from 0. Raises InputError."""
    from scipy.io import loadmat

    try:
        data = loadmat(path)
        charts = {key: np.asarray(data[key]) for key in KEYS}
    except Exception as error:                                                 # whatever a hostile file makes of scipy
        raise InputError(f"{path}: not DensePose's UV_Processed.mat with {', '.join(KEYS)} ({type(error).__name__})") from None
    flat = {key: array.reshape(-1) for key, array in charts.items() if key != "All_Faces"}
    return flat | {"All_Faces": charts["All_Faces"].astype(np.int64) - 1, "All_vertices": flat["All_vertices"].astype(np.int64) - 1}


def faces_atlas(charts: dict[str, np.ndarray], faces: np.ndarray) -> np.ndarray:
    """(F, 7) float32: of all ways to pick a chart vertex for each corner of a face that lie in one part, the last. Raises InputError for a face without one."""
    places: dict[int, list[tuple[int, float, float]]] = {}
    for part in range(1, 25):
        for chart_vertex in np.unique(charts["All_Faces"][charts["All_FaceIndices"] == part]):
            place = part, float(charts["All_U_norm"][chart_vertex]), float(charts["All_V_norm"][chart_vertex])
            places.setdefault(int(charts["All_vertices"][chart_vertex]), []).append(place)
    table = np.zeros((len(faces), 7), np.float32)
    for row, face in enumerate(faces.tolist()):
        agreeing = [picks for picks in product(*(places.get(corner, []) for corner in face)) if len({part for part, _, _ in picks}) == 1]
        if not agreeing:
            raise InputError(f"face {row} lies in no part of the atlas; expected the charts and the faces of one body model")
        table[row] = [agreeing[-1][0][0], *(number for _, u, v in agreeing[-1] for number in (u, v))]
    return table


if __name__ == "__main__":
    run_program(main, AtlasConfig, __doc__)
