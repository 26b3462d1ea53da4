"""WeightedSamples keeps what it is told, in order."""

from __future__ import annotations

import torch

from dlkit.metrics.weighted_samples import WeightedSamples


def test_all_weights_and_what_was_seen_come_back_in_order_and_in_double_precision():
    metric = WeightedSamples()
    weights, seen = torch.randn(7), torch.randn(7, 3)
    metric.update(weights[:4], seen[:4])
    metric.update(weights[4:], seen[4:])
    found, values = metric.compute()
    assert torch.equal(found, weights.double()) and torch.equal(values, seen.double())
    metric.reset()
    metric.update(weights[:2], seen[:2])
    assert len(metric.compute()[0]) == 2
