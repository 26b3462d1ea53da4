"""Attention over the instances of a bag, and the networks that read an instance (Ilse et al. 2018, arXiv:1802.04712)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dlkit.functional.segments import segment_softmax

SMALLEST_UNPADDED = 16  # pixels: two 5x5 convolutions, each with a 2x2 pooling, leave one of them


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

    Pictures, (channels, height, width), go through the paper's LeNet-5: 20 and then 50 convolutions of 5x5, each with ReLU and
    2x2 max pooling, and a linear layer with ReLU; pictures of fewer than 16 pixels a side, which that would use up, are padded
    by 2 before each convolution. Vectors go through linear layers of 256, 128 and `size` units with ReLU.

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
    if len(data_shape) != 3 or min(data_shape[1:]) < 4:
        raise ValueError(
            f"instances of shape {tuple(data_shape)} are neither vectors nor pictures, (channels, height, width), of at least "
            f"4 pixels a side: give one or the other"
        )
    channels, *sides = data_shape
    padding = 0 if min(sides) >= SMALLEST_UNPADDED else 2
    for _ in range(2):
        sides = [(side + 2 * padding - 4) // 2 for side in sides]
    # The greatest of values above zero is taken before the others are zeroed: the same, on a quarter of the numbers. Channels
    # come last in memory, which is twice as fast on a CPU.
    convolutions = nn.Sequential(
        nn.Conv2d(channels, 20, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 50, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
    ).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return nn.Sequential(convolutions, nn.Flatten(), nn.Linear(50 * math.prod(sides), size), nn.ReLU(), nn.Dropout(dropout))
