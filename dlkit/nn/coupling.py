"""Couplings: one half of the features sets how the other half is moved, so that the Jacobian is triangular.

    z = (a, b)  ->  (a, g(b; theta(a, c))),      log |det| = sum_i log g'(b_i; theta_i(a, c))

with g an affine map (Real NVP: Dinh et al. 2017, arXiv:1605.08803, equations 4 to 8) or the inverse of a monotone
rational-quadratic spline (Durkan et al. 2019, arXiv:1906.04032). The determinant depends on what the *untouched* half a
says, not on b. The next coupling moves a by what b says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.functional.affine import affine, affine_value
from dlkit.functional.splines import inverse_rational_quadratic, rational_quadratic
from dlkit.nn.mlp import check_widths, linear
from dlkit.nn.transforms import Changed, Transform, joined


class FeatureMajorLinear(nn.Linear):
    """A linear layer whose output lies in memory feature by feature: (batch, in_features) -> (batch, out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)

    def forward(self, input: Tensor) -> Tensor:
        return torch.addmm(self.bias.unsqueeze(1), self.weight, input.t()).t()


class AffineElement:
    """g(b) = b exp(s) + t, with log-scale s and shift t of each feature.

    Attributes:
        parameters: numbers that a conditioner gives for each feature.
        feature_major: whether it is fastest where values and parameters lie in memory feature by feature.
    """

    parameters = 2
    feature_major = False

    def __call__(self, b: Tensor, raw: Tensor, inverse: bool) -> Changed:
        """b: (batch, features); raw: (batch, 2 * features), the log-scales before they are bounded, then the shifts.

        Returns:
            The moved features, and the logarithm of each one's derivative.
        """
        return affine(b, raw, inverse)

    def value(self, b: Tensor, raw: Tensor) -> Tensor:
        """g(b) alone."""
        return affine_value(b, raw)


class SplineElement:
    """g^-1: a monotone rational-quadratic spline within [-bound, bound], the identity outside.

    The spline takes data to the base, as in the authors' code, and g is its inverse: a density, which training asks for, then
    takes less time than samples do.

    Args:
        num_bins: K.
        bound: where the spline ends.
    """

    feature_major = True  # it reads the parameters one after the other, each of all points

    def __init__(self, num_bins: int, bound: float) -> None:
        self.parameters = 3 * num_bins - 1
        self.bound = bound

    def __call__(self, b: Tensor, raw: Tensor, inverse: bool) -> Changed:
        """b: (batch, features); raw: (batch, (3 K - 1) * features), the first width of all features, ..., their last slope."""
        moved, log_derivative = rational_quadratic(b.t(), self.of_features(raw), self.bound, not inverse)
        return moved.t(), log_derivative.t()

    def value(self, b: Tensor, raw: Tensor) -> Tensor:
        """g(b) alone."""
        return inverse_rational_quadratic(b.t(), self.of_features(raw), self.bound).t()

    def of_features(self, raw: Tensor) -> Tensor:
        """(batch, (3 K - 1) * features) -> (features, batch, 3 K - 1)."""
        return raw.t().unflatten(0, (self.parameters, -1)).permute(1, 2, 0)


