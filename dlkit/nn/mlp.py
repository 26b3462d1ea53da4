"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class LinearReLU(nn.Linear):
    """A linear layer and ReLU: one module instead of two, and no second copy of its output, which small layers notice."""

    def forward(self, input: Tensor) -> Tensor:
        """(*, in_features) -> (*, out_features)."""
        return torch.relu_(linear(input, self.weight, self.bias))


def hidden_layers(sizes: Sequence[int], dropout: float = 0.0) -> list[nn.Module]:
    """Linear layers, each with ReLU (and dropout) behind it: (*, sizes[0]) -> (*, sizes[-1]); none for a single size.

    Args:
        sizes: input width and hidden widths.
        dropout: probability of zeroing a hidden unit.

    Raises:
        ValueError: a size below one.
    """
    if min(sizes) < 1:
        raise ValueError(f"the widths of a network have to be positive, got {tuple(sizes)}")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [LinearReLU(inputs, outputs), *([nn.Dropout(dropout)] if dropout else [])]
    return layers


def mlp(sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU (and dropout) between them: (*, sizes[0]) -> (*, sizes[-1]).

    Args:
        sizes: input width, hidden widths, output width; two sizes make one linear map.
        dropout: probability of zeroing a hidden unit.

    Raises:
        ValueError: fewer than two sizes, or a size below one.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"an MLP needs at least an input and an output width, all positive, got {tuple(sizes)}")
    return nn.Sequential(*hidden_layers(sizes[:-1], dropout), nn.Linear(sizes[-2], sizes[-1]))
