"""SOF's networks against the specification written out plainly, and the shapes and names of published files."""
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from common.cameras import Cameras, intrinsics_matrix, orbit
from common.errors import InputError
from common.rays import camera_rays, pixel_grid, unproject, z_depth
from common.render import render
from sof.cameras import pixel_centers, published_cameras, sof_cameras
from sof.model import SOF, ModelConfig, load, published_config, resize_scores, sphere_start
from sof.predict import predict, shooter, slicer

SIDE, HEADS = 8, 2
SMALL = {"embedding_size": 6, "feat_dim": 12, "out_channels": 5, "tracing_steps": 4}


def small(**options) -> SOF:
    torch.manual_seed(0)
    model = SOF(ModelConfig(**{**SMALL, **options}), HEADS).double()
    with torch.no_grad():                                       # away from the even start: heads that differ, fields and steps that vary
        model.latent_codes.weight.normal_()
        for layer in model.hyper_phi.layers:
            layer.hyper_linear.hypo_params.net[-1].weight.mul_(10)
        model.ray_marcher.lstm.linear[-1].weight.mul_(3)
    return model


def poses(count: int = HEADS, radius: float = 2.5) -> Tensor:
    return orbit(torch.linspace(-0.6, 0.7, count, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64), radius, (0.0, 0.1, 0.0))


def intrinsics(focal: float, count: int = HEADS) -> Tensor:
    return torch.tensor([[focal, 0, SIDE // 2], [0, focal, SIDE // 2], [0, 0, 1]], dtype=torch.float64).expand(count, 3, 3)


def pixels() -> Tensor:
    return torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="xy"), -1).reshape(1, -1, 2)


# --- the forward pass, as specification 1.3 has it --------------------------------------------------------------------------------------

def layer_norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def phi(layers, b: int, x: Tensor) -> Tensor:
    for weight, bias in layers:
        x = layer_norm(x @ weight[b].T + bias[b, 0]).clamp_min(0)
    return x


def step_mlp(model: SOF, v: Tensor, ray: Tensor) -> Tensor:
    state = model.state_dict()
    for layer in range(model.config.marcher_layers + 1):
        key = "ray_marcher.lstm.{}." + str(layer)
        v = v @ state[key.format("linear") + ".weight"].T + ray @ state[key.format("bias") + ".weight"].T + state[key.format("bias") + ".bias"]
        v = v.clamp_min(0) if layer < model.config.marcher_layers else v
    return v


def world(cam2world: Tensor, K: Tensor, uv: Tensor, t: Tensor, orthographic: bool) -> Tensor:
    plane = (uv - K[:2, 2]) / K[[0, 1], [0, 1]]
    local = torch.cat([plane if orthographic else plane * t, t, torch.ones_like(t)], -1)
    return (local @ cam2world.T)[:, :3]


def transcribed(model: SOF, layers, b: int, cam2world: Tensor, K: Tensor, uv: Tensor, orthographic: bool, n1: Tensor, n2: Tensor):
    """Start points, scores and depth of scene b from one camera, line by line."""
    t0 = -(0.05 + 1e-3 * n1)
    X0 = world(cam2world, K, uv, t0, orthographic)
    if orthographic:
        ray = (cam2world[:3, :3] @ torch.tensor([0.0, 0.0, 1.0]).double()).expand_as(X0)
    else:
        ray = torch.nn.functional.normalize(world(cam2world, K, uv, torch.ones_like(t0), False) - cam2world[:3, 3], dim=-1)
    q = -X0
    L = q.norm(dim=-1, keepdim=True)
    cosA = ((q / L) * ray).sum(-1, keepdim=True)
    sinA = (1 - cosA**2 + 1e-6).sqrt()
    X, R = X0 + ray * cosA * L, model.config.sphere_radius
    inside = (sinA * L < R)[:, 0]
    X[inside] = X[inside] - ray[inside] * (R**2 - (sinA * L)[inside] ** 2 + 1e-6).sqrt()
    X = X + ray * 0.01 * n2
    for _ in range(model.config.tracing_steps):
        X = X + ray * step_mlp(model, phi(layers, b, X), ray)
    depth = (torch.cat([X, torch.ones_like(t0)], -1) @ torch.linalg.inv(cam2world).T)[:, 2:3]
    return X0, model.pixel_generator(phi(layers, b, X)), depth


@pytest.mark.parametrize("orthographic, focal", [(True, 1.9), (False, 5.0)])
@torch.no_grad()
def test_the_march_is_the_published_one(orthographic, focal):
    model, uv = small(orthogonal=orthographic), pixels()
    cameras = sof_cameras(poses(), intrinsics(focal), SIDE, orthographic)
    layers = model.scene(model.latent_codes.weight)
    n1, n2 = torch.randn(2, HEADS, SIDE**2, 1, dtype=torch.float64)
    expected = [transcribed(model, layers, b, poses()[b], intrinsics(focal)[b], uv[0].double(), orthographic, n1[b], n2[b]) for b in range(HEADS)]
    starts, scores, depth = map(torch.stack, zip(*expected))
    origins, directions = camera_rays(cameras, pixel_centers(uv.double(), SIDE))
    points, seen = model.trace(layers, starts, directions, 0.01 * n2)
    torch.testing.assert_close(seen, scores, atol=1e-9, rtol=0)
    torch.testing.assert_close(z_depth(cameras, points), depth, atol=1e-9, rtol=0)
    anywhere, _ = model.trace(layers, origins, directions, 0.01 * n2)            # the start is on the sphere wherever one begins
    torch.testing.assert_close(anywhere, points, atol=1e-3, rtol=0)
    assert (points - starts).norm(dim=-1).std() > 0.1 and scores.flatten(0, 1).std(0).min() > 0.05
    across = torch.linalg.cross(starts, directions.expand_as(starts), dim=-1).norm(dim=-1)
    assert 0.05 < (across < 1.5).double().mean() < 0.95                          # hits and misses


def test_one_direction_for_parallel_rays():
    model, cameras = small(), sof_cameras(poses(), intrinsics(2.0), SIDE, True)
    layers = model.scene(model.latent_codes.weight)
    origins, directions = camera_rays(cameras, pixel_centers(pixels().double(), SIDE))
    each, shared = model.trace(layers, origins, directions), model.trace(layers, origins, directions[:, :1])
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(each, shared))


