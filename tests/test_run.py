"""common.run, common.draws, common.ranks, common.signals: a run stopped in any way goes on as if it never had, and ranks change no draw."""
from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._dynamo  # this and the next: what optimisers and Run import at first use, once for all forked programs
import torch.utils.tensorboard

from common import checkpoint, draws, ranks
from common.errors import InputError, NonFinite, exit_codes
from common.images import write_png
from common.run import Run, RunConfig, Step
from tests import tiny_run
from tests.tiny_run import TinyConfig

PROGRAM = Path(tiny_run.__file__)
QUICK = {"batch_size": 6, "max_steps": 11, "steps_til_ckpt": 3, "log_every": 2, "pictures_every": 30, "device": "cpu"}


def tiny(root: Path, name: str = "run", **options) -> TinyConfig:
    return TinyConfig(logging_root=str(root), name=name, **{**QUICK, **options})


def forked(work: Callable[[], None]) -> int:
    """Run `work` as a program in a process of its own (forked: torch is loaded already); its wait status comes from `waited`."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        try:
            with exit_codes():
                work()
            os._exit(0)
        except SystemExit as leaving:
            os._exit(leaving.code)
        except BaseException:
            os._exit(99)
    return child


def waited(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def flags(config: TinyConfig) -> list[str]:
    return [f"--{name}={value}" for name, value in vars(config).items()]


def two_ranks(config: TinyConfig) -> list[int]:
    """The exit codes of two forked ranks, told of one another as torchrun does."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    return [waited(child) for child in [forked(lambda rank=rank: os.environ.update(place, RANK=str(rank)) or tiny_run.main(config)) for rank in range(2)]]


def final(config: TinyConfig) -> dict:
    return checkpoint.load(checkpoint.newest(Path(config.logging_root) / config.name / "checkpoints"))


def record(config: TinyConfig) -> list[dict]:
    lines = (Path(config.logging_root) / config.name / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def noted(config: TinyConfig, rank: int) -> dict[int, list]:
    return {number: [rows, noise] for number, rows, noise in map(json.loads, (Path(config.logging_root) / config.name / f"draws_{rank}.jsonl").open())}


def tensorboard(config: TinyConfig) -> list[tuple]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path(config.logging_root) / config.name))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("fit")] + [event.step for event in events.Images("preview")]


def flat(tree, path: str = "") -> dict:
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {key: value for name, item in items for key, value in flat(item, f"{path}/{name}").items()}
    return {path: tree}


def assert_same_bits(a: dict, b: dict) -> None:
    a, b = flat(a["state"]), flat(b["state"])
    assert a.keys() == b.keys() and any("exp_avg" in key for key in a) and any("average" in key for key in a)
    for key, value in a.items():
        assert torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key], key


