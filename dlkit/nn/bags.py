"""Attention over the instances of a bag, and the networks that read an instance (Ilse et al. 2018, arXiv:1802.04712)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dlkit.functional.segments import segment_softmax
from dlkit.nn.lenet import build_lenet


class BagAttention(nn.Module):
    """How much each instance counts in its bag: alpha_k = softmax_k(w . tanh(V h_k)), equation 8; gated,
    alpha_k = softmax_k(w . (tanh(V h_k) * sigmoid(U h_k))), equation 9.

    V and U have biases, as in the authors' code; one of w would change nothing.

    Args:
        size: features of an instance.
        hidden_size: of tanh and sigmoid.
        gated: whether the sigmoid is there.
    """

    def __init__(self, size: int, hidden_size: int, gated: bool) -> None:
        super().__init__()
        self.V = nn.Linear(size, hidden_size)
        self.U = nn.Linear(size, hidden_size) if gated else None
        self.w = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, h: Tensor, index: Tensor, number: int) -> Tensor:
        """Instances (instances, size), the bag of each, (instances,), and how many bags there are -> (instances,).

        Each bag's weights sum to one; they are float32 at the least.
        """
        hidden = self.V(h).tanh()
        if self.U is not None:
            hidden = hidden * self.U(h).sigmoid()
        scores = self.w(hidden).squeeze(1)
        return segment_softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), index, number)


def build_instance_encoder(data_shape: Sequence[int], size: int, dropout: float = 0.0) -> nn.Sequential:
    """What reads an instance: (instances, *data_shape) -> (instances, size), none below zero.

    Pictures, (channels, height, width), go through the paper's LeNet-5, see `dlkit.nn.lenet`, and a linear layer with ReLU.
    Vectors go through linear layers of 256, 128 and `size` units with ReLU.

    Args:
        data_shape: of an instance.
        size: features of an instance.
        dropout: probability of zeroing a unit behind each linear layer.

    Raises:
        ValueError: instances that are neither, or pictures of fewer than 4 pixels a side.
    """
    if len(data_shape) == 1:
        widths = (*data_shape, 256, 128, size)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers)
    convolutions, features = build_lenet(data_shape)
    return nn.Sequential(convolutions, nn.Linear(features, size), nn.ReLU(), nn.Dropout(dropout))
