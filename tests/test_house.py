"""The rules of the house that a program can see; each also shown to catch what it forbids."""
from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS = {"sof", "gof", "op3d", "sem2nerf", "geopifu"}
PURE = {"cameras", "rays", "volume", "surfaces", "layers"}              # of common: torch and one another, nothing else
HEAVY = {"torchvision", "cv2", "warp", "anny", "trimesh", "skimage", "tensorboard", "viser", "lpips", "torch_fidelity", "matplotlib", "scipy", "sklearn",
         "PIL", "imageio", "imageio_ffmpeg"}
FORBIDDEN_CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "os.system", "torch.hub.load"}
FORBIDDEN_OPTIONS = {("weights_only", False), ("allow_pickle", True), ("shell", True)}
MACHINE = re.compile(r"(?<![\w.{}])/(?:home|root|work|Users|mnt|tmp)/\w")


def imports(tree: ast.AST, top_only: bool = False) -> Iterator[str]:
    """The dotted names that a module imports."""
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def broken_rules(path: str, text: str) -> set[str]:
    """The names of the rules that a file of this path and text breaks."""
    tree, parts, broken = ast.parse(text), Path(path).parts, set()
    package, roots = parts[0], {name.split(".")[0] for name in imports(tree)}
    if any(name.startswith(".") for name in imports(tree)):
        broken.add("absolute imports")
    if (package in METHODS and roots & METHODS - {package}) or (package == "common" and roots & (METHODS | {"scripts"})) or roots & {"tests"}:
        broken.add("imports run one way")
    if package == "common" and parts[1].removesuffix(".py") in PURE and roots - {"torch", "common", "__future__"} - sys.stdlib_module_names:
        broken.add("pure modules import torch alone")
    if package in METHODS | {"common"} and {name.split(".")[0] for name in imports(tree, top_only=True)} & HEAVY:
        broken.add("heavy imports inside functions")
    if Path(path).name == "__init__.py" and not all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body):
        broken.add("__init__ is a docstring")
    if Path(path).stem in sys.stdlib_module_names - {"__init__"}:
        broken.add("no standard module's name")
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        options = {(word.arg, word.value.value) for word in call.keywords if isinstance(word.value, ast.Constant)}
        if ast.unparse(call.func) in FORBIDDEN_CALLS or options & FORBIDDEN_OPTIONS:
            broken.add("nothing foreign is run")
    if MACHINE.search(text):
        broken.add("no machine's paths")
    return broken


def files() -> list[Path]:
    return [path.relative_to(ROOT) for top in (*METHODS, "common", "scripts") for path in sorted((ROOT / top).rglob("*.py"))]


def test_the_house_keeps_its_rules():
    found = {str(path): broken_rules(str(path), (ROOT / path).read_text(encoding="utf-8")) for path in files()}
    assert len(found) > 20 and not {path: broken for path, broken in found.items() if broken}


@pytest.mark.parametrize("rule, path, text", [
    ("absolute imports", "sof/a.py", "from .model import SOF"),
    ("absolute imports", "sof/a.py", "def f():\n    from . import model"),
    ("imports run one way", "sof/a.py", "def f():\n    import gof.model"),
    ("imports run one way", "common/a.py", "from sof.model import SOF"),
    ("imports run one way", "scripts/a.py", "from tests import programs"),
    ("pure modules import torch alone", "common/rays.py", "def f():\n    import numpy"),
    ("pure modules import torch alone", "common/layers/hyper.py", "import yaml"),
    ("heavy imports inside functions", "common/images.py", "from PIL import Image"),
    ("heavy imports inside functions", "sof/a.py", "import scipy.ndimage as nd"),
    ("__init__ is a docstring", "sof/__init__.py", "'''SOF'''\nfrom sof.model import SOF"),
    ("no standard module's name", "common/types.py", ""),
    ("nothing foreign is run", "sof/a.py", "torch.load(path, weights_only=False)"),
    ("nothing foreign is run", "sof/a.py", "np.load(path, allow_pickle=True)"),
    ("nothing foreign is run", "common/a.py", "x = pickle.load(file)"),
    ("nothing foreign is run", "scripts/a.py", "eval(text)"),
    ("no machine's paths", "scripts/a.py", "ROOT = '/home/me/data'"),
])
def test_each_rule_catches_what_it_forbids(rule, path, text):
    assert broken_rules(path, text) == {rule}
    assert not broken_rules("sof/a.py", "def f():\n    import scipy\n    return torch.load(path, weights_only=True), model.eval(), 'out/home/x'")


def test_no_import_circles():
    """At module level, where a circle would break the import."""
    names = {".".join(path.with_suffix("").parts): path for path in files()}
    edges = {}
    for name, path in names.items():
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        said = {f"{node.module}.{alias.name}" for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        edges[name] = ({*imports(tree, top_only=True)} | said) & names.keys() - {name}
    while edges:
        leaves = {name for name, into in edges.items() if not into & edges.keys()}
        assert leaves, f"a circle among {sorted(edges)}"
        edges = {name: into for name, into in edges.items() if name not in leaves}
