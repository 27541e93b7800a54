"""The files that GOF's and pi-GAN's programs write, made here as they make them: whatever the container, the same weights; whatever else, one clear line."""
from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from common.checkpoint import load_strict
from common.errors import InputError
from common.gan import Ema
from common.pigan import Siren, SirenConfig
from gof import published
from gof.discriminators import Discriminator
from tests.foreign import Call, foreign_module, torch_bytes


class Generator(nn.Module):
    def __init__(self, grid=0):
        super().__init__()
        self.siren = Siren(SirenConfig(hidden=8, layers=3, latent=4, grid=grid))


class ExponentialMovingAverage:
    """torch_ema 0.2's attributes."""

    def __init__(self, module, stored=False):
        self.decay, self.num_updates = 0.999, 12
        self.shadow_params = [torch.randn_like(value) for value in module.parameters()]
        self.collected_params = [value * 1.0 for value in module.parameters()] if stored else []


def average_bytes(average, **options) -> bytes:
    with foreign_module("torch_ema.ema", ExponentialMovingAverage=ExponentialMovingAverage):
        return torch_bytes(average, **options)


def whole_module_bytes(generator: Generator, siren_path: str) -> bytes:
    """A pickled ImplicitGenerator3d, of classes that are gone when it is read."""
    classes = {name: type(name, (nn.Module,), {}) for name in ("SPATIALSIRENBASELINE", "CustomMappingNetwork", "FiLMLayer", "UniformBoxWarp")}
    outer = {"ImplicitGenerator3d": type("ImplicitGenerator3d", (nn.Module,), {})}

    def dressed(name, source, **attributes):
        module = (classes | outer)[name]()
        module.__dict__.update(attributes)
        for key, child in source.named_children():
            setattr(module, key, child)
        return module

    with ExitStack() as stack:
        stack.enter_context(foreign_module("generators.generators", **outer))
        stack.enter_context(foreign_module(siren_path, **classes))
        siren = dressed("SPATIALSIRENBASELINE", generator.siren, device=torch.device("cuda"), z_dim=4)
        siren.network = nn.ModuleList(dressed("FiLMLayer", layer) for layer in siren.network)
        siren.color_layer_sine = dressed("FiLMLayer", siren.color_layer_sine)
        siren.mapping_network = dressed("CustomMappingNetwork", siren.mapping_network)
        siren.gridwarper = dressed("UniformBoxWarp", nn.Module(), scale_factor=2 / 0.24)
        whole = dressed("ImplicitGenerator3d", nn.Module(), z_dim=4, epoch=1, step=1234, avg_frequencies=torch.ones(1, 32))
        whole.siren = siren
        return torch_bytes(whole)


def groups_of(module, steps=3, lr=5e-5) -> dict:
    """The state of GOF's optimiser after some steps: all parameters in the first group, none in the second; those of unused depths without moments."""
    used = [value for name, value in module.named_parameters() if not name.startswith(("layers.0", "fromRGB.0", "freq_phase"))]
    optimizer = torch.optim.Adam([{"params": list(module.parameters()), "name": "generator"}, {"params": [], "name": "mapping_network"}], lr, betas=(0.0, 0.9))
    for _ in range(steps):
        for value in used:
            value.grad = torch.randn_like(value)
        optimizer.step()
    return optimizer.state_dict()


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return Generator()


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in b)


def write(path, data) -> None:
    path.write_bytes(data if isinstance(data, bytes) else torch_bytes(data))


# Networks

@pytest.mark.parametrize("siren_path", ["siren.siren", "generators.siren"])
def test_whole_modules_and_state_dicts_alike(generator, tmp_path, siren_path):
    write(tmp_path / "generator.pth", whole_module_bytes(generator, siren_path))
    assert same(published.network_state(tmp_path / "generator.pth"), generator.state_dict())
    write(tmp_path / "generator.pth", generator.state_dict())
    assert same(published.network_state(tmp_path / "generator.pth"), generator.state_dict())
    assert same(published.generator_state(tmp_path / "generator.pth", generator), generator.state_dict())       # no average beside it


@pytest.mark.parametrize("grid", [0, 4])
@pytest.mark.parametrize("options", [{}, {"zipped": False}])
def test_averages_get_their_names_from_the_order_of_the_parameters(tmp_path, grid, options):
    generator, fresh = Generator(grid), Generator(grid)
    average = ExponentialMovingAverage(generator, stored=True)
    write(tmp_path / "02--10:15--generator.pth", generator.state_dict())
    write(tmp_path / "02--10:15--ema.pth", average_bytes(average, **options))
    for name in ("generator", "ema"):                         # beside the generator, and by itself
        state = published.generator_state(tmp_path / f"02--10:15--{name}.pth", fresh)
        load_strict(fresh, state, "ema.pth")
        assert all(torch.equal(value, shadow) for value, shadow in zip(fresh.parameters(), average.shadow_params, strict=True))
    ema = Ema(generator, 0.999)
    load_strict(ema, published.ema_state(tmp_path / "02--10:15--ema.pth", generator), "ema.pth")
    assert ema.updates == 12 and all(torch.equal(a, b) for a, b in zip(ema.shadow.values(), average.shadow_params))


