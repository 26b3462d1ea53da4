"""Couplings: one half of the features sets how the other half is moved, so that the Jacobian is triangular.

    z = (a, b)  ->  (a, g(b; theta(a, c))),      log |det| = sum_i log g'(b_i; theta_i(a, c))

with g an affine map (Real NVP: Dinh et al. 2017, arXiv:1605.08803, equations 4 to 8) or the inverse of a monotone
rational-quadratic spline (Durkan et al. 2019, arXiv:1906.04032). The determinant depends on what the *untouched* half a
says, not on b. The next coupling moves a by what b says.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.functional.affine import affine, affine_value
from dlkit.functional.splines import inverse_rational_quadratic, rational_quadratic
from dlkit.nn.mlp import NARROW, check_widths
from dlkit.nn.transforms import Changed, Transform, joined


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
        return moved.t().to(b.dtype), log_derivative.t()  # splines are computed in single precision at least

    def value(self, b: Tensor, raw: Tensor) -> Tensor:
        """g(b) alone."""
        return inverse_rational_quadratic(b.t(), self.of_features(raw), self.bound).t().to(b.dtype)

    def of_features(self, raw: Tensor) -> Tensor:
        """(batch, (3 K - 1) * features) -> (features, batch, 3 K - 1)."""
        return raw.t().unflatten(0, (self.parameters, -1)).permute(1, 2, 0)


Element = AffineElement | SplineElement
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
Map = Callable[[Tensor], Tensor]


class Couplings(Transform):
    """Couplings in turn: the even layers move the second half of the features, the odd ones the first.

    The vector is cut once, before the first layer, and joined once, after the last; each layer's network gives all
    parameters of the moved half at once. A network's last layer begins at zero, so that the stack begins as the identity.

    Args:
        first, second: which features make the halves, int64; each feature in one of them.
        element: how a feature is moved.
        conditioners: for each layer, a network from the other half (and the context) to the moved half's parameters: in a list,
            or given by a module that is iterated for them.
    """

    first: Tensor
    second: Tensor
    order: Tensor
    back: Tensor
    conditioners: Conditioners | nn.ModuleList

    def __init__(
        self, first: Tensor, second: Tensor, element: Element, conditioners: Conditioners | Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.register_buffer("first", first)
        self.register_buffer("second", second)
        order = torch.cat([first, second])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort())
        self.element = element
        self.conditioners = conditioners if isinstance(conditioners, Conditioners) else nn.ModuleList(conditioners)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        halves, total = self.cut(z), z.new_zeros(len(z))
        for layer, network in enumerate(self.conditioners):
            total = total + self.move(layer, network, halves, context, False).sum(1)
        return self.join(halves), total

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        halves, total = self.cut(x), x.new_zeros(len(x))
        for layer, network in reversed(list(enumerate(self.conditioners))):
            total = total + self.move(layer, network, halves, context, True).sum(1)
        return self.join(halves), total

    def value(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        halves = self.cut(z)
        for layer, network in enumerate(self.conditioners):
            moved, raw = self.condition(layer, network, halves, context)
            halves[moved] = self.element.value(halves[moved], raw)
        return self.join(halves)

    def steps(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        halves = self.cut(z)
        for layer, network in enumerate(self.conditioners):
            self.move(layer, network, halves, context, False)
            yield self.join(halves)

    def move(self, layer: int, network: Map, halves: list[Tensor], context: Tensor | None, inverse: bool) -> Tensor:
        """Moves one half in the list; returns the logarithm of each of its features' derivative."""
        moved, raw = self.condition(layer, network, halves, context)
        halves[moved], log_derivative = self.element(halves[moved], raw, inverse)
        return log_derivative

    def condition(self, layer: int, network: Map, halves: list[Tensor], context: Tensor | None) -> tuple[int, Tensor]:
        """Which half a layer moves, and that half's parameters."""
        moved = 1 - layer % 2
        # In the values' own precision, whatever the networks run in.
        return moved, network(joined(halves[1 - moved], context)).to(halves[moved].dtype)

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


