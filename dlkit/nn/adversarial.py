"""Generators g_theta(z) and critics d_phi(x): fully connected, DCGAN's, SNGAN's residual ones, and PacGAN's old pair.

A generator maps latents (batch, latent_dim), and labels where it is conditional, to examples (batch, *data_shape); a critic
maps examples, and labels, to logits (batch,). Pictures lie in [-1, 1] here (the generators end in tanh); vectors are free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils.parametrizations import spectral_norm

from dlkit.functional.precision import single_or_better
from dlkit.nn.batch_norm import BatchNorm1d, BatchNorm2d
from dlkit.nn.encoders import check_image_shape

AdversarialNetworkName = Literal["mlp", "maxout", "dcgan", "resnet"]
GeneratorNorm = Literal["none", "batch"]
CriticNorm = Literal["none", "batch", "spectral"]


class Generator(nn.Module):
    """A trunk on latents; where it is conditional, on latents beside a learned vector of the label (Mirza and Osindero 2014,
    arXiv:1411.1784).

    Args:
        trunk: (batch, latent_dim + label_features) -> (batch, prod(data_shape)) or (batch, *data_shape).
        data_shape: shape of one example.
        num_classes: how many labels, or None.
        label_features: width of the label's vector.
    """

    def __init__(self, trunk: nn.Module, data_shape: Sequence[int], num_classes: int | None, label_features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.data_shape = tuple(data_shape)
        self.embedding = nn.Embedding(num_classes, label_features) if num_classes else None
        self.output = nn.Tanh() if len(self.data_shape) == 3 else nn.Identity()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z: (batch, latent_dim); labels: (batch,), int64, or None."""
        if self.embedding is not None:
            assert labels is not None
            z = torch.cat([z, self.embedding(labels).to(z.dtype)], 1)
        return self.output(self.trunk(z)).view(len(z), *self.data_shape)


class Critic(nn.Module):
    """Features, then one logit; where it is conditional, plus the inner product of features and a vector of the label, the
    projection of Miyato and Koyama 2018 (arXiv:1802.05637, equation 3).

    Args:
        trunk: (batch, *data_shape) -> (batch, features).
        features: width of the features.
        num_classes: how many labels, or None.
    """

    def __init__(self, trunk: nn.Module, features: int, num_classes: int | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(features, 1)
        self.embedding = nn.Embedding(num_classes, features) if num_classes else None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """x: (batch, *data_shape); labels: (batch,), int64, or None -> (batch,), in single precision or better."""
        features = self.trunk(x)
        logits = self.head(features).squeeze(1)
        if self.embedding is not None:
            assert labels is not None
            logits = logits + (self.embedding(labels) * features).sum(1)
        return single_or_better(logits)  # the losses are differences of means


class Maxout(nn.Module):
    """The largest of `pieces` affine maps, unit by unit (Goodfellow et al. 2013, arXiv:1302.4389)."""

    def __init__(self, inputs: int, outputs: int, pieces: int = 5) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs) -> (batch, outputs)."""
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with a scale and a shift of each label's own (de Vries et al. 2017, arXiv:1707.00683)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(num_classes, channels)
        self.shift = nn.Embedding(num_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(batch, channels, height, width), (batch,) -> the same shape."""
        scale, shift = self.scale(labels), self.shift(labels)
        return self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]


class UpBlock(nn.Module):
    """SNGAN's generator block: norm, ReLU, doubled, 3x3 convolution, norm, ReLU, 3x3 convolution, beside a 1x1 shortcut."""

    def __init__(self, channels: int, norm: GeneratorNorm, num_classes: int | None) -> None:
        super().__init__()
        self.norms = nn.ModuleList([make_norm(norm, channels, num_classes) for _ in range(2)])
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)])
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, channels, side, side) -> (batch, channels, 2 side, 2 side)."""
        h = interpolate(torch.relu(normalized(self.norms[0], x, labels)), scale_factor=2.0)
        h = torch.relu(normalized(self.norms[1], self.convolutions[0](h), labels))
        return self.convolutions[1](h) + self.shortcut(interpolate(x, scale_factor=2.0))


class ResNetGenerator(nn.Module):
    """The generator of SNGAN for small pictures: a linear map to `width` channels, doublings, norm, ReLU, 3x3 convolution,
    tanh; conditional batch normalisation where it is conditional. Miyato et al. 2018 (arXiv:1802.05957, table 4).
    """

    def __init__(
        self, latent_dim: int, data_shape: Sequence[int], width: int, norm: GeneratorNorm, num_classes: int | None
    ) -> None:
        super().__init__()
        channels, side, _ = check_image_shape("resnet", data_shape)
        sides = doublings(side)
        self.seed_shape = (width, sides[0], sides[0])
        self.seed = nn.Linear(latent_dim, math.prod(self.seed_shape))
        self.blocks = nn.ModuleList([UpBlock(width, norm, num_classes) for _ in sides[1:]])
        self.norm = BatchNorm2d(width) if norm == "batch" else nn.Identity()
        self.picture = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z: (batch, latent_dim); labels: (batch,), int64, or None."""
        h = self.seed(z).unflatten(1, self.seed_shape)
        for block in self.blocks:
            h = block(h, labels)
        return torch.tanh(self.picture(torch.relu(self.norm(h))))


