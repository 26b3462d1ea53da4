"""The area under the ROC curve against the ranks of a whole pass, and where there is none."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from dlkit.metrics.auc import AUC


def test_it_is_the_share_of_pairs_in_the_right_order_ties_counting_half():
    metric = AUC()
    scores, y = (torch.rand(60) * 8).round() / 8, torch.arange(60) % 3 == 0
    for part in range(0, 60, 25):
        metric.update(scores[part : part + 25], y[part : part + 25].long())
    pairs = scores[y].unsqueeze(1) - scores[~y]
    expected = ((pairs > 0).float() + (pairs == 0).float() / 2).mean().item()
    assert metric.compute().item() == pytest.approx(expected) == pytest.approx(roc_auc_score(y, scores))


@pytest.mark.parametrize("y", [[], [0, 0], [1, 1, 1]], ids=str)
def test_it_is_not_a_number_where_a_class_is_missing(y):
    metric = AUC()
    metric.update(torch.rand(len(y)), torch.tensor(y, dtype=torch.int64))
    assert metric.compute().isnan()
