"""Hypernetworks against networks of torch's own modules that carry the predicted weights, one scene at a time."""
from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.layers.hyper import FCBlock, HyperFC, HyperLinear, Layers, evaluate, linear

SCENES, POINTS, CODE, WIDTH, FEATURES = 3, 7, 5, 6, 4


@pytest.fixture
def hyper() -> HyperFC:
    torch.manual_seed(0)
    return HyperFC(CODE, 8, 1, 3, WIDTH, 1, FEATURES).double()


def network(layers: Layers, scene: int) -> nn.Sequential:
    """The predicted network of one scene, of plain modules."""
    blocks = []
    for weight, bias in layers:
        plain = nn.Linear(weight.shape[2], weight.shape[1]).double()
        plain.load_state_dict({"weight": weight[scene], "bias": bias[scene, 0]})
        blocks += [plain, nn.LayerNorm(weight.shape[1], elementwise_affine=False), nn.ReLU()]
    return nn.Sequential(*blocks)


@pytest.mark.parametrize("scenes", [1, SCENES])
def test_predicted_networks_are_networks(hyper, scenes):
    """All scenes at once against one plain network for each."""
    codes, points = torch.randn(scenes, CODE).double(), torch.randn(scenes, POINTS, 3).double()
    layers = hyper(codes)
    assert [tuple(weight.shape[1:]) for weight, _ in layers] == [(WIDTH, 3), (WIDTH, WIDTH), (FEATURES, WIDTH)]
    expected = torch.stack([network(layers, scene)(points[scene]) for scene in range(scenes)])
    torch.testing.assert_close(evaluate(layers, points), expected)
    assert expected.std() > 0.1 and (scenes == 1 or not torch.allclose(expected[0], expected[1]))


def test_a_scene_depends_on_its_own_code_alone(hyper):
    codes, points = torch.randn(SCENES, CODE).double(), torch.randn(1, POINTS, 3).double().expand(SCENES, -1, -1)
    alone = [evaluate(hyper(codes[k : k + 1]), points[:1]) for k in range(SCENES)]
    torch.testing.assert_close(evaluate(hyper(codes), points), torch.cat(alone))


def test_weights_lie_row_by_row_before_the_bias():
    """Number out * in_features + in of the prediction is weight[out, in]; the last out_features numbers are the bias."""
    layer, z = HyperLinear(CODE, 8, 1, 3, 2), torch.randn(2, CODE)
    flat, (weight, bias) = layer.hypo_params(z), layer(z)
    assert flat.shape == (2, 3 * 2 + 2)
    for out in range(2):
        for into in range(3):
            assert torch.equal(weight[:, out, into], flat[:, out * 3 + into])
        assert torch.equal(bias[:, 0, out], flat[:, 6 + out])


def test_blocks_are_linear_norm_relu():
    block, x = FCBlock(5, 6, 2, 4), torch.randn(9, 5)
    plain = nn.Sequential(*(module for width in (5, 6, 6) for module in (nn.Linear(width, 6), nn.LayerNorm(6), nn.ReLU())), nn.Linear(6, 4))
    plain.load_state_dict(dict(zip(plain.state_dict(), block.state_dict().values(), strict=True)))
    torch.testing.assert_close(block(x), plain(x))


def test_initial_spread():
    """Kaiming normal, sqrt(2 / inputs); a tenth of it where weights are predicted."""
    torch.manual_seed(0)
    hyper, block = HyperLinear(64, 64, 1, 40, 50), FCBlock(64, 256, 1, 300)
    expected = (2 / 64) ** 0.5
    assert hyper.hypo_params.net[-1].weight.std().item() == pytest.approx(0.1 * expected, rel=0.02)
    assert hyper.hypo_params.net[0].net[0].weight.std().item() == pytest.approx(expected, rel=0.05)
    assert block.net[0].net[0].weight.std().item() == pytest.approx(expected, rel=0.05)
    assert block.net[-1].weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)


@pytest.mark.parametrize("scenes", [1, SCENES])
@pytest.mark.parametrize("rows", [1, POINTS])
def test_linear_is_a_product_per_scene(scenes, rows):
    x, weight, bias = (torch.randn(*shape) for shape in ((scenes, POINTS, 4), (scenes, 6, 4), (scenes, rows, 6)))
    for scene, result in enumerate(linear(x, weight, bias)):
        torch.testing.assert_close(result, x[scene] @ weight[scene].T + bias[scene])


@pytest.mark.parametrize("scenes", [1, 2])
def test_gradients(hyper, scenes):
    """Of codes, points and the hypernetwork's own weights; float64."""
    inputs = [torch.randn(scenes, CODE), torch.randn(scenes, POINTS, 3), hyper.layers[1].hyper_linear.hypo_params.net[2].bias.detach()]

    def features(z: Tensor, points: Tensor, bias: Tensor) -> Tensor:
        return evaluate(torch.func.functional_call(hyper, {"layers.1.hyper_linear.hypo_params.net.2.bias": bias}, z), points)

    assert torch.autograd.gradcheck(features, [x.double().requires_grad_() for x in inputs])
