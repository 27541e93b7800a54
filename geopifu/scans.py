"""Scans as they lie on a user's disk: THUman's ("DeepHuman"), or clothed people by scripts/make_people.py in the same layout.

    FOLDER/.../results_NAME_F/FRAME/mesh.obj       the scan: v x y z [r g b], vn x y z, f a b c, f a//b ... or f a/b/c ...
                                    smpl.obj, smpl_params.txt        THUman's registered SMPL body (with SMPL's own files, see ``geopifu.smpl``)
                                    body.npz        of our people, with body_model.npz above it (see ``common.people.scans``)
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.meshes import Mesh, volume

MOST_VERTICES = 5_000_000
GRAY = 0.5                                                                     # of a vertex without a colour


@dataclass(frozen=True)
class Scan:
    """vertices (V, 3) float64, raw metres; faces (F, 3); colors (V, 3) from 0 to 1; normals (V, 3) as the file has them, or from the faces."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    normals: np.ndarray


@dataclass(frozen=True)
class Underneath:
    """The body model under a scan, in its frame: vertices (B, 3), faces (K, 3), joints (24, 3) or None, its rest pose (B, 3), atlas (K, 7) or None."""

    vertices: np.ndarray
    faces: np.ndarray
    joints: np.ndarray | None
    rest: np.ndarray
    atlas: np.ndarray | None


def find_scans(folder: str | Path) -> list[Path]:
    """Every mesh.obj of a folder's results_*/FRAME, sorted by name and by frame number. Raises InputError where there is none."""
    number = lambda path: (path.parts[-3], int(path.parts[-2]) if path.parts[-2].isdecimal() else -1, path.parts[-2])
    paths = sorted(Path(folder).glob("**/results_*/*/mesh.obj"), key=number)
    if not paths:
        raise InputError(f"{folder}: no results_*/*/mesh.obj below it; expected THUman's scans, or people by scripts/make_people.py bodies")
    return paths


def rerooted(recorded: str, folder: str | Path, parts: int = 3) -> Path:
    """The file that a recorded absolute path ends in (its last `parts` parts), wherever it lies below a folder. Raises InputError."""
    tail = Path(*Path(recorded.replace("\\", "/")).parts[-parts:])
    direct = Path(folder) / tail
    found = direct if direct.is_file() else next(iter(sorted(Path(folder).glob(f"**/{tail}"))), None)
    if found is None:
        raise InputError(f"{folder}: {tail} is missing; a config asks for it")
    return found


def read_scan(path: str | Path) -> Scan:
    """The scan of an .obj file, its vertices in the file's order. Raises InputError for what is missing, broken, empty, open-ended or turned inside out."""
    vertices, faces, normals = read_obj(path)
    colors = vertices[:, 3:] if vertices.shape[1] == 6 else np.full((len(vertices), 3), GRAY)
    vertices = vertices[:, :3]
    if volume(Mesh(vertices, faces)) <= 0:
        raise InputError(f"{path}: its faces point inwards; expected them counter-clockwise seen from outside")
    if len(normals) != len(vertices):
        normals = face_normals(vertices, faces)
    return Scan(vertices, faces, colors.clip(0, 1), normals)


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3) of vertices, each face weighted by its area."""
    a, b, c = vertices[faces.T]
    cross = np.cross(b - a, c - a)
    total = np.stack([np.bincount(faces.reshape(-1), np.repeat(cross[:, k], 3), len(vertices)) for k in range(3)], axis=1)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)


def read_obj(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(vertices (V, 3 or 6) float64, triangles (F, 3) from 0, normals (N, 3)) of an .obj file. Raises InputError naming the file."""
    try:
        lines = [line.strip() for line in Path(path).read_bytes().split(b"\n")]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a mesh") from None
    pick = lambda letter: [line[len(letter):] for line in lines if line.startswith(letter)]
    rows, corners, normals = pick(b"v "), pick(b"f "), pick(b"vn ")
    if not rows or not corners:
        raise InputError(f"{path}: a mesh needs vertices and faces; this one has {len(rows)} and {len(corners)}")
    if len(rows) > MOST_VERTICES:
        raise InputError(f"{path}: {len(rows)} vertices; expected {MOST_VERTICES} at most")
    try:
        vertices, faces = _vertices(rows), _faces(corners)
        normals = _table(normals) if normals else np.zeros((0, 3))
    except ValueError as error:
        raise InputError(f"{path}: broken, expected lines of numbers ({error})") from None
    if faces.shape[1] != 3:
        raise InputError(f"{path}: its faces have {faces.shape[1]} corners; expected triangles")
    if vertices.shape[1] not in (3, 6) or normals.shape[1] != 3 or not np.isfinite(vertices).all() or not np.isfinite(normals).all():
        raise InputError(f"{path}: expected lines 'v x y z' or 'v x y z r g b' of finite numbers")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: a face names vertex {int(faces.max() if faces.min() >= 0 else faces.min()) + 1} of {len(vertices)}")
    return vertices, faces, normals


def _vertices(rows: list[bytes]) -> np.ndarray:
    """Positions, with colours if any vertex has one: (V, 3 or 6). Raises ValueError."""
    if {len(row.split()) for row in rows} not in ({3}, {6}):                    # a vertex without a colour is gray, as in the release
        rows = [row if len(row.split()) == 6 else b" ".join([*row.split()[:3], *[b"%g" % GRAY] * 3]) for row in rows]
    return _table(rows)


def _faces(rows: list[bytes]) -> np.ndarray:
    """Vertices' numbers from 0; what stands behind slashes is left out. Raises ValueError."""
    if any(b"/" in row for row in rows):
        rows = [b" ".join(corner.split(b"/")[0] for corner in row.split()) for row in rows]
    return _table(rows).astype(np.int64) - 1


def _table(rows: list[bytes]) -> np.ndarray:
    """Rows of equally many numbers as an array. Raises ValueError."""
    return np.loadtxt(rows, dtype=np.float64, ndmin=2, comments=None, encoding="latin1")


def person_body(path: Path) -> Underneath | None:
    """The body under a scan of scripts/make_people.py, or None where the scan is not one."""
    mine, shared = path.parent / "body.npz", next((folder / "body_model.npz" for folder in path.parents if (folder / "body_model.npz").is_file()), None)
    if not mine.is_file() or shared is None:
        return None
    body, model = read_npz(mine, "vertices", "joints"), read_npz(shared, "faces", "rest", "atlas")
    return Underneath(body["vertices"].astype(np.float64), model["faces"].astype(np.int64), body["joints"], model["rest"].astype(np.float64), model["atlas"])


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name. Raises InputError where it is broken or lacks one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(f"{path}: broken, expected the arrays {', '.join(names)}") from None


def rest_colors(rest: np.ndarray, keep_ratio: bool = False) -> np.ndarray:
    """Colours (B, 3) from 0 to 1 of a body's vertices by where they are at rest: each axis stretched, or all alike by the longest."""
    moved, extent = rest - rest.min(0), np.ptp(rest, axis=0)
    return moved / (extent.max() if keep_ratio else extent)
