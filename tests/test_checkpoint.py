"""common.checkpoint: whole or not there whatever happens while saving, and nothing but tensors comes out of a file."""
from __future__ import annotations

import errno
import io
import os
import pickle
import random
import select
import signal
import subprocess
import time
import zipfile

import pytest
import torch

from common import checkpoint
from common.errors import InputError

STATE = {"step": 3, "images": 24, "config": {"lr": 1e-3, "views": None}, "versions": {"torch": "2"}}


def example() -> dict:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    return {**STATE, "state": {"model": model.state_dict(), "codes": {"weight": torch.arange(5)}}}


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return a == b


def test_what_is_saved_is_loaded(tmp_path):
    state = example()
    checkpoint.save(tmp_path / "deep" / "a.pt", state)
    assert equal(checkpoint.load(tmp_path / "deep" / "a.pt"), state)
    assert os.listdir(tmp_path / "deep") == ["a.pt"]
    with pytest.raises(AssertionError):
        checkpoint.save(tmp_path / "b.pt", {"rays": object()})


def test_newest_is_by_number_and_valid(tmp_path, capsys):
    assert checkpoint.newest(tmp_path) is None and checkpoint.newest(tmp_path / "missing") is None
    for step in (2, 10, 9, 100_000_000):
        checkpoint.save(tmp_path / f"step_{step:08d}.pt", {"step": step})
    (tmp_path / "step_best.pt").write_bytes(b"x")
    assert checkpoint.newest(tmp_path).name == "step_100000000.pt"
    for name in ("step_100000000.pt", "step_00000010.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
    assert checkpoint.newest(tmp_path).name == "step_00000009.pt"
    assert capsys.readouterr().err.count("warning: skipped") == 2


def test_keep_last_keeps_a_valid_one(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path / f"step_{step:08d}.pt", {"step": step})
    (tmp_path / ".step_00000009.pt.77.tmp").write_bytes(b"killed")
    checkpoint.keep_last(tmp_path, 3)
    assert sorted(os.listdir(tmp_path)) == [f"step_{step:08d}.pt" for step in (2, 3, 4)]
    for step in (3, 4):
        (tmp_path / f"step_{step:08d}.pt").write_bytes(b"")
    checkpoint.keep_last(tmp_path, 2)
    assert checkpoint.newest(tmp_path).name == "step_00000002.pt"


def test_fifty_kills_while_saving(tmp_path):
    """A child saves one checkpoint after the other; killed anywhere, the newest valid one is whole and no older than the last it reported."""
    chance, cut, last = random.Random(0), 0, 0
    for _ in range(50):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            torch.set_num_threads(1)                         # a forked child has none of its parent's threads
            for step in range(last + 1, last + 10_000):
                checkpoint.save(tmp_path / f"step_{step:08d}.pt", {"step": step, "state": {"model": {"w": torch.full((200_000,), float(step))}}})
                os.write(write, f"{step}\n".encode())
                checkpoint.keep_last(tmp_path, 2)
            os._exit(0)
        os.close(write)
        assert select.select([read], [], [], 30)[0] and os.read(read, 1)         # it saves
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read) as pipe:
            reported = [int(line) for line in pipe.read().split("\n")[1:-1]]
        cut += any(path.name.endswith(".tmp") for path in tmp_path.iterdir())
        state = checkpoint.load(checkpoint.numbered(tmp_path)[0])                 # whole: half a file never has its name
        assert state["step"] >= max(reported, default=last + 1)
        assert torch.equal(state["state"]["model"]["w"], torch.full((200_000,), float(state["step"])))
        last = state["step"]
    assert cut >= 5 and last > 50                            # the kills did fall into the writing


