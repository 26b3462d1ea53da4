"""Frechet and kernel distances against closed forms; the network sees images in [0, 1] and never changes."""

from __future__ import annotations

import urllib.error
import warnings

import pytest
import torch
from torch import nn
from torchmetrics.image import fid, kid

from dlkit.metrics.features import FeatureNetwork, frechet_distance, kernel_distance
from dlkit.nn.classifiers import build_classifier


def spread(x):
    """Images of two pixels in [0, 1] -> features from -10 to 10."""
    return 20 * x.flatten(1) - 10


@pytest.fixture
def network():
    return FeatureNetwork(spread, 2)


def images(features):
    return ((features + 10) / 20).reshape(-1, 1, 1, 2)


def gaussian(n, mean, covariance):
    """Features with exactly this mean and covariance."""
    x = torch.randn(n, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return x @ torch.linalg.cholesky(covariance).T + mean


def measured(metric, real, generated):
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return metric.compute()


def test_the_frechet_distance_equals_its_closed_form(network):
    means = torch.tensor([[0.5, -1.0], [1.0, 0.3]], dtype=torch.float64)
    covariances = torch.tensor([[[1.0, 0.4], [0.4, 0.5]], [[0.3, -0.2], [-0.2, 1.2]]], dtype=torch.float64)
    real, generated = (gaussian(2000, m, c) for m, c in zip(means, covariances, strict=True))
    # tr (AB)^(1/2) of a 2x2 matrix: (tr AB + 2 (det AB)^(1/2))^(1/2)
    product = covariances[0] @ covariances[1]
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = (means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * root
    found = measured(frechet_distance(network), images(real), images(generated))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_frechet_distance_of_equal_images_is_zero_and_of_a_shift_its_square(network):
    x = images(torch.randn(500, 2, dtype=torch.float64))
    assert measured(frechet_distance(network), x, x).item() == pytest.approx(0, abs=1e-6)
    shifted = x + torch.tensor([3.0, 4.0]) / 20 * 0.1
    assert measured(frechet_distance(network), x, shifted).item() == pytest.approx(0.25, rel=1e-6)


def test_the_kernel_distance_of_equal_distributions_is_zero_on_average(network):
    found = [
        measured(kernel_distance(network, 100, 20), images(torch.randn(400, 2)), images(torch.randn(400, 2)))[0]
        for _ in range(40)
    ]
    values = torch.stack(found)
    assert abs(values.mean()) < 4 * values.std() / 40**0.5
    assert (values < 0).any()  # unbiased
    far = measured(kernel_distance(network, 100, 20), images(torch.randn(400, 2)), images(torch.randn(400, 2) + 1))[0]
    assert far > 10 * values.abs().max()


def test_the_kernel_distance_equals_a_written_out_one(network):
    """One subset of all images."""
    real, generated = torch.randn(50, 2), torch.randn(50, 2) + 0.5
    found, _ = measured(kernel_distance(network, subset_size=50, subsets=1), images(real), images(generated))

    def kernel(x, y):
        return (x @ y / 2 + 1) ** 3

    def mean(xs, ys, skip):
        return torch.stack([kernel(x, y) for i, x in enumerate(xs) for j, y in enumerate(ys) if not (skip and i == j)]).mean()

    expected = mean(real, real, True) + mean(generated, generated, True) - 2 * mean(real, generated, False)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize(
    "build", [frechet_distance, lambda network: kernel_distance(network, 10, 5)], ids=["frechet", "kernel"]
)
def test_several_updates_equal_one_update_and_reset_forgets(network, build):
    real, generated = torch.rand(40, 1, 1, 2), torch.rand(30, 1, 1, 2)
    metric = build(network)
    metric.update(torch.zeros(9, 1, 1, 2), real=True)
    metric.reset()
    for batch in real.split([1, 20, 19]):
        metric.update(batch, real=True)
    for batch in generated.split(10):
        metric.update(batch, real=False)
    torch.manual_seed(1)  # the subsets
    found = metric.compute()
    torch.manual_seed(1)
    torch.testing.assert_close(found, measured(build(network), real, generated), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [frechet_distance, lambda network: kernel_distance(network, 2, 1)], ids=["frechet", "kernel"])
def test_the_network_sees_the_images_as_they_are(build):
    seen = []

    def features(x):
        seen.append(x)
        return x.flatten(1)

    x = torch.rand(6, 1, 2, 2)
    measured(build(FeatureNetwork(features, 4)), x, (255 * x).round().byte())
    assert torch.equal(seen[0], x)
    assert seen[1].is_floating_point()
    torch.testing.assert_close(seen[1], x, rtol=0, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("of", [lambda trained: trained.trunk, lambda trained: trained.features], ids=["module", "method"])
def test_the_yardstick_is_a_frozen_copy(of):
    trained = build_classifier("cnn", (1, 8, 8), 10, width=2)
    x = torch.rand(5, 1, 8, 8)
    expected = trained.eval().features(x)
    network = FeatureNetwork(of(trained.train()), 8)
    torch.testing.assert_close(network(x), expected)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)
    network.train()
    for _ in range(2):  # no running statistics move either
        torch.testing.assert_close(network(x), expected)
    assert list(network.parameters())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert not network(x.requires_grad_()).requires_grad
    metric = frechet_distance(network).to("meta")  # devices: the copy goes where the metric goes
    assert {parameter.device.type for parameter in metric.parameters()} == {"meta"}


def test_images_outside_the_unit_interval_and_wrong_features_are_named(network):
    with pytest.raises(ValueError, match=r"values from -1 to 1, FeatureNetwork takes \[0, 1\]: map \[-1, 1\] by"):
        network(torch.tensor([[[[-1.0, 1.0]]]]))
    with pytest.raises(ValueError, match="values from nan"):
        network(torch.full((1, 1, 1, 2), torch.nan))
    with pytest.raises(ValueError, match=r"features of 3 images have the shape \(3, 8\), not \(3, 2\)"):
        network(torch.rand(3, 2, 2, 2))
    with pytest.raises(ValueError, match="num_features=0"):
        FeatureNetwork(spread, 0)
    with pytest.raises(ValueError, match="subset_size=0"):
        kernel_distance(network, 0)


def test_the_warning_about_memory_alone_is_silenced(network):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_distance(network, 10)
        with pytest.raises(UserWarning, match="before the ``update`` method"):
            kernel_distance(network, 10).compute()


@pytest.mark.parametrize("build", [frechet_distance, kernel_distance])
def test_a_missing_package_is_named(build, monkeypatch):
    for module in (fid, kid):
        monkeypatch.setattr(module, "_TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(ValueError, match="pip install torch-fidelity"):
        build()


@pytest.mark.parametrize("build", [frechet_distance, kernel_distance])
def test_missing_weights_are_named(build, monkeypatch):
    def offline(*arguments, **options):
        raise urllib.error.URLError("no route to host")

    for module in (fid, kid):
        monkeypatch.setattr(module, "_TORCH_FIDELITY_AVAILABLE", True)
        monkeypatch.setattr(module, "NoTrainInceptionV3", offline)
    with pytest.raises(ValueError, match=r"could not be downloaded .*no route to host"):
        build()


@pytest.mark.parametrize("build", [frechet_distance, kernel_distance])
def test_inception_is_handed_bytes(build, monkeypatch):
    class Inception(nn.Module):
        num_features = 2048

        def __init__(self, *arguments, **options):
            super().__init__()

        def forward(self, x):
            assert x.dtype == torch.uint8
            assert x.max() == 255
            return torch.zeros(len(x), 2048)

    for module in (fid, kid):
        monkeypatch.setattr(module, "_TORCH_FIDELITY_AVAILABLE", True)
        monkeypatch.setattr(module, "NoTrainInceptionV3", Inception)
    build().update(torch.ones(2, 3, 4, 4), real=True)
