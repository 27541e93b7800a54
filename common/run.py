"""A run is an iterator over training steps: it hides cadence, resume, signals, ranks and progress, and leaves the loop to its method.

    device = start(config)
    model, data = Model(...).to(device), ...
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    run = Run(config, state={"model": model, "optimizer": optimizer})
    for step in run:
        optimizer.zero_grad()
        for part in step.parts():                                               # gradient accumulation
            rows = step.indices(len(data))[part.slice]
            noise = torch.randn(step.global_batch, 3, generator=step.generator("march"))[part.slice]
            losses = part.share(compute_losses(model, data, rows, noise))       # their share of the global batch, on top of the earlier parts
            sum(losses.values()).backward()
        run.average_gradients(model)
        run.refuse_non_finite(losses, model)
        optimizer.step()
        run.log(losses)
        run.pictures("preview", lambda: draw(model))

The run folder `logging_root/name` is the whole record: config.yml, log.jsonl, TensorBoard events, checkpoints/, pictures/. Running the same command again
goes on from its newest valid checkpoint. Progress counts images; a step's draws depend on (seed, images seen, purpose) over the global batch, of which every
rank takes its slice: a resumed run equals one never stopped, to the last bit on a CPU, and the number of ranks changes no draw.
"""
from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from common import checkpoint, config, draws, ranks
from common.config import option
from common.errors import InputError, NonFinite, Preempted
from common.files import replacing
from common.signals import StopRequest


@dataclass
class RunConfig:
    """The options that every training program has."""

    name: str = option("", "name of the run and its folder; empty for the stem of the config file", free=True)
    logging_root: str = option("./log", "folder of all runs", free=True)
    seed: int = option(0, "seed of the initial weights and of every draw", low=0)
    device: str = option("auto", "auto (a GPU if there is one), cpu, cuda or cuda:NUMBER", free=True)
    precision: str = option("fp32", "matrix products on a GPU: fp32 or the faster tf32", choices=("fp32", "tf32"))
    batch_size: int = option(8, "images a step, over all ranks", low=1)
    accumulate: int = option(1, "parts that each rank's share of a batch is computed in, to fit memory", low=1, free=True)
    max_steps: int = option(200_000, "optimiser steps", low=1, free=True)
    steps_til_ckpt: int = option(1000, "steps between checkpoints", low=1, free=True)
    keep_ckpts: int = option(3, "newest checkpoints kept", low=1, free=True)
    log_every: int = option(10, "steps between log lines", low=1, free=True)
    pictures_every: int = option(10_000, "images between preview pictures; 0 for none", low=0, free=True)


def start(config: RunConfig) -> torch.device:
    """Join the ranks, set precision and seed, and give the device to build the model on. Raises InputError."""
    device = ranks.device_of(config.device)
    ranks.join(device)
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    torch.manual_seed(config.seed)
    return device


