"""The Slurm scripts with a srun and a scontrol of our own, real signals and a real torchrun: stopped jobs are saved and requeued, others are not."""
from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint
from common.cameras import orbit
from common.images import write_png

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts" / "auto_bash").glob("sof_face_seg_*.sh"))
SMALL = ("--sample_instances_train 0-1 --sample_observations_train 0-1 --no_validation --img_sidelength 8 --output_sidelength 8 --feat_dim 8 "
         "--embedding_size 4 --tracing_steps 2 --batch_size 2 --log_every 1 --pictures_every 0 --device cpu --name job --logging_root log "
         "--data_root heads").split()
PATIENCE = 150                                                  # seconds, on a busy machine
FAKES = {                                                       # srun runs what it is given, as one task, and writes down its process
    "srun": 'shift\necho $$ > task\nexec "$@"\n',
    "scontrol": 'if [ "$1" = show ]; then echo "JobState=$(cat state)"; else echo "$@" >> scontrol.txt; fi\n',
}


@pytest.fixture
def place(tmp_path) -> Path:
    """A project's root with two heads, the fakes, and an interpreter where set-up puts it."""
    for name in ("sof", "configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path, lines in {**{f"bin/{name}": lines for name, lines in FAKES.items()}, ".venv/bin/python": f'exec {shlex.quote(sys.executable)} "$@"\n'}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("#!/usr/bin/env bash\n" + lines)
        (tmp_path / path).chmod(0o755)
    (tmp_path / "state").write_text("RUNNING")
    for head in range(2):
        folder = tmp_path / "heads" / str(head)
        for view in range(2):
            write_png(folder / f"seg_{view:02d}.png", np.random.default_rng([head, view]).integers(0, 3, (8, 8), dtype=np.uint8))
        np.save(folder / "cam2world.npy", orbit(torch.zeros(2), torch.zeros(2), 4.5).numpy())
        np.save(folder / "intrinsic.npy", np.array([[2.0, 0, 4], [0, 2, 4], [0, 0, 1]]))
    return tmp_path


def submit(place: Path, *options: str, script: str = "sof_face_seg_real.sh") -> subprocess.Popen:
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": str(os.getpid()), "OMP_NUM_THREADS": "1"}
    with (place / "job.log").open("ab") as log:
        return subprocess.Popen(["bash", f"scripts/auto_bash/{script}", *SMALL, *options], cwd=place, env=environment, stdout=log, stderr=log)


def steps(place: Path) -> int:
    log = place / "log" / "job" / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def saved(place: Path) -> int:
    """The step that the newest checkpoint holds."""
    return checkpoint.load(checkpoint.newest(place / "log" / "job" / "checkpoints"))["step"]


def wait_for(ready, job: subprocess.Popen, place: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not ready():
        assert job.poll() is None and time.monotonic() < until, (place / "job.log").read_text()
        time.sleep(0.02)


def requeues(place: Path) -> list[str]:
    path = place / "scontrol.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_a_stopped_job_is_saved_requeued_and_goes_on(place):
    job = submit(place, "--max_steps", "1000000")
    wait_for(lambda: steps(place) > 2, job, place)
    job.send_signal(signal.SIGUSR1)                             # Slurm, two minutes before the time limit
    assert job.wait(PATIENCE) == 0, (place / "job.log").read_text()
    first = saved(place)
    assert first > 2 and requeues(place) == [f"requeue {os.getpid()}"]

    before = steps(place)
    job = submit(place, "--max_steps", "1000000")
    wait_for(lambda: steps(place) > before + 2, job, place)
    os.kill(int((place / "task").read_text()), signal.SIGTERM)  # Slurm, preempting the step alone
    assert job.wait(PATIENCE) == 0 and len(requeues(place)) == 2, (place / "job.log").read_text()
    assert saved(place) > first


TRAINING = {"ends": "exit 0", "fails": "exit 1", "stops": "trap 'exit 1' TERM; touch started; while :; do sleep 0.05; done",
            "ends when told": "trap 'exit 0' TERM; touch started; while :; do sleep 0.05; done"}


@pytest.mark.parametrize("training, number, state, code, requeued", [
    ("ends", None, "RUNNING", 0, False),
    ("fails", None, "RUNNING", 1, False),
    ("stops", signal.SIGUSR1, "RUNNING", 0, True),
    ("stops", signal.SIGTERM, "RUNNING", 0, True),
    ("stops", signal.SIGTERM, "COMPLETING", 75, False),         # cancelled by its user
    ("ends when told", signal.SIGUSR1, "RUNNING", 0, False),
])
def test_which_jobs_are_requeued(place, training, number, state, code, requeued):
    (place / ".venv" / "bin" / "python").write_text(f"#!/usr/bin/env bash\n{TRAINING[training]}\n")
    (place / "state").write_text(state)
    job = submit(place, script="sof_face_seg_single_view.sh")
    if number:
        wait_for((place / "started").exists, job, place)
        job.send_signal(number)
    assert job.wait(PATIENCE) == code and bool(requeues(place)) == requeued, (place / "job.log").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_headers_ask_for_a_warning_in_time(script):
    text = script.read_text()
    assert "#SBATCH --signal=B:USR1@120" in text and "#SBATCH --requeue" in text and f"--job-name={script.stem}" in text
    config = text.split("--config_filepath=")[1].split()[0]
    assert (ROOT / config).is_file()
