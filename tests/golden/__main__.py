"""Run golden cases: ``python -m tests.golden [--kinds sof.render,sof.train] DIR ...`` (default: the project's own copy).

A case passes when what our code computes agrees with the stored numbers of the original within the case's tolerance. The adapters of
``tests.golden.<method>_adapters`` arrange arguments for the functions that train, render and eval call; they never see the outputs.
"""
from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from pathlib import Path

import torch

from tests.golden import golden

HERE = Path(__file__).parent


def adapters() -> dict:
    """{kind: adapter(config, params, inputs) -> {name: array}} of every method that has an adapters file here."""
    found = {}
    for path in sorted(HERE.glob("*_adapters.py")):
        found |= importlib.import_module(f"tests.golden.{path.stem}").ADAPTERS
    return found


def error_over_tolerance(path: Path, known: dict) -> float:
    """The largest error over tolerance of a case; infinite for an unknown kind or an adapter that raises."""
    case = golden.load(path)
    adapter = known.get(case.spec["kind"])
    if adapter is None:
        print(f"     no adapter for kind {case.spec['kind']}", file=sys.stderr)
        return float("inf")
    try:
        return golden.worst(case, adapter(case.spec["config"], case.params, case.inputs))
    except Exception:
        traceback.print_exc()
        return float("inf")


def main(argv: list[str] | None = None) -> int:
    """Print a line per case and the count; exit status 1 if any failed or none ran."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__.split("\n")[0])
    parser.add_argument("dirs", nargs="*", default=[HERE], help="folders with golden cases")
    parser.add_argument("--kinds", default="", help="only these kinds, comma separated; default: all")
    args = parser.parse_args(argv)
    torch.backends.cuda.matmul.allow_tf32 = False
    wanted, known, passed, failed = set(filter(None, args.kinds.split(","))), adapters(), 0, 0
    for path in golden.cases(*args.dirs):
        kind = json.loads(path.read_text())["kind"]
        if wanted and kind not in wanted:
            continue
        worst = error_over_tolerance(path, known)
        passed, failed = passed + (worst <= 1), failed + (not worst <= 1)
        print(f"{'ok  ' if worst <= 1 else 'FAIL'} {kind:24} {path.stem:28} worst error / tolerance {worst:.3g}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main())