@dataclass(frozen=True)
class Part:
    """What one rank computes at once: a slice of the global batch, and its share of it as weight."""

    slice: slice
    weight: float
    earlier: dict[str, Tensor]

    def share(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean losses of this part, weighted by its share of the global batch, plus the (detached) shares of the earlier parts."""
        shares = {name: loss * self.weight + self.earlier.get(name, 0.0) for name, loss in losses.items()}
        self.earlier.update({name: share.detach() for name, share in shares.items()})
        return shares


@dataclass(frozen=True)
class Step:
    """One step: its number and the images seen before it, and what it draws."""

    number: int
    images: int
    global_batch: int
    seed: int
    accumulate: int

    def parts(self) -> list[Part]:
        """This rank's parts, in order; the weights of all parts of all ranks sum to 1."""
        count, earlier = ranks.count() * self.accumulate, {}
        bounds = [self.global_batch * i // count for i in range(count + 1)]
        mine = range(ranks.rank() * self.accumulate, (ranks.rank() + 1) * self.accumulate)
        return [Part(slice(bounds[i], bounds[i + 1]), (bounds[i + 1] - bounds[i]) / self.global_batch, earlier) for i in mine]

    def indices(self, n: int) -> Tensor:
        """Items (global_batch,) of n: the next of an endless stream that is reshuffled for every epoch."""
        return draws.stream(self.seed, self.images, self.global_batch, n)

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for one purpose of this step; draw for the global batch and take the part's slice."""
        return draws.generator(self.seed, self.images, purpose, device)


class Run:
    """A run folder and the steps left in it; `state` names what a checkpoint holds: modules, optimisers, anything with state_dict and load_state_dict.

    `sizes(step)` gives the global batch of a step and the parts that each rank computes its share in, where they change; `first_step` is where a new run
    begins that starts from another's weights. Raises InputError if the folder was made with other options that change the result, or does not fit.
    """

    def __init__(self, config: RunConfig, state: dict, sizes: Callable[[int], tuple[int, int]] | None = None, first_step: int = 0):
        if not config.name:
            raise InputError("--name: name the run, or give a config file whose stem names it")
        self.sizes = sizes or (lambda step: (config.batch_size, config.accumulate))
        for batch, parts in {self.sizes(step) for step in range(config.max_steps)}:
            if batch < ranks.count() * parts:
                flag = "batch_split" if sizes else "accumulate"
                raise InputError(f"--batch_size: {batch} images cannot be shared by {ranks.count()} ranks x {parts} parts (--{flag})")
        self.config, self.state, self.device = config, state, start(config)
        self.folder = Path(config.logging_root) / config.name
        self.number, self.seconds = first_step, 0.0
        self.images = sum(self.sizes(step)[0] for step in range(first_step))    # seen by the steps that are done
        self._resume()
        for item in state.values():
            if isinstance(item, nn.Module):
                ranks.same_start(item)
        self._writer = None
        if ranks.rank() == 0:
            self._open_record()

    def __iter__(self) -> Iterator[Step]:
        """The steps left. Raises Preempted, its state saved, after the step in which SIGTERM or SIGUSR1 came to any rank."""
        from tqdm import tqdm

        settings, self._since = self.config, time.monotonic()
        patience = 0.5 if sys.stderr.isatty() else 30.0                         # a log file wants few lines
        bar = tqdm(total=settings.max_steps, initial=self.number, desc=settings.name, disable=ranks.rank() > 0, mininterval=patience, dynamic_ncols=True)
        with bar, StopRequest() as stop:
            self._bar = bar
            while self.number < settings.max_steps:
                torch.manual_seed(draws.seed_of(settings.seed, self.images, f"rank {ranks.rank()}"))      # for what draws without a generator: dropout
                batch, parts = self.sizes(self.number)
                yield Step(self.number, self.images, batch, settings.seed, parts)
                self.number, self.images = self.number + 1, self.images + batch
                bar.update()
                heard = ranks.any_says(stop.heard is not None, self.device)
                if heard or self.number % settings.steps_til_ckpt == 0 or self.number == settings.max_steps:
                    self.save()
                if heard and self.number < settings.max_steps:
                    raise Preempted(f"{stop.heard or 'a signal to another rank'} at step {self.number}; saved in {self.folder}, run the same command to go on")

    # --- the loop's verbs ------------------------------------------------------------------------------------------------------------

    def average_gradients(self, module: nn.Module) -> None:
        """Make every rank's gradients those of the global batch: one all-reduce of them all."""
        ranks.average_gradients(module)

    def refuse_non_finite(self, losses: dict[str, Tensor], module: nn.Module) -> None:
        """Before the update: raise NonFinite on every rank alike if a loss or a gradient of `module` is NaN or infinite on any."""
        gradients = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
        worst = torch.nn.utils.get_total_norm(list(gradients.values()), float("inf")).to(self.device)
        values = ranks.total(torch.stack([*self._numbers(losses), worst.float()]))
        if values.isfinite().all():
            return
        terms = [name for name, finite in zip(losses, values[:-1].isfinite().tolist()) if not finite]
        parameters = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        what = f"loss {', '.join(terms)}" if terms else f"gradient of {', '.join(parameters[:checkpoint.SHOWN]) or 'another rank'}"
        raise NonFinite(f"{what} is not finite at step {self.number + 1}; the update was refused, the checkpoints of {self.folder} are as they were")

    def log(self, losses: dict[str, Tensor], **scalars: float) -> None:
        """Every `log_every` steps the losses (summed over the ranks, so pass what `Part.share` gave); `scalars` (rank 0's) whenever given."""
        record, step = {}, min(self.number + 1, self.config.max_steps)              # after the loop, still the last
        if step % self.config.log_every == 0 or step == self.config.max_steps:
            record = dict(zip(losses, ranks.total(torch.stack(self._numbers(losses))).tolist())) if losses else {}
        if ranks.rank() > 0 or not (record or scalars):
            return
        if record:
            self._bar.set_postfix(loss=f"{sum(record.values()):.4g}", refresh=False)
        record |= {name: float(value) for name, value in scalars.items()}
        line = {"step": step, "images": self._seen(), "seconds": round(self._elapsed(), 3), **record}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in record.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, name: str, make_images: Callable) -> None:
        """Every `pictures_every` images, and at the end: the picture (H, W, 3) uint8 that `make_images()` draws, as PNG and in TensorBoard. Rank 0 alone."""
        every, seen = self.config.pictures_every, self._seen()
        due = every and (seen // every > self.images // every or self.number + 1 == self.config.max_steps)
        if ranks.rank() == 0 and due:
            from common.images import write_png

            with torch.no_grad():
                picture = make_images()
            write_png(self.folder / "pictures" / f"{name}_{seen:09d}.png", picture)
            self._writer.add_image(name, picture, self.number + 1, dataformats="HWC")

    def save(self) -> None:
        """Write this moment's checkpoint (rank 0) and remove the oldest; every rank waits until it is safe."""
        if ranks.rank() == 0:
            state = {"step": self.number, "images": self.images, "seconds": self._elapsed(), "config": dataclasses.asdict(self.config), "versions": _versions(),
                     "state": {name: item.state_dict() for name, item in self.state.items()}}
            self._writer.flush()
            checkpoint.save(self._checkpoint(self.number), state)
            checkpoint.keep_last(self.folder / "checkpoints", self.config.keep_ckpts)
        ranks.any_says(False, self.device)

    # --- the folder ------------------------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Take up the newest valid checkpoint that rank 0 sees, if there is one."""
        found = -1
        if ranks.rank() == 0 and checkpoint.numbered(self.folder / "checkpoints"):
            newest = checkpoint.newest(self.folder / "checkpoints")
            if newest is None:
                raise InputError(f"{self.folder / 'checkpoints'}: none of its checkpoints is whole; move the folder away to start anew")
            found = int(newest.stem.removeprefix("step_"))
        found = int(ranks.total(torch.tensor(found if ranks.rank() == 0 else 0, device=self.device)))
        if found < 0:
            return
        path = self._checkpoint(found)
        saved = checkpoint.load(path)
        check_same_options(self.config, saved["config"], self.folder)
        if saved["state"].keys() != self.state.keys():
            raise InputError(f"{path}: holds {', '.join(saved['state'])}, expected {', '.join(self.state)}")
        for name, item in self.state.items():
            checkpoint.load_strict(item, saved["state"][name], f"{path}: {name}")
        self.number, self.images, self.seconds = saved["step"], saved["images"], saved["seconds"]

    def _open_record(self) -> None:
        """The resolved config, the log cut back to the step of the checkpoint, and TensorBoard's writer, which hides what it had beyond."""
        from torch.utils.tensorboard import SummaryWriter

        config.save(self.config, self.folder / "config.yml")
        log = self.folder / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        with replacing(log) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= self.number))
        self._writer = SummaryWriter(str(self.folder), purge_step=self.number + 1)

    def _checkpoint(self, number: int) -> Path:
        return self.folder / "checkpoints" / f"step_{number:08d}.pt"

    def _seen(self) -> int:
        """Images seen with those of the step under way; after the loop, by all steps."""
        return self.images + (self.sizes(self.number)[0] if self.number < self.config.max_steps else 0)

    def _elapsed(self) -> float:
        """Seconds of training, over all restarts."""
        return self.seconds + time.monotonic() - self._since

    def _numbers(self, losses: dict[str, Tensor]) -> list[Tensor]:
        return [torch.as_tensor(loss, dtype=torch.float32, device=self.device).detach() for loss in losses.values()]


def check_same_options(ours: RunConfig, theirs: dict, folder: Path) -> None:
    """Refuse to go on in `folder` with an option that changes the result: InputError naming each with the old and the new value."""
    changed = [f"--{field.name} was {theirs[field.name]!r}, now {getattr(ours, field.name)!r}" for field in dataclasses.fields(ours)
               if not field.metadata["free"] and field.name in theirs and theirs[field.name] != getattr(ours, field.name)]
    if changed:
        raise InputError(f"{folder}: this run was made with other options: {'; '.join(changed)}. Give another --name, or the old options")


def _step_of(line: str) -> float:
    """The step of a log line; beyond all steps for one cut off in the middle."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _versions() -> dict[str, str]:
    return {"humanfields": version("humanfields"), "torch": str(torch.__version__), "python": platform.python_version()}
