"""Attention: where in a sequence to look, and what is seen there.

    alpha_ij = softmax_j score(q_i, k_j),      c_i = sum_j alpha_ij v_j

| kind       | score(q, k)                |                                                     |
|------------|----------------------------|-----------------------------------------------------|
| additive   | v . tanh(W q + U k)        | Bahdanau et al. 2015 (arXiv:1409.0473, appendix A)  |
| dot        | q . k                      | Luong et al. 2015 (arXiv:1508.04025, equation 8)    |
| general    | q . W k                    | the same                                            |
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from dlkit.functional.precision import single_or_better

AttentionKind = Literal["additive", "dot", "general"]


class Attended(NamedTuple):
    """What attention gives.

    Attributes:
        context: c, (batch, queries, value_size).
        weights: alpha, (batch, queries, keys), float32; each row sums to one over the real keys, or is zero if there are none.
    """

    context: Tensor
    weights: Tensor


class Attention(nn.Module):
    """Attention of queries over the steps of a sequence.

    Args:
        query_size: features of a query.
        key_size: features of a key.
        kind: "additive", "dot" or "general".
        hidden_size: width of the additive kind's hidden layer; `query_size` if None.

    Raises:
        ValueError: an unknown kind; sizes that differ, for "dot".
    """

    def __init__(
        self, query_size: int, key_size: int, kind: AttentionKind = "additive", hidden_size: int | None = None
    ) -> None:
        super().__init__()
        if kind not in get_args(AttentionKind):
            raise ValueError(f"unknown attention {kind!r}: use {', '.join(map(repr, get_args(AttentionKind)))}")
        if kind == "dot" and query_size != key_size:
            raise ValueError(f"attention 'dot' needs queries as wide as keys, got {query_size} and {key_size}: use 'general'")
        self.kind = kind
        hidden = hidden_size or query_size
        self.of_key: nn.Module = nn.Identity()
        self.of_query: nn.Module = nn.Identity()
        if kind == "additive":
            self.of_key = nn.Linear(key_size, hidden)
            self.of_query = nn.Linear(query_size, hidden, bias=False)
            self.score = nn.Linear(hidden, 1, bias=False)
        elif kind == "general":
            self.of_key = nn.Linear(key_size, query_size, bias=False)

    def project(self, keys: Tensor) -> Tensor:
        """What every query needs of the keys, so that it is computed once: (batch, keys, key_size) -> (batch, keys, *)."""
        return self.of_key(keys)

    def forward(self, queries: Tensor, projected: Tensor, values: Tensor, mask: Tensor) -> Attended:
        """One look for each query.

        Args:
            queries: (batch, queries, query_size).
            projected: (batch, keys, *), from `project`.
            values: (batch, keys, value_size).
            mask: (batch, keys), bool, True at real keys.
        """
        if self.kind == "additive":
            hidden = torch.tanh(self.of_query(queries).unsqueeze(2) + projected.unsqueeze(1))
            scores = self.score(hidden).squeeze(3)
        else:
            scores = queries @ projected.transpose(1, 2)
        weights = masked_softmax(scores, mask.unsqueeze(1))
        return Attended(weights.to(values.dtype) @ values, weights)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """The softmax over the last dimension, over real places alone, in float32 or better: zero elsewhere, and everywhere in a
    row that has no real place.

    Args:
        scores: (*, n).
        mask: True at real places, of a shape that broadcasts to that of the scores.
    """
    scores = single_or_better(scores)
    # The smallest number and not -inf: a row of -inf alone would be NaN, and so would its gradient.
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~mask, 0.0)
