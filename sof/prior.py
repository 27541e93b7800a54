"""What a head's mesh says of its depth before the march: TestAll's depth prior (specification 4.3), which the release computes and then loses.

    silhouette   rays that miss the mesh are background and never march; the others march as ever
    start        ... and the others begin on the mesh, from which `prior_steps` steps are left to take
    published    every ray begins at the mesh's depth (0 where it misses), and the march moves it to the sphere: nothing changes but rounding

The silhouette alone takes the errors of marches through nothing with their work. A march that begins on the mesh begins where training never did: a little
worse in the views that a model was trained for, better from behind the head, where the march from the sphere goes astray.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.cameras import Cameras
from common.config import option
from common.errors import InputError
from common.layers.hyper import Layers
from common.meshes import Mesh
from common.raycast import build, first_hits
from common.rays import camera_rays, unproject, z_depth
from common.render import Shoot
from sof.look import facing, usual_cameras, usual_distance, usual_focal
from sof.model import SOF
from sof.predict import shooter
from sof.volume import head_mesh

SIDE = 128                                                    # voxels along each side of the mesh
ZOOM = 2 / 3                                                  # of the usual focal length: shoulders that the frontal view cuts off are seen from the side
RANGE, PERSPECTIVE_RANGE = (2.0, 7.0), (0.83, 1.15)           # camera z between which the head is looked for, 4.5 and, as TestAll has it, 1 before it


@dataclass
class PriorOptions:
    """What the march is told of the head's mesh."""

    depth_prior: str = option("off", "what the head's mesh tells the march. silhouette: rays that miss it are background, without a march; start: and the "
                              "others begin on it; published: the release's, which changes nothing", choices=("off", "silhouette", "start", "published"))
    prior_steps: int = option(4, "with depth_prior start: steps from the mesh on; the release meant 4 of its 10", low=0)


def looking(options: PriorOptions, model: SOF, scene: Layers, scores: bool = False) -> tuple[Shoot, int]:
    """`sof.predict.shooter` of a head with the prior asked for, and how often the field was asked for its mesh. Raises InputError without a surface."""
    if options.depth_prior == "off":
        return shooter(model, scene, scores), 0
    if model.whole_pictures:
        raise InputError(f"--depth_prior {options.depth_prior}: this model's classifier (Deepvoxels) needs every pixel's march")
    mesh, asked = surface_of(model, scene)
    return prior_shooter(options, model, scene, mesh, scores), asked


def surface_of(model: SOF, scene: Layers) -> tuple[Mesh, int]:
    """The mesh of a head, shoulders included, as seen from the front, and how often the field was asked for it."""
    camera = usual_cameras(model, facing([0.0], usual_distance(model)), ZOOM * usual_focal(model)).move(next(model.parameters()).device)
    return head_mesh(model, scene, camera, SIDE, RANGE if model.config.orthogonal else PERSPECTIVE_RANGE)


def mesh_depth(mesh: Mesh, device: torch.device | str = "cpu") -> Shoot:
    """For `common.render`: z_depth (1, R) of the mesh, by ray casting, and whether the ray meets it, hit (1, R)."""
    tree = tree_of(mesh, device)

    def shoot(camera: Cameras, uv: Tensor) -> dict[str, Tensor]:
        origins, directions = camera_rays(camera, uv)
        hits = first_hits(tree, origins[0], directions[0])
        hit = hits.faces >= 0
        points = origins + directions * torch.where(hit, hits.distances, 0.0)[:, None]
        return {"z_depth": torch.where(hit, z_depth(camera, points)[..., 0], 0.0), "hit": hit[None]}

    return shoot


def tree_of(mesh: Mesh, device: torch.device | str):
    """The mesh, ready for `first_hits`."""
    return build(torch.as_tensor(mesh.vertices, dtype=torch.float32, device=device), torch.as_tensor(mesh.faces, device=device))


def prior_shooter(options: PriorOptions, model: SOF, scene: Layers, mesh: Mesh, scores: bool = False) -> Shoot:
    """Like `sof.predict.shooter`, with the mesh's depth; and asked (1, R): how often the field was asked for each ray."""
    depth_of = mesh_depth(mesh, next(model.parameters()).device)

    def published(camera: Cameras, uv: Tensor) -> dict[str, Tensor]:
        start = unproject(camera, uv, depth_of(camera, uv)["z_depth"][..., None])
        points, seen = model.trace(scene, start, model.rays(camera, uv)[1])
        return told(seen, z_depth(camera, points)[..., 0], torch.full(uv.shape[:2], model.config.tracing_steps + 1))

    def shoot(camera: Cameras, uv: Tensor) -> dict[str, Tensor]:
        prior = depth_of(camera, uv)
        hit, (points, directions) = prior["hit"][0], model.rays(camera, uv)
        along, steps = directions if directions.shape[1] == 1 else directions[:, hit], model.config.tracing_steps
        if options.depth_prior == "start":
            start, steps = unproject(camera, uv, prior["z_depth"][..., None])[:, hit], options.prior_steps
            ends = model.advance(scene, start, along, steps)
        else:
            ends = model.march(scene, points[:, hit], along)
        nothing = torch.nn.functional.one_hot(torch.zeros_like(hit, dtype=torch.int64), model.config.out_channels)[None].to(points)
        seen = (nothing - 1) / torch.finfo(points.dtype).eps    # certainly background
        seen[:, hit] = model.field(scene, ends)
        depth = z_depth(camera, points.new_zeros(1, 1, 3))[..., 0] + model.config.sphere_radius     # the back of the sphere
        depth = depth.repeat(1, len(hit))
        depth[:, hit] = z_depth(camera, ends)[..., 0]
        return told(seen, depth, hit[None] * (steps + 1))

    def told(seen: Tensor, depth: Tensor, asked: Tensor) -> dict[str, Tensor]:
        result = {"labels": seen.argmax(-1).to(torch.uint8), "z_depth": depth, "asked": asked}
        return result | {"scores": seen} if scores else result

    return published if options.depth_prior == "published" else shoot
