"""The corruptions do what they say; a linear denoiser approaches the Wiener filter and does not beat it."""

from __future__ import annotations

import pytest
import torch

import dlkit
from dlkit.batches import Examples


def build(corruption="gaussian", noise=0.5, **arguments):
    return dlkit.DenoisingAutoencoder((1, 8, 8), 16, hidden_dims=(32,), corruption=corruption, noise=noise, **arguments)


@pytest.fixture
def x():
    return 0.2 + 0.6 * torch.rand(3000, 1, 8, 8)  # never 0 or 1, so that a changed element shows


# Corruption ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_gaussian_noise_has_its_standard_deviation_and_is_independent(x, noise):
    added = build("gaussian", noise).corrupt(x) - x
    n = added.numel()
    assert abs(added.mean().item()) < 5 * noise / n**0.5
    assert added.std().item() == pytest.approx(noise, abs=5 * noise / (2 * n) ** 0.5)
    correlation = added.flatten(1).T.corrcoef() - torch.eye(64)
    assert correlation.abs().max() < 6 / len(x) ** 0.5
    assert abs(torch.stack([added.flatten(), x.flatten()]).corrcoef()[0, 1]) < 5 / n**0.5


@pytest.mark.parametrize("noise", [0.1, 0.5, 0.9])
def test_masking_sets_elements_to_zero_with_its_probability(x, noise):
    corrupted = build("mask", noise).corrupt(x)
    hit = corrupted == 0
    assert torch.equal(corrupted[~hit], x[~hit])
    assert hit.float().mean().item() == pytest.approx(noise, abs=5 * (noise * (1 - noise) / x.numel()) ** 0.5)
    per_pixel = hit.float().mean(0)
    assert (per_pixel - noise).abs().max() < 6 * (noise * (1 - noise) / len(x)) ** 0.5


@pytest.mark.parametrize("noise", [0.1, 0.5, 0.9])
def test_salt_and_pepper_are_even_and_have_the_probability_together(x, noise):
    corrupted = build("salt-pepper", noise).corrupt(x)
    pepper, salt = corrupted == 0, corrupted == 1
    untouched = ~(pepper | salt)
    assert torch.equal(corrupted[untouched], x[untouched])
    error = 5 * (noise / 2 * (1 - noise / 2) / x.numel()) ** 0.5
    assert pepper.float().mean().item() == pytest.approx(noise / 2, abs=error)
    assert salt.float().mean().item() == pytest.approx(noise / 2, abs=error)


@pytest.mark.parametrize("corruption", ["gaussian", "mask", "salt-pepper"])
def test_no_noise_changes_nothing_and_the_clean_example_is_never_touched(x, corruption):
    assert torch.equal(build(corruption, 0.0).corrupt(x), x)
    before = x.clone()
    assert not torch.equal(build(corruption, 0.5).corrupt(x), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("corruption", ["mask", "salt-pepper"])
def test_full_noise_spares_nothing(x, corruption):
    assert set(build(corruption, 1.0).corrupt(x).unique().tolist()) == ({0.0} if corruption == "mask" else {0.0, 1.0})


@pytest.mark.parametrize(("corruption", "noise"), [("gaussian", -0.1), ("mask", -0.1), ("mask", 1.1), ("salt-pepper", 2)])
def test_noise_out_of_range_is_named(corruption, noise):
    with pytest.raises(ValueError, match=rf"^noise={noise} is out of range: a standard deviation is >= 0, a probability"):
        build(corruption, noise)


def test_an_unknown_corruption_is_named():
    with pytest.raises(ValueError, match=r"^unknown corruption 'blur': use 'gaussian', 'mask' or 'salt-pepper'$"):
        build("blur")


# The method ----------------------------------------------------------------------------------------------------------


def test_the_loss_compares_with_the_clean_example(x):
    denoiser = build("salt-pepper", 0.3)
    torch.manual_seed(5)
    loss, terms = denoiser.loss(Examples(x))
    torch.manual_seed(5)
    expected = (x - denoiser(denoiser.corrupt(x))).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(terms["mse"], (expected / 64).detach())


def test_denoising_is_the_network_without_another_corruption(x):
    denoiser = build()
    first = denoiser.denoise(x[:5])
    assert torch.equal(first, denoiser.denoise(x[:5]))
    torch.testing.assert_close(first, denoiser(x[:5]).detach())
    assert denoiser.training


@pytest.mark.slow
def test_a_linear_denoiser_approaches_the_wiener_filter_and_does_not_beat_it():
    """For x ~ N(m, C) and noise s the best is E[x | x~], with the error tr(C - C (C + s^2)^-1 C)."""
    dim, noise = 6, 0.7
    root = torch.randn(dim, dim) @ torch.diag(torch.tensor([2.0, 1.5, 1.0, 0.5, 0.3, 0.1])) / dim**0.5
    mean, covariance = torch.randn(dim), root @ root.T

    def draw(n):
        return torch.randn(n, dim) @ root.T + mean

    best = (covariance - covariance @ torch.linalg.inv(covariance + noise**2 * torch.eye(dim)) @ covariance).trace()
    denoiser = dlkit.DenoisingAutoencoder((dim,), dim, "linear", corruption="gaussian", noise=noise)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        optimizer.zero_grad()
        denoiser.loss(Examples(draw(1000)))[0].backward()
        optimizer.step()
        schedule.step()

    x = draw(400_000)
    with torch.no_grad():
        errors = (x - denoiser.denoise(denoiser.corrupt(x))).square().sum(1)
    uncertainty = errors.std().item() / len(x) ** 0.5
    excess = errors.mean().item() - best.item()
    assert -4 * uncertainty < excess < 0.01 * best.item() + 4 * uncertainty
    assert best < 0.6 * covariance.trace()  # neither the mean
    assert best < 0.6 * dim * noise**2  # nor the identity comes near
