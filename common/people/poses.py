"""How people stand: poses within the limits of their joints, from a few kinds of posture, or of a file.

Angles are degrees. An upper arm's direction: `lift` from straight down (0) over the horizontal (90) to straight up (180), `front` from sideways
(0) to forwards (90); `twist` turns it about itself, `elbow` bends it. A leg: `hip` forwards, `apart` sideways, `knee` bends it.
"""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np

LIMITS = {
    "lift": (3, 165), "front": (-35, 110), "twist": (-60, 70), "elbow": (5, 140), "hip": (-25, 95), "apart": (-9, 40), "knee": (0, 120),
    "bend": (-15, 45), "lean": (-18, 18), "turn": (-30, 30), "nod": (-25, 30), "tilt": (-15, 15), "look": (-50, 50), "curl": (5, 75), "wrist": (-30, 30)}
CALM = {"lift": 12, "front": 20, "twist": 0, "elbow": 22, "hip": 0, "apart": -4, "knee": 3,
        "bend": 2, "lean": 0, "turn": 0, "nod": 0, "tilt": 0, "look": 0, "curl": 22, "wrist": 0}
SPREAD = {"lift": 6, "front": 18, "twist": 12, "elbow": 12, "hip": 4, "apart": 3, "knee": 4,
          "bend": 4, "lean": 3, "turn": 5, "nod": 7, "tilt": 4, "look": 15, "curl": 12, "wrist": 7}
SIDED = ("lift", "front", "twist", "elbow", "hip", "apart", "knee", "curl", "wrist")
KINDS, CHANCES = ("stand", "walk", "raise", "akimbo", "step", "crouch", "free", "spread"), (0.22, 0.18, 0.16, 0.08, 0.10, 0.06, 0.12, 0.08)


def draw_angles(rng: np.random.Generator) -> dict[str, float]:
    """Angles {name or name.L and name.R: degrees} of one pose within LIMITS, whatever it does to the body."""
    names = [f"{name}{side}" for name in LIMITS for side in ((".L", ".R") if name in SIDED else ("",))]
    plain = lambda name: name.removesuffix(".L").removesuffix(".R")
    angles = {name: CALM[plain(name)] + SPREAD[plain(name)] * rng.normal() for name in names}
    angles |= _posture(rng, str(rng.choice(KINDS, p=CHANCES)))
    return {name: float(np.clip(angle, *LIMITS[plain(name)])) for name, angle in angles.items()}


def _posture(rng: np.random.Generator, kind: str) -> dict[str, float]:
    """The angles that make a posture; the others stay calm."""
    one, other = rng.permutation([".L", ".R"])
    both = lambda **angles: {f"{name}{side}": value + rng.normal(0, 4) for name, value in angles.items() for side in (one, other)}
    if kind == "walk":
        stride, swing = rng.uniform(12, 34), rng.uniform(8, 35)
        return {f"hip{one}": stride, f"knee{one}": rng.uniform(5, 30), f"hip{other}": -0.6 * stride, f"knee{other}": rng.uniform(5, 45),
                f"lift{other}": 15 + swing, f"front{other}": 85, f"elbow{other}": rng.uniform(15, 70), f"lift{one}": 10 + 0.5 * swing, f"front{one}": -35,
                "turn": rng.uniform(-8, 8)}
    if kind == "raise":
        arm = lambda side: {f"lift{side}": rng.uniform(60, 160), f"front{side}": rng.uniform(0, 95), f"elbow{side}": rng.uniform(5, 110),
                            f"twist{side}": rng.uniform(-50, 40)}
        return arm(one) | (arm(other) if rng.uniform() < 0.55 else {})
    if kind == "akimbo":
        return both(lift=42, front=-8, twist=58, elbow=92, wrist=-10)
    if kind == "step":
        return {f"hip{one}": rng.uniform(35, 85), f"knee{one}": rng.uniform(40, 100)} | both(lift=rng.uniform(20, 80), front=rng.uniform(0, 60))
    if kind == "crouch":
        depth = rng.uniform(25, 75)
        return both(hip=depth, knee=1.35 * depth, apart=rng.uniform(2, 18), lift=rng.uniform(25, 80), front=rng.uniform(40, 90)) | {"bend": 0.5 * depth}
    if kind == "free":
        return {f"{name}{side}": rng.uniform(*LIMITS[name]) for name in ("lift", "front", "twist", "elbow") for side in (one, other)} | {
            f"hip{one}": rng.uniform(-20, 60), f"knee{one}": rng.uniform(0, 80), f"apart{one}": rng.uniform(0, 30), "bend": rng.uniform(-10, 30),
            "lean": rng.uniform(-15, 15), "turn": rng.uniform(-25, 25)}
    if kind == "spread":
        return both(lift=rng.uniform(55, 95), front=rng.uniform(-10, 25), elbow=10, apart=rng.uniform(0, 15))
    return {}


