"""What users own: SMPL's files and THUman's bodies, DensePose's atlas, LSUN's folders; made up here in the same shapes."""
from __future__ import annotations

import io
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import trimesh
from PIL import Image

from common.errors import InputError
from common.images import read_picture
from geopifu import faces_atlas, lsun, render_data, smpl
from geopifu.layout import find_picture
from tests.geopifu_scans import write_obj, write_scans

PARENTS = np.array([4294967295, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21])
MALE, FEMALE = smpl.FILES["M"], smpl.FILES["F"]


class Ch:
    """A chumpy array's shape in a pickle: its numbers under x."""

    def __init__(self, x):
        self.x = x


def write_model(path: Path, monkeypatch, seed: int = 0) -> dict[str, np.ndarray]:
    """A ball as an SMPL model: 24 joints at 24 of its vertices, every vertex on the joint it is nearest to."""
    module = types.ModuleType("chumpy.ch")
    module.Ch = Ch
    for name in ("chumpy", "chumpy.ch"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Ch, "__module__", "chumpy.ch")
    mesh, rng = trimesh.creation.icosphere(3), np.random.default_rng(seed)
    vertices = np.asarray(mesh.vertices)
    corners = np.linspace(0, len(vertices) - 1, 24).astype(int)
    joints = sp.csc_matrix((np.ones(24), (np.arange(24), corners)), shape=(24, len(vertices)))
    nearest = np.linalg.norm(vertices[:, None] - vertices[corners], axis=-1).argmin(1)
    data = {"v_template": Ch(vertices), "shapedirs": Ch(rng.normal(0, 0.01, (len(vertices), 3, 10))), "posedirs": rng.normal(0, 0.01, (len(vertices), 3, 207)),
            "J_regressor": joints, "weights": Ch(np.eye(24)[nearest]), "kintree_table": np.stack([PARENTS, np.arange(24)]).astype(np.uint32),
            "f": np.asarray(mesh.faces, np.uint32), "bs_type": "lrotmin", "bs_style": "lbs"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(data, 2))
    return data | {"nearest": nearest, "corners": corners}


def parameters(**changes) -> smpl.Parameters:
    return smpl.Parameters(**({"betas": np.zeros(10), "root": np.eye(4), "pose": np.zeros(72)} | changes))


def test_a_model_at_rest_is_its_template(tmp_path, monkeypatch):
    data = write_model(tmp_path / MALE, monkeypatch)
    model = smpl.load(tmp_path / MALE)
    vertices, joints = smpl.posed(model, parameters())
    np.testing.assert_allclose(vertices, data["v_template"].x, atol=1e-12)
    np.testing.assert_allclose(joints, data["v_template"].x[data["corners"]], atol=1e-12)
    betas = np.arange(10.0)
    shaped, _ = smpl.posed(model, parameters(betas=betas))
    np.testing.assert_allclose(shaped - vertices, data["shapedirs"].x @ betas, atol=1e-12)


def test_posing_turns_limbs_and_the_root_comes_last(tmp_path, monkeypatch):
    """A turned joint takes its part and all joints below with it, but for the pose's own shapes; the root matrix moves everything, about the origin."""
    data = write_model(tmp_path / MALE, monkeypatch)
    model = smpl.load(tmp_path / MALE)
    pose = np.zeros(72)
    pose[3 * 16 + 2] = np.pi / 2                                                # the left shoulder, about z
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    vertices, joints = smpl.posed(model, parameters(pose=pose))
    rest, shoulder = data["v_template"].x, data["v_template"].x[data["corners"][16]]
    bent = rest + model.poses[..., 9 * 15:9 * 16] @ (quarter - np.eye(3)).reshape(-1)
    arm = np.isin(data["nearest"], [16, 18, 20, 22])
    np.testing.assert_allclose(vertices[arm], (bent[arm] - shoulder) @ quarter.T + shoulder, atol=1e-9)
    np.testing.assert_allclose(vertices[~arm], bent[~arm], atol=1e-9)
    root = np.eye(4)
    root[:3, :3], root[:3, 3] = quarter, (1, 2, 3)
    moved, moved_joints = smpl.posed(model, parameters(pose=pose, root=root))
    np.testing.assert_allclose(moved, vertices @ quarter.T + (1, 2, 3), atol=1e-9)
    np.testing.assert_allclose(moved_joints, joints @ quarter.T + (1, 2, 3), atol=1e-9)


def parameter_text(betas, root, pose) -> list[str]:
    row = lambda numbers: " ".join(str(x) for x in numbers)
    return ["shape:", row(betas), "root:", *(row(line) for line in root), "pose:", *(str(x) for x in pose)]


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_parameters_with_either_line_ending(tmp_path, ending):
    rng = np.random.default_rng(0)
    betas, root, pose = rng.normal(size=10), rng.normal(size=(4, 4)), rng.normal(size=72)
    (tmp_path / "p.txt").write_bytes((ending.join(parameter_text(betas, root, pose)) + ending).encode())
    read = smpl.read_parameters(tmp_path / "p.txt")
    assert np.array_equal(read.betas, betas) and np.array_equal(read.root, root) and np.array_equal(read.pose, pose)


