"""Adapters of the golden kinds of Geo-PIFu's data: sampling, meshes to pictures, voxels and queries, and the measures."""
from __future__ import annotations

import numpy as np
import torch

from geopifu import sampling as samplers
from geopifu.data import prepared
from geopifu.geometry import BOX, VIEWS, calibration, canonicalise, to_view
from geopifu.metrics import normal_measures, rendered_normals, stored_normals, vertex_measures
from geopifu.queries import Solid, balanced, candidates
from geopifu.raster import iuv_image, lit_colors, mask, normal_image, pixels_of, rasterise, rgb_image
from geopifu.scans import face_normals
from geopifu.voxels import centers, eight_bit, filled_voxels, semantic_values, silhouette, surface_voxels, turned


def sampling(config: dict, params: dict, inputs: dict) -> dict:
    inputs = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
    stretch = torch.tensor([config["xz_scale"], 1.0, config["xz_scale"]])[:, None]
    projected = samplers.project(inputs["points"], inputs["calibs"])
    result = {
        "index": samplers.sample_picture(inputs["feat2"], inputs["uv"]),
        "multi": samplers.sample_volume(inputs["feat3"], inputs["xyz"] * stretch, inputs["displacments"]),
        "index_3d_published_bug": samplers.sample_volume_swapped(inputs["feat3"], inputs["xyz_inside"] * stretch),
        "projected": projected,
        "z_feat": samplers.depth_feature(projected, config["loadSize"], config["z_size"]),
        "perspective": samplers.project_perspective(inputs["perspective_points"], inputs["perspective_calib"]),
    }
    return {name: value.numpy() for name, value in result.items()}


def voxels(config: dict, params: dict, inputs: dict) -> dict:
    surface = surface_voxels(inputs["verts"], inputs["faces"], tuple(config["res"]), np.array([config["min"], config["max"]]))
    filled = filled_voxels(surface)
    labelled, labels, near = inputs["labelled_points"], inputs["labels"], {"k": config["k"], "sigma": config["sigma2"] ** 0.5}
    values = semantic_values(centers(inputs["sem_index"]), labelled, labels, **near)
    return {
        "surface": surface, "filled": filled, "right": turned(filled), "projection": silhouette(filled), "sem_value": values,
        "sem_saved_uint8": eight_bit(values), "vertex_label": semantic_values(inputs["label_query_verts"], labelled, labels, **near).clip(0, 1)}


def dataset(config: dict, params: dict, inputs: dict) -> dict:
    canonical, _, _ = canonicalise(inputs["verts"].astype(np.float32), inputs["random_rot"].astype(np.float32))
    samples = candidates(inputs["surface_points"], inputs["noise"], config["sigma"], inputs["uniform"], inputs["perm"])
    within = Solid(canonical, inputs["faces"].astype(np.int64)).contains(samples)
    kept, others = balanced(samples, within, config["num_sample_inout"])
    result = {"inside": within, "canonical": canonical, "in_points": kept, "out_points": others,
              "calibs": np.stack([calibration(view) for view in range(len(VIEWS))]), "b_min": BOX[0], "b_max": BOX[1]}
    for name, variant in config["variants"].items():
        result[name] = prepared(inputs["image"], np.round(inputs["mask"] / 255).astype(np.uint8), variant["loadSize"])[name.startswith("mask")]
    return result


def render(config: dict, params: dict, inputs: dict) -> dict:
    faces, rotation = inputs["faces"].astype(np.int64), inputs["random_rot"]
    front, mean, scale = canonicalise(inputs["verts"].astype(np.float64), rotation)
    result, size = {"mean": mean, "scale": scale, "verts_front": front}, (config["h"], config["w"], config["f"])
    for name in config["views"]:
        view = VIEWS.index(name)
        seen = to_view(front, view)
        raster = rasterise(seen, faces, *size)
        lit = lit_colors(seen, face_normals(seen, faces), inputs["colors"], config["sky_degrees"])
        normals = to_view(inputs["normals"] @ rotation.T, view)
        result |= {
            f"lit_{name}": lit, f"rgb_{name}": rgb_image(lit, faces, raster, inputs["background"]), f"mask_{name}": mask(raster),
            f"normal_rgb_{name}": normal_image(normals, faces, raster), f"face_{name}": raster.face, f"iuv_{name}": iuv_image(inputs["atlas"], raster),
            f"skeleton2d_{name}": pixels_of(to_view(inputs["joints"].astype(np.float64), view), *size),
            f"bary_{name}": np.round(255 * raster.stepped().weights)}
    return result


def metrics(config: dict, params: dict, inputs: dict) -> dict:
    front, _, _ = canonicalise(inputs["gt_verts"].astype(np.float32), inputs["random_rot"].astype(np.float32))
    truth, estimate, faces = to_view(front, config["view"]), inputs["est_verts"].astype(np.float64), inputs["est_faces"].astype(np.int64)
    cd, psd = vertex_measures(estimate.astype(np.float32), truth)
    normals, kept = stored_normals(inputs["gt_normal_image"], np.round(inputs["gt_mask"] / 255))
    rendered = rendered_normals(estimate, faces)
    cosine, length = normal_measures(rendered, normals, kept)
    cos_of_maps, l2_of_maps = normal_measures(inputs["map_est_normals"], inputs["map_gt_normals"], inputs["map_mask"])
    return {"cd": cd, "psd": psd, "normal_cos": cosine, "normal_l2": length, "vertex_normals": face_normals(estimate, faces), "gt_canonical": truth,
            "est_normals": rendered, "gt_normals": normals, "gt_mask": kept, "cos_of_maps": cos_of_maps, "l2_of_maps": l2_of_maps}


ADAPTERS = {"geopifu.dataset": dataset, "geopifu.metrics": metrics, "geopifu.render": render, "geopifu.sampling": sampling, "geopifu.voxels": voxels}
