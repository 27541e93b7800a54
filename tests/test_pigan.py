"""common.pigan and common.layers.siren: the folded field against the published formula, normals, and gradients through both."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from common.kernels import sine_
from common.layers.siren import FilmLayer, fold, sine_layer
from common.pigan import BOX_SIDE, NETWORKS, Siren, SirenConfig, average_codes, truncate

SMALL = SirenConfig(hidden=12, layers=3, latent=8)


def plain(siren: Siren, z: torch.Tensor, points: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The field as pi-GAN writes it: sin(F (W x + b) + P), layer by layer."""
    frequencies, phases = siren.mapping(z)
    width, frequencies = siren.config.hidden, 15 * frequencies + 30
    film = lambda layer, x, i: torch.sin(frequencies[:, None, i * width:(i + 1) * width] * layer(x) + phases[:, None, i * width:(i + 1) * width])
    x = points * 2 / BOX_SIDE if siren.config.box else points
    for i, layer in enumerate(siren.network):
        x = film(layer.layer, x, i)
    color = film(siren.color_layer_sine.layer, torch.cat([directions, x], dim=-1), len(siren.network))
    return siren.final_layer(x), torch.sigmoid(siren.color_layer_linear(color))


def drawn(config: SirenConfig = SMALL, scenes: int = 2, points: int = 20):
    torch.manual_seed(0)
    siren = Siren(config).double()
    return (siren, torch.randn(scenes, config.latent).double(), (torch.rand(scenes, points, 3).double() - 0.5) * BOX_SIDE,
            torch.nn.functional.normalize(torch.randn(scenes, points, 3).double(), dim=-1))


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, box=False)])
def test_folded_field_equals_the_formula(config):
    siren, z, points, directions = drawn(config)
    scene = siren.scene(*siren.mapping(z))
    logits, colors = siren.field(scene, points, directions)
    expected = plain(siren, z, points, directions)
    torch.testing.assert_close(logits, expected[0], atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(colors, expected[1], atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(siren.density(scene, points), logits)
    with torch.no_grad():
        torch.testing.assert_close(siren.field(scene, points, directions)[1], colors)


def test_points_may_come_in_any_chunks():
    siren, z, points, _ = drawn()
    with torch.no_grad():
        scene = siren.scene(*siren.mapping(z))
        whole = siren.density(scene, points)
        torch.testing.assert_close(torch.cat([siren.density(scene, part) for part in points.split(7, dim=1)], dim=1), whole, atol=1e-13, rtol=0)


def test_fold_is_the_affine_map_of_the_film():
    layer = FilmLayer(5, 4).double()
    f, p, x = torch.randn(3, 4).double(), torch.randn(3, 4).double(), torch.randn(3, 6, 5).double()
    weight, bias = fold(layer.layer.weight, layer.layer.bias, f, p)
    torch.testing.assert_close(x @ weight + bias, f[:, None] * layer.layer(x) + p[:, None])


def test_normals_are_those_of_the_logit_and_point_outwards():
    siren, z, points, _ = drawn()
    scene = siren.scene(*siren.mapping(z))
    normals, step = siren.normals(scene, points), 1e-6
    offsets = step * torch.eye(3, dtype=torch.float64)
    gradient = torch.stack([(siren.density(scene, points + o) - siren.density(scene, points - o))[..., 0] for o in offsets], dim=-1)
    torch.testing.assert_close(normals, -torch.nn.functional.normalize(gradient, dim=-1), atol=1e-4, rtol=0)


def test_a_flat_field_has_no_normal_rather_than_nan():
    siren, z, points, _ = drawn()
    with torch.no_grad():
        siren.final_layer.weight.zero_()
    assert (siren.normals(siren.scene(*siren.mapping(z)), points) == 0).all()


def test_gradients_and_second_derivatives():
    siren, z, points, directions = drawn(scenes=1, points=3)
    of_codes = lambda f, p: siren.field(siren.scene(f, p), points, directions)
    codes = tuple(code.detach().requires_grad_() for code in siren.mapping(z))
    assert torch.autograd.gradcheck(of_codes, codes)
    assert torch.autograd.gradcheck(lambda f, p: siren.normals(siren.scene(f, p), points, create_graph=True), codes, atol=1e-4)
    weight, bias, x = (torch.randn(1, *shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (1, 4), (5, 3)))
    assert torch.autograd.gradgradcheck(sine_layer, (x, weight, bias))


def test_published_networks_have_the_published_keys_and_sizes():
    counts = {"SPATIALSIRENBASELINE": (30, 1_910_788), "TALLSIREN": (30, 1_910_788), "EmbeddingPiGAN128": (31, 29_238_660),
              "EmbeddingPiGAN256": (31, 10_307_588)}
    for name, (tensors, numbers) in counts.items():
        state = Siren(NETWORKS[name]).state_dict()
        assert (len(state), sum(value.numel() for value in state.values())) == (tensors, numbers)
    keys = list(Siren(NETWORKS["EmbeddingPiGAN128"]).state_dict())
    assert keys[0] == "spatial_embeddings" and keys[1] == "network.0.layer.weight" and keys[-1] == "mapping_network.network.6.bias"


def test_features_of_the_grid_are_trilinear_and_zero_outside():
    torch.manual_seed(0)
    siren = Siren(SirenConfig(hidden=8, layers=1, latent=4, grid=5)).double()
    scene = siren.scene(*siren.mapping(torch.randn(1, 4).double()))
    inside = torch.tensor([[[0.0, 0.0, 0.0]]], dtype=torch.float64)
    with torch.no_grad():
        before = siren.density(scene, inside)
        siren.spatial_embeddings[:, :, 2, 2, 2] += 1               # the middle of the grid is the origin
        assert not torch.allclose(siren.density(scene, inside), before)
        far = torch.full((1, 1, 3), BOX_SIDE, dtype=torch.float64)
        outside = siren.density(scene, far)
        siren.spatial_embeddings += 1
        torch.testing.assert_close(siren.density(scene, far), outside)


def test_the_average_code_is_always_the_same_and_truncation_moves_towards_it():
    siren, z, *_ = drawn()
    siren = siren.float()
    first, second = average_codes(siren), average_codes(siren)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    codes = siren.mapping(z.float())
    assert all(torch.allclose(t, a.expand_as(t)) for t, a in zip(truncate(codes, first, 0.0), first))
    for half, code, mean in zip(truncate(codes, first, 0.5), codes, first):
        torch.testing.assert_close(half, (code + mean) / 2)


@pytest.mark.parametrize("threads", [1, 4])
def test_the_sine_of_each_number_of_threads(threads):
    before, x = torch.get_num_threads(), torch.linspace(-200, 200, 100_001)
    try:
        torch.set_num_threads(threads)
        torch.testing.assert_close(sine_(x.clone()), x.double().sin().float(), atol=2e-7, rtol=0)
    finally:
        torch.set_num_threads(before)
