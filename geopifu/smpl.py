"""SMPL bodies that a user owns: the model's official files, read without running anything in them, and the bodies under THUman's scans."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from common import published
from common.errors import InputError
from common.published import Record
from geopifu.layout import OF_BODY
from geopifu.scans import Underneath, person_body, read_obj

FILES = {"M": "basicModel_m_lbs_10_207_0_v1.0.0.pkl", "F": "basicModel_f_lbs_10_207_0_v1.0.0.pkl"}
NEEDED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")


@dataclass(frozen=True)
class SMPL:
    """template (V, 3), shapes (V, 3, 10), poses (V, 3, 207), joints (24, V), weights (V, 24), parents (24,), the first -1; faces (F, 3)."""

    template: np.ndarray
    shapes: np.ndarray
    poses: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    parents: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class Parameters:
    """smpl_params.txt: betas (10,), root (4, 4), applied after posing, pose (72,) axis angles."""

    betas: np.ndarray
    root: np.ndarray
    pose: np.ndarray


@cache
def load(path: Path) -> SMPL:
    """SMPL's model file (a pickle of Python 2 with chumpy and scipy inside). Raises InputError."""
    data = published.read_pickle(path, encoding="latin1")
    if not isinstance(data, dict) or set(NEEDED) - set(data):
        raise InputError(f"{path}: expected SMPL's model with {', '.join(NEEDED)}")
    try:
        arrays = {name: _array(data[name]) for name in NEEDED}
        parents = arrays["kintree_table"][0].astype(np.int64)
        parents[0] = -1
        return SMPL(arrays["v_template"], arrays["shapedirs"][..., :10], arrays["posedirs"], arrays["J_regressor"], arrays["weights"], parents,
                    arrays["f"].astype(np.int64))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path}: broken, expected SMPL's arrays ({error})") from None


def _array(value) -> np.ndarray:
    """The numbers of an array, of a chumpy array's Record or of a scipy sparse matrix's."""
    if isinstance(value, Record) and isinstance(value.state, dict):
        state = value.state
        if "indptr" in state:
            import scipy.sparse as sp
            kind = sp.csc_matrix if value.name.startswith("csc") else sp.csr_matrix
            return kind((state["data"], state["indices"], state["indptr"]), shape=tuple(state.get("_shape", state.get("shape")))).toarray()
        value = state["x"]
    return np.asarray(value, np.float64) if not hasattr(value, "numpy") else value.numpy()


def posed(model: SMPL, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """(vertices (V, 3), joints (24, 3)): shaped, bent by pose blend shapes, skinned along the tree (SMPL, section 3), then moved by the root matrix."""
    shaped = model.template + model.shapes @ parameters.betas
    rest = model.joints @ shaped
    local = np.stack([rotation(vector) for vector in parameters.pose.reshape(-1, 3)])
    bent = shaped + model.poses @ (local[1:] - np.eye(3)).reshape(-1)
    moves = np.tile(np.eye(4), (len(rest), 1, 1))
    for j, parent in enumerate(model.parents):
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = local[j], rest[j] - local[j] @ rest[j]
        moves[j] = step if parent < 0 else moves[parent] @ step
    blended = np.einsum("vj,jab->vab", model.weights, moves)
    vertices = np.einsum("vab,vb->va", blended[:, :3, :3], bent) + blended[:, :3, 3]
    joints = np.einsum("jab,jb->ja", moves[:, :3, :3], rest) + moves[:, :3, 3]
    turn, shift = parameters.root[:3, :3], parameters.root[:3, 3]
    return vertices @ turn.T + shift, joints @ turn.T + shift


def rotation(vector: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of an axis angle (3,), Rodrigues' formula."""
    angle = np.linalg.norm(vector)
    x, y, z = vector / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def read_parameters(path: str | Path) -> Parameters:
    """THUman's smpl_params.txt: line 2 the betas, lines 4 to 7 the root matrix, lines 9 to 80 the pose. Raises InputError."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        numbers = lambda first, last: np.array([[float(word) for word in line.split()] for line in lines[first - 1:last]])
        parameters = Parameters(numbers(2, 2).reshape(10), numbers(4, 7).reshape(4, 4), numbers(9, 80).reshape(72))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected THUman's SMPL parameters") from None
    except (ValueError, UnicodeDecodeError):
        raise InputError(f"{path}: broken, expected 10 betas in line 2, a 4 x 4 matrix in lines 4-7, 72 pose numbers in lines 9-80") from None
    if not all(np.isfinite(array).all() for array in (parameters.betas, parameters.root, parameters.pose)):
        raise InputError(f"{path}: expected finite numbers")
    return parameters


def body_of(scan: Path, smpl_folder: str, atlas: str, items: list[str]) -> Underneath | None:
    """The body model under a scan where an item needs it. Raises InputError naming what a user has to bring."""
    if not set(OF_BODY) & set(items):
        return None
    return person_body(scan) or _registered(scan, smpl_folder, atlas, "smplIUV" in items)


def _registered(scan: Path, smpl_folder: str, atlas: str, wants_iuv: bool) -> Underneath:
    """THUman's registered SMPL body."""
    gender = scan.parts[-3][-1:]
    if not smpl_folder or gender not in FILES or not (Path(smpl_folder) / FILES[gender]).is_file():
        raise InputError(f"--smplDir {smpl_folder or '(empty)'}: {' or '.join(FILES.values())} is missing; items of the body under a scan need SMPL's "
                         "own files (smpl.is.tue.mpg.de), or leave them out of --items")
    model = load(Path(smpl_folder) / FILES[gender])
    vertices, faces, _ = read_obj(scan.with_name("smpl.obj"))
    _, joints = posed(model, read_parameters(scan.with_name("smpl_params.txt")))
    return Underneath(vertices[:, :3], faces, joints, model.template, _atlas(atlas, len(faces)) if wants_iuv else None)


def _atlas(path: str, faces: int) -> np.ndarray:
    """facesAtlas_Idx_U_V.npy (F, 7)."""
    if not path or not Path(path).is_file():
        raise InputError(f"--facesAtlas {path or '(empty)'}: missing; smplIUV of SMPL bodies needs facesAtlas_Idx_U_V.npy (geopifu/faces_atlas.py makes it)")
    table = published.read_npy(path)
    if not isinstance(table, np.ndarray) or table.shape != (faces, 7):
        raise InputError(f"{path}: expected an array of shape ({faces}, 7)")
    return table