def rotations(angles: dict[str, float], heads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pose {bone: rotation} of angles, for a person with these joints at rest."""
    pose = {f"spine0{k}": _turned(angles["bend"] / 5, angles["turn"] / 5, angles["lean"] / 5) for k in range(1, 6)}
    pose |= {f"neck0{k}": _turned(angles["nod"] / 5, angles["look"] / 5, angles["tilt"] / 5) for k in (1, 2, 3)}
    pose["head"] = _turned(0.4 * angles["nod"], 0.4 * angles["look"], 0.4 * angles["tilt"])
    for side, sign in ((".L", 1), (".R", -1)):
        pose |= _leg({name: angles[name + side] for name in ("hip", "apart", "knee")}, side, sign)
        pose |= _arm({name: angles[name + side] for name in ("lift", "front", "twist", "elbow", "wrist", "curl")}, heads, side, sign)
    return pose


def of_file(path: Path, axes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pose {bone: rotation} of one of MakeHuman's pose files: radians about each bone's own x, y and z, in this order."""
    turns = json.loads(path.read_text(encoding="utf-8"))["bone_rotations"]
    local = lambda x, y, z: _about(np.array([0, 0, 1.0]), z) @ _about(np.array([0, 1.0, 0]), y) @ _about(np.array([1.0, 0, 0]), x)
    return {bone: axes[bone] @ local(*np.degrees(angles)) @ axes[bone].T for bone, angles in turns.items() if bone in axes}


def _leg(angles: dict[str, float], side: str, sign: int) -> dict[str, np.ndarray]:
    """Hip, knee and ankle; the foot turns half way back towards the ground."""
    level = 0.5 * (angles["hip"] - angles["knee"])
    return {f"upperleg01{side}": _turned(0, 0, sign * angles["apart"]) @ _turned(-angles["hip"], 0, 0),
            f"lowerleg01{side}": _turned(angles["knee"], 0, 0), f"foot{side}": _turned(np.clip(level, -25, 25), 0, 0)}


def _arm(angles: dict[str, float], heads: dict[str, np.ndarray], side: str, sign: int) -> dict[str, np.ndarray]:
    """Collarbone, shoulder, elbow, wrist and fingers."""
    at = lambda bone: heads[bone + side]
    upper, lower = _unit(at("lowerarm01") - at("upperarm01")), _unit(at("wrist") - at("lowerarm01"))
    lift, front = np.radians((angles["lift"], angles["front"]))
    towards = np.array([sign * np.sin(lift) * np.cos(front), -np.cos(lift), np.sin(lift) * np.sin(front)])
    collar = _turned(0, 0, sign * 0.3 * max(angles["lift"] - 50, 0))
    swing = collar.T @ _between(upper, towards)
    hinge, bent = _unit(np.cross(upper, lower)), np.degrees(np.arccos(upper @ lower))
    twist = lambda share: _about(upper, -sign * share * angles["twist"])
    palm = _unit(np.cross(at("finger2-1") - at("wrist"), at("finger5-1") - at("wrist")))
    pose = {f"clavicle{side}": collar, f"upperarm01{side}": swing @ twist(0.5), f"upperarm02{side}": twist(0.5),
            f"lowerarm01{side}": _about(hinge, angles["elbow"] - bent), f"wrist{side}": _about(_unit(at("finger5-1") - at("finger2-1")), angles["wrist"])}
    for finger in range(2, 6):
        along = _unit(at(f"finger{finger}-2") - at(f"finger{finger}-1"))
        axis = _unit(np.cross(along, sign * palm))
        pose |= {f"finger{finger}-{k}{side}": _about(axis, angles["curl"] * share) for k, share in ((1, 0.7), (2, 0.9), (3, 0.6))}
    return pose


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """The rotation (3, 3) about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(np.radians(degrees)) * cross + (1 - np.cos(np.radians(degrees))) * cross @ cross


def _turned(x: float, y: float, z: float) -> np.ndarray:
    """Rotations about y, then x, then z."""
    return _about(np.array([0, 0, 1.0]), z) @ _about(np.array([1.0, 0, 0]), x) @ _about(np.array([0, 1.0, 0]), y)


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes unit vector a to unit vector b."""
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis)
    return np.eye(3) if sine < 1e-9 else _about(axis / sine, np.degrees(np.arctan2(sine, a @ b)))
