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


@pytest.mark.parametrize("name, megabytes", [("sof_people", 6), ("people_parser", 2)])
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
