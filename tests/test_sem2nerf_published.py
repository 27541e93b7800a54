"""Files of the published shape: read with their own options, gone on with, and refused where they are damaged."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from common.checkpoint import open_checkpoint
from common.errors import InputError
from common.pigan import average_codes
from sem2nerf import published
from sem2nerf.discriminator import PatchDiscriminator
from sem2nerf.model import ModelConfig, Sem2NeRF, load, load_decoder, resolve
from sem2nerf.ranger import Ranger
from sem2nerf.start import load_imagenet
from tests import programs
from tests.conftest import flags
from tests.sem2nerf_faces import write_faces

OPTS = {"dataset_type": "celebahq_seg_to_3dface", "pigan_curriculum_type": "CelebAMask_HQ", "pigan_zdim": 256, "use_merged_labels": True, "use_contour": True,
        "label_nc": 16, "input_nc": 18, "src_input_size": 224, "start_from_latent_avg": True, "image_load_size": 640, "image_crop_size": 512,
        "output_size": 512, "batch_size": 2, "exp_dir": "out/somewhere", "train_decoder": False, "ray_scale_anneal": 0.0019, "checkpoint_path": None}


@pytest.fixture(scope="session")
def model() -> Sem2NeRF:
    """A model of the published size."""
    torch.manual_seed(0)
    model = Sem2NeRF(resolve(ModelConfig(), {}))
    torch.nn.init.normal_(model.encoder.head.bias, std=0.1)
    model.remember_average()
    return model


def container(model: Sem2NeRF, prefix: str = "", **other) -> dict:
    """What the release saves; `prefix` is what several GPUs put behind encoder. and decoder."""
    state = {key: value for key, value in model.state_dict().items() if key != "latent_avg"}
    named = {f"{key.partition('.')[0]}.{prefix}{key.partition('.')[2]}": value for key, value in state.items()}
    return {"state_dict": named, "opts": OPTS, "global_step": 41, "best_val_loss": None, "latent_avg": [model.latent_avg[:1], model.latent_avg[1:]], **other}


@pytest.fixture(scope="session")
def theirs(model, tmp_path_factory) -> Path:
    """A checkpoint from several GPUs, with everything a training goes on with."""
    critic, encoder = PatchDiscriminator(32), model.encoder
    optimizers = [Ranger(encoder.parameters(), lr=1e-4), Ranger(critic.parameters(), lr=2e-5)]
    for module, optimizer in zip((encoder, critic), optimizers):
        for parameter in (next(module.parameters()), *(p for p in module.parameters() if p.numel() < 5000)):      # a small file
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    dis_state = {key.replace("model.", "model.module."): value for key, value in critic.state_dict().items()}
    path = tmp_path_factory.mktemp("published") / "iteration_41.pt"
    torch.save(container(model, "module.", dis_state_dict=dis_state, optimizer=optimizers[0].state_dict(), dis_optimizer=optimizers[1].state_dict()), path)
    return path


def test_it_is_read_with_its_own_options(model, theirs):
    loaded = load(theirs)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert (loaded.config.image_load_size, loaded.config.fov, loaded.config.published_contour) == (640, 12.0, True)
    for flag, value in (("use_merged_labels", False), ("image_load_size", 320), ("dataset_type", "catmask_seg_to_3dface")):
        with pytest.raises(InputError, match=rf"--{flag} {value}: .*iteration_41.pt was trained with"):
            load(theirs, **{flag: value})
    load(theirs, use_merged_labels=True, image_load_size=None)


def test_what_is_exported_comes_back(model, tmp_path):
    published.export(model, tmp_path / "out_0.pt")
    assert set(torch.load(tmp_path / "out_0.pt", weights_only=True)) == {"state_dict", "opts", "latent_avg", "global_step"}
    loaded = load(tmp_path / "out_0.pt")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_without_average_it_is_computed(model, tmp_path):
    data = container(model)
    del data["latent_avg"]
    torch.save(data, tmp_path / "a.pt")
    loaded = load(tmp_path / "a.pt")
    torch.testing.assert_close(loaded.latent_avg, torch.cat(average_codes(model.siren)))


@pytest.mark.parametrize("change, words", [
    ({"opts": OPTS | {"label_nc": 19}}, "--label_nc 19"), ({"opts": OPTS | {"dataset_type": "dogs"}}, "dataset_type"), ({"opts": None}, "state_dict and opts"),
    ({"latent_avg": [torch.zeros(1, 3)]}, "latent_avg"), ({"latent_avg": [torch.zeros(1, 3), torch.zeros(1, 4)]}, "latent_avg"),
    ({"state_dict": {"encoder.head.bias": torch.zeros(3)}}, "missing"), ({"latent_avg": [torch.zeros(1, 3), torch.zeros(1, 3)]}, "latent_avg"),
])
def test_damaged_checkpoints_are_refused(model, tmp_path, change, words):
    torch.save(container(model) | change, tmp_path / "a.pt")
    with pytest.raises(InputError, match=words):
        load(tmp_path / "a.pt")


def test_a_training_goes_on(theirs, tmp_path):
    """From its weights, discriminator, optimisers and step."""
    write_faces(tmp_path / "faces")
    options = {"checkpoint_path": theirs, "continue_training": True, "data_path": tmp_path / "faces", "logging_root": tmp_path, "name": "on", "device": "cpu",
               "lpips_lambda": 0, "resolution_vol": 32, "num_steps": 3, "batch_size": 1, "max_steps": 43, "log_every": 1, "pictures_every": 0,
               "val_interval": 0, "drop_path_rate": 0, "train_rand_pose_prob": 0}
    done = programs.run(tmp_path / "elsewhere", "sem2nerf/train.py", *flags(options))
    assert done.code == 0, done.err
    assert [json.loads(line)["step"] for line in (tmp_path / "on" / "log.jsonl").read_text().splitlines()] == [43]
    state = open_checkpoint(tmp_path / "on").data
    assert state["optimizer"]["state"][0]["step"] == state["optimizer_D"]["state"][0]["step"] == 2


def test_decoders_of_every_kind(model, tmp_path):
    """pi-GAN's state dict, its pickled module's, a whole checkpoint's: strict, whatever they are called."""
    siren = {f"siren.{key}": value for key, value in model.siren.state_dict().items()}
    for name, data in (("pigan.pth", siren), ("ours.pt", container(model))):
        torch.save(data, tmp_path / name)
        other = Sem2NeRF(resolve(ModelConfig(embed_dim=8, num_heads=[1, 1, 1, 1]), {}))
        load_decoder(other, open_checkpoint(tmp_path / name))
        assert torch.equal(other.siren.final_layer.weight, model.siren.final_layer.weight)
        torch.testing.assert_close(other.latent_avg, torch.cat(average_codes(model.siren)))
    torch.save({key: value for key, value in siren.items() if "color" not in key}, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"part.pth: does not fit: 4 missing"):
        load_decoder(model, open_checkpoint(tmp_path / "part.pth"))


def test_imagenet_weights_leave_stem_and_head(model, tmp_path):
    official = {key: torch.ones_like(value) for key, value in model.encoder.state_dict().items()}
    official["patch_embed.proj.weight"], official["head.weight"] = torch.ones(96, 3, 4, 4), torch.ones(1000, 768)
    torch.save({"model": official}, tmp_path / "swin.pth")
    with torch.no_grad():
        fresh = Sem2NeRF(resolve(ModelConfig(), {})).encoder
    stem = fresh.patch_embed.proj.weight.clone()
    load_imagenet(fresh, str(tmp_path / "swin.pth"))
    assert (fresh.layers[3].blocks[1].mlp.fc2.weight == 1).all() and torch.equal(fresh.patch_embed.proj.weight, stem) and not fresh.head.weight.any()
    for data in ({"weights": 1}, {"model": {"norm.weight": torch.ones(768)}}):
        torch.save(data, tmp_path / "other.pth")
        with pytest.raises(InputError, match=r"other.pth"):
            load_imagenet(fresh, str(tmp_path / "other.pth"))
