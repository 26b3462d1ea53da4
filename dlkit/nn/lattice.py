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
from dlkit.functional.splines import circular_rational_quadratic
from dlkit.nn.coupling import AffineElement, Couplings, zero_last
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
        waves = torch.fft.fft2(field.unflatten(1, self.lattice_shape)) * torch.exp(log_scale)
        return torch.fft.ifft2(waves).real.flatten(1)


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
    """Every other row of one direction's links, moved so that their plaquettes follow a spline of the circle.

    A link is shared by two plaquettes, P and P', which it enters with opposite signs: their sum s, the loop around both,
    stays. Half of all loops of this kind cover the lattice, and none of them changes, so all that the network reads are
    these. P moves by a circular spline and a rotation, and the link by the same angle. Plaquettes and loops are gauge
    invariant, so the layer is gauge equivariant. All is continuous on the circle: the network reads cos s and sin s.

    Kanwar et al. 2020 (arXiv:2003.06413), section III, where the network reads plaquettes that the layer leaves alone, a
    quarter of the links of a direction moves at once, and the maps are Moebius transformations; loops of two plaquettes are
    read in Abbott et al. 2022 (arXiv:2207.08945).

    Args:
        lattice_shape: (L1, L2), even.
        direction: mu of the links.
        offset: which rows, 0 or 1.
        channels: of the network's hidden layers: the first of any range, the others site by site.
        num_bins: of the spline.
    """

    places: Tensor

    def __init__(
        self, lattice_shape: Sequence[int], direction: int, offset: int, channels: Sequence[int], num_bins: int
    ) -> None:
        super().__init__()
        rows, columns = lattice_shape
        self.direction, self.across = direction, 1 - direction
        self.sign = 1 if direction == 0 else -1  # with which the link enters its own site's plaquette
        sites = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        moved = sites[sites[:, self.across] % 2 == offset]
        self.register_buffer("places", moved[:, 0] * columns + moved[:, 1])
        translations = moved.clone()
        translations[:, self.across] -= offset
        self.num_bins = num_bins
        self.mix = TranslationLinear(2, channels[0], translations, lattice_shape)
        sizes = [*channels, 3 * num_bins + 1]
        layers = [layer for reads, gives in pairwise(sizes) for layer in (nn.SiLU(), nn.Linear(reads, gives))]
        self.pointwise = zero_last(nn.Sequential(*layers))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        return self.move(z, False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        return self.move(x, True)

    def move(self, theta: Tensor, inverse: bool) -> Changed:
        """Links (batch, 2, L1, L2) -> the same, and log |det|."""
        sums = plaquette_sums(theta)
        loops = wrap((sums + sums.roll(1, self.across + 1)).flatten(1)[:, self.places])
        angle = wrap(sums.flatten(1)[:, self.places])
        raw = self.spline(loops).to(angle.dtype)
        rotation = raw[..., -1]
        moved, log_derivative = circular_rational_quadratic(angle - rotation if inverse else angle, raw[..., :-1], inverse)
        moved = moved if inverse else moved + rotation
        change = torch.zeros_like(sums).flatten(1).index_copy(1, self.places, self.sign * (moved - angle)).view_as(sums)
        links = list(theta.unbind(1))
        links[self.direction] = wrap(links[self.direction] + change)
        return torch.stack(links, 1), log_derivative.sum(1)

    def spline(self, loops: Tensor) -> Tensor:
        """What the loops say of each moved plaquette's spline and rotation: (batch, n) -> (batch, n, 3 K + 1)."""
        hidden = self.mix(torch.cat([loops.cos(), loops.sin()], 1)).unflatten(1, (-1, loops.shape[1])).transpose(1, 2)
        return self.pointwise(hidden)


def link_transform(lattice_shape: Sequence[int], num_layers: int, channels: Sequence[int], num_bins: int) -> Chain:
    """Links of U(1), uniform on the circle (batch, 2, L1, L2), to links of a theory; four layers move each link once."""
    kinds = [(direction, offset) for direction in (0, 1) for offset in (0, 1)]
    return Chain(LinkCoupling(lattice_shape, *kinds[layer % 4], channels, num_bins) for layer in range(num_layers))
