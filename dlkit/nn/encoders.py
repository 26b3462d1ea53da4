"""The encoders f_theta(x) and decoders g_psi(z) of autoencoders and VAEs: linear, fully connected, convolutional.

An encoder maps (batch, *data_shape), and a context vector where there is one, to (batch, out_features); a decoder maps
(batch, in_features) to (batch, *out_shape).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dlkit.nn.mlp import hidden_layers, mlp

NetworkName = Literal["linear", "mlp", "conv"]


class Encoder(nn.Module):
    """Features of an example, then an MLP head on features and context.

    Args:
        trunk: (batch, *data_shape) -> (batch, *), flattened after it.
        head: (batch, features + context_features) -> (batch, out_features).
    """

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x: (batch, *data_shape); context: (batch, context_features) or None."""
        features = self.trunk(x).flatten(1)
        return self.head(features if context is None else torch.cat([features, context], 1))


class Decoder(nn.Module):
    """An MLP head on latents and context, reshaped, then a trunk up to the example's shape.

    Args:
        head: (batch, in_features + context_features) -> (batch, prod(seed_shape)).
        seed_shape: the shape given to the trunk.
        trunk: (batch, *seed_shape) -> (batch, *out_shape).
    """

    def __init__(self, head: nn.Module, seed_shape: Sequence[int], trunk: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.seed_shape = tuple(seed_shape)
        self.trunk = trunk

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """z: (batch, in_features); context: (batch, context_features) or None."""
        features = self.head(z if context is None else torch.cat([z, context], 1))
        return self.trunk(features.unflatten(1, self.seed_shape))


def strides(size: int, smallest: int = 4) -> list[int]:
    """The sides a picture passes through when it is halved until it is at most `smallest`: 28 -> [28, 14, 7, 4]."""
    sizes = [size]
    while sizes[-1] > smallest:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def check_image_shape(network: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns (channels, height, width), or says why a convolutional network cannot read this shape."""
    if len(shape) != 3:
        raise ValueError(
            f"network={network!r} reads images of shape (channels, height, width), and the data has shape "
            f"{tuple(shape)}: use network='mlp'"
        )
    channels, height, width = shape
    if height != width:
        raise ValueError(f"network={network!r} reads square images, and the data is {height}x{width}: use network='mlp'")
    return channels, height, width


def build_encoder(
    network: NetworkName,
    data_shape: Sequence[int],
    out_features: int,
    hidden_dims: Sequence[int] = (512,),
    width: int = 32,
    context_features: int = 0,
) -> Encoder:
    """An encoder by name.

    Args:
        network: "linear" (one affine map), "mlp" (`hidden_dims` with ReLU), or "conv" (a 3x3 convolution, then 4x4
            convolutions of stride 2 until the side is at most 4, channels doubling from `width` to at most 4 `width`).
        data_shape: shape of one example, without the batch.
        out_features: how many numbers describe an example.
        hidden_dims: widths of the hidden layers of the MLP, or of the head behind the convolutions.
        width: channels of the first convolution.
        context_features: width of the context vector (a one-hot label) that the head also reads.

    Raises:
        ValueError: an unknown network, or a convolutional one for data that are no square images.
    """
    features = math.prod(data_shape)
    if network == "linear":
        return Encoder(nn.Identity(), nn.Linear(features + context_features, out_features))
    if network == "mlp":
        return Encoder(nn.Identity(), mlp([features + context_features, *hidden_dims, out_features]))
    if network == "conv":
        channels, side, _ = check_image_shape(network, data_shape)
        sides = strides(side)
        widths = [min(width * 2**level, 4 * width) for level in range(len(sides))]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for before, after, inputs, outputs in zip(sides[:-1], sides[1:], widths[:-1], widths[1:], strict=True):
            # A 3x3 kernel halves an odd side upwards; a 4x4 kernel sees each pixel of an even side equally often.
            layers += [nn.Conv2d(inputs, outputs, 4 if before == 2 * after else 3, stride=2, padding=1), nn.ReLU()]
        return Encoder(
            nn.Sequential(*layers), mlp([widths[-1] * sides[-1] ** 2 + context_features, *hidden_dims, out_features])
        )
    raise ValueError(f"unknown network {network!r}: use 'linear', 'mlp' or 'conv'")


def build_decoder(
    network: NetworkName,
    in_features: int,
    out_shape: Sequence[int],
    hidden_dims: Sequence[int] = (512,),
    width: int = 32,
    context_features: int = 0,
) -> Decoder:
    """The mirror of `build_encoder`, with the hidden widths in reverse: (batch, in_features) -> (batch, *out_shape).

    Raises:
        ValueError: as for `build_encoder`.
    """
    features = math.prod(out_shape)
    if network == "linear":
        return Decoder(nn.Linear(in_features + context_features, features), out_shape, nn.Identity())
    if network == "mlp":
        head = mlp([in_features + context_features, *reversed(hidden_dims), features])
        return Decoder(head, out_shape, nn.Identity())
    if network == "conv":
        channels, side, _ = check_image_shape(network, out_shape)
        sides = strides(side)
        widths = [min(width * 2**level, 4 * width) for level in range(len(sides))]
        layers: list[nn.Module] = []
        for level in range(len(sides) - 1, 0, -1):
            kernel = 4 if sides[level - 1] == 2 * sides[level] else 3
            layers += [nn.ConvTranspose2d(widths[level], widths[level - 1], kernel, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Conv2d(width, channels, 3, padding=1))
        seed_shape = (widths[-1], sides[-1], sides[-1])
        head = nn.Sequential(*hidden_layers([in_features + context_features, *reversed(hidden_dims), math.prod(seed_shape)]))
        return Decoder(head, seed_shape, nn.Sequential(*layers))
    raise ValueError(f"unknown network {network!r}: use 'linear', 'mlp' or 'conv'")
