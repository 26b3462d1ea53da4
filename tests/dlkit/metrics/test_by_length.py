"""Accuracy by length, counted by hand."""

from __future__ import annotations

import pytest
import torch

from dlkit.metrics.by_length import AccuracyByLength


def test_every_length_has_its_accuracy_and_its_most_frequent_class():
    metric = AccuracyByLength(3, longest=5)
    metric.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2]), torch.tensor([2, 2, 2, 9]))
    metric.update(torch.tensor([0, 0]), torch.tensor([1, 0]), torch.tensor([2, 4]))
    found = metric.compute()
    assert found["length"].tolist() == [2, 4, 5]
    assert found["accuracy"].tolist() == pytest.approx([2 / 4, 1, 1])
    assert found["majority"].tolist() == pytest.approx([3 / 4, 1, 1])
    metric.reset()
    metric.update(torch.tensor([0, 0]), torch.tensor([0, 0]), torch.tensor([1, 3]))
    assert metric.compute()["length"].tolist() == [1, 3]


def test_several_updates_are_one_and_counts_of_processes_add_up():
    predicted, y, lengths = (torch.randint(high, (200,)) for high in (2, 2, 10))
    whole, parts = AccuracyByLength(2), [AccuracyByLength(2) for _ in range(2)]
    whole.update(predicted, y, lengths)
    for part, rows in zip(parts, (slice(120), slice(120, None)), strict=True):
        part.update(predicted[rows], y[rows], lengths[rows])
    parts[0].right += parts[1].right
    parts[0].seen += parts[1].seen
    for name, value in whole.compute().items():
        assert torch.equal(parts[0].compute()[name], value)