def test_scans_of_thuman_with_everything(tmp_path, monkeypatch):
    """Every item of a scan with registered SMPL; the skeleton is the posed model's."""
    data = write_model(tmp_path / "smpl" / FEMALE, monkeypatch)
    folder = write_scans(tmp_path / "scans", (0,), body=False)
    place = next(folder.glob("**/mesh.obj")).parent
    center = np.array([0.5, 1.0, 3.0])
    vertices = center + 0.15 * data["v_template"].x
    write_obj(place / "smpl.obj", vertices, data["f"].astype(int), np.full_like(vertices, 0.5))
    root = np.eye(4)
    root[:3, :3], root[:3, 3] = 0.15 * np.eye(3), center
    (place / "smpl_params.txt").write_text("\r\n".join(parameter_text(np.zeros(10), root, np.zeros(72))))
    np.save(tmp_path / "atlas.npy", np.concatenate([np.full((len(data["f"]), 1), 5), np.full((len(data["f"]), 6), 0.5)], axis=1).astype(np.float32))
    render_data.main(render_data.RenderConfig(
        meshDirSearch=str(folder), saveDir=str(tmp_path / "out"), items=["all"], resolutionScale=1, eachMeshWithBgNum=1,
        smplDir=str(tmp_path / "smpl"), facesAtlas=str(tmp_path / "atlas.npy")))
    iuv = read_picture(find_picture(tmp_path / "out", "smplIUV", 0))
    seen = iuv[..., 2] > 0
    assert np.abs(iuv[seen].astype(int) - (127, 127, 5)).max() <= 1 and (iuv[seen][:, 2] == 5).all() and seen.sum() > 500         # weights of whole 1/255
    joints = np.load(tmp_path / "out/skeleton2D/000000.npy")
    assert seen[joints[:, 1].round().astype(int).clip(0, 383), joints[:, 0].round().astype(int)].mean() > 0.5                 # joints lie on the ball
    assert np.load(tmp_path / "out/smplSemVoxels/000003.npy").any()


def test_what_is_not_smpl(tmp_path):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"v_template": np.zeros((3, 3))}, 2))
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/x'\ntR.")
    (tmp_path / "p.txt").write_text("a\n1 2 3\n")
    readers = {"bad.pkl": smpl.load, "evil.pkl": smpl.load, "none.pkl": smpl.load, "p.txt": smpl.read_parameters, "q.txt": smpl.read_parameters}
    for name, read in readers.items():
        with pytest.raises((InputError, OSError), match=name):
            read(tmp_path / name)


# DensePose's atlas

def test_the_last_agreeing_corners_win(tmp_path, monkeypatch):
    """Two triangles share an edge; along it each vertex lies in both parts' charts, vertex 1 twice in part 2: the later place of that part is taken."""
    charts = {
        "All_Faces": np.array([[1, 2, 3], [4, 5, 6], [4, 7, 6]]), "All_FaceIndices": np.array([[1], [2], [2]]),
        "All_U_norm": np.arange(7.0)[:, None] / 10, "All_V_norm": np.arange(7.0)[:, None] / 100, "All_vertices": np.array([[1, 2, 3, 2, 4, 3, 2]])}
    scipy.io.savemat(tmp_path / "uv.mat", charts)
    table = faces_atlas.faces_atlas(faces_atlas.read_charts(str(tmp_path / "uv.mat")), np.array([[0, 1, 2], [1, 3, 2]]))
    np.testing.assert_allclose(table[0], [1, 0.0, 0.0, 0.1, 0.01, 0.2, 0.02], atol=1e-6)
    np.testing.assert_allclose(table[1], [2, 0.6, 0.06, 0.4, 0.04, 0.5, 0.05], atol=1e-6)
    with pytest.raises(InputError, match="face 0"):
        faces_atlas.faces_atlas(faces_atlas.read_charts(str(tmp_path / "uv.mat")), np.array([[0, 1, 3]]))
    (tmp_path / "no.mat").write_bytes(b"x" * 300)
    with pytest.raises(InputError, match=r"no\.mat"):
        faces_atlas.read_charts(str(tmp_path / "no.mat"))


# LSUN

def test_lsun_is_exported(tmp_path, monkeypatch):
    """Through a stand-in for lmdb: keys become names, webp becomes JPEG, the limit and the count are kept, and what is there stays."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 30, 30)).save(buffer, "WEBP")
    rows = [(f"key{k}".encode(), buffer.getvalue()) for k in range(4)]

    class Store:
        def __enter__(self): return self
        def __exit__(self, *_): return None
        def begin(self): return self
        def cursor(self): return iter(rows)
    monkeypatch.setitem(sys.modules, "lmdb", types.SimpleNamespace(open=lambda *_, **__: Store(), Error=RuntimeError))
    lsun.export(lsun.ExportConfig(lmdb=["somewhere/church_outdoor_train_lmdb"], out_dir=str(tmp_path), limit=3))
    assert sorted(path.name for path in (tmp_path / "church_outdoor").iterdir()) == ["key0.jpg", "key1.jpg", "key2.jpg"]
    picture = read_picture(tmp_path / "church_outdoor/key1.jpg")
    assert picture.shape == (10, 20, 3) and abs(int(picture[5, 5, 0]) - 200) < 12 and (tmp_path / "count.txt").read_text() == "church_outdoor 3\n"
    rows[0] = (b"key0", b"broken")
    lsun.export(lsun.ExportConfig(lmdb=["church_outdoor_val_lmdb"], out_dir=str(tmp_path)))
    assert (tmp_path / "church_outdoor/key3.jpg").is_file()
    with pytest.raises(InputError, match="key0: broken"):
        lsun.export(lsun.ExportConfig(lmdb=["tower_train_lmdb"], out_dir=str(tmp_path), flat=True))


def test_without_lmdb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(InputError, match="pip install lmdb"):
        lsun.export(lsun.ExportConfig(lmdb=["tower_train_lmdb"], out_dir=str(tmp_path)))
