"""The convolutions of LeNet-5, which read a picture that is a member of a set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

SMALLEST = 4  # pixels a side
SMALLEST_UNPADDED = 16  # two 5x5 convolutions, each with a 2x2 pooling, leave one pixel


def build_lenet(data_shape: Sequence[int]) -> tuple[nn.Sequential, int]:
    """20 and then 50 convolutions of 5x5, each with 2x2 max pooling and ReLU: (members, *data_shape) -> (members, features).

    Pictures of fewer than 16 pixels a side, which the convolutions would use up, are padded by 2 before each. Channels come
    last in memory, which is twice as fast on a CPU.

    Args:
        data_shape: (channels, height, width).

    Returns:
        The network, and how many features it gives.

    Raises:
        ValueError: no pictures, or pictures of fewer than 4 pixels a side.
    """
    if len(data_shape) != 3 or min(data_shape[1:]) < SMALLEST:
        raise ValueError(
            f"members of shape {tuple(data_shape)} are no pictures, (channels, height, width), of at least {SMALLEST} pixels a "
            f"side, which convolutions need: give such, or vectors to a network without convolutions"
        )
    channels, *sides = data_shape
    padding = 0 if min(sides) >= SMALLEST_UNPADDED else 2
    for _ in range(2):
        sides = [(side + 2 * padding - 4) // 2 for side in sides]
    layers: list[nn.Module] = []
    for before, after in ((channels, 20), (20, 50)):
        layers.append(nn.Conv2d(before, after, 5, padding=padding))
        # The greatest of values above zero is taken before the others are zeroed: the same, on a quarter of the numbers.
        layers += [nn.MaxPool2d(2), nn.ReLU()]
    layers.append(nn.Flatten())
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network, 50 * math.prod(sides)
