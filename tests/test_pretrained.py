"""The models that ship do what the README says, on people made here."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common import parser as parsers
from common.metrics import confusion_matrix, mean_iou
from common.people.heads import head_scene
from common.people.layouts import sof_cameras, sof_similarity
from common.people.persons import person
from common.people.renderer import render
from gof import model as gof_model
from gof.eval import nose_before_ears
from gof.look import look, scene_of
from gof.paths import FRONT
from sof import model
from sof.predict import predict

PRETRAINED = Path(__file__).parents[1] / "pretrained"
SIDE = 128


def pictures(i: int, views: slice, *channels: str) -> tuple:
    """Cameras and pictures of person i as scripts/make_people.py makes them."""
    cameras, _ = sof_cameras(0, i, views.stop, SIDE)
    cameras = cameras.pick(torch.arange(views.start, views.stop))
    scene = head_scene(person(0, i)).transform(sof_similarity(), (0.0, 0.0, 0.0))
    return cameras, render(scene, cameras, SIDE, SIDE, channels, samples=1)


@pytest.mark.parametrize("name, megabytes", [("sof_people", 6), ("people_parser", 2), ("gof_people", 6)])
def test_files_are_small(name, megabytes):
    assert (PRETRAINED / f"{name}.safetensors").stat().st_size <= megabytes * 1e6


def test_sof_knows_a_head_from_cameras_it_never_saw():
    sof, _ = model.load(PRETRAINED / "sof_people.safetensors")
    cameras, seen = pictures(0, slice(20, 23), "labels")
    predicted = torch.stack([view["labels"] for view in predict(sof, torch.zeros(3, dtype=torch.long), cameras, SIDE)])
    assert mean_iou(confusion_matrix(predicted, torch.as_tensor(seen["labels"]), 20)) > 0.85


def test_the_parser_reads_a_person_held_out():
    parser = parsers.load(PRETRAINED / "people_parser.safetensors", "cpu")
    _, seen = pictures(9, slice(0, 3), "labels", "rgb")
    predicted = torch.as_tensor(parsers.parse(parser, seen["rgb"]))
    assert mean_iou(confusion_matrix(predicted, torch.as_tensor(seen["labels"]), 20)) > 0.65


def test_gof_people_makes_heads_that_bulge():
    """In 9 of 10 the nose is nearer than the ears, before white, and no two are alike."""
    generator = gof_model.load(PRETRAINED / "gof_people.safetensors")
    assert generator.config.white_back
    scenes = [scene_of(generator, seed) for seed in range(10)]
    assert sum(nose_before_ears(generator, scene) > 0.01 for scene in scenes) >= 9
    heads = torch.cat([look(generator, scene, torch.tensor([FRONT]), 32)["colors"] for scene in scenes[:4]])
    corners = heads[:, [0, 0, 8, 8]][:, range(4), [0, 31, 0, 31]]
    assert corners.min() > 0.9 and heads[:, 10:26, 12:20].mean() < 0.75
    assert all((heads[a] - heads[b]).abs().mean() > 0.02 for a in range(4) for b in range(a))
