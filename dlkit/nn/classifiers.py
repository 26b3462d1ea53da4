"""Image classifiers: logistic regression, a fully connected network, a small convolutional one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dlkit.nn.batch_norm import BatchNorm2d
from dlkit.nn.encoders import check_image_shape
from dlkit.nn.mlp import hidden_layers

SMALLEST = 6  # pixels a side that a block can read
ClassifierNetworkName = Literal["logistic", "mlp", "cnn"]


class ClassifierNetwork(nn.Module):
    """Features, then a linear map to logits; both are public, because generated images are judged by the features."""

    def __init__(self, trunk: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, *data_shape) -> (batch, num_features), what the last linear layer sees."""
        return self.trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *data_shape) -> logits (batch, num_classes)."""
        return self.head(self.trunk(x))


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """3x3 convolution, batch normalisation, ReLU; the bias is left to the normalisation."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), BatchNorm2d(outputs), nn.ReLU()]


def convolutional_blocks(data_shape: Sequence[int], width: int) -> tuple[nn.Sequential, int]:
    """Blocks of two 3x3 convolutions with batch normalisation, with 2x2 max pooling and twice the channels of the one
    before, while the side is 6 pixels or more: (batch, *data_shape) -> (batch, features).

    Args:
        data_shape: (channels, side, side).
        width: channels of the first block.

    Returns:
        The network, and how many features it gives.

    Raises:
        ValueError: no square images of at least 6x6 pixels, or no channels.
    """
    if width < 1:
        raise ValueError(f"width={width}: give the first block of network='cnn' at least 1 channel")
    channels, side, _ = check_image_shape("cnn", data_shape)
    if side < SMALLEST:
        raise ValueError(
            f"network='cnn' needs images of at least {SMALLEST}x{SMALLEST} pixels, got {side}x{side}: use network='mlp'"
        )
    layers: list[nn.Module] = []
    inputs, outputs = channels, width
    while side >= SMALLEST:
        layers += [*convolution(inputs, outputs), *convolution(outputs, outputs), nn.MaxPool2d(2)]
        inputs, outputs, side = outputs, 2 * outputs, side // 2
    network = nn.Sequential(*layers, nn.Flatten())
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a fifth faster on a CPU
    return network, inputs * side**2


def build_classifier(
    network: ClassifierNetworkName,
    data_shape: Sequence[int],
    num_classes: int,
    hidden_dims: Sequence[int] = (256, 256),
    width: int = 32,
    dropout: float = 0.0,
) -> ClassifierNetwork:
    """A classifier by name.

    Args:
        network: "logistic" (linear logits of the flattened example), "mlp" (`hidden_dims` with ReLU), or "cnn"
            (`convolutional_blocks`, then one hidden layer of 4 `width` units).
        data_shape: shape of one example.
        num_classes: how many classes.
        hidden_dims: widths of the MLP's hidden layers.
        width: channels of the first block of the CNN.
        dropout: probability of zeroing a hidden unit before the last layer.

    Raises:
        ValueError: an unknown network, an MLP without hidden layers, or a convolutional network for data that are no
            square images of at least 6x6 pixels.
    """
    features = math.prod(data_shape)
    if network == "logistic":
        return ClassifierNetwork(nn.Flatten(), features, num_classes)
    if network == "mlp":
        if not hidden_dims:
            raise ValueError("network='mlp' has hidden layers, got hidden_dims=(): use network='logistic' for none")
        trunk = nn.Sequential(nn.Flatten(), *hidden_layers([features, *hidden_dims], dropout))
        return ClassifierNetwork(trunk, hidden_dims[-1], num_classes)
    if network == "cnn":
        blocks, features = convolutional_blocks(data_shape, width)
        trunk = nn.Sequential(
            *blocks,
            nn.Dropout(dropout),
            nn.Linear(features, 4 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        return ClassifierNetwork(trunk, 4 * width, num_classes)
    raise ValueError(f"unknown network {network!r}: use 'logistic', 'mlp' or 'cnn'")
