"""The mean and its standard error, of one batch or of several."""

from __future__ import annotations

import pytest
import torch

from dlkit.metrics.mean_error import MeanWithError


def test_it_is_the_mean_and_its_standard_error_whatever_the_batches():
    values, metric = torch.randn(100, dtype=torch.float64) + 5, MeanWithError()
    for part in values.split([60, 30, 9, 1]):
        metric.update(part)
    found = metric.compute()
    assert found["mean"].item() == pytest.approx(values.mean().item())
    assert found["error"].item() == pytest.approx(values.std().item() / 10)


def test_the_error_is_that_of_repeated_means():
    means, errors = [], []
    for _ in range(500):
        metric = MeanWithError()
        metric.update(torch.rand(50).square())
        found = metric.compute()
        means.append(found["mean"])
        errors.append(found["error"])
    assert torch.stack(means).std().item() == pytest.approx(torch.stack(errors).mean().item(), rel=0.1)


def test_one_value_has_no_error_and_no_value_no_mean():
    metric = MeanWithError()
    metric.update(torch.tensor([2.0]))
    assert metric.compute()["mean"] == 2 and metric.compute()["error"].isnan()
    metric.reset()
    metric.update(torch.zeros(0))
    assert metric.compute()["mean"].isnan()