def test_full_disk_leaves_the_old_one(tmp_path, monkeypatch):
    """On a real full file system where one may be mounted, else with a flush that fails."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True).returncode == 0
    try:
        path = folder / "step_00000001.pt"
        checkpoint.save(path, {"step": 1})
        if not mounted:
            monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        for count in (261_000, 1_000_000):
            with pytest.raises(OSError, match="No space left") as caught:
                checkpoint.save(path, {"step": 2, "state": torch.zeros(count)})
            assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
        assert checkpoint.load(path) == {"step": 1} and os.listdir(folder) == [path.name]
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


# --- hostile and broken files ---------------------------------------------------------------------------------------------------------

class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [
    b"",
    b"PK\x03\x04",
    b"\x80\x04N.",
    b"no checkpoint at all",
    archive(pickle.dumps({"humanfields": 1, "x": Hostile()}, protocol=2)),
    archive(pickle.dumps(Hostile(), protocol=2)),
    archive(pickle.dumps([1], protocol=2)),
    archive(pickle.dumps({"humanfields": 99}, protocol=2)),
    archive(pickle.dumps({"other": 1}, protocol=2)),
    archive(pickle.dumps({"humanfields": 1, "x": "a" * 100_000_000}, protocol=2), zipfile.ZIP_DEFLATED),
    archive(b"\x80\x02" + b"(" * 100_000),
])
def test_broken_hostile_and_foreign_files(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt: ") as caught:
        checkpoint.load(tmp_path / "a.pt")
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == ["a.pt"]


def test_mutated_files_load_equal_or_not_at_all(tmp_path):
    state = {"step": 1, "state": {"w": torch.arange(40.0)}}
    checkpoint.save(tmp_path / "a.pt", state)
    whole, chance, refused = (tmp_path / "a.pt").read_bytes(), random.Random(1), 0
    for _ in range(300):
        altered = bytearray(whole)
        if chance.random() < 0.3:
            altered = altered[:chance.randrange(len(whole))]
        else:
            for _ in range(chance.randint(1, 8)):
                altered[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        (tmp_path / "a.pt").write_bytes(altered)
        try:
            assert equal(checkpoint.load(tmp_path / "a.pt"), state)
        except InputError:
            refused += 1
    assert refused > 150


# --- strict loading -------------------------------------------------------------------------------------------------------------------

def test_load_strict_lists_everything_at_once():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {**before, "0.weight": torch.zeros(4, 5), "2.weight": torch.zeros(1), "1.bias": 7}
    del state["0.bias"]
    with pytest.raises(InputError) as caught:
        checkpoint.load_strict(model, state, "a.pt: model")
    line = str(caught.value)
    assert line.startswith("a.pt: model: ") and "\n" not in line
    for words in ("1 missing: 0.bias", "1 unexpected: 2.weight", "2 misshapen: 0.weight 4x5 instead of 4x3, 1.bias no tensor instead of 2"):
        assert words in line
    assert equal(dict(model.state_dict()), before)
    checkpoint.load_strict(model, {key: value + 1 for key, value in before.items()}, "a.pt")
    assert torch.equal(model[0].bias, before["0.bias"] + 1)
    with pytest.raises(InputError, match="4 missing"):
        checkpoint.load_strict(model, None, "a.pt")


def stepped(*sizes: int) -> torch.optim.Adam:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(size)) for size in sizes])
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = parameter.detach() * 0.3
    optimizer.step()
    return optimizer


def test_load_strict_of_an_optimizer():
    other = stepped(2, 3)
    fresh = torch.optim.Adam([torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))])
    checkpoint.load_strict(fresh, other.state_dict(), "a.pt")
    assert equal(fresh.state_dict(), other.state_dict())
    with pytest.raises(InputError, match="exp_avg of parameter 1 3 instead of 4"):
        checkpoint.load_strict(stepped(2, 4), other.state_dict(), "a.pt")
    with pytest.raises(InputError, match="group 0 2 instead of 1"):
        checkpoint.load_strict(stepped(2), other.state_dict(), "a.pt")


# --- what a flag may name --------------------------------------------------------------------------------------------------------------

def test_open_checkpoint_tells_by_content(tmp_path):
    state = example()
    run = tmp_path / "run"
    checkpoint.save(run / "checkpoints" / "step_00000003.pt", state)
    disguised = tmp_path / "model.safetensors"
    disguised.write_bytes((run / "checkpoints" / "step_00000003.pt").read_bytes())
    exported = tmp_path / "model.pth"
    checkpoint.export_safetensors(exported, state["state"], state["config"])
    for path in (run, run / "checkpoints", run / "checkpoints" / "step_00000003.pt", disguised, exported):
        opened = checkpoint.open_checkpoint(path)
        assert opened.kind == "ours" and opened.config == state["config"]
        assert opened.data.keys() == state["state"].keys()
        assert all(equal(dict(sorted(opened.data[name].items())), dict(sorted(state["state"][name].items()))) for name in opened.data)
    half = tmp_path / "half.safetensors"
    tied = state["state"]["model"]["0.weight"]
    checkpoint.export_safetensors(half, {"model": {"a": tied, "b": tied.T, "n": torch.arange(3)}}, {}, torch.float16)
    data = checkpoint.open_checkpoint(half).data["model"]
    assert torch.equal(data["b"], tied.T.half()) and data["n"].dtype == torch.int64


def test_open_checkpoint_refuses(tmp_path):
    import safetensors.torch

    (tmp_path / "empty").mkdir()
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "foreign.safetensors").read_bytes()[:40])
    checkpoint.save(tmp_path / "bare.pt", {"step": 1})
    for name in ("empty", "missing", "foreign.safetensors", "cut.safetensors", "bare.pt"):
        with pytest.raises(InputError, match=name):
            checkpoint.open_checkpoint(tmp_path / name)
