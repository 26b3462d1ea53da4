"""Sums, means, greatest values and softmax of segments: the members of sets, the edges that lead to a node.

`index` (members,), int64, says to which of `number` segments each member belongs, in any order. A segment without members has
sum, mean and greatest value 0. Sums are of float32 where the values have half its precision, which could not hold those of many
members, and are given as the values are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, number: int) -> Tensor:
    """(members, *) -> (number, *)."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32)) if values.is_floating_point() else values
    return wide.new_zeros(number, *values.shape[1:]).index_add(0, index, wide).to(values.dtype)


def segment_sizes(index: Tensor, number: int) -> Tensor:
    """How many members each segment has: (number,), int64."""
    return torch.zeros(number, dtype=torch.int64, device=index.device).index_add_(0, index, torch.ones_like(index))


def segment_mean(values: Tensor, index: Tensor, number: int) -> Tensor:
    """(members, *) -> (number, *)."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    sizes = segment_sizes(index, number).clamp_(min=1).to(wide.dtype)
    return (segment_sum(wide, index, number) / sizes.view(-1, *[1] * (values.dim() - 1))).to(values.dtype)


def segment_max(values: Tensor, index: Tensor, number: int) -> Tensor:
    """(members, *) -> (number, *)."""
    places = index.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    return values.new_zeros(number, *values.shape[1:]).scatter_reduce(0, places, values, "amax", include_self=False)


def segment_softmax(scores: Tensor, index: Tensor, number: int) -> Tensor:
    """Each segment's weights sum to one: (members,) -> (members,)."""
    greatest = segment_max(scores.detach(), index, number)
    raised = (scores - greatest[index]).exp()
    return raised / segment_sum(raised, index, number)[index]


def segment_log_softmax(scores: Tensor, index: Tensor, number: int) -> Tensor:
    """The logarithms of those weights: (members,) -> (members,)."""
    shifted = scores - segment_max(scores.detach(), index, number)[index]
    return shifted - segment_sum(shifted.exp(), index, number).log()[index]


def segment_argmax(values: Tensor, index: Tensor, number: int) -> Tensor:
    """Which member is each segment's greatest, the first of equal ones, counted through all: (members,) -> (number,), int64.

    Of a segment without members it is 0.
    """
    places = torch.arange(len(values), device=values.device)
    others = torch.where(values == segment_max(values, index, number)[index], places, len(values))
    return places.new_zeros(number).scatter_reduce(0, index, others, "amin", include_self=False)
