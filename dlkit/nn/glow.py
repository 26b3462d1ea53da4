"""Glow: a multi-scale flow of images (Kingma and Dhariwal 2018, arXiv:1807.03039).

Each scale squeezes (2x2 pixels become 4 channels), takes K steps of ActNorm, invertible 1x1 convolution and affine coupling,
and gives half of the channels away to the base, normalised by what the other half says of them (Dinh et al. 2017,
arXiv:1605.08803, section 3.6).

The layers are written in the direction that trains, x -> z, which `inverse` returns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.functional.affine import affine
from dlkit.nn.coupling import zeroed
from dlkit.nn.transforms import Chain, Changed, Transform
from dlkit.processes import of_all

SMALLEST_DEVIATION = 1e-6


class ActNorm(Transform):
    """A scale and a shift for each channel, set by the first training batch so that what it gives has mean 0 and variance 1.

    Kingma and Dhariwal 2018, section 3.1. The batch that sets them is the first that `inverse` sees in training mode, of all
    processes together; whether one did is part of the state.

    Args:
        channels: of the images.

    Raises:
        ValueError: the first batch has one value in each channel, which has no variance.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(False))
        self.ready = False  # what the buffer says, without a look at the device

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        return (z - self.shift) * torch.exp(-self.log_scale), -self.log_det(z)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        if self.training and not self.ready:
            self.initialize(x)
        return x * torch.exp(self.log_scale) + self.shift, self.log_det(x)

    def log_det(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch,)."""
        return (self.log_scale.sum() * (x.shape[2] * x.shape[3])).expand(len(x))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Sets scale and shift by a batch."""
        if x[:, 0].numel() < 2:
            raise ValueError("the first batch has one value in each channel, by which ActNorm cannot be set: raise batch_size")
        moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]).double()
        moments = torch.stack([other.to(x.device) for other in of_all(moments.cpu())]).mean(0)
        mean, deviation = moments[0], (moments[1] - moments[0].square()).clamp_min(0).sqrt() + SMALLEST_DEVIATION
        self.log_scale.copy_(-deviation.log().view_as(self.log_scale))
        self.shift.copy_((-mean / deviation).view_as(self.shift))
        self.initialized.fill_(True)
        self.ready = True

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super()._load_from_state_dict(state_dict, prefix, *args)  # pyright: ignore[reportArgumentType]
        self.ready = bool(self.initialized)


