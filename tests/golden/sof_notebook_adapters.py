"""Adapter of the golden kind ``sof.notebook_paths``: the notebooks' films with a stub for a renderer, their colours, their volumes."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.cameras import look_at
from common.labels import colorize, relabel
from sof.cameras import film_path, uniform_path
from sof.edit import FilmOptions, cdf_weights, exchange_film, expression_film
from sof.slicing import class_volume, transfer_function
from sof.volume import background_margin


class Stub:
    """A renderer that counts its frames and remembers what it was asked for."""

    def __init__(self, pattern: np.ndarray, classes: int):
        self.pattern, self.classes, self.poses, self.codes = pattern, classes, [], []

    def __call__(self, poses: Tensor, codes: Tensor) -> np.ndarray:
        count = np.arange(len(self.poses), len(self.poses) + len(poses))
        self.poses.extend(poses)
        self.codes.extend(codes)
        return ((self.pattern.astype(int) + count[:, None, None]) % self.classes).astype(np.uint8)

    def results(self, name: str, frames: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{name}_poses": torch.stack(self.poses).numpy(), f"{name}_latents": torch.stack(self.codes).numpy(), f"{name}_segs": frames}


def notebook_paths(config: dict, params: dict, inputs: dict) -> dict:
    t = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
    classes, radii = len(config["remap_20_to_17"]), tuple(inputs["radii"].tolist())
    a, b, s = config["testall"], config["mv"], config["slicing"]
    path = lambda v: look_at(*film_path(t["cam_center"], t["look_at"], radii, v["interp_steps"], v["sweep"], v["spiral_frames_per_step"]))

    options = FilmOptions(steps=a["interp_steps"], sigma=a["cdf_sigma"], expression_frames=a["expression_frames_per_step"],
                          expression_rate=a["expression_rate"], overlay_from=a["overlay_labels"][0], overlay_to=a["overlay_labels"][1],
                          cleared_to=a["cleared_to"], mouth_label=a["mouth_label"], mouth_threshold=a["mouth_threshold"], replay=a["replay_per_step"])
    stub = Stub(inputs["seg_pattern"], classes)
    result = stub.results("testall_spiral", expression_film(stub, t["src"], t["trgt"], path(a), options, t.get("directions")))

    options, stub = FilmOptions(steps=b["interp_steps"], sigma=b["cdf_sigma"]), Stub(inputs["seg_pattern"], classes)
    again = b["spiral_frames_per_step"] * b["interp_steps"]
    result |= stub.results("mv_spiral", exchange_film(stub, t["src"], t["trgt"], path(b), options, again))
    radius = float((t["cam_center"] - t["look_at"]).norm() + radii[0])
    result["mv_uniform_poses"] = look_at(*uniform_path(t["look_at"], radius, b["interp_steps"], b["uniform_theta"], b["uniform_heights"])).numpy()

    cdf = config["cdf_weights_20"]
    return result | {
        "remap17": relabel(np.arange(classes), np.array(config["remap_20_to_17"], np.uint8)),
        "vis_color": colorize(inputs["seg17"], np.array(config["palette17"], np.uint8)),
        "slicing_rgba": transfer_function(s["palette"], s["bias"], s["entries"], s["entries_per_class"], s["opacity"]).numpy(),
        "slicing_volume": class_volume(t["slice_prob"], s["bias"]).numpy(),
        "vol_bg_minus_fg": background_margin(t["slice_prob"]).numpy(),
        "cdf_weights_20": cdf_weights(-cdf["S"], cdf["S"], cdf["sigma"]).numpy(),
    }


ADAPTERS = {"sof.notebook_paths": notebook_paths}
