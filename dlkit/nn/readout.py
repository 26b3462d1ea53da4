"""Readout: one vector of the members of a set, or of the nodes of a graph, whatever their order."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dlkit.functional.segments import segment_max, segment_mean, segment_softmax, segment_sum

ReadoutKind = Literal["sum", "mean", "max", "attention", "set2set"]


class Readout(nn.Module):
    """What a whole set is taken for.

    "sum", "mean", "max": over the members, feature by feature. "attention": sum_k alpha_k h_k with
    alpha = softmax_k(w . tanh(V h_k)) (Ilse et al. 2018, arXiv:1802.04712, equations 7 and 8, with biases in V). "set2set":
    q_t = LSTM(q*_{t-1}), alpha = softmax_k(q_t . h_k), q*_t = [q_t, sum_k alpha_k h_k], from 0 (Vinyals et al. 2016,
    arXiv:1511.06391, equations 3 to 7; `torch_geometric.nn.aggr.Set2Set`). An empty set gives 0, and to "set2set" what its
    LSTM says of nothing.

    Args:
        kind: "sum", "mean", "max", "attention" or "set2set".
        size: features of a member.
        num_steps: of "set2set".

    Attributes:
        output_size: features of the whole: `size`, and twice that for "set2set".

    Raises:
        ValueError: an unknown kind, or no step.
    """

    def __init__(self, kind: ReadoutKind, size: int, num_steps: int = 3) -> None:
        super().__init__()
        if kind not in get_args(ReadoutKind):
            raise ValueError(f"unknown readout {kind!r}: use {', '.join(map(repr, get_args(ReadoutKind)))}")
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps}: give at least 1")
        self.kind: ReadoutKind = kind
        self.num_steps = num_steps
        self.output_size = 2 * size if kind == "set2set" else size
        if kind == "attention":
            self.score = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, 1, bias=False))
        elif kind == "set2set":
            self.cell = nn.LSTMCell(2 * size, size)

    def forward(self, values: Tensor, index: Tensor, number: int) -> Tensor:
        """(members, size), the set of each, (members,), and how many sets there are -> (number, output_size)."""
        if self.kind == "sum":
            return segment_sum(values, index, number)
        if self.kind == "mean":
            return segment_mean(values, index, number)
        if self.kind == "max":
            return segment_max(values, index, number)
        if self.kind == "attention":
            weights = segment_softmax(self.score(values).squeeze(1).float(), index, number).to(values.dtype)
            return segment_sum(weights.unsqueeze(1) * values, index, number)
        query = values.new_zeros(number, self.output_size)
        hidden = cell = values.new_zeros(number, self.output_size // 2)
        for _ in range(self.num_steps):
            hidden, cell = self.cell(query, (hidden, cell))
            weights = segment_softmax((values * hidden[index]).sum(1).float(), index, number).to(values.dtype)
            query = torch.cat([hidden, segment_sum(weights.unsqueeze(1) * values, index, number).to(hidden.dtype)], 1)
        return query