def test_averages_as_the_package_writes_them_today(generator, tmp_path):
    write(tmp_path / "ema.pth", ExponentialMovingAverage(generator).__dict__)
    assert list(published.generator_state(tmp_path / "ema.pth", generator)) == list(generator.state_dict())


def test_averages_of_another_network_are_refused(generator, tmp_path):
    path = tmp_path / "ema.pth"
    average = ExponentialMovingAverage(generator)
    last = average.shadow_params.pop()
    write(path, average_bytes(average))
    with pytest.raises(InputError, match=r"ema\.pth: holds 19 tensors without names, expected the 20 of the network"):
        published.generator_state(path, generator)
    average.shadow_params.insert(0, last)
    write(path, average_bytes(average))
    with pytest.raises(InputError, match=r"ema\.pth: the tensor in the place of siren\.network\.0\.layer\.weight is of shape \(64,\), expected \(8, 3\)"):
        published.ema_state(path, generator)


@pytest.mark.parametrize("change", [{"shadow_params": 3}, {"shadow_params": ["a"] * 20}, {"num_updates": -1}, {"num_updates": "many"}])
def test_what_is_no_average(generator, tmp_path, change):
    average = ExponentialMovingAverage(generator)
    average.__dict__.update(change)
    write(tmp_path / "ema.pth", average_bytes(average))
    with pytest.raises(InputError, match=r"ema\.pth: expected torch_ema's averages"):
        published.generator_state(tmp_path / "ema.pth", generator)


