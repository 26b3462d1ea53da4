"""Errors of targets: over a whole pass what they are over all its examples at once, the missing ones left out."""

from __future__ import annotations

import pytest
import torch

from dlkit.metrics.target_errors import TargetErrors


def test_batches_of_any_size_give_what_all_examples_give():
    predicted, y = torch.randn(50, 3), torch.randn(50, 3)
    y[torch.rand(50, 3) < 0.4] = torch.nan
    errors = TargetErrors(3)
    for rows in torch.arange(50).split([20, 1, 29]):
        errors.update(predicted[rows], y[rows])
    found = errors.compute()
    for target in range(3):
        known = ~y[:, target].isnan()
        error = (predicted[known, target] - y[known, target]).double()
        assert found["mae"][target].item() == pytest.approx(error.abs().mean().item())
        assert found["rmse"][target].item() == pytest.approx(error.square().mean().sqrt().item())


def test_a_target_that_no_example_has_is_not_a_number_and_a_missing_one_may_be_predicted_as_anything():
    errors = TargetErrors(2)
    errors.update(torch.tensor([[1.0, torch.nan]]), torch.tensor([[3.0, torch.nan]]))
    assert errors.compute()["rmse"].tolist() == [2, pytest.approx(torch.nan, nan_ok=True)]


def test_large_numbers_lose_nothing_over_many_batches():
    errors = TargetErrors(1)
    for _ in range(500):
        errors.update(torch.full((10, 1), 40000.1), torch.full((10, 1), 40000.0))
    assert errors.compute()["mae"].item() == pytest.approx(float(torch.tensor(40000.1)) - 40000, rel=1e-9)
    errors.reset()
    errors.update(torch.ones(1, 1), torch.zeros(1, 1))
    assert errors.compute()["mae"].item() == 1
