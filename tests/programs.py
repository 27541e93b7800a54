"""Runs the project's scripts from another folder, in processes of their own.

They are forked from a server that has imported torch and the methods but has run nothing, which saves each the seconds of the import; the script's
file runs as ``__main__`` with its own arguments, folder and files for its output, and dies of real signals.
"""
from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["pytest", "torch._dynamo", "torch.utils.tensorboard", "sof.train", "sof.eval", "sof.render", "gof.train", "gof.render",
                                "geopifu.train", "sem2nerf.train", "sem2nerf.render"])


@dataclass
class Program:
    """A program that was started: its process, and the files that its output goes to."""

    process: BaseProcess
    folder: Path

    def wait(self) -> Done:
        """What it left, once it ends; killed after two minutes."""
        self.process.join(120)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError((self.folder / "stderr").read_text())
        return Done(self.process.exitcode, (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text())


@dataclass
class Done:
    """How a program ended: exit code (minus the signal that killed it), standard output and error."""

    code: int
    out: str
    err: str


def refused(done: Done, *words: object) -> None:
    """It ended with exit code 2 and one line on stderr, which has these words."""
    assert done.code == 2, done
    lines = done.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and all(str(word) in lines[0] for word in words), done.err


def start(folder: Path, script: str, *args, **environment) -> Program:
    """Start ROOT/script with these arguments in `folder`, which also takes its output."""
    folder.mkdir(parents=True, exist_ok=True)
    process = _server.Process(target=_program, args=(str(folder), str(ROOT / script), list(map(str, args)), environment))
    process.start()
    return Program(process, folder)


def run(folder: Path, script: str, *args) -> Done:
    """Run ROOT/script with these arguments in `folder`."""
    return start(folder, script, *args).wait()


def ranks(folder: Path, count: int, script: str, *args) -> list[Program]:
    """Start `count` ranks of one run, told of one another as torchrun does."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    return [start(folder / f"rank {rank}", script, *args, **place, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]


def wait_for(ready: Callable[[], object]) -> None:
    """Wait until `ready()`, for a minute."""
    until = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def _program(folder: str, script: str, args: list[str], environment: dict[str, str]) -> None:
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.environ.update(environment)
    import torch
    torch.set_num_threads(1)
    sys.argv, sys.path[0] = [script, *args], str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")
