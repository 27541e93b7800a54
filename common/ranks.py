"""The processes of one run, as torchrun starts them: who I am, where I compute, and the few things that ranks do together."""
from __future__ import annotations

import atexit
import os
import re

import torch
from torch import Tensor, distributed, nn

from common.errors import InputError


def device_of(flag: str) -> torch.device:
    """The device of a `--device` flag: "auto" (a GPU if there is one), "cpu", "cuda" (this rank's own) or "cuda:1". Raises InputError."""
    if flag == "auto":
        flag = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", flag):
        raise InputError(f"--device: expected auto, cpu, cuda or cuda:NUMBER, got {flag!r}")
    device = torch.device(flag)
    if device.type == "cpu":
        return device
    index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise InputError(f"--device: {flag} number {index} asked for, but {torch.cuda.device_count()} CUDA devices are here; try --device cpu")
    return torch.device("cuda", index)


def join(device: torch.device) -> None:
    """Join the other ranks if torchrun started several: NCCL between GPUs, gloo between CPUs. Once; later calls do nothing."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)


def rank() -> int:
    """This process's number, 0 when alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """How many processes share the run, 1 when alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """The sum of every rank's values (same shape and dtype); NaN and infinity on one rank reach all."""
    if count() > 1:
        distributed.all_reduce(values)
    return values


def any_says(flag: bool, device: torch.device) -> bool:
    """Whether any rank says so; every rank waits for the others."""
    return bool(total(torch.tensor(int(flag), device=device))) if count() > 1 else flag


def same_start(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if count() > 1:
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, src=0)


def average_gradients(module: nn.Module) -> None:
    """Sum the gradients over the ranks, in one all-reduce of them all flattened: their mean, since each part carries its share of the batch as weight."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if count() > 1 and gradients:
        flat = total(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, values in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(values.view_as(gradient))