class DownBlock(nn.Module):
    """SNGAN's critic block: ReLU, 3x3 convolution, twice, then 2x2 mean pooling, beside a 1x1 shortcut.

    Args:
        inputs: channels in.
        outputs: channels out.
        first: the block that reads the picture has no ReLU before its first convolution.
        halve: whether it pools.
    """

    def __init__(self, inputs: int, outputs: int, first: bool, halve: bool) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)])
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if first or halve else nn.Identity()
        self.first = first
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, side, side) -> (batch, outputs, side or side // 2, the same)."""
        h = self.convolutions[0](x if self.first else torch.relu(x))
        h = self.convolutions[1](torch.relu(h))
        if not self.halve:
            return h + self.shortcut(x)
        return avg_pool2d(h, 2) + self.shortcut(avg_pool2d(x, 2))


class SumPool(nn.Module):
    """ReLU, then the sum over all places: (batch, channels, height, width) -> (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).sum((2, 3))


def make_norm(norm: GeneratorNorm, channels: int, num_classes: int | None) -> nn.Module:
    """The normalisation of a generator's layer; conditional where there are labels."""
    if norm == "none":
        return nn.Identity()
    return ConditionalBatchNorm(channels, num_classes) if num_classes else BatchNorm2d(channels)


def normalized(norm: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    """Applies a normalisation, with the labels if it takes them."""
    return norm(x, labels) if isinstance(norm, ConditionalBatchNorm) else norm(x)


def doublings(side: int) -> list[int]:
    """The sides that a generator passes through, in rising order: halved while even and above 4, or twice: 28 -> [7, 14, 28],
    8 -> [2, 4, 8]. A single halving would leave the critic one convolution deep.

    Raises:
        ValueError: nothing to double.
    """
    sides = [side]
    while sides[0] % 2 == 0 and (sides[0] > 4 or len(sides) < 3) and sides[0] > 2:
        sides.insert(0, sides[0] // 2)
    if len(sides) == 1:
        raise ValueError(f"pictures of side {side} cannot be reached by doubling: pad them to a multiple of 8")
    return sides


def has_batch_norm(network: nn.Module) -> bool:
    """Whether an example's output depends on the rest of the batch through batch normalisation."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


@torch.no_grad()
def start_small(network: nn.Module, deviation: float = 0.02) -> None:
    """DCGAN's start: weights N(0, .02^2), scales of batch normalisation N(1, .02^2), biases zero (arXiv:1511.06434)."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.modules.batchnorm._BatchNorm)):
            if module.weight is not None:
                scale = isinstance(module, nn.modules.batchnorm._BatchNorm)
                nn.init.normal_(module.weight, 1.0 if scale else 0.0, deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def start_residual(network: nn.Module) -> None:
    """SNGAN's start: Glorot's uniform with gain sqrt(2), and 1 on shortcuts and outputs; biases zero."""
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            inner = "convolutions" in name
            nn.init.xavier_uniform_(module.weight, math.sqrt(2) if inner else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def normalize_spectrally(network: nn.Module) -> None:
    """Divides the weights of every layer by their largest singular value, estimated by one power iteration each time that
    the layer is used in training (Miyato et al. 2018, arXiv:1802.05957, algorithm 1)."""
    for module in list(network.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            spectral_norm(module)


def build_generator(
    network: AdversarialNetworkName,
    latent_dim: int,
    data_shape: Sequence[int],
    hidden_dims: Sequence[int] = (128, 128, 128),
    width: int = 64,
    norm: GeneratorNorm = "none",
    num_classes: int | None = None,
) -> nn.Module:
    """A generator by name.

    Args:
        network: "mlp" (`hidden_dims` with ReLU); "maxout" (the same with batch normalisation and a small start: PacGAN's pair
            for planar data, arXiv:1712.04086); "dcgan" (a linear map to a small picture, then 4x4 transposed convolutions of
            stride 2 with ReLU, channels halving down to `width`: Radford et al. 2016, arXiv:1511.06434); "resnet"
            (`ResNetGenerator`).
        latent_dim: width of z.
        data_shape: shape of one example; three numbers are a picture, in [-1, 1].
        hidden_dims: widths of the fully connected networks.
        width: channels of the largest layer of "dcgan", and half of those of every layer of "resnet", as in the papers.
        norm: "none" or "batch". With it "dcgan" starts small, as in the paper; without it the weights start as PyTorch
            starts them, since nothing would restore their scale.
        num_classes: how many labels, or None.

    Raises:
        ValueError: an unknown name, a shape that the network cannot make, or labels that it could not read.
    """
    if norm not in ("none", "batch"):
        raise ValueError(f"unknown norm {norm!r} of the generator: use 'none' or 'batch'")
    if network == "resnet":
        if num_classes and norm != "batch":
            raise ValueError(f"norm={norm!r}: a conditional 'resnet' reads its labels by batch normalisation, use norm='batch'")
        generator = ResNetGenerator(latent_dim, data_shape, 2 * width, norm, num_classes)
        start_residual(generator)
        return generator
    label_features = min(latent_dim, 64) if num_classes else 0
    if network in ("mlp", "maxout"):
        batch_norm = norm == "batch" or network == "maxout"
        layers: list[nn.Module] = []
        sizes = [latent_dim + label_features, *hidden_dims]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), *([BatchNorm1d(outputs)] if batch_norm else []), nn.ReLU()]
        layers.append(nn.Linear(sizes[-1], math.prod(data_shape)))
        generator = Generator(nn.Sequential(*layers), data_shape, num_classes, label_features)
        if network == "maxout":
            start_small(generator)
        return generator
    if network == "dcgan":
        channels, side, _ = check_image_shape(network, data_shape)
        sides = doublings(side)
        widths = [width * 2**level for level in reversed(range(len(sides) - 1))] + [channels]
        first = (widths[0], sides[0], sides[0])
        layers = [nn.Linear(latent_dim + label_features, math.prod(first)), nn.Unflatten(1, first)]
        for inputs, outputs in pairwise(widths):
            layers += [*([BatchNorm2d(inputs)] if norm == "batch" else []), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1))
        generator = Generator(nn.Sequential(*layers), data_shape, num_classes, label_features)
        if norm == "batch":
            start_small(generator)
        return generator
    raise ValueError(f"unknown network {network!r}: use 'mlp', 'maxout', 'dcgan' or 'resnet'")


def build_critic(
    network: AdversarialNetworkName,
    data_shape: Sequence[int],
    hidden_dims: Sequence[int] = (128, 128, 128),
    width: int = 64,
    norm: CriticNorm = "none",
    num_classes: int | None = None,
) -> Critic:
    """The critic that goes with a generator of `build_generator`.

    Args:
        network: "mlp" (`hidden_dims` with LeakyReLU .2); "maxout" (PacGAN's: maxout units of 5 pieces,
            one layer fewer than the generator's `hidden_dims` and half as wide, small start);
            "dcgan" (4x4 convolutions of stride 2 with LeakyReLU .2, channels doubling from `width`); "resnet" (SNGAN's: two
            blocks that halve, two that do not, sum over all places; arXiv:1802.05957, table 4).
        data_shape: shape of one example.
        hidden_dims: widths of the fully connected networks.
        width: channels of the first layer of "dcgan" and of every layer of "resnet".
        norm: "none"; "batch" (on all layers of "dcgan" but the first; small start); "spectral": every layer with weights is
            divided by its largest singular value, estimated by one power iteration each time it is used in training.
        num_classes: how many labels, or None.

    Raises:
        ValueError: an unknown name, a shape that the network cannot read, or batch normalisation outside "dcgan".
    """
    if norm not in ("none", "batch", "spectral"):
        raise ValueError(f"unknown norm {norm!r} of the critic: use 'none', 'batch' or 'spectral'")
    if norm == "batch" and network != "dcgan":
        raise ValueError(f"the critic '{network}' has no batch normalisation: use norm='none' or 'spectral'")
    if network in ("mlp", "maxout"):
        layers: list[nn.Module] = [nn.Flatten()]
        if network == "maxout":
            hidden_dims = [width // 2 for width in hidden_dims[1:]]
        sizes = [math.prod(data_shape), *hidden_dims]
        for inputs, outputs in pairwise(sizes):
            if network == "maxout":
                layers.append(Maxout(inputs, outputs))
            else:
                layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        critic = Critic(nn.Sequential(*layers), sizes[-1], num_classes)
        if network == "maxout":
            start_small(critic)
    elif network == "dcgan":
        channels, side, _ = check_image_shape(network, data_shape)
        sides = doublings(side)
        widths = [channels, *(width * 2**level for level in range(len(sides) - 1))]
        layers = []
        for level, (inputs, outputs) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))
            layers += [*([BatchNorm2d(outputs)] if norm == "batch" and level else []), nn.LeakyReLU(0.2)]
        critic = Critic(nn.Sequential(*layers, nn.Flatten()), widths[-1] * sides[0] ** 2, num_classes)
        if norm == "batch":
            start_small(critic)
    elif network == "resnet":
        channels, _, _ = check_image_shape(network, data_shape)
        blocks = [DownBlock(channels if not block else width, width, not block, block < 2) for block in range(4)]
        critic = Critic(nn.Sequential(*blocks, SumPool()), width, num_classes)
        start_residual(critic)
    else:
        raise ValueError(f"unknown network {network!r}: use 'mlp', 'maxout', 'dcgan' or 'resnet'")
    if norm == "spectral":
        normalize_spectrally(critic)
    return critic
