"""Pooling: one vector of the steps of a sequence."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dlkit.nn.attention import masked_softmax
from dlkit.nn.recurrent import Encoded, real_steps

PoolingKind = Literal["last", "mean", "max", "attention"]


class Pooling(nn.Module):
    """What a whole sequence is taken for, of the real steps alone.

    "last": the final state of the last layer, of both directions; "mean" and "max": over the steps, feature by feature;
    "attention": sum_t alpha_t h_t with alpha = softmax_t(v . tanh(W h_t + b)) (Yang et al. 2016, doi:10.18653/v1/N16-1174,
    equations 5 to 7).

    Args:
        kind: "last", "mean", "max" or "attention".
        size: features of a step.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, kind: PoolingKind, size: int) -> None:
        super().__init__()
        if kind not in get_args(PoolingKind):
            raise ValueError(f"unknown pooling {kind!r}: use {', '.join(map(repr, get_args(PoolingKind)))}")
        self.kind = kind
        if kind == "attention":
            self.score = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, 1, bias=False))

    def forward(self, encoded: Encoded, lengths: Tensor) -> Tensor:
        """(batch, time, size), and lengths (batch,) -> (batch, size)."""
        outputs = encoded.outputs
        if self.kind == "last":
            return encoded.final_state.top
        real = real_steps(lengths.to(outputs.device), outputs.shape[1])
        if self.kind == "mean":
            return outputs.sum(1) / lengths.to(outputs).unsqueeze(1)  # zero at the padding
        if self.kind == "max":
            return outputs.masked_fill(~real.unsqueeze(2), torch.finfo(outputs.dtype).min).amax(1)
        weights = masked_softmax(self.score(outputs).squeeze(2), real)
        return (weights.to(outputs.dtype).unsqueeze(1) @ outputs).squeeze(1)
