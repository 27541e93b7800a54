"""Triton's kernels, run by its interpreter on the CPU, against torch: values, gradients, and where the torch versions are chosen instead."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import kernels

ROOT = Path(__file__).parents[1]

pytest.importorskip("triton")


def interpreted(body: str) -> dict:
    """What a fresh process prints as JSON: Triton decides at its import whether it interprets."""
    done = subprocess.run([sys.executable, "-c", PRELUDE + body], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


PRELUDE = """
import json, torch
from common import kernels, volume
from common.layers import siren

torch.manual_seed(0)

def apart(function, reference, *inputs):
    '''The largest difference of results and gradients, as a share of each one's largest value.'''
    worst, kept = 0.0, []
    for f in (function, reference):
        leaves = [x.clone().requires_grad_() for x in inputs]
        results = f(*leaves)
        results = results if isinstance(results, tuple) else (results,)
        if not kept:
            directions = [torch.randn_like(x) for x in results]
        gradients = torch.autograd.grad(results, leaves, directions)
        kept.append([*results, *gradients])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*kept, strict=True))
"""


def test_sine_is_torch_s():
    found = interpreted("""
found = {}
for name, (B, P, O, rows) in {"one bias": (2, 37, 40, 1), "a bias a point": (3, 5, 130, 5), "a single point": (1, 1, 7, 1)}.items():
    x, bias = 20 * torch.randn(B, P, O), 20 * torch.randn(B, rows, O)
    found[name] = apart(kernels.sine, lambda x, b: (x + b).sin(), x, bias)
    whole = (x + bias).sin()
    there = kernels.sine(x, bias)
    found[name + ", in place"] = float((there - whole).abs().max()) + (there.data_ptr() != x.data_ptr())
x = torch.randn(1, 6, 8)[:, ::2].requires_grad_()
found["strided"] = apart(kernels.sine, lambda x, b: (x + b).sin(), x.detach(), torch.randn(1, 1, 8))
print(json.dumps(found))
""")
    assert len(found) == 7 and max(found.values()) < 2e-6, found


def test_accumulation_is_torch_s():
    """Rays that do not fill a program, opaque and empty samples, one sample, one channel."""
    found = interpreted("""
found = {}
for last_back in (False, True):
    for shape, channels in (((2, 70), 3), ((5,), 1), ((3,), 4)):
        for samples in (1, 9):
            alphas = torch.rand(*shape, samples)
            alphas[0, ..., :2] = torch.tensor([0.0, 1.0])[:samples]
            depths, colors = torch.rand(*shape, samples).sort(-1).values + 0.5, torch.rand(*shape, samples, channels)
            sides = [lambda *x, f=f: f(*x, last_back) for f in (kernels.accumulate, volume.accumulate)]
            found[f"{last_back} {shape} {channels} {samples}"] = apart(*sides, alphas, colors, depths)
print(json.dumps(found))
""")
    assert len(found) == 12 and max(found.values()) < 2e-5, found


def test_fields_and_pictures_use_them_once_and_torch_twice():
    """As on a GPU: the field's and the compositing's gradients are the kernels', normals that are differentiated again are torch's."""
    found = interpreted("""
from common.pigan import Siren, SirenConfig
net = Siren(SirenConfig(hidden=16))
z, points, toward = torch.randn(2, 256), 0.2 * torch.rand(2, 30, 3) - 0.1, torch.randn(2, 30, 3)

def everything():
    scene = net.scene(*net.mapping(z))
    logits, colors = net.field(scene, points, toward)
    seen = volume.composite(logits[..., 0].sigmoid(), colors, torch.linspace(0.9, 1.1, 30).expand(2, 30), last_back=True)
    net.zero_grad()
    (seen["colors"].square().sum() + seen["depth"].sum() + net.normals(scene, points, create_graph=True)[..., 0].sum()).backward()
    return [seen["colors"], seen["depth"], net.normals(scene, points), *(p.grad.clone() for p in net.parameters())]

expected, launched = everything(), []
kernels.usable = lambda x: True
compiled = kernels._compiled
kernels._compiled = lambda kernel: launched.append(kernel.__name__) or compiled(kernel)
worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(everything(), expected, strict=True))
x = torch.randn(1, 2, 3, requires_grad=True)
gradient, = torch.autograd.grad(siren.sine_layer(x, torch.randn(1, 3, 4), torch.randn(1, 1, 4)).sum(), x, create_graph=True)
try:
    gradient.sum().backward()
    refused = False
except RuntimeError:
    refused = True
print(json.dumps({"apart": worst, "launched": sorted(set(launched)), "refused": refused}))
""")
    assert found["apart"] < 1e-3 and found["refused"]
    assert found["launched"] == ["accumulate_backward", "accumulate_forward", "sine_backward", "sine_forward"]


def test_a_cpu_and_doubles_keep_to_torch():
    assert not kernels.usable(torch.zeros(1)) and not kernels.usable(torch.zeros(1, dtype=torch.float64))
