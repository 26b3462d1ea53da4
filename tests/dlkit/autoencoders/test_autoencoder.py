"""The linear autoencoder is PCA; walks, anomalies, and densities of the latents."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from sklearn.decomposition import PCA

import dlkit
from datamodules import Digits
from dlkit.batches import Examples

NETWORKS = ["linear", "mlp", "conv"]


def build(network="mlp", latent_dim=3, **arguments):
    return dlkit.Autoencoder((1, 8, 8), latent_dim, network, hidden_dims=(32,), width=4, **arguments)


def trainer(**arguments):
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **arguments},
    )


@pytest.fixture(scope="module")
def digits():
    data = Digits(val_size=0, batch_size=64)
    data.setup()
    return data


@pytest.fixture
def x():
    return torch.rand(6, 1, 8, 8)


# The loss ------------------------------------------------------------------------------------------------------------


def test_the_loss_is_summed_over_an_example_and_averaged_over_the_batch(x):
    autoencoder = build()
    loss, terms = autoencoder.loss(Examples(x))
    errors = (x - autoencoder(x)).flatten(1).norm(dim=1).square()
    torch.testing.assert_close(loss, errors.mean())
    torch.testing.assert_close(terms["mse"], (x - autoencoder(x)).square().mean().detach())


@pytest.mark.parametrize("network", NETWORKS)
def test_it_overfits_one_batch(network, x):
    autoencoder = build(network, latent_dim=8, learning_rate=1e-2)
    optimizer = autoencoder.configure_optimizers()
    for _ in range(500):
        optimizer.zero_grad()
        loss, _ = autoencoder.loss(Examples(x))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * (x - x.mean(0)).square().flatten(1).sum(1).mean().item()


@pytest.mark.slow
def test_the_linear_autoencoder_is_principal_component_analysis(digits):
    """Bourlard and Kamp 1988: the same error, and the same subspace."""
    x = digits.splits["train"].x.double() / 16
    components = 8
    pca = PCA(components, svd_solver="full").fit(x.flatten(1).numpy())
    best = (x.flatten(1) - torch.from_numpy(pca.inverse_transform(pca.transform(x.flatten(1).numpy())))).square().sum(1)

    autoencoder = build("linear", components).double()
    optimizer = torch.optim.LBFGS(
        autoencoder.parameters(), max_iter=1200, max_eval=2400, history_size=30, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss, _ = autoencoder.loss(Examples(x))
        loss.backward()
        return loss

    optimizer.param_groups[0].update(tolerance_grad=1e-7, tolerance_change=1e-12)
    optimizer.step(closure)
    excess = autoencoder.loss(Examples(x))[0].item() / best.mean().item() - 1
    assert -1e-9 <= excess < 1e-3  # nothing is better than PCA

    basis, _ = torch.linalg.qr(autoencoder.decoder.head.weight.detach())
    cosines = torch.linalg.svdvals(basis.T @ torch.from_numpy(pca.components_.T))
    angles = cosines.clamp(max=1).arccos()
    assert angles.max().item() < 0.05


# Abilities -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_the_ends_of_a_walk_are_the_reconstructions(network, x):
    autoencoder = build(network)
    walk = autoencoder.interpolate(x[:3], x[3:], 5)
    assert walk.shape == (3, 5, 1, 8, 8)
    torch.testing.assert_close(walk[:, 0], autoencoder.reconstruct(x[:3]))
    torch.testing.assert_close(walk[:, -1], autoencoder.reconstruct(x[3:]))
    assert not torch.allclose(walk[:, 0], walk[:, -1])


def test_a_walk_decodes_mixtures_of_the_codes(x):
    """xi(x, x', a) = g((1 - a) f(x) + a f(x'))."""
    autoencoder = build()
    walk = autoencoder.interpolate(x[:3], x[3:], 5)
    for step, alpha in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        z = (1 - alpha) * autoencoder.encode(x[:3]) + alpha * autoencoder.encode(x[3:])
        torch.testing.assert_close(walk[:, step], autoencoder.decode(z).detach())


def test_a_walk_has_two_ends(x):
    with pytest.raises(ValueError, match=r"^a walk has at least its two ends, got steps=1$"):
        build().interpolate(x, x, 1)


def test_the_anomaly_score_is_the_squared_error_of_each_example(x):
    autoencoder = build()
    score = autoencoder.anomaly_score(x)
    assert score.shape == (6,)
    expected = [(example - autoencoder.reconstruct(example[None])[0]).square().sum() for example in x]
    torch.testing.assert_close(score, torch.stack(expected))
    torch.testing.assert_close(score.mean(), autoencoder.loss(Examples(x))[0].detach())


@pytest.mark.parametrize("training", [True, False])
def test_abilities_leave_the_mode_as_it_was_and_keep_no_graph(training, x):
    autoencoder = build().train(training)
    for result in (autoencoder.reconstruct(x), autoencoder.anomaly_score(x), autoencoder.interpolate(x, x, 2)):
        assert not result.requires_grad
    assert autoencoder.training is training


def test_examples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^Autoencoder was built for .* \(1, 8, 8\) and was given \(1, 9, 9\): set data"):
        build().reconstruct(torch.rand(2, 1, 9, 9))


def test_a_network_that_cannot_read_the_data_is_refused():
    with pytest.raises(ValueError, match=r"reads square images, and the data is 4x6: use network='mlp'"):
        dlkit.Autoencoder((1, 4, 6), network="conv")


# Densities of the latents --------------------------------------------------------------------------------------------


def energy_distance(a, b):
    """2 E|a - b| - E|a - a'| - E|b - b'|, zero for equal distributions alone; unbiased."""
    a, b = a.flatten(1), b.flatten(1)

    def within(points):
        return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))

    return (2 * torch.cdist(a, b).mean() - within(a) - within(b)).item()


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    autoencoder = dlkit.Autoencoder((1, 8, 8), 16, hidden_dims=(128,))
    trainer(max_epochs=20).fit(autoencoder, datamodule=digits)
    return autoencoder


def test_the_gaussian_has_the_mean_and_covariance_of_the_latents(trained, digits):
    x = digits.splits["train"].x.float() / 16
    trained.fit_latent_density([Examples(part) for part in x.split(500)], "gaussian")
    with torch.no_grad():
        z = trained.encode(x)
    density = trained.latent_density
    assert density["weights"].tolist() == [1.0]
    covariance = density["scales"][0] @ density["scales"][0].T
    scale = z.var(0).mean()
    torch.testing.assert_close(density["means"][0], z.mean(0), atol=1e-3 * scale.sqrt().item(), rtol=1e-3)
    torch.testing.assert_close(covariance, z.T.cov(correction=0), atol=1e-3 * scale.item(), rtol=1e-3)

    drawn = trained.sample_latents(100_000)
    assert drawn.shape == (100_000, 16)
    spread = covariance.diagonal().sqrt()
    assert ((drawn.mean(0) - density["means"][0]).abs() < 5 * spread / 100_000**0.5).all()
    error = (torch.outer(spread**2, spread**2) + covariance**2).sqrt() / 100_000**0.5
    assert ((drawn.T.cov() - covariance).abs() < 5 * error).all()


def test_mixture_samples_come_in_the_given_proportions():
    autoencoder = build(latent_dim=2)
    autoencoder.latent_density = {
        "weights": torch.tensor([0.2, 0.8]),
        "means": torch.tensor([[-10.0, 0.0], [10.0, 5.0]]),
        "scales": torch.tensor([[[1.0, 0.0], [0.5, 0.1]], [[0.1, 0.0], [0.0, 2.0]]]),
    }
    z = autoencoder.sample_latents(50_000)
    left = z[:, 0] < 0
    assert left.float().mean().item() == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 50_000) ** 0.5)
    for index, chosen in enumerate((z[left], z[~left])):
        scale = autoencoder.latent_density["scales"][index]
        torch.testing.assert_close(chosen.mean(0), autoencoder.latent_density["means"][index], atol=0.08, rtol=0)
        torch.testing.assert_close(chosen.T.cov(), scale @ scale.T, atol=0.15, rtol=0)


def test_a_mixture_gives_better_samples_than_one_gaussian(trained, digits):
    """The lecture's last experiment: nothing told the encoder to make its latents one Gaussian."""
    x = digits.splits["test"].x.float() / 16
    distance = {}
    for kind in ("gaussian", "mixture"):
        trained.fit_latent_density(digits.batches("train"), kind)
        samples = trained.sample(4000)
        assert samples.shape == (4000, 1, 8, 8)
        distance[kind] = energy_distance(samples, x)
    noise = energy_distance(torch.rand(4000, 1, 8, 8), x)
    assert 0 < distance["mixture"] < 0.8 * distance["gaussian"] < 0.1 * noise