Element = AffineElement | SplineElement
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class Couplings(Transform):
    """Couplings in turn: the even layers move the second half of the features, the odd ones the first.

    The vector is cut once, before the first layer, and joined once, after the last; each layer's network gives all
    parameters of the moved half at once. A network's last layer begins at zero, so that the stack begins as the identity.

    Args:
        first, second: which features make the halves, int64; each feature in one of them.
        element: how a feature is moved.
        conditioners: for each layer, a network from the other half (and the context) to the moved half's parameters.
    """

    first: Tensor
    second: Tensor
    order: Tensor
    back: Tensor

    def __init__(self, first: Tensor, second: Tensor, element: Element, conditioners: Sequence[nn.Module]) -> None:
        super().__init__()
        self.register_buffer("first", first)
        self.register_buffer("second", second)
        order = torch.cat([first, second])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort())
        self.element = element
        self.conditioners = nn.ModuleList(conditioners)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        halves, total = self.cut(z), z.new_zeros(len(z))
        for layer in range(len(self.conditioners)):
            total = total + self.move(layer, halves, context, False).sum(1)
        return self.join(halves), total

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        halves, total = self.cut(x), x.new_zeros(len(x))
        for layer in reversed(range(len(self.conditioners))):
            total = total + self.move(layer, halves, context, True).sum(1)
        return self.join(halves), total

    def value(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        halves = self.cut(z)
        for layer in range(len(self.conditioners)):
            moved, raw = self.condition(layer, halves, context)
            halves[moved] = self.element.value(halves[moved], raw)
        return self.join(halves)

    def steps(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        halves = self.cut(z)
        for layer in range(len(self.conditioners)):
            self.move(layer, halves, context, False)
            yield self.join(halves)

    def move(self, layer: int, halves: list[Tensor], context: Tensor | None, inverse: bool) -> Tensor:
        """Moves one half in the list; returns the logarithm of each of its features' derivative."""
        moved, raw = self.condition(layer, halves, context)
        halves[moved], log_derivative = self.element(halves[moved], raw, inverse)
        return log_derivative

    def condition(self, layer: int, halves: list[Tensor], context: Tensor | None) -> tuple[int, Tensor]:
        """Which half a layer moves, and that half's parameters."""
        moved = 1 - layer % 2
        # In the values' own precision, whatever the networks run in.
        return moved, self.conditioners[layer](joined(halves[1 - moved], context)).to(halves[moved].dtype)

    def cut(self, x: Tensor) -> list[Tensor]:
        """(batch, features) -> both halves."""
        if not self.element.feature_major:
            return [x.index_select(1, self.first), x.index_select(1, self.second)]
        # Both halves by one gather, or a compiler would leave the second one's to where it is first moved, on one thread.
        rows = x.t().contiguous().index_select(0, self.order)
        return [half.t() for half in rows.split([len(self.first), len(self.second)])]

    def join(self, halves: list[Tensor]) -> Tensor:
        """Both halves -> (batch, features)."""
        if not self.element.feature_major:
            return torch.cat(halves, 1).index_select(1, self.back)
        return torch.cat([half.t() for half in halves]).index_select(0, self.back).t()


def zeroed(layer: Layer) -> Layer:
    """Lets a network's last layer begin at zero, so that the transform that the network conditions begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Conditioner(nn.Module):
    """Linear layers with ReLU between them, the last one zero at the beginning: (batch, sizes[0]) -> (batch, sizes[-1]).

    ReLU is no module here, because what a module costs is much beside the time that layers of these sizes take. Without
    gradients it works in place; with them a layer's backward hooks would not allow it.

    Args:
        sizes: widths of the input, the hidden layers and the output.
        feature_major: whether the output lies in memory feature by feature.

    Raises:
        ValueError: a size below one.
    """

    def __init__(self, sizes: Sequence[int], feature_major: bool) -> None:
        super().__init__()
        check_widths(sizes)
        *hidden, last = pairwise(sizes)
        self.hidden = nn.ModuleList(linear(*widths) for widths in hidden)
        self.last = zeroed(FeatureMajorLinear(*last) if feature_major else nn.Linear(*last))

    def forward(self, x: Tensor) -> Tensor:
        in_place = not torch.is_grad_enabled()
        for layer in self.hidden:
            x = F.relu(layer(x), in_place)
        return self.last(x)


def couplings(
    features: int,
    num_layers: int,
    element: Element,
    hidden_dims: Sequence[int],
    context_features: int = 0,
) -> Couplings:
    """A stack of couplings of alternate features with fully connected conditioners.

    Args:
        features: of the vector, at least 2.
        num_layers: couplings.
        element: how a feature is moved.
        hidden_dims: widths of each conditioner.
        context_features: width of the context.

    Raises:
        ValueError: fewer than two features, which cannot be cut in two.
    """
    if features < 2:
        raise ValueError(f"{features} feature cannot be cut into two halves: give data of two or more, or transform='maf'")
    first, second = torch.arange(0, features, 2), torch.arange(1, features, 2)

    def conditioner(read: int, moved: int) -> Conditioner:
        sizes = [read + context_features, *hidden_dims, moved * element.parameters]
        return Conditioner(sizes, element.feature_major)

    sizes = len(first), len(second)
    return Couplings(first, second, element, [conditioner(sizes[n % 2], sizes[1 - n % 2]) for n in range(num_layers)])
