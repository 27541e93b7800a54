"""Who there is: person i of a seed, the same in every layout, as heads or as bodies, drawn from (seed, i) alone."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.people.body import FACE_CHANGES

HAIR_STYLES = ("bald", "cropped", "short", "volume", "bun", "bob", "long")
HAIR_CHANCES = (0.06, 0.12, 0.24, 0.12, 0.13, 0.15, 0.18)
GLASSES_CHANCE, HAT_CHANCE = 0.08, 0.08
SKIN = ((0.87, 0.64, 0.52), (0.80, 0.56, 0.42), (0.68, 0.44, 0.30), (0.52, 0.31, 0.20), (0.34, 0.19, 0.12), (0.22, 0.12, 0.08))         # linear, light to dark
HAIR = ((0.012, 0.010, 0.010), (0.030, 0.016, 0.010), (0.075, 0.035, 0.018), (0.16, 0.075, 0.030), (0.42, 0.26, 0.10), (0.30, 0.075, 0.022), (0.42, 0.40, 0.38))
IRIS = ((0.05, 0.022, 0.010), (0.11, 0.055, 0.02), (0.06, 0.10, 0.04), (0.07, 0.16, 0.30), (0.16, 0.21, 0.24))
CLOTH = (
    (0.55, 0.06, 0.05), (0.04, 0.12, 0.38), (0.03, 0.22, 0.16), (0.70, 0.66, 0.58),
    (0.06, 0.06, 0.07), (0.62, 0.36, 0.04), (0.26, 0.08, 0.28), (0.10, 0.33, 0.42))
GENEROUS = {"mouth-upperlip-height-incr": 0.5, "mouth-lowerlip-height-incr": 0.4, "mouth-upperlip-volume-incr": 0.3, "mouth-scale-horiz-incr": 0.25,
            **{f"{side}-eye-{part}-incr": more for side in "lr" for part, more in (("scale", 0.85), ("height1", 0.4), ("height2", 0.8), ("height3", 0.4))}}
PURPOSES = ("person", "size", "hair", "views", "pose", "outfit")


@dataclass(frozen=True)
class Person:
    """One person. phenotype in [0, 1], changes of the face in [-1, 1] and facial actions in [0, 1], by anny's names; linear colours in [0, 1]."""

    seed: int
    index: int
    phenotype: dict[str, float]
    changes: dict[str, float]
    expression: dict[str, float]
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    cloth: np.ndarray
    hair_style: str
    neckline: str
    glasses: bool
    hat: str | None


def split(i: int) -> str:
    """"test" for every tenth person, held out of all training, "train" for the others."""
    return "test" if i % 10 == 9 else "train"


def generator(seed: int, i: int, purpose: str, *more: int) -> np.random.Generator:
    """The generator of one purpose of one person; more numbers, such as a view's, make it that view's own."""
    return np.random.default_rng([seed, i, PURPOSES.index(purpose), *more])


