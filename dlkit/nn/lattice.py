"""Transforms of lattice fields that respect a theory's symmetries.

Translations act on the sites that move together: a linear layer whose weights depend on the distance alone commutes with
them, and has as many times fewer weights as there are translations. phi -> -phi and gauge transformations are respected by
what the layers read and how they move it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dlkit.functional.lattice import plaquette_sums, wrap
from dlkit.functional.precision import single_or_better
from dlkit.functional.splines import circular_rational_quadratic
from dlkit.nn.coupling import AffineElement, Couplings, zeroed
from dlkit.nn.transforms import Chain, Changed, Transform


class TranslationLinear(nn.Module):
    """A linear layer that commutes with a group of translations: y_a(g) = sum_(b, h) W_ab(h - g) x_b(h) + bias_a.

    The most general such layer, of any range (Cohen and Welling 2016, arXiv:1602.07576, equation 10). It is multiplied as one
    matrix, which on lattices of this size is faster than a convolution.

    Args:
        in_channels, out_channels: features of each group element, which lie channel after channel: (batch, channels * G).
        translations: the group, (G, 2), in the order of the features.
        lattice_shape: modulo what it acts.
        bias: whether a bias is added.
        scale: of the random weights, times 1 / sqrt(inputs); 0 begins with the constant 0.
    """

    table: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        translations: Tensor,
        lattice_shape: Sequence[int],
        bias: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        size = len(translations)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, size) * scale / math.sqrt(in_channels * size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        # Which translation leads from each to each other: (G of the output, G of the input).
        sides = torch.tensor(lattice_shape)
        number = torch.full(tuple(lattice_shape), -1)
        number[translations[:, 0], translations[:, 1]] = torch.arange(size)
        between = (translations[None] - translations[:, None]) % sides
        self.register_buffer("table", number[between[..., 0], between[..., 1]])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels * G) -> (batch, out_channels * G)."""
        size = len(self.table)
        matrix = self.weight.flatten(0, 1).index_select(1, self.table.flatten())
        matrix = matrix.view(*self.weight.shape[:2], size, size).permute(1, 3, 0, 2).flatten(2, 3).flatten(0, 1)
        if self.bias is None:
            return x @ matrix
        return torch.addmm(self.bias.repeat_interleave(size), x, matrix)


# A scalar field ------------------------------------------------------------------------------------------------------


