"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

NARROW = 16  # numbers in a CPU's widest register


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer: (*, inputs) -> (*, outputs).

    The weight of one that reads few numbers lies in memory input by input. Its gradient does then, too, and a CPU makes it
    from rows of `outputs` numbers: four times as fast.
    """
    layer = nn.Linear(inputs, outputs)
    if inputs < NARROW:
        layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    return layer


def hidden_layers(sizes: Sequence[int], dropout: float = 0.0) -> list[nn.Module]:
    """Linear layers, each with ReLU (and dropout) behind it: (*, sizes[0]) -> (*, sizes[-1]); none for a single size.

    Args:
        sizes: input width and hidden widths.
        dropout: probability of zeroing a hidden unit.

    Raises:
        ValueError: a size below one.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"a network's widths, {tuple(sizes)}, have to be its input's and any hidden ones', all positive")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [linear(inputs, outputs), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
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
    return nn.Sequential(*hidden_layers(sizes[:-1], dropout), linear(sizes[-2], sizes[-1]))