class InvertibleConvolution(Transform):
    """A 1x1 convolution: the same invertible matrix W at every pixel, log |det| = height * width * log |det W|.

    W = P L (U + diag(s)) with P a fixed permutation (Kingma and Dhariwal 2018, equation 10), and log |det W| = sum log |s|; it
    begins as a random rotation. The signs of s are fixed, so that W stays invertible.

    Args:
        channels: of the images.
    """

    permutation: Tensor
    signs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("signs", diagonal.sign())
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))

    def factors(self) -> tuple[Tensor, Tensor]:
        """P L and U + diag(s)."""
        eye = torch.eye(len(self.signs), device=self.signs.device, dtype=self.lower.dtype)
        lower = self.permutation.to(self.lower.dtype) @ (self.lower.tril(-1) + eye)
        return lower, self.upper.triu(1) + torch.diag(self.signs * torch.exp(self.log_diagonal))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        lower, upper = self.factors()
        return self.multiply(x, lower @ upper), self.log_det(x)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        lower, upper = self.factors()
        # In double precision, because it is small and the error would go through every pixel.
        matrix = torch.linalg.inv((lower @ upper).double()).to(z.dtype)
        return self.multiply(z, matrix), -self.log_det(z)

    def multiply(self, x: Tensor, matrix: Tensor) -> Tensor:
        """The matrix times the channels of every pixel, in the values' own precision, whatever the networks run in."""
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, matrix.to(x.dtype)[:, :, None, None])

    def log_det(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch,)."""
        return (self.log_diagonal.sum() * (x.shape[2] * x.shape[3])).expand(len(x))


class ImageCoupling(Transform):
    """The second half of the channels moved by what a convolutional network reads in the first: z = (x - t) exp(-s).

    Args:
        channels: of the images, at least 2.
        width: channels of the network's hidden layers, 3x3 and 1x1 convolutions.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fixed = channels // 2
        self.network = convolutions(self.fixed, width, 2 * (channels - self.fixed))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        return self.move(z, False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        return self.move(x, True)

    def move(self, x: Tensor, inverse: bool) -> Changed:
        """Either direction: (batch, channels, h, w) -> the same shape, and log-determinants (batch,)."""
        fixed, moved = x[:, : self.fixed], x[:, self.fixed :]
        moved, log_derivative = affine(moved, self.network(fixed).to(x.dtype), inverse)
        return torch.cat([fixed, moved], 1), log_derivative.flatten(1).sum(1)


def convolutions(channels: int, width: int, out_channels: int) -> nn.Sequential:
    """A coupling's network, which begins as the constant 0: (batch, channels, h, w) -> (batch, out_channels, h, w)."""
    layers = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.ReLU(),
        zeroed(nn.Conv2d(width, out_channels, 3, padding=1)),
    )
    return layers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class Glow(Transform):
    """Scales of Glow's steps: z (batch, features) of the base -> images (batch, channels, height, width).

    Args:
        data_shape: (channels, height, width); the sides can be halved `num_scales` times.
        num_scales: L.
        num_layers: K, steps a scale.
        width: channels of the couplings' hidden layers.

    Raises:
        ValueError: sides that cannot be squeezed so often.
    """

    def __init__(self, data_shape: Sequence[int], num_scales: int, num_layers: int, width: int) -> None:
        super().__init__()
        if len(data_shape) != 3 or any(side % 2**num_scales for side in data_shape[1:]):
            raise ValueError(
                f"transform='glow' squeezes pictures {num_scales} times, and {tuple(data_shape)} cannot be halved so often: "
                f"pad the pictures, or lower num_scales"
            )
        channels, height, rows = data_shape
        self.scales = nn.ModuleList()
        self.splits = nn.ModuleList()
        self.shapes: list[tuple[int, int, int]] = []  # of what each scale gives to the base
        for scale in range(num_scales):
            channels, height, rows = 4 * channels, height // 2, rows // 2
            steps = [
                layer
                for _ in range(num_layers)
                for layer in (ImageCoupling(channels, width), InvertibleConvolution(channels), ActNorm(channels))
            ]
            self.scales.append(Chain(steps))
            if scale + 1 < num_scales:
                self.splits.append(ImageCoupling(channels, width))
                self.shapes.append((channels - channels // 2, height, rows))
                channels //= 2
        self.shapes.append((channels, height, rows))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        sizes = [channels * height * rows for channels, height, rows in self.shapes]
        pieces = [piece.unflatten(1, shape) for piece, shape in zip(z.split(sizes, 1), self.shapes, strict=True)]
        x, total = pieces.pop(), z.new_zeros(len(z))
        for number in reversed(range(len(self.scales))):
            if number < len(self.splits):
                x, log_det = self.splits[number](torch.cat([x, pieces[number]], 1))
                total = total + log_det
            x, log_det = self.scales[number](x)
            x, total = F.pixel_shuffle(x, 2), total + log_det
        return x, total

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        pieces, total = [], x.new_zeros(len(x))
        for number, scale in enumerate(self.scales):
            assert isinstance(scale, Transform)
            x, log_det = scale.inverse(F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last))
            total = total + log_det
            if number < len(self.splits):
                split = self.splits[number]
                assert isinstance(split, ImageCoupling)
                x, log_det = split.inverse(x)
                pieces.append(x[:, split.fixed :].flatten(1))
                x, total = x[:, : split.fixed], total + log_det
        return torch.cat([*pieces, x.flatten(1)], 1), total