def linear(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A linear layer: (outputs, inputs), (outputs,), (batch, inputs) -> (batch, outputs)."""
    return F.linear(x, weight, bias)


def linear_turned(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """The same, given its weight turned: (inputs, outputs)."""
    return torch.addmm(bias, x, weight)


def linear_by_features(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """The same, with an output that lies in memory feature by feature."""
    return torch.addmm(bias.unsqueeze(1), weight, x.t()).t()


def in_turn(layers: Sequence[Map], x: Tensor) -> Tensor:
    """Layers with ReLU between them."""
    *hidden, last = layers
    for layer in hidden:
        x = layer(x).relu_()
    return last(x)


class StackedLinear(nn.Module):
    """A linear layer of each of several networks, which it gives when it is iterated.

    Their weights lie in one parameter, (networks, outputs, inputs), and their biases in another; in two each where layers of
    two shapes alternate.

    Args:
        layers: of the networks in turn, whose parameters are taken.
        feature_major: whether the output lies in memory feature by feature.
    """

    def __init__(self, layers: Sequence[nn.Linear], feature_major: bool) -> None:
        super().__init__()
        alike = len({layer.weight.shape for layer in layers}) == 1
        stacks = [layers] if alike else [layers[::2], layers[1::2]]
        self.number = len(layers)
        self.weights = nn.ParameterList(torch.stack([layer.weight.detach() for layer in stack]) for stack in stacks)
        self.biases = nn.ParameterList(torch.stack([layer.bias.detach() for layer in stack]) for stack in stacks)
        self.feature_major = feature_major

    def __iter__(self) -> Iterator[Map]:
        stacks = [list(self.layers(*stack)) for stack in zip(self.weights, self.biases, strict=True)]
        for network in range(self.number):
            yield stacks[network % len(stacks)][network // len(stacks)]

    def layers(self, weights: Tensor, biases: Tensor) -> Iterator[Map]:
        """Of one stack."""
        layer = linear_by_features if self.feature_major else linear
        if not self.feature_major and 1 < weights.shape[2] < NARROW:
            # Its gradient is then a product whose rows are not short, see `NarrowLinear`. That of a single input, turned back,
            # would have other strides than its parameter, of which distributed training warns.
            layer, weights = linear_turned, weights.transpose(1, 2).contiguous()
        for weight, bias in zip(weights.unbind(), biases.unbind(), strict=True):
            yield partial(layer, weight, bias)


class Conditioners(nn.Module):
    """The networks of couplings, which it gives when it is iterated: (batch, sizes[0]) -> (batch, sizes[-1]).

    Each is linear layers with ReLU between them, the last one zero at the beginning. What a module and a parameter cost, be it
    in the optimizer, in the backward pass or where something compiled is entered, is much beside the time that layers of
    these sizes take. So no layer is a module here, and all networks' first layers share their parameters' tensors, two where
    their shapes alternate, as do all second ones and so on.

    Args:
        sizes: of each network, widths of the input, the hidden layers and the output; every other network's are the same.
        feature_major: whether the outputs lie in memory feature by feature.

    Raises:
        ValueError: no network; a size below one; other sizes than those of the last network but one; other numbers of layers.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], feature_major: bool) -> None:
        super().__init__()
        for widths in sizes:
            check_widths(widths)
        if len({len(widths) for widths in sizes}) != 1 or any(map(operator.ne, sizes, sizes[2:])):
            raise ValueError(f"the widths {sizes} have to be those of one network or of two in turn, with as many layers each")
        networks = [[nn.Linear(*widths) for widths in pairwise(network)] for network in sizes]
        for network in networks:
            zeroed(network[-1])
        *hidden, last = zip(*networks, strict=True)
        self.layers = nn.ModuleList([*(StackedLinear(layers, False) for layers in hidden), StackedLinear(last, feature_major)])

    def __iter__(self) -> Iterator[Map]:
        stacks = [stack for stack in self.layers if isinstance(stack, StackedLinear)]
        for layers in zip(*stacks, strict=True):
            yield partial(in_turn, layers)


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
    halves = len(first), len(second)

    def sizes(layer: int) -> list[int]:
        read, moved = halves[layer % 2], halves[1 - layer % 2]
        return [read + context_features, *hidden_dims, moved * element.parameters]

    conditioners = Conditioners([sizes(layer) for layer in range(num_layers)], element.feature_major)
    return Couplings(first, second, element, conditioners)
