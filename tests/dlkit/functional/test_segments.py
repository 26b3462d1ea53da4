"""Segments: what a loop over them gives, in any order of members, for empty ones and for numbers of any size."""

from __future__ import annotations

import pytest
import torch

from dlkit.functional.segments import (
    segment_argmax,
    segment_log_softmax,
    segment_max,
    segment_mean,
    segment_sizes,
    segment_softmax,
    segment_sum,
)

INDEX = torch.tensor([2, 0, 2, 4, 2, 0, 4])  # segments 1, 3 and the last one are empty
NUMBER = 6
REDUCTIONS = {
    segment_sum: lambda values: values.sum(0),
    segment_mean: lambda values: values.mean(0),
    segment_max: lambda values: values.amax(0),
}


def values(*shape):
    return torch.randn(len(INDEX), *shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("reduce", REDUCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_reductions_are_those_of_each_segment(reduce, shape):
    x = values(*shape)
    found = reduce(x, INDEX, NUMBER)
    for segment, value in enumerate(found):
        members = x[INDEX.eq(segment)]
        expected = REDUCTIONS[reduce](members) if len(members) else torch.zeros(shape, dtype=x.dtype)
        torch.testing.assert_close(value, expected)
    assert torch.autograd.gradcheck(lambda x: reduce(x, INDEX, NUMBER), (x,))


def test_the_greatest_may_be_negative():
    assert segment_max(torch.tensor([-2.0, -3.0]), torch.tensor([0, 0]), 2).tolist() == [-2, 0]


def test_sizes_are_counted():
    assert segment_sizes(INDEX, NUMBER).tolist() == [2, 0, 3, 0, 2, 0]
    assert segment_sizes(INDEX[:0], 2).tolist() == [0, 0]


def test_weights_are_the_softmax_of_each_segment_whatever_the_size_of_the_scores():
    x = values()
    for scores in (x, x + 1e4, x - 1e4):
        weights = segment_softmax(scores, INDEX, NUMBER)
        for segment in INDEX.unique():
            torch.testing.assert_close(weights[INDEX.eq(segment)], scores[INDEX.eq(segment)].softmax(0))
        torch.testing.assert_close(segment_log_softmax(scores, INDEX, NUMBER), weights.log())
    assert torch.autograd.gradcheck(lambda x: segment_softmax(x, INDEX, NUMBER), (x,))
    assert torch.autograd.gradcheck(lambda x: segment_log_softmax(x, INDEX, NUMBER), (x,))


def test_scores_far_apart_do_not_overflow():
    weights = segment_softmax(torch.tensor([1e30, -1e30, 5.0]), torch.tensor([0, 0, 1]), 2)
    assert weights.tolist() == [1, 0, 1]


def test_the_first_of_equal_members_is_the_greatest():
    x = torch.tensor([1.0, 5.0, 7.0, -2.0, 7.0, 5.0, -1.0])
    assert segment_argmax(x, INDEX, NUMBER).tolist() == [1, 0, 2, 0, 6, 0]
