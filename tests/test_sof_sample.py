"""Mixtures against the moments that define them, label maps of codes against `predict`, the autoencoder, and the commands on a trained run."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from common.cameras import look_at
from common.errors import InputError
from common.images import read_picture
from sof import latent_vae, mixture, plots, sample
from sof.cameras import published_cameras
from sof.mixture import Mixture, MixtureOptions
from sof.model import SOF, ModelConfig, load
from sof.predict import predict
from tests import programs


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CODES = (random(40, 5) @ random(5, 5, seed=1) + random(5, seed=2)).float()


# The mixture

def covariances(fitted: Mixture) -> torch.Tensor:
    return fitted.factors @ fitted.factors.transpose(1, 2)


def test_one_gaussian_has_the_moments_of_the_codes():
    """Mean, and covariance (dividing by N) with scikit-learn's 1e-6 on the diagonal; diag and spherical are its diagonal and that one's mean."""
    codes = CODES.double()
    mean, whole = codes.mean(dim=0), torch.cov(codes.T, correction=0)
    expected = {"full": whole, "tied": whole, "diag": whole.diag().diag(), "spherical": whole.diag().mean() * torch.eye(5)}
    for kind, covariance in expected.items():
        fitted = mixture.fit(CODES, MixtureOptions(components=1, covariance=kind))
        assert torch.allclose(fitted.means[0], mean) and fitted.weights.tolist() == pytest.approx([1])
        assert torch.allclose(covariances(fitted)[0], covariance.double() + 1e-6 * torch.eye(5), atol=1e-9), kind


def test_clusters_are_found_and_shared_covariances_are_shared():
    apart = torch.cat([CODES, CODES[:20] + 100])
    fitted = mixture.fit(apart, MixtureOptions(components=2, covariance="tied"))
    assert sorted(fitted.weights.tolist()) == pytest.approx([1 / 3, 2 / 3]) and torch.equal(fitted.factors[0], fitted.factors[1])


def test_draws_have_the_moments_of_the_mixture():
    """20,000 codes of a mixture written down by hand, in a plane of space: its mean, its covariance, nothing beside the plane."""
    axes = torch.linalg.qr(random(3, 2)).Q.T.contiguous()
    made = Mixture(torch.tensor([0.3, 0.7], dtype=torch.float64), random(2, 2, seed=1), random(2, 2, 2, seed=2).tril(), random(3, seed=3), axes)
    codes = mixture.draw(made, 20_000, seed=0).double()
    means = made.center + made.means @ axes
    mean = made.weights @ means
    within = torch.einsum("k,kij->ij", made.weights, axes.T @ covariances(made) @ axes)
    between = torch.einsum("k,ki,kj->ij", made.weights, means - mean, means - mean)
    assert torch.allclose(codes.mean(dim=0), mean, atol=0.03) and torch.allclose(torch.cov(codes.T), within + between, atol=0.06)
    assert ((codes - made.center) @ (torch.eye(3) - axes.T @ axes)).abs().max() < 1e-5
    few = [mixture.draw(made, 5, seed) for seed in (4, 4, 5)]
    assert torch.equal(few[0], few[1]) and not torch.equal(few[0], few[2])


def test_with_all_axes_pca_changes_nothing():
    plain, turned = (mixture.fit(CODES, MixtureOptions(components=1, pca=count)) for count in (0, 5))
    assert torch.allclose(turned.center + turned.means @ turned.axes, plain.means, atol=1e-6)
    assert torch.allclose(turned.axes.T @ covariances(turned)[0] @ turned.axes, covariances(plain)[0], atol=1e-6)
    in_plane = mixture.draw(mixture.fit(CODES, MixtureOptions(components=2, pca=2)), 50, seed=0)
    assert torch.linalg.matrix_rank(in_plane - in_plane.mean(dim=0), atol=1e-3) == 2


def test_a_mixture_is_kept_to_the_bit_and_nothing_else_is_taken_for_one(tmp_path):
    options = MixtureOptions(components=3, pca=4)
    fitted = mixture.fit(CODES, options)
    mixture.save(tmp_path / "a.safetensors", fitted, options)
    again = mixture.load(tmp_path / "a.safetensors")
    assert all(torch.equal(getattr(again, name), getattr(fitted, name)) for name in vars(fitted))
    assert torch.equal(mixture.draw(again, 3, 0), mixture.draw(fitted, 3, 0)) and torch.equal(mixture.fit(CODES, options).means, fitted.means)
    torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: no mixture"):
        mixture.load(tmp_path / "other.pt")


@pytest.mark.parametrize("options, words", [({"components": 41}, "--components 41"), ({"components": 2, "pca": 6}, "--pca 6")])
def test_too_much_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        mixture.fit(CODES, MixtureOptions(**options))


def test_ellipses_lie_at_their_sigmas():
    """Every point of the patch has the Mahalanobis distance that it stands for, on the plane of the plot."""
    fitted = mixture.fit(CODES, MixtureOptions(components=2))
    center, plane = mixture.principal_axes(CODES.double(), 2)
    for mean, covariance in zip(*mixture.projected(fitted, center, plane)):
        for sigma in (1, 3):
            patch = plots.ellipse(*mean.tolist(), covariance, sigma)
            circle = np.stack([np.cos(np.arange(7.0)), np.sin(np.arange(7.0))], axis=1)
            points = torch.from_numpy(patch.get_patch_transform().transform(circle)) - mean
            distance = (points @ torch.linalg.inv(covariance) * points).sum(dim=1).sqrt()
            assert torch.allclose(distance, torch.full_like(distance, sigma))


# Label maps

@pytest.fixture(scope="module")
def sof() -> SOF:
    torch.manual_seed(0)
    model = SOF(ModelConfig(embedding_size=5, feat_dim=12, tracing_steps=3, orthogonal=True), heads=3)
    with torch.no_grad():
        model.latent_codes.weight.mul_(100)
    return model


POSE = look_at(torch.tensor([0.3, 0.1, 4.5], dtype=torch.float64), torch.tensor([0.0, 0.1, 0.0], dtype=torch.float64))


def test_label_maps_at_the_grids_size_are_those_of_predict(sof):
    cameras, rows = published_cameras(POSE.expand(3, 4, 4)), torch.tensor([0, 0, 2])
    codes = sof.latent_codes.weight.detach()[rows]
    labels = sample.label_maps(sof, codes, cameras, size=12, side=12)
    assert labels.dtype == torch.int64 and len(labels.unique()) > 1
    assert torch.equal(labels, torch.stack([seen["labels"].long() for seen in predict(sof, rows, cameras, 12)]))


def test_larger_maps_come_of_scores_resized(sof):
    """Bilinear with aligned corners: at 2 n - 1 pixels every other one is a pixel of the grid, the ones between are means. Scores, not probabilities."""
    cameras, codes = published_cameras(POSE[None]), sof.latent_codes.weight.detach()[:1]
    large, small = (sample.label_maps(sof, codes, cameras, size, side=6, features=True) for size in (11, 6))
    assert large.shape == (1, 20, 11, 11) and torch.allclose(large.exp().sum(dim=1), torch.ones(1, 11, 11))
    assert torch.allclose(large[..., ::2, ::2], small, atol=1e-5)
    between = (0.5 * (small[..., :-1] + small[..., 1:])).log_softmax(dim=1)                      # a log-probability is a score less a constant
    assert torch.allclose(large[..., ::2, 1::2], between, atol=1e-5)
    assert torch.equal(sample.label_maps(sof, codes, cameras, 11, side=6), large.argmax(dim=1))


def test_the_three_methods_of_the_sampler(sof):
    fitted = mixture.fit(torch.cat([sof.latent_codes.weight.detach() + 0.1 * k for k in range(3)]), MixtureOptions(components=2))
    labels, codes = sample.sample_ins(sof, fitted, 3, POSE, size=16, seed=7)
    assert labels.shape == (3, 16, 16) and torch.equal(codes, mixture.draw(fitted, 3, 7))
    center, target = torch.tensor([0.0, 0.1, 4.5]), torch.tensor([0.0, 0.1, 0.0])
    labels, poses = sample.sample_pose(sof, center, target, 20, code=codes[:1], size=16)
    assert len(labels) == len(poses) == 4 * (20 // 8) + 20 // 2
    assert torch.equal(labels[5:6], sample.label_maps(sof, codes[:1], published_cameras(poses[5:6]), 16))
    drawn = sample.sample_pose(sof, center, target, 8, mixture=fitted, size=16, seed=7)[0]
    assert torch.equal(drawn[:1], sample.sample_ins(sof, fitted, 1, poses[0], 16, 7)[0])
    labels, way = sample.interp_ins(sof, codes[:1], codes[1:2], 5, POSE, size=16)
    assert torch.allclose(way[[0, 4]], codes[[1, 0]]) and torch.allclose(way.diff(dim=0), (codes[0] - codes[1]).expand(4, -1) / 4, atol=1e-5)
    assert torch.equal(labels[:1], sample.label_maps(sof, codes[1:2], published_cameras(POSE[None]), 16))


# The autoencoder

def test_kl_is_that_of_torch():
    mean, log_variance = random(7, 2), random(7, 2, seed=1)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1).mean()
    assert torch.allclose(latent_vae.kl_divergence(mean, log_variance), expected)


def test_the_published_loss_sends_heads_to_one_place_the_right_one_keeps_them_apart():
    codes = torch.cat([torch.randn(8, 10, generator=torch.Generator().manual_seed(k)) + 6 * k for k in range(2)])
    place, history = latent_vae.train(codes, epochs=150, lr=1e-3, published_loss=True)
    assert history["KL"][-1] < 1e-3 * history["KL"][0] and place.abs().max() < 0.05
    place, history = latent_vae.train(codes, epochs=150, lr=1e-3)
    assert history["reconstruction"][-1] < 0.7 * history["reconstruction"][0]
    assert torch.cdist(place[:8], place[8:]).min() > 3 * torch.pdist(place[:8]).mean()
    assert torch.equal(place, latent_vae.train(codes, epochs=150, lr=1e-3)[0])


# Commands

def test_fit_heads_and_vae(trained, tmp_path):
    """Their files; the same heads again for the same seed; and a new head is a head to sof/render.py."""
    look = ("--checkpoint", trained.folder)
    done = programs.run(tmp_path, "sof/sample.py", "fit", *look, "--components", "2", "--covariance", "diag", "--out", "fitted")
    assert done.code == 0 and not done.err and (tmp_path / "fitted" / "mixture.png").stat().st_size > 5000, done
    heads = ("heads", *look, "--mixture", "fitted/mixture.safetensors", "--count", "5", "--side", "16", "--device", "cpu", "--seed", "3")
    for out in ("a", "b"):
        done = programs.run(tmp_path, "sof/sample.py", *heads, "--out", out)
        assert done.code == 0 and not done.err, done
    codes = np.load(tmp_path / "a" / "codes.npy")
    assert codes.shape == (5, 16) and (codes == np.load(tmp_path / "b" / "codes.npy")).all()
    assert read_picture(tmp_path / "a" / "heads.png").shape == (2 * 16 + 10, 4 * 16 + 3 * 10, 3)
    view = ("views", *look, "--side", "16", "--path", "azimuths", "--azimuths", "0", "--device", "cpu", "--out", "view", "--instance")
    assert programs.run(tmp_path, "sof/render.py", *view, "a/codes.npy:4").code == 0
    assert (read_picture(tmp_path / "view" / "seg_000.png") == read_picture(tmp_path / "a" / "seg_004.png")).all()
    programs.refused(programs.run(tmp_path, "sof/render.py", *view, "a/codes.npy:5"), "a/codes.npy:5", "0-4")
    programs.refused(programs.run(tmp_path, "sof/sample.py", "fit", *look, "--out", "fitted"), "--components 16", "3")
    done = programs.run(tmp_path, "sof/sample.py", "vae", *look, "--epochs", "5", "--out", "plane")
    assert done.code == 0 and not done.err and {path.name for path in (tmp_path / "plane").iterdir()} == {"vae.png", "vae_loss.png"}, done


def test_codes_leave_their_cameras_out(tmp_path):
    """A model that learned cameras keeps them in the first three columns."""
    from common.checkpoint import export_safetensors

    options = ModelConfig(embedding_size=5, feat_dim=8, tracing_steps=2, opt_cam=True)
    model = SOF(options, heads=2)
    export_safetensors(tmp_path / "a.safetensors", {"model": model.state_dict()}, vars(options))
    assert torch.equal(sample.codes_of(str(tmp_path / "a.safetensors")), load(tmp_path / "a.safetensors")[0].latent_codes.weight[:, 3:])