@pytest.mark.parametrize("call", ["sample", "sample_latents"])
def test_sampling_before_a_density_was_fitted_says_what_to_do(call):
    with pytest.raises(ValueError, match=r"no density of its own to sample: call fit_latent_density\(loader\) first$"):
        getattr(build(), call)(3)


def test_a_density_that_cannot_be_fitted_is_refused(digits):
    with pytest.raises(ValueError, match=r"^unknown latent density 'uniform': use 'gaussian' or 'mixture'$"):
        build().fit_latent_density(digits.batches("train"), "uniform")
    few = [Examples(torch.rand(20, 1, 8, 8))]
    with pytest.raises(ValueError, match=r"^20 examples are too few for a density of 20 Gaussians: give more examples$"):
        build().fit_latent_density(few, "mixture", components=20)


def test_the_density_travels_through_a_checkpoint(trained, digits, tmp_path):
    trained.fit_latent_density(digits.batches("train"), "mixture", components=5)
    saver = trainer(max_epochs=0)
    saver.strategy.connect(trained)
    saver.save_checkpoint(tmp_path / "autoencoder.ckpt")
    loaded = dlkit.Autoencoder.load_from_checkpoint(tmp_path / "autoencoder.ckpt")
    for name, value in trained.latent_density.items():
        assert torch.equal(loaded.latent_density[name], value), name
    torch.manual_seed(1)
    expected = trained.sample(10)
    torch.manual_seed(1)
    assert torch.equal(loaded.sample(10), expected)


def test_a_checkpoint_without_a_density_has_none(tmp_path):
    autoencoder = build()
    saver = trainer(max_epochs=0)
    saver.strategy.connect(autoencoder)
    saver.save_checkpoint(tmp_path / "autoencoder.ckpt")
    assert dlkit.load(tmp_path / "autoencoder.ckpt").latent_density is None
