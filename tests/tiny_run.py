"""A training program in the small, for tests of `common.run`: a network with dropout, Adam and an average of the weights, that can be told to go wrong."""
from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from common import ranks
from common.config import option, run_program
from common.run import Run, RunConfig, start


@dataclass
class TinyConfig(RunConfig):
    lr: float = option(1e-2, "learning rate")
    dropout: float = option(0.3, "share of the hidden units dropped")
    poison: str = option("", "what turns NaN", choices=("", "loss", "gradient"), free=True)
    poison_step: int = option(-1, "step that it turns NaN at", free=True)
    kill_step: int = option(-1, "step in which a process that started at 0 kills itself", free=True)
    signal_step: int = option(-1, "step that sends SIGUSR1 to its own process (the last rank's)", free=True)
    pause: float = option(0.0, "seconds a step waits", free=True)


class Average:
    """An exponential average of a module's parameters, kept by a checkpoint like everything with these two methods."""

    def __init__(self, module: torch.nn.Module):
        self.values = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    def update(self, module: torch.nn.Module) -> None:
        for name, parameter in module.named_parameters():
            self.values[name] = self.values[name].lerp(parameter.detach(), 0.1)

    def state_dict(self) -> dict:
        return self.values

    def load_state_dict(self, values: dict) -> None:
        self.values = values


def build(config: TinyConfig) -> tuple:
    device = start(config)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Dropout(config.dropout), torch.nn.Linear(8, 2)).to(device)
    optimizer, average = torch.optim.Adam(model.parameters(), lr=config.lr), Average(model)
    data = torch.randn(23, 5, generator=torch.Generator().manual_seed(7))
    return model, optimizer, average, data, Run(config, state={"model": model, "optimizer": optimizer, "average": average})


def main(config: TinyConfig) -> None:
    model, optimizer, average, data, run = build(config)
    first = run.number
    for step in run:
        optimizer.zero_grad()
        for part in step.parts():
            rows = step.indices(len(data))[part.slice]
            noise = torch.randn(step.global_batch, 2, generator=step.generator("noise"))[part.slice]
            note(run.folder, step.number, rows, noise)
            output = model(data[rows]) + 0.1 * noise
            losses = part.share({"fit": (output - data[rows, :2]).square().mean(), "size": 1e-3 * output.square().mean()})
            poison(losses, model, config, step.number)
            sum(losses.values()).backward()
        run.average_gradients(model)
        run.refuse_non_finite(losses, model)
        optimizer.step()
        average.update(model)
        run.log(losses)
        run.pictures("preview", lambda: (torch.zeros(4, 6, 3) + 99).byte().numpy())
        go_wrong(config, step.number, first)


def note(folder: Path, number: int, rows: torch.Tensor, noise: torch.Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"draws_{ranks.rank()}.jsonl").open("a") as file:
        file.write(json.dumps([number, rows.tolist(), noise.tolist()]) + "\n")


def poison(losses: dict, model: torch.nn.Module, config: TinyConfig, number: int) -> None:
    if number == config.poison_step and ranks.rank() == ranks.count() - 1:
        if config.poison == "loss":
            losses["size"] = losses["size"] * float("nan")
        else:
            model[3].bias.register_hook(lambda gradient: gradient * float("inf"))


def go_wrong(config: TinyConfig, number: int, first: int) -> None:
    time.sleep(config.pause)
    last = ranks.rank() == ranks.count() - 1
    if number == config.kill_step and first == 0 and last:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == config.signal_step and last:
        os.kill(os.getpid(), signal.SIGUSR1)


if __name__ == "__main__":
    run_program(main, TinyConfig, "A tiny run.")