# --- draws ----------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [1, 5, 24])
def test_stream_is_epochs_of_permutations(n):
    """Against the stream written out item by item; every epoch holds every item once; it may start anywhere."""
    whole = torch.cat([torch.randperm(n, generator=draws.generator(3, epoch, f"order of {n}")) for epoch in range(40 // n + 8)])
    for first in (0, 1, n - 1, n, 17):
        for count in (1, 4, 2 * n + 3):
            assert torch.equal(draws.stream(3, first, count, n), whole[first:first + count])
    for epoch in range(3):
        assert draws.stream(3, epoch * n, n, n).sort().values.tolist() == list(range(n))
    if n == 24:
        assert not torch.equal(whole[:n], whole[n:2 * n]) and not torch.equal(draws.stream(4, 0, n, n), whole[:n])


def test_generators_differ_by_seed_images_and_purpose():
    step = Step(5, 40, 8, seed=1, accumulate=1)
    value = lambda generator: torch.rand(4, generator=generator).tolist()
    assert value(step.generator("march")) == value(draws.generator(1, 40, "march"))
    others = [draws.generator(2, 40, "march"), draws.generator(1, 41, "march"), draws.generator(1, 40, "marcH")]
    assert len({tuple(value(generator)) for generator in [step.generator("march"), *others]}) == 4


@pytest.mark.parametrize("ranks_accumulate", [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_parts_make_the_full_batch(ranks_accumulate, monkeypatch):
    """Shares of all parts of all ranks: gradients and losses sum to those of the mean over the global batch of 7."""
    count, accumulate = ranks_accumulate
    x, target = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    loss = lambda rows: (x[rows] @ weight - target[rows]).square().mean()
    expected, = torch.autograd.grad(loss(slice(None)), weight)
    covered, total = [], 0.0
    for rank in range(count):
        monkeypatch.setattr(ranks, "count", lambda: count)
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        for part in Step(0, 0, 7, 0, accumulate).parts():
            losses = part.share({"fit": loss(part.slice)})
            losses["fit"].backward()
            covered += range(7)[part.slice]
        total += float(losses["fit"].detach())
    assert covered == list(range(7))
    torch.testing.assert_close(weight.grad, expected)
    assert total == pytest.approx(float(loss(slice(None)).detach()))


# --- going on -------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> TinyConfig:
    config = tiny(tmp_path_factory.mktemp("straight"))
    write_png(Path(config.logging_root) / "a.png", torch.zeros(2, 2, 3).byte().numpy())
    assert waited(forked(lambda: tiny_run.main(config))) == 0
    return config


def test_a_run_leaves_its_record(straight):
    folder = Path(straight.logging_root) / "run"
    assert [line["step"] for line in record(straight)] == [2, 4, 6, 8, 10, 11]
    assert [line["images"] for line in record(straight)] == [12, 24, 36, 48, 60, 66]
    assert all(set(line) == {"step", "images", "fit", "size"} for line in record(straight))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000006.pt", "step_00000009.pt", "step_00000011.pt"]
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [f"preview_{images:09d}.png" for images in (30, 60, 66)]
    assert checkpoint.open_checkpoint(folder).config == vars(straight)
    assert (folder / "config.yml").exists() and list(folder.glob("events.*"))


def test_killed_and_resumed_equals_straight(straight, tmp_path):
    config = tiny(tmp_path, kill_step=7)
    assert waited(forked(lambda: tiny_run.main(config))) == -signal.SIGKILL
    assert final(config)["step"] == 6 and record(config)[-1]["step"] == 8
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 9, "ima')                        # killed within a line
    assert waited(forked(lambda: tiny_run.main(config))) == 0
    assert_same_bits(final(config), final(straight))
    assert record(config) == record(straight) and noted(config, 0) == noted(straight, 0)
    assert tensorboard(config) == tensorboard(straight) and len(tensorboard(straight)) == 9


def test_every_way_of_stopping_is_resumable(straight, tmp_path):
    """SIGUSR1 in one, a broken newest checkpoint, then more steps than first asked for: still the straight run."""
    config = tiny(tmp_path, signal_step=4, max_steps=8)
    assert waited(forked(lambda: tiny_run.main(config))) == 75 and final(config)["step"] == 5
    newest = checkpoint.newest(tmp_path / "run" / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-100])
    assert waited(forked(lambda: tiny_run.main(tiny(tmp_path, max_steps=8)))) == 0
    assert waited(forked(lambda: tiny_run.main(tiny(tmp_path)))) == 0
    assert_same_bits(final(config), final(straight))
    assert waited(forked(lambda: tiny_run.main(tiny(tmp_path)))) == 0           # done: nothing left to do
    assert record(tiny(tmp_path))[-1] == record(straight)[-1]


def test_sigterm_as_a_user_sends_it(straight, tmp_path):
    config = tiny(tmp_path, pause=0.1)
    program = subprocess.Popen([sys.executable, str(PROGRAM), *flags(config)], stderr=subprocess.PIPE, text=True, cwd="/")
    wait_for(lambda: len(noted(config, 0)) > 1, tmp_path / "run" / "draws_0.jsonl")
    program.send_signal(signal.SIGTERM)
    errors = program.communicate(timeout=60)[1]
    assert program.returncode == 75 and re.search(r"\npreempted: SIGTERM at step \d+; saved in .*run, run the same command", errors)
    assert "Traceback" not in errors
    assert waited(forked(lambda: tiny_run.main(tiny(tmp_path)))) == 0
    assert_same_bits(final(config), final(straight))


def test_second_signal_exits_at_once(tmp_path):
    config = tiny(tmp_path, pause=20.0)
    child = forked(lambda: tiny_run.main(config))
    wait_for(lambda: noted(config, 0), tmp_path / "run" / "draws_0.jsonl")
    time.sleep(0.5)
    began = time.monotonic()
    os.kill(child, signal.SIGTERM)
    time.sleep(0.2)
    os.kill(child, signal.SIGUSR1)
    assert waited(child) == 128 + signal.SIGUSR1 and time.monotonic() - began < 10


def wait_for(ready: Callable, path: Path) -> None:
    until = time.monotonic() + 60
    while not (path.exists() and ready()):
        assert time.monotonic() < until
        time.sleep(0.05)


# --- two ranks ------------------------------------------------------------------------------------------------------------------------

def test_two_ranks_of_torchrun(straight, tmp_path):
    """They draw what one process draws, and learn the same but for rounding; one killed and both started again end equal to the last bit."""
    config = tiny(tmp_path, "alone", dropout=0.0)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(PROGRAM), *flags(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    first, second, one = noted(config, 0), noted(config, 1), noted(straight, 0)
    assert all([a + b for a, b in zip(first[number], second[number])] == one[number] for number in range(11))
    single = tiny(tmp_path, "single", dropout=0.0)
    assert waited(forked(lambda: tiny_run.main(single))) == 0
    for name, value in final(single)["state"]["model"].items():
        torch.testing.assert_close(value, final(config)["state"]["model"][name])
    assert [line["fit"] for line in record(single)] == pytest.approx([line["fit"] for line in record(config)], rel=1e-4)

    killed = tiny(tmp_path, "killed", dropout=0.0, kill_step=7)
    assert two_ranks(killed)[1] == -signal.SIGKILL and final(killed)["step"] == 6
    assert two_ranks(killed) == [0, 0]
    assert_same_bits(final(config), final(killed))
    assert record(config) == record(killed)


def test_two_ranks_stop_together(tmp_path, capfd):
    """A signal to one rank, then a NaN on one rank: both save or refuse at the same step."""
    config = tiny(tmp_path, signal_step=4)
    assert two_ranks(config) == [75, 75] and final(config)["step"] == 5
    for poison, words in (("loss", "loss size"), ("gradient", "gradient of 3.bias")):
        poisoned = tiny(tmp_path, poison=poison, poison_step=7)
        assert two_ranks(poisoned) == [3, 3] and final(poisoned)["step"] == 6
        assert capfd.readouterr().err.count(f"stopped: {words} is not finite at step 8") == 2
    assert two_ranks(tiny(tmp_path, batch_size=1)) == [2, 2]


# --- refusals -------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("poison, words", [("loss", "loss size is not finite at step 5"), ("gradient", "gradient of 3.bias is not finite at step 5")])
def test_non_finite_is_refused(straight, tmp_path, poison, words, capfd):
    config = tiny(tmp_path, poison=poison, poison_step=4)
    assert waited(forked(lambda: tiny_run.main(config))) == 3
    assert f"stopped: {words}; the update was refused" in capfd.readouterr().err
    assert final(config)["step"] == 3
    assert waited(forked(lambda: tiny_run.main(tiny(tmp_path)))) == 0
    assert_same_bits(final(config), final(straight))


def test_weights_stay_when_refused(tmp_path):
    model, optimizer, _, data, run = tiny_run.build(tiny(tmp_path))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NonFinite, match="loss fit, size is not finite at step 1"):
        for _ in run:
            losses = {"fit": model(data).mean() / 0.0, "size": torch.tensor(float("nan"))}
            run.refuse_non_finite(losses, model)
            optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_other_options_are_refused(tmp_path):
    model = torch.nn.Linear(2, 1)
    config = RunConfig(name="run", logging_root=str(tmp_path), max_steps=2, device="cpu")
    for _ in Run(config, {"model": model}):
        pass
    before = (tmp_path / "run" / "config.yml").read_bytes()
    with pytest.raises(InputError, match=r"--seed was 0, now 1; --batch_size was 8, now 4\. Give another --name"):
        Run(RunConfig(name="run", logging_root=str(tmp_path), seed=1, batch_size=4, max_steps=9, log_every=3, device="cpu"), {"model": model})
    with pytest.raises(InputError, match="misshapen: weight 1x2 instead of 1x3"):
        Run(config, {"model": torch.nn.Linear(3, 1)})
    with pytest.raises(InputError, match="holds model, expected model, other"):
        Run(config, {"model": model, "other": model})
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of its checkpoints is whole"):
        Run(config, {"model": model})
    assert (tmp_path / "run" / "config.yml").read_bytes() == before


def test_scalars_are_logged_whenever_given(tmp_path):
    run = Run(RunConfig(name="run", logging_root=str(tmp_path), max_steps=3, log_every=2, device="cpu"), {})
    for step in run:
        run.log({"fit": torch.tensor(2.0)}, **({"miou": torch.tensor(0.5)} if step.number == 0 else {}))
    run.log({}, miou=0.75)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [{key: value for key, value in line.items() if key not in ("seconds", "images")} for line in lines] == [
        {"step": 1, "miou": 0.5}, {"step": 2, "fit": 2.0}, {"step": 3, "fit": 2.0}, {"step": 3, "miou": 0.75}]
    assert lines == sorted(lines, key=lambda line: line["seconds"])


@pytest.mark.parametrize("options, words", [
    ({"name": ""}, "--name: "),
    ({"device": "gpu"}, "--device: expected auto, cpu, cuda"),
    ({"device": "cuda:99"}, "--device: cuda:99"),
    ({"accumulate": 9}, "--batch_size: 8 images cannot be shared by 1 ranks x 9 parts"),
])
def test_options_that_cannot_be(tmp_path, options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        Run(RunConfig(**{"name": "run", "logging_root": str(tmp_path), "device": "cpu", **options}), {})
    assert not list(tmp_path.iterdir())


def test_device_of():
    assert ranks.device_of("cpu") == torch.device("cpu")
    assert ranks.device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