@torch.no_grad()
def test_far_away_a_pinhole_sees_what_parallel_rays_see():
    model, far = small(tracing_steps=10), 1e4
    layers, uv = model.scene(model.latent_codes.weight), pixel_grid(SIDE, SIDE, dtype=torch.float64)[None]
    parallel = Cameras(poses(radius=far), intrinsics_matrix(torch.full((HEADS,), 0.28, dtype=torch.float64), dtype=torch.float64), True)
    pinhole = Cameras(poses(radius=far), parallel.intrinsics * torch.tensor([[far], [far], [1.0]]).double() + 0, False)
    pinhole.intrinsics[:, :2, 2] = 0.5
    near = lambda cameras: unproject(cameras, uv, far - 2.0)     # the sphere's 1e-6 wants a start that is not 10^4 away
    (a, seen), (b, expected) = (model.trace(layers, near(cameras), camera_rays(cameras, uv)[1]) for cameras in (pinhole, parallel))
    torch.testing.assert_close(a, b, atol=2e-2, rtol=0)
    assert (seen.argmax(-1) == expected.argmax(-1)).double().mean() > 0.98


# --- the sphere -------------------------------------------------------------------------------------------------------------------------

def rays_past(distances: Tensor, count: int = 50) -> tuple[Tensor, Tensor]:
    """Points (D, count, 3) and directions of rays that pass the origin at each distance."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(len(distances), count, 3, generator=generator, dtype=torch.float64), dim=-1)
    aside = torch.linalg.cross(directions, torch.randn(directions.shape, generator=generator, dtype=torch.float64), dim=-1)
    closest = distances[:, None, None] * torch.nn.functional.normalize(aside, dim=-1)
    return closest - directions * (2 + torch.rand(*directions.shape[:2], 1, generator=generator, dtype=torch.float64)), directions


@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (0.3, -0.2, 0.1)])
def test_rays_start_where_they_enter_the_sphere(center):
    points, directions = rays_past(torch.linspace(0, 1.4, 8, dtype=torch.float64))
    start = sphere_start(points + torch.tensor(center), directions, 1.5, center) - torch.tensor(center)
    half = (points * directions).sum(-1)
    entry = points + directions * (-half - (half**2 - points.square().sum(-1) + 1.5**2).sqrt())[..., None]
    torch.testing.assert_close(start, entry, atol=1e-4, rtol=0)
    assert torch.allclose(start.norm(dim=-1), torch.tensor(1.5).double(), atol=1e-4) and ((start * directions).sum(-1) < 0).all()


def test_rays_that_miss_start_at_their_closest_point():
    points, directions = rays_past(torch.tensor([1.51, 2.0, 5.0], dtype=torch.float64))
    start = sphere_start(points, directions, 1.5)
    assert torch.allclose((start * directions).sum(-1), torch.zeros(()).double(), atol=1e-9)
    assert torch.allclose(start.norm(dim=-1), torch.tensor([[1.51], [2.0], [5.0]]).double(), atol=1e-9)


def test_the_sphere_has_gradients_everywhere():
    """Hits, misses, rays through the centre, and points on it: finite, and right where the start is smooth."""
    points, directions = rays_past(torch.tensor([0.4, 1.2, 1.7, 3.0], dtype=torch.float64), 3)
    assert torch.autograd.gradcheck(lambda p, d: sphere_start(p, d, 1.5), [points.requires_grad_(), directions.requires_grad_()])
    through = torch.tensor([[[0.0, 0, 3], [0, 0, 0], [0, 0, 1.5], [1.5, 0, 3]]], dtype=torch.float64, requires_grad=True)
    ahead = torch.tensor([[[0.0, 0, -1]]], dtype=torch.float64, requires_grad=True)
    start = sphere_start(through, ahead, 1.5)
    gradients = torch.autograd.grad(start.sum() + start.square().sum(), [through, ahead])
    assert all(gradient.isfinite().all() for gradient in gradients) and start.isfinite().all()
    torch.testing.assert_close(start[0, 0].detach(), torch.tensor([0.0, 0, 1.5]).double(), atol=1e-4, rtol=0)


# --- slices, upsampling, prediction -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("orthographic", [True, False])
def test_a_slice_is_the_field_on_a_plane(orthographic):
    model, cameras = small(), Cameras(poses(1), intrinsics_matrix(torch.full((1,), 0.6, dtype=torch.float64), dtype=torch.float64), orthographic)
    layers = model.scene(model.latent_codes.weight[1:])
    seen = render(slicer(model, layers, 2.2), cameras, 5, 6)
    uv = pixel_grid(5, 6, dtype=torch.float64)[None]
    points = unproject(cameras, uv, 2.2)
    assert torch.allclose(z_depth(cameras, points), torch.tensor(2.2).double())
    expected = model.pixel_generator(phi(layers, 0, points[0])).softmax(-1).unflatten(0, (5, 6))
    torch.testing.assert_close(seen["probabilities"][0], expected)
    assert torch.equal(seen["labels"][0].long(), expected.argmax(-1)) and torch.allclose(seen["probabilities"].sum(-1), torch.ones(()).double())


def test_resized_scores_keep_their_corners_and_are_probabilities():
    scores = torch.randn(2, 25, 4)
    assert resize_scores(scores, 5) is scores
    large = resize_scores(scores, 9).unflatten(1, (9, 9))
    probabilities = scores.softmax(-1).unflatten(1, (5, 5))
    torch.testing.assert_close(large[:, ::2, ::2], probabilities)                # every second pixel is one of the old ones
    torch.testing.assert_close(large[:, 1, 2], (probabilities[:, 0, 1] + probabilities[:, 1, 1]) / 2)
    torch.testing.assert_close(large.sum(-1), torch.ones(2, 9, 9))


@torch.no_grad()
def test_prediction_is_each_head_from_each_camera():
    model, cameras = small().float(), published_cameras(poses(4))
    instances = torch.tensor([1, 1, 0, 1])
    seen = list(predict(model, instances, cameras, SIDE, chunk=10))
    for k, instance in enumerate(instances.tolist()):
        alone = render(shooter(model, model.scene(model.latent_codes.weight[instance : instance + 1])), cameras.pick([k]), SIDE, SIDE)
        assert torch.equal(seen[k]["labels"], alone["labels"][0]) and torch.allclose(seen[k]["z_depth"], alone["z_depth"][0], atol=1e-5)
    assert not torch.allclose(seen[0]["z_depth"], seen[2]["z_depth"], atol=1e-3)


# --- published files --------------------------------------------------------------------------------------------------------------------

def published_shapes() -> dict[str, tuple]:
    """The 57 tensors, as specification 3.2 lists them."""
    shapes = {"latent_codes.weight": (221, 256)}
    for layer, predicted in enumerate((1024, 65792, 65792)):
        net = f"hyper_phi.layers.{layer}.hyper_linear.hypo_params.net."
        shapes |= dict(shape for i in (0, 1) for shape in fc_layer(f"{net}{i}.net."))
        shapes |= {f"{net}2.weight": (predicted, 256), f"{net}2.bias": (predicted,)}
    for layer, width in enumerate((256, 256, 256, 1)):
        step = "ray_marcher.lstm."
        shapes |= {f"{step}linear.{layer}.weight": (width, 256), f"{step}bias.{layer}.weight": (width, 3), f"{step}bias.{layer}.bias": (width,)}
    for i in range(3):
        shapes |= dict(fc_layer(f"pixel_generator.net.{i}.net."))
    return shapes | {"pixel_generator.net.3.weight": (20, 256), "pixel_generator.net.3.bias": (20,)}


def fc_layer(name: str) -> list[tuple[str, tuple]]:
    return [(f"{name}0.weight", (256, 256)), (f"{name}0.bias", (256,)), (f"{name}1.weight", (256,)), (f"{name}1.bias", (256,))]


def test_the_published_configuration():
    with torch.device("meta"):
        state = SOF(ModelConfig(), 221).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_shapes()
    assert len(state) == 57 and sum(math.prod(shape) for shape in published_shapes().values()) == 34_938_648
    config = published_config(state, "file")
    assert config == ModelConfig(orthogonal=True)


@pytest.mark.parametrize("options", [{"marcher_layers": 6}, {"opt_cam": True}, {"phi_layers": 4, "rendering_layers": 5}, {"phi_layers": 2, "feat_dim": 7}])
def test_sizes_are_read_from_the_file(tmp_path, options):
    """Also the first release's six step layers, and codes that carry cameras."""
    model = small(**options).float()
    torch.save({"model": model.state_dict(), "optimizer": torch.optim.Adam(model.parameters()).state_dict()}, tmp_path / "a.pth")
    read, _ = load(tmp_path / "a.pth")
    assert all(getattr(read.config, name) == value for name, value in {**SMALL, **options}.items() if name != "tracing_steps")
    assert read.config.published_camera == read.config.opt_cam and not read.training
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in model.state_dict().items())