class FieldSpectrum(Transform):
    """A Gaussian field of any spectrum: phi~(k) = sigma(k) z~(k), with one learned sigma for each |k|.

    It maps white noise exactly to the free theory for the right sigma, which it begins at: sigma(k)^2 = 1 / (2 (mass2 + k^2))
    with k^2 = 4 sum_mu sin^2(k_mu / 2). It is linear, and commutes with translations, rotations, reflections and phi -> -phi.

    Args:
        lattice_shape: (L1, L2).
        mass2: of the free theory at which it begins.
    """

    which: Tensor

    def __init__(self, lattice_shape: Sequence[int], mass2: float = 1.0) -> None:
        super().__init__()
        self.lattice_shape = tuple(lattice_shape)
        rows, columns = (4 * torch.sin(math.pi * torch.arange(side).double() / side) ** 2 for side in lattice_shape)
        # Rounded, because equal momenta are found by different sums.
        values, which = (rows[:, None] + columns).mul(1e9).round().unique(return_inverse=True)
        self.register_buffer("which", which)
        self.log_sigma = nn.Parameter((-0.5 * (2 * (mass2 + values * 1e-9)).log()).float())

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        log_sigma = self.log_sigma[self.which]
        return self.scaled(z, log_sigma), log_sigma.sum().expand(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        log_sigma = -self.log_sigma[self.which]
        return self.scaled(x, log_sigma), log_sigma.sum().expand(len(x))

    def scaled(self, field: Tensor, log_scale: Tensor) -> Tensor:
        """(batch, sites), its Fourier transform scaled by exp(log_scale), (L1, L2), an even function of k."""
        waves = torch.fft.fft2(single_or_better(field).unflatten(1, self.lattice_shape)) * torch.exp(log_scale)
        return torch.fft.ifft2(waves).real.flatten(1).to(field.dtype)


class FieldConditioner(nn.Module):
    """Log-scales, even, and shifts, odd, of one checkerboard colour from the field on the other, equivariantly.

    h = tanh(W ... tanh(W phi)), shift = W h, log-scale = W h^2 + b: with no other bias, phi -> -phi turns the shift and leaves
    the log-scale.

    Args:
        channels: of each hidden layer.
        translations: those that keep the colours.
        lattice_shape: (L1, L2).
    """

    def __init__(self, channels: Sequence[int], translations: Tensor, lattice_shape: Sequence[int]) -> None:
        super().__init__()
        sizes = [1, *channels]
        self.hidden = nn.ModuleList(
            TranslationLinear(reads, gives, translations, lattice_shape, bias=False) for reads, gives in pairwise(sizes)
        )
        self.log_scale = TranslationLinear(sizes[-1], 1, translations, lattice_shape, scale=0.0)
        self.shift = TranslationLinear(sizes[-1], 1, translations, lattice_shape, bias=False, scale=0.0)

    def forward(self, field: Tensor) -> Tensor:
        """(batch, half the sites) -> (batch, the other half's log-scales, then its shifts)."""
        for layer in self.hidden:
            field = torch.tanh(layer(field))
        return torch.cat([self.log_scale(field.square()), self.shift(field)], 1)


def field_transform(lattice_shape: Sequence[int], num_layers: int, channels: Sequence[int]) -> Chain:
    """White noise (batch, sites) -> a scalar field: a Gaussian field, then affine couplings of the checkerboard's colours.

    Every layer commutes with phi -> -phi and with the translations that keep the colours.

    Args:
        lattice_shape: (L1, L2), even.
        num_layers: couplings.
        channels: of each conditioner's hidden layers.
    """
    rows, columns = lattice_shape
    sites = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    even = sites[sites.sum(1) % 2 == 0]
    # The odd site beside each even one, so that one translation takes both to the first of their colour.
    places = [(even[:, 0] + step) % rows * columns + even[:, 1] for step in (0, 1)]
    conditioners = [FieldConditioner(channels, even, lattice_shape) for _ in range(num_layers)]
    return Chain([FieldSpectrum(lattice_shape), Couplings(places[0], places[1], AffineElement(), conditioners)])


# Links of U(1) -------------------------------------------------------------------------------------------------------


class LinkCoupling(Transform):
    """One link for each pair of neighbouring blocks, moved so that the loops around the blocks follow a spline of the circle.

    A link between two blocks enters their loops with opposite signs, so the loop s around both stays. The network reads all
    loops of pairs, none of which this layer changes, and says how the loop around each pair's second block moves: by a circular
    spline and a rotation; the link moves by the same angle. Loops are gauge invariant, so the layer is gauge equivariant. It
    commutes with translations by pairs of blocks. All is continuous on the circle, since the network reads cos s and sin s: a
    jump would bias the gradient of the samples.

    After Kanwar et al. 2020 (arXiv:2003.06413), section III, whose loops are single plaquettes and whose network reads those
    that the layer leaves alone.

    Args:
        lattice_shape: (L1, L2).
        block_shape: sides of a block, which divide the lattice's; along `across` the pairs, twice as long, do as well.
        across: the axis along which a pair's blocks lie.
        channels: of the network's hidden layers: the first of any range, the others pair by pair.
        num_bins: of the spline.
    """

    places: Tensor

    def __init__(
        self,
        lattice_shape: Sequence[int],
        block_shape: Sequence[int],
        across: int,
        channels: Sequence[int],
        num_bins: int,
    ) -> None:
        super().__init__()
        self.block_shape = tuple(block_shape)
        self.across = across
        self.direction = 1 - across  # of the moved links, which stand between the blocks
        self.sign = 1 if self.direction == 0 else -1  # with which they enter the second block's loop
        pair = [side * (1 + (axis == across)) for axis, side in enumerate(block_shape)]
        counts = [side // size for side, size in zip(lattice_shape, pair, strict=True)]
        pairs = torch.cartesian_prod(*map(torch.arange, counts))
        corner = pairs * torch.tensor(pair)
        corner[:, across] += block_shape[across]  # of the second block
        self.register_buffer("places", corner[:, 0] * lattice_shape[1] + corner[:, 1])
        self.mix = TranslationLinear(2, channels[0], pairs, counts)
        hidden = [layer for reads, gives in pairwise(channels) for layer in (nn.SiLU(), nn.Linear(reads, gives))]
        self.pointwise = nn.Sequential(*hidden, nn.SiLU(), zeroed(nn.Linear(channels[-1], 3 * num_bins + 1)))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        return self.move(z, False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        return self.move(x, True)

    def move(self, theta: Tensor, inverse: bool) -> Changed:
        """Links (batch, 2, L1, L2) -> the same, and log |det|."""
        first, second = self.loops(theta)
        angle = wrap(second)
        raw = self.spline(first + second).to(angle.dtype)
        rotation = raw[..., -1]
        moved, log_derivative = circular_rational_quadratic(angle - rotation if inverse else angle, raw[..., :-1], inverse)
        change = self.sign * ((moved if inverse else moved + rotation) - angle)
        links = list(theta.unbind(1))
        links[self.direction] = wrap(links[self.direction].flatten(1).index_add(1, self.places, change).view_as(links[0]))
        return torch.stack(links, 1), log_derivative.sum(1)

    def loops(self, theta: Tensor) -> list[Tensor]:
        """The angles around the first and the second block of each pair: (batch, 2, L1, L2) -> two (batch, pairs)."""
        height, width = self.block_shape
        # By Stokes the sum of the plaquettes inside.
        blocks = plaquette_sums(theta).unflatten(2, (-1, width)).unflatten(1, (-1, height)).sum((2, 4))
        return [part.flatten(1) for part in blocks.unflatten(1 + self.across, (-1, 2)).unbind(2 + self.across)]

    def spline(self, loops: Tensor) -> Tensor:
        """What the loops of pairs say of each spline and rotation: (batch, pairs) -> (batch, pairs, 3 K + 1)."""
        hidden = self.mix(torch.cat([loops.cos(), loops.sin()], 1)).unflatten(1, (-1, loops.shape[1])).transpose(1, 2)
        return self.pointwise(hidden)


def link_transform(lattice_shape: Sequence[int], num_layers: int, channels: Sequence[int], num_bins: int) -> Chain:
    """Links of U(1), uniform on the circle (batch, 2, L1, L2), to links of a theory, from large loops to single plaquettes.

    The lattice is halved, and its halves, along one axis and the other in turn, down to plaquettes: log2(L1 L2) couplings. They
    move as many links as there are independent plaquettes, and the conditional density of each loop is one of the spline's,
    so that in two dimensions, where plaquettes are independent but for their sum, one pass could be exact.

    Args:
        lattice_shape: (L1, L2), powers of two.
        num_layers: passes, which begin with either axis in turn.
        channels: of each coupling's network.
        num_bins: of the splines.

    Raises:
        ValueError: a side that is no power of two.
    """
    if any(side & (side - 1) for side in lattice_shape):
        raise ValueError(f"lattice {tuple(lattice_shape)} is not halved down to plaquettes: give sides that are powers of two")
    layers: list[Transform] = []
    for number in range(num_layers):
        block, across = list(lattice_shape), 1 - number % 2
        while max(block) > 1:
            if block[across] > 1:
                block[across] //= 2
                layers.append(LinkCoupling(lattice_shape, block, across, channels, num_bins))
            across = 1 - across
    return Chain(layers)