def test_nothing_runs(generator, tmp_path):
    for name, reader in {"generator.pth": published.network_state, "scaler.pth": published.scaler_state, "generator.losses": published.losses,
                         "ema.pth": lambda path: published.generator_state(path, generator)}.items():
        write(tmp_path / name, {"shadow_params": Call(os.system, f"touch {tmp_path}/ran")})
        with pytest.raises(InputError, match=f"{name}: refused, for it asks for .*system"):
            reader(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
        with pytest.raises(InputError, match=name):
            reader(tmp_path / name)
    assert not (tmp_path / "ran").exists()


# Which files

def test_files_of_a_set(generator, tmp_path):
    with pytest.raises(InputError, match=r"expected a folder with generator\.pth"):
        published.find(tmp_path)
    with pytest.raises(InputError, match=r"none\.pth: no such file or folder"):
        published.find(tmp_path / "none.pth")
    for name in ("02--10:15--generator.pth", "02--10:15--ema.pth", "02--10:15--ema2.pth", "ema.pth", "options.txt"):
        (tmp_path / name).touch()
    dated = {"generator": tmp_path / "02--10:15--generator.pth", "ema": tmp_path / "02--10:15--ema.pth", "ema2": tmp_path / "02--10:15--ema2.pth",
             "options": tmp_path / "options.txt"}
    assert published.find(tmp_path) == published.find(dated["ema2"]) == dated
    (tmp_path / "03--09:00--generator.pth").touch()
    with pytest.raises(InputError, match=r"several sets of files \(02--10:15--, 03--09:00--\); name the generator\.pth of one"):
        published.find(tmp_path)
    assert published.find(tmp_path / "03--09:00--generator.pth").keys() == {"generator", "options"}
    (tmp_path / "generator.pth").touch()
    assert published.find(tmp_path) == {"generator": tmp_path / "generator.pth", "ema": tmp_path / "ema.pth", "options": tmp_path / "options.txt"}
    (tmp_path / "weights.bin").touch()
    assert published.find(tmp_path / "weights.bin").keys() == {"options"}


# Going on with a training

def training(generator, discriminator) -> dict:
    """A training's state, with the mapping network in a group of its own."""
    mapping = set(generator.siren.mapping_network.parameters())
    groups = [{"params": [value for value in generator.parameters() if value not in mapping], "lr": 1.0}, {"params": list(mapping), "lr": 0.1}]
    return {"generator": generator, "discriminator": discriminator, "ema": Ema(generator, 0.999), "ema2": Ema(generator, 0.9999),
            "optimizer_G": torch.optim.Adam(groups, betas=(0.0, 0.9)), "optimizer_D": torch.optim.Adam(discriminator.parameters()),
            "scaler": torch.amp.GradScaler("cuda", enabled=False)}


def test_a_training_starts_from_a_folder(generator, tmp_path):
    discriminator = Discriminator("ProgressiveEncoderDiscriminator", 0.05)
    saved_G, saved_D, average = groups_of(generator), groups_of(discriminator, steps=5), ExponentialMovingAverage(generator)
    for entry in saved_D["state"].values():
        entry["step"] = int(entry["step"])                    # as torch kept it before 1.12
    scaler = {"scale": 8192.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 17}
    files = {"generator.pth": OrderedDict(generator.state_dict()), "discriminator.pth": discriminator.state_dict(), "optimizer_G.pth": saved_G,
             "optimizer_D.pth": saved_D, "scaler.pth": scaler, "ema.pth": average_bytes(average)}
    for name, data in files.items():
        write(tmp_path / name, data)
    state = training(Generator(), Discriminator("ProgressiveEncoderDiscriminator", 0.05))
    found = published.states(tmp_path, state)
    assert found.keys() == {"generator", "discriminator", "ema", "optimizer_G", "optimizer_D"}            # no ema2 there, and the scaler is off
    for role, values in found.items():
        load_strict(state[role], values, role)
    assert same(state["generator"].state_dict(), generator.state_dict()) and same(state["discriminator"].state_dict(), discriminator.state_dict())
    for role, optimizer, saved, steps in (("generator", "optimizer_G", saved_G, 3), ("discriminator", "optimizer_D", saved_D, 5)):
        moments = state[optimizer].state
        for index, value in enumerate(state[role].parameters()):
            assert (value in moments) == (index in saved["state"])
            if value in moments:
                assert float(moments[value]["step"]) == steps and all(torch.equal(moments[value][m], saved["state"][index][m]) for m in published.MOMENTS)
    assert [group["lr"] for group in state["optimizer_G"].param_groups] == [1.0, 0.1]
    state["generator"].siren.final_layer(torch.ones(1, 8)).sum().backward()
    state["optimizer_G"].step()
    assert published.scaler_state(tmp_path / "scaler.pth") == scaler


def test_pigan_trains_no_code_heads(tmp_path, generator):
    """Its encoder's file lacks the heads that GOF's has and nobody trains."""
    encoder = Discriminator("ProgressiveEncoderDiscriminator", 0.05, codes=False)
    write(tmp_path / "generator.pth", generator.state_dict())
    write(tmp_path / "discriminator.pth", encoder.state_dict())
    state = training(Generator(), Discriminator("ProgressiveEncoderDiscriminator", 0.05))
    load_strict(state["discriminator"], published.states(tmp_path, state)["discriminator"], "discriminator.pth")
    assert torch.equal(state["discriminator"].final_layer.weight, encoder.final_layer.weight)


def test_optimisers_of_another_network_are_refused(generator, tmp_path):
    path, optimizer = tmp_path / "optimizer_G.pth", torch.optim.Adam(generator.parameters())
    good = groups_of(generator)
    moved = good["state"] | {0: good["state"][1]}
    few = [good["param_groups"][0] | {"params": [0, 1]}]
    bad = {
        "an optimiser of 2 parameters, expected the 20": {"state": {}, "param_groups": few},
        r"exp_avg of siren\.network\.0\.layer\.weight is of shape \(8,\), expected \(8, 3\)": good | {"state": moved},
        r"expected the state of an Adam optimiser \(KeyError\)": good | {"state": {0: {"step": 1}}},
        r"expected the state of an Adam optimiser \(TypeError\)": [1],
        r"expected the state of an Adam optimiser \(ValueError\)": good | {"state": {0: good["state"][0] | {"step": "many"}}},
        r"expected the state of an Adam \w+ \(KeyError\)": good | {"state": {99: good["state"][0]}},
        "with tensors exp_avg and exp_avg_sq": good | {"state": {0: {"step": 1, "exp_avg": 1, "exp_avg_sq": 2}}},
    }
    for message, data in bad.items():
        write(path, data)
        with pytest.raises(InputError, match=rf"optimizer_G\.pth: .*{message}"):
            published.optimizer_state(path, optimizer, generator)


# Records of a run

def test_losses_and_scaler(tmp_path):
    write(tmp_path / "generator.losses", [1.5, 2, 0.25])
    assert published.losses(tmp_path / "generator.losses") == [1.5, 2.0, 0.25]
    for data in ([1.5, "a"], {"a": 1}, 3.0):
        write(tmp_path / "bad", data)
        with pytest.raises(InputError, match="bad: expected a list of numbers"):
            published.losses(tmp_path / "bad")
        with pytest.raises(InputError, match="bad: expected the state of a GradScaler: scale"):
            published.scaler_state(tmp_path / "bad")


def test_curriculum_of_the_options(tmp_path):
    path = tmp_path / "options.txt"
    curriculum = {0: {"batch_size": 16, "betas": (0, 0.9)}, 80000: {}, "fov": 12, "sample_dist": "gaussian", "unique_lr": True, "dataset_path": None}
    path.write_text(f"Namespace(n_epochs=3000)\n\nImplicitGenerator3d(\n  (siren): ...\n)\n\n{curriculum}\n\n")
    assert published.curriculum(path) == curriculum
    for text in ("", "x" * 10, "[1]", "{1: __import__('os').system('touch ran')}", "{'a': 1", "(" * 60_000, "{" + "1:1," * 40_000 + "}", "-" * 60_000 + "1"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"options\.txt: expected the curriculum as a Python dict in the last line"):
            published.curriculum(path)