LAST = "pixel_generator.net.3.weight"
HYPER = "hyper_phi.layers.0.hyper_linear.hypo_params.net.0.net.0.weight"
DAMAGE = {
    "codes of one axis": {"latent_codes.weight": torch.zeros(6)}, "codes that are a number": {"latent_codes.weight": torch.tensor(1.0)},
    "no codes": {"latent_codes.weight": None},
    "codes of another size": {"latent_codes.weight": torch.zeros(2, 7)},
    "scalar classifier": {LAST: torch.tensor(0.0)}, "classifier of one axis": {LAST: torch.zeros(5)}, "no classifier": {LAST: None},
    "flat hypernetwork": {HYPER: torch.zeros(36)}, "no hypernetwork": {HYPER: None}, "wide hypernetwork": {HYPER: torch.zeros(1, 10**6)},
    "wide marcher": {"ray_marcher.lstm.linear.0.weight": torch.zeros(1, 10**6)}, "flat marcher": {"ray_marcher.lstm.linear.0.weight": torch.zeros(3)},
    "many classes": {LAST: torch.zeros(10**6, 1)}, "wide field": {"hyper_phi.layers.0.hyper_linear.hypo_params.net.2.bias": torch.zeros(4 * 10**6)},
    "a stray tensor": {"other": torch.zeros(2)},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_misshapen_files_are_refused(tmp_path, damage):
    """In one line that names the file, and without making the network that they claim to be."""
    state = {**small().float().state_dict(), **DAMAGE[damage]}
    torch.save({"model": {key: value for key, value in state.items() if value is not None}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth") as refused:
        load(tmp_path / "a.pth")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{"feat_dim": 10**9}, {"feat_dim": 10**5}, {"feat_dim": -3}, {"embedding_size": 0}, {"tracing_steps": -1}, {"feat_dm": 3},
                                     {"renderer": "MLP"}, {"opt_cam": True}, {"phi_layers": 4}])
def test_a_file_of_ours_with_other_options_is_refused(tmp_path, options):
    from common.checkpoint import save
    save(tmp_path / "step_00000001.pt", {"step": 1, "config": {**SMALL, **options}, "state": {"model": dict(small().state_dict())}})
    if "feat_dm" in options:
        load(tmp_path / "step_00000001.pt")                      # options of others than the model are not its business
        return
    with pytest.raises(InputError, match=r"step_00000001\.pt"):
        load(tmp_path / "step_00000001.pt")
