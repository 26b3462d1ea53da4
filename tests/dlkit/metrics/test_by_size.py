"""Shares of right answers and errors by the size of sets."""

from __future__ import annotations

import pytest
import torch

from dlkit.metrics.by_size import ErrorsBySize


def test_each_size_has_the_means_of_its_sets_over_all_batches():
    metric = ErrorsBySize()
    metric.update(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.1, 2.0, 0.3]), torch.tensor([3, 50, 3]))
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor([0.8, 0.0]), torch.tensor([3, 0]))
    found = metric.compute()
    assert found["size"].tolist() == [0, 3, 50]
    assert found["right"].tolist() == pytest.approx([1, 2 / 3, 0])
    assert found["error"].tolist() == pytest.approx([0, 0.4, 2.0])


def test_what_cannot_be_right_spoils_its_own_size_alone_and_the_largest_sets_count_as_one_size():
    metric = ErrorsBySize(largest=5)
    right, error = torch.tensor([1.0, torch.nan, 1.0, 0.0]), torch.zeros(4)
    metric.update(right, error, torch.tensor([1, 2, 5, 90]))
    found = metric.compute()
    assert found["size"].tolist() == [1, 2, 5]
    assert found["right"].tolist() == pytest.approx([1, torch.nan, 0.5], nan_ok=True)