def person(seed: int, i: int) -> Person:
    """Person i of a seed: a function of the two, whatever else is drawn."""
    rng = generator(seed, i, "person")
    gender, age = rng.uniform(0, 1), rng.choice([rng.uniform(0.45, 0.62), rng.uniform(0.62, 0.80), rng.uniform(0.80, 1.0)], p=[0.2, 0.55, 0.25])
    heritage = rng.dirichlet([0.7, 0.7, 0.7])
    phenotype = {"gender": gender, "age": age, "muscle": rng.uniform(0.3, 0.8), "weight": rng.uniform(0.2, 0.8), "height": rng.uniform(0.3, 0.8),
                 "proportions": rng.uniform(0.3, 0.9),
                     "african": heritage[0], "asian": heritage[1], "caucasian": heritage[2]}
    darkness = np.clip(4.6 * heritage[0] + 1.4 * heritage[1] + rng.normal(0, 0.5), 0, len(SKIN) - 1)
    skin = np.stack([np.interp(darkness, range(len(SKIN)), channel) for channel in np.array(SKIN).T]) * rng.uniform(0.94, 1.06)
    hair = HAIR[-1] if age > 0.9 and rng.uniform() < 0.6 else HAIR[rng.choice(6, p=[0.25, 0.22, 0.2, 0.13, 0.12, 0.08])]
    chances = np.array(HAIR_CHANCES) * np.where(np.isin(HAIR_STYLES, ("bald", "cropped", "short")), 0.4 + 1.2 * gender, 1.6 - 1.2 * gender)
    return Person(
        seed, i, phenotype, _face(rng), _expression(rng), skin, np.array(hair) * rng.uniform(0.8, 1.25), np.array(IRIS[rng.integers(len(IRIS))]),
        np.array(CLOTH[rng.integers(len(CLOTH))]) * rng.uniform(0.8, 1.2), str(rng.choice(HAIR_STYLES, p=chances / chances.sum())),
        str(rng.choice(["crew", "vee", "turtle", "scoop"], p=[0.45, 0.2, 0.2, 0.15])), bool(rng.uniform() < GLASSES_CHANCE),
        str(rng.choice(["beanie", "cap"])) if rng.uniform() < HAT_CHANCE else None)


def _face(rng: np.random.Generator) -> dict[str, float]:
    """Changes of the face: moderate, the same left and right but for a little; eyes and lips larger than life, so that they are seen."""
    changes = {name: float(np.clip(rng.normal(0, 0.35), -0.8, 0.8)) for name in FACE_CHANGES}
    for name in FACE_CHANGES:
        if name.startswith("r-"):
            changes[name] = float(np.clip(changes["l-" + name[2:]] + 0.1 * changes[name], -1, 1))
    for name, more in GENEROUS.items():
        changes[name] = more + 0.4 * changes[name]
    return changes


def _expression(rng: np.random.Generator) -> dict[str, float]:
    """Facial actions: a mood, a gaze, a raised or lowered brow; the mouth is clearly open on half of the heads, else closed, never a slit."""
    actions: dict[str, float] = {}
    add = lambda value, *names: actions.update({name: actions.get(name, 0.0) + float(value) for name in names})
    mood = rng.choice(["calm", "smile", "laugh", "sad", "surprise", "funnel"], p=[0.22, 0.15, 0.27, 0.06, 0.18, 0.12])
    strength = rng.uniform(0.5, 1.0)
    if mood == "smile":
        add(0.8 * strength, "mouthSmileLeft", "mouthSmileRight")
    if mood == "laugh":
        add(0.8 * strength, "mouthSmileLeft", "mouthSmileRight")
        add(0.4 + 0.25 * strength, "jawOpen")
        add(0.4 * strength, "cheekSquintLeft", "cheekSquintRight")
    if mood == "sad":
        add(0.7 * strength, "mouthFrownLeft", "mouthFrownRight", "browInnerUp")
    if mood == "surprise":
        add(0.5 + 0.35 * strength, "jawOpen")
        add(0.7 * strength, "browInnerUp", "browOuterUpLeft", "browOuterUpRight")
        add(0.5 * strength, "eyeWideLeft", "eyeWideRight")
    if mood == "funnel":
        add(0.5 + 0.25 * strength, "jawOpen")
        add(0.5 * strength, "mouthFunnel")
    add(rng.uniform(0, 0.3), "eyeWideLeft", "eyeWideRight")
    brow = rng.uniform(-0.6, 0.6)
    add(abs(brow), *(("browDownLeft", "browDownRight") if brow < 0 else ("browOuterUpLeft", "browOuterUpRight")))
    aside, up = rng.uniform(-0.5, 0.5), rng.uniform(-0.25, 0.25)
    add(abs(aside), *(("eyeLookOutLeft", "eyeLookInRight") if aside > 0 else ("eyeLookInLeft", "eyeLookOutRight")))
    add(abs(up), *(("eyeLookUpLeft", "eyeLookUpRight") if up > 0 else ("eyeLookDownLeft", "eyeLookDownRight")))
    return {name: min(value, 1.0) for name, value in actions.items()}
