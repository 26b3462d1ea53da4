"""What reads the members of sets, and layers in which they learn of each other (Zaheer et al. 2017, arXiv:1703.06114)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dlkit.nn.embedding import TokenEmbedding
from dlkit.nn.readout import Readout

Activation = Literal["relu", "tanh"]
MemberNetwork = Literal["mlp", "cnn"]
EquivariantPooling = Literal["sum", "mean", "max"]
SMALLEST_UNPADDED = 16  # pixels
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def dense(sizes: Sequence[int], activation: Activation) -> nn.Sequential:
    """Linear layers, each followed by the activation: (*, sizes[0]) -> (*, sizes[-1]); a single size is no layer.

    Raises:
        ValueError: an unknown activation, or a size below one.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}: use {' or '.join(map(repr, get_args(Activation)))}")
    if min(sizes) < 1:
        raise ValueError(f"layers of widths {tuple(sizes)}: give each 1 or more")
    return nn.Sequential(*(layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), ACTIVATIONS[activation]())))


def build_member_encoder(
    data_shape: Sequence[int],
    vocab_size: int | None,
    hidden_dims: Sequence[int],
    network: MemberNetwork = "mlp",
    activation: Activation = "relu",
) -> nn.Sequential:
    """phi, which reads each member by itself: (members, *data_shape) -> (members, hidden_dims[-1]).

    The first layer gives `hidden_dims[0]` features: of a token its learned vector; of other members, flattened, a linear map
    with the activation ("mlp"); or of pictures what `convolutions` and a linear layer with ReLU make of them ("cnn"), both with
    batch normalisation. Each further width is a linear layer with the activation.

    Args:
        data_shape: shape of a member; () for tokens.
        vocab_size: how many tokens there are, padding included; None for members that are no tokens.
        hidden_dims: widths of the layers.
        network: "mlp" or "cnn"; it makes no difference to tokens.
        activation: "relu" or "tanh".

    Raises:
        ValueError: no width, an unknown network or activation, members without a shape, a "cnn" for what are no pictures.
    """
    if not hidden_dims:
        raise ValueError("hidden_dims=() leaves nothing to read a member with: give at least one width")
    if network not in get_args(MemberNetwork):
        raise ValueError(f"unknown network {network!r}: use {' or '.join(map(repr, get_args(MemberNetwork)))}")
    rest = dense(hidden_dims, activation)
    if vocab_size is not None:
        return nn.Sequential(TokenEmbedding(vocab_size, hidden_dims[0]), *rest)
    if not data_shape:
        raise ValueError("data_shape=() and vocab_size=None: give the shape of a member, or how many tokens there are")
    if network == "mlp":
        return nn.Sequential(nn.Flatten(), *dense([math.prod(data_shape), hidden_dims[0]], activation), *rest)
    if len(data_shape) != 3:
        raise ValueError(f"network='cnn' reads pictures, and the members have shape {tuple(data_shape)}: use network='mlp'")
    layers, features = convolutions(data_shape)
    linear = nn.Linear(features, hidden_dims[0], bias=False)
    return nn.Sequential(layers, nn.Flatten(), linear, nn.BatchNorm1d(hidden_dims[0]), nn.ReLU(), *rest)


def convolutions(data_shape: Sequence[int]) -> tuple[nn.Sequential, int]:
    """LeNet-5's 20 and then 50 convolutions of 5x5, each with 2x2 max pooling, batch normalisation and ReLU, and how many
    features they give.

    The statistics of a training batch are those of all its members, of whichever set; in evaluation no member knows another.
    Pictures of fewer than 16 pixels a side, which the convolutions would use up, are padded by 2 before each.

    Args:
        data_shape: (channels, height, width).

    Raises:
        ValueError: pictures of fewer than 4 pixels a side.
    """
    channels, *sides = data_shape
    if min(sides) < 4:
        raise ValueError(f"network='cnn' needs pictures of at least 4x4 pixels, got {sides[0]}x{sides[1]}: use network='mlp'")
    padding = 0 if min(sides) >= SMALLEST_UNPADDED else 2
    for _ in range(2):
        sides = [(side + 2 * padding - 4) // 2 for side in sides]
    layers: list[nn.Module] = []
    for before, after in ((channels, 20), (20, 50)):
        convolution = nn.Conv2d(before, after, 5, padding=padding, bias=False)  # the bias is left to the normalisation
        layers += [convolution, nn.MaxPool2d(2), nn.BatchNorm2d(after), nn.ReLU()]
    # Channels come last in memory, which is faster on a CPU.
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network, 50 * math.prod(sides)


class EquivariantLayer(nn.Module):
    """y_k = Lambda x_k + Gamma pool_j x_j + beta: a permutation of the members permutes what it gives, and no more.

    The only linear maps that do so, where each member is one number, are lambda x_k + gamma sum_j x_j (equation 4; several
    features, and other pools: section 3.1 and its supplement). What pools over no members is 0.

    Args:
        in_features: of a member.
        out_features: of a member.
        pooling: "sum", "mean" or "max", over all members of the set, the one itself too.

    Raises:
        ValueError: an unknown pooling.
    """

    def __init__(self, in_features: int, out_features: int, pooling: EquivariantPooling = "mean") -> None:
        super().__init__()
        if pooling not in get_args(EquivariantPooling):
            known = ", ".join(map(repr, get_args(EquivariantPooling)))
            raise ValueError(f"unknown pooling {pooling!r} of an equivariant layer: use {known}")
        self.own = nn.Linear(in_features, out_features)
        self.whole = nn.Linear(in_features, out_features, bias=False)
        self.pool = Readout(pooling, in_features)

    def forward(self, x: Tensor, index: Tensor, number: int) -> Tensor:
        """(members, in_features), the set of each, (members,), and how many sets there are -> (members, out_features)."""
        return self.own(x) + self.whole(self.pool(x, index, number))[index]
