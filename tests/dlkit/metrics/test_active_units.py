"""Active units, accumulated, equal active units of all means at once."""

from __future__ import annotations

import pytest
import torch

from dlkit.metrics.active_units import ActiveUnits

SCALES = torch.tensor([0.0, 0.05, 0.09, 0.11, 0.2, 1.0, 3.0])  # standard deviations; the threshold is 0.1


@pytest.fixture
def means():
    x = torch.randn(900, 7, dtype=torch.float64)
    standard = (x - x.mean(0)) / x.std(0, unbiased=False)
    return (standard * SCALES + torch.arange(7) - 3).float()


def test_several_batches_equal_a_direct_computation(means):
    metric = ActiveUnits(7)
    for batch in means.split([400, 1, 99, 400]):
        metric.update(batch)
    torch.testing.assert_close(metric.variances(), means.double().var(0, unbiased=False), rtol=1e-9, atol=1e-12)
    assert metric.compute().item() == 4 == (means.var(0) > 0.01).sum()


def test_two_metrics_merge_into_the_metric_of_all(means):
    first, second, whole = ActiveUnits(7), ActiveUnits(7), ActiveUnits(7)
    first.update(means[:300])
    second.update(means[300:])
    whole.update(means)
    first.merge_state(second)
    torch.testing.assert_close(first.variances(), whole.variances())
    assert first.count.item() == 900
    assert first.compute() == whole.compute()


def test_the_variance_is_over_the_data_and_not_over_a_batch():
    """Constant within each batch, different between them: active."""
    metric = ActiveUnits(2)
    metric.update(torch.tensor([[1.0, 5.0]]).repeat(10, 1))
    metric.update(torch.tensor([[-1.0, 5.0]]).repeat(10, 1))
    assert metric.compute().item() == 1


def test_a_large_mean_does_not_hide_a_small_variance():
    metric = ActiveUnits(1)
    means = 1000 + torch.tensor([0.0, 0.25]).repeat(5000).unsqueeze(1)
    for batch in means.split(128):
        metric.update(batch)
    assert metric.variances().item() == pytest.approx(0.25**2 / 4, rel=1e-6)
    assert metric.compute().item() == 1


def test_reset_forgets(means):
    metric = ActiveUnits(7)
    metric.update(means)
    metric.reset()
    metric.update(torch.zeros(10, 7))
    assert metric.compute().item() == 0


def test_means_keep_no_graph(means):
    metric = ActiveUnits(7)
    metric.update(means.requires_grad_())
    assert not metric.total.requires_grad
    assert not metric.total_squares.requires_grad
