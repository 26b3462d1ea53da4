"""What reads the members of sets, and layers in which they learn of each other (Zaheer et al. 2017, arXiv:1703.06114)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from dlkit.nn.batch_norm import BatchNorm1d
from dlkit.nn.classifiers import convolutional_blocks
from dlkit.nn.embedding import TokenEmbedding
from dlkit.nn.readout import Readout
from dlkit.processes import world

Activation = Literal["relu", "tanh"]
MemberNetwork = Literal["mlp", "cnn"]
EquivariantPooling = Literal["sum", "mean", "max"]
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
    width: int = 16,
) -> nn.Sequential:
    """phi, which reads each member by itself: (members, *data_shape) -> (members, hidden_dims[-1]).

    The first layer gives `hidden_dims[0]` features: of a token its learned vector; of other members, flattened, a linear map
    with the activation ("mlp"); or of square pictures what `dlkit.nn.classifiers.convolutional_blocks` make of them, a linear
    map, normalised over the batch, and ReLU ("cnn"). The statistics of a training batch are those of all its members, of
    whichever set; in evaluation no member knows another. Each further width is a linear layer with the activation.

    Args:
        data_shape: shape of a member; () for tokens.
        vocab_size: how many tokens there are, padding included; None for members that are no tokens.
        hidden_dims: widths of the layers.
        network: "mlp" or "cnn"; it makes no difference to tokens.
        activation: "relu" or "tanh".
        width: channels of the first block of "cnn".

    Raises:
        ValueError: no width, an unknown network or activation, members without a shape, a "cnn" for what are no square
            pictures of at least 6x6 pixels.
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
    blocks, features = convolutional_blocks(data_shape, width)
    linear = nn.Linear(features, hidden_dims[0], bias=False)
    return nn.Sequential(blocks, linear, MemberNorm(hidden_dims[0]), nn.ReLU(), *rest)


class MemberNorm(BatchNorm1d):
    """Batch normalisation over the members of all sets of a batch.

    Raises:
        ValueError: one member in all, in training in a single process.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1 and world()[1] == 1:
            raise ValueError("a training batch has one member, and network='cnn' normalises over several: enlarge batch_size")
        return super().forward(input)


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
