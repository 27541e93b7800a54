"""gof.curriculum and gof.losses: stages, schedules and priors against their closed forms."""
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.config import load
from common.errors import InputError
from gof import curriculum
from gof.curriculum import Curriculum, stage_at
from gof.losses import OPACITY_OFFSET, neighbours_of, normal_smoothness, opacity_prior
from gof.model import CONFIGS, curriculum_path
from gof.train import TrainConfig, checked

PLAN = Curriculum(stage_starts=[0, 10, 30], batch_size=[8, 4, 2], img_size=[32, 64, 128], batch_split=[1, 1, 2], gen_lr=[3.0, 2.0, 1.0],
                  disc_lr=[6.0, 5.0, 4.0])


@pytest.mark.parametrize("step, side, start, end", [
    (0, 32, 0, 10), (9, 32, 0, 10), (10, 64, 10, 30), (29, 64, 10, 30), (30, 128, 30, None), (10**6, 128, 30, None),
])
def test_stages_begin_at_their_steps_and_the_last_has_no_end(step, side, start, end):
    stage = stage_at(PLAN, step)
    assert (stage.img_size, stage.start, stage.end, stage.num_steps) == (side, start, end, None)


def test_two_stages_of_one_batch_size_still_change_the_pictures():
    plan = replace(PLAN, batch_size=[8, 8, 8])
    assert [stage_at(plan, step).img_size for step in (9, 10)] == [32, 64]


def test_schedules():
    plan = replace(PLAN, fade_steps=10)
    assert [curriculum.alpha(plan, step) for step in (0, 5, 9, 10, 20, 29)] == [0, 0.5, 0.9, 0, 1, 1]
    assert curriculum.interval(0.12, 0.03, 1e-2, 0) == 0.12 and curriculum.interval(0.12, 0.03, 1e-2, 10**5) == 0.03
    assert curriculum.topk_share(plan, 0) == 1 and curriculum.topk_share(plan, 10**6) == plan.topk_v
    assert curriculum.opacity_weight(plan, 10**9) == pytest.approx(10 * plan.opacprior_lambda_init)
    assert curriculum.density_noise(0) == 1 and curriculum.density_noise(2500) == 0.5 and curriculum.density_noise(9999) == 0


@pytest.mark.parametrize("change, flag", [
    ({"gen_lr": [1.0]}, "--gen_lr"), ({"num_steps": [3]}, "--num_steps"), ({"stage_starts": [1, 10, 30]}, "--stage_starts"),
    ({"stage_starts": [0, 30, 10]}, "--stage_starts"), ({"img_size": [32, 48, 64]}, "--img_size 48"),
])
def test_curriculums_that_cannot_be(change, flag):
    with pytest.raises(InputError, match=flag):
        curriculum.check(replace(PLAN, **change))


@pytest.mark.parametrize("name", ["bfm", "celeba", "cats", "pigan_celeba", "pigan_cats", "pigan_carla", "tiny", "people"])
def test_every_curriculum_that_ships_is_whole(name):
    config = checked(load(TrainConfig, CONFIGS / f"{name}.yml"))
    assert stage_at(config, config.max_steps - 1).start == config.stage_starts[-1]
    assert config.pred_occ == (not name.startswith("pigan"))


def test_curriculums_by_their_published_names():
    assert curriculum_path("CelebA").stem == "celeba" and curriculum_path("BFM").stem == "bfm" and curriculum_path("CATS").stem == "cats"
    assert curriculum_path("mine.yml") == Path("mine.yml")
    with pytest.raises(InputError, match=r"expected one of bfm"):
        curriculum_path("FFHQ")


def test_published_sets_every_released_behaviour():
    config = checked(load(TrainConfig, CONFIGS / "celeba.yml"))
    released = checked(replace(config, published=True))
    options = [name for name in vars(config) if name.startswith("published_")]
    assert len(options) == 6 and not any(getattr(config, name) for name in options) and all(getattr(released, name) for name in options)


# Priors

def test_the_opacity_prior_wants_decisions():
    ends, middle = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.5])
    assert float(opacity_prior(ends)) == pytest.approx(0, abs=1e-4)
    assert float(opacity_prior(middle)) == pytest.approx(2 * math.log(0.6) + OPACITY_OFFSET)
    occupancy = torch.tensor([0.3], requires_grad=True)
    opacity_prior(occupancy).backward()
    assert occupancy.grad > 0                                  # a step downhill goes to 0, the nearer end


def test_normals_that_agree_cost_nothing():
    normals, hit = torch.randn(2, 9, 3), torch.rand(2, 9) < 0.5
    hit[0, 0] = True
    assert normal_smoothness(normals, normals, hit) == 0
    other = torch.randn(2, 9, 3)
    torch.testing.assert_close(normal_smoothness(normals, other, hit), (normals[hit] - other[hit]).square().mean())
    apart = torch.stack([normals[hit], other[hit]]).diff(dim=-1)[..., 0]
    torch.testing.assert_close(normal_smoothness(normals, other, hit, published=True), apart.square().mean())


def test_without_a_hit_there_is_no_normal_loss_and_no_nan():
    normals = torch.randn(1, 4, 3, requires_grad=True)
    loss = normal_smoothness(normals, normals + 1, torch.zeros(1, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (normals.grad == 0).all()


def test_neighbours_lie_at_their_distance():
    points = torch.randn(2, 5, 3)
    away = neighbours_of(points, torch.rand(2, 5, 3), 0.01) - points
    torch.testing.assert_close(away.norm(dim=-1), torch.full((2, 5), 0.01), atol=1e-6, rtol=0)
