"""What the section `flows` is measured against: zuko, nflows and normflows, each with its own parts of the same sizes, and a
loop written by hand.

All halves are fixed: every other feature, or the lower and the upper where a library cuts so. zuko's `NSF` in two passes is a
masked network and normflows' spline coupling a residual one that also moves the half which it reads, so both have more
parameters; zuko's couplings take its spline too, with as many as ours.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import dlkit
from dlkit.batches import Examples
from dlkit.processes import keep_freed_memory

from .timing import Stopwatch

HIDDEN = 128  # twice in every conditioner
BOUND = 5.0  # of splines
LEARNING_RATE = 1e-3
INSTALL = "pip install dlkit[bench]"


class Sizes(NamedTuple):
    """Of a flow, and of what it is given."""

    features: int
    layers: int
    batch: int
    bins: int = 8


class Contender(NamedTuple):
    """A flow that is trained and sampled from, as a user of its library would.

    Attributes:
        parameters: how many.
        loss: (batch, features) -> the mean of -log p(x).
        sample: n -> (n, features).
        optimizer: of its parameters.
    """

    parameters: int
    loss: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]
    optimizer: torch.optim.Optimizer


def contender(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    sample: Callable[[int], Tensor],
    optimizer: torch.optim.Optimizer | None = None,
) -> Contender:
    """With the default Adam where none is given."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = optimizer or torch.optim.Adam(parameters, lr=LEARNING_RATE)
    return Contender(sum(parameter.numel() for parameter in parameters), loss, sample, optimizer)


def by_hand(method: dlkit.Flow, x: Tensor, batch_size: int, watch: Stopwatch) -> None:
    """The loop of somebody who knows what costs time: whole batches by index, fused Adam, and freed memory is kept."""
    keep_freed_memory()
    optimizer = torch.optim.Adam(method.parameters(), lr=method.learning_rate, fused=True)
    while True:
        for rows in torch.randperm(len(x)).split(batch_size):
            loss, _ = method.loss(Examples(x[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.lap()
            if watch.over:
                return


# zuko ----------------------------------------------------------------------------------------------------------------


def zuko_contender(build: Callable[[Any], nn.Module]) -> Contender:
    """Of zuko's flows, from which every call makes a distribution.

    Args:
        build: makes one, given zuko, which switches the argument checks of distributions off for its whole process.
    """
    import zuko  # pyright: ignore[reportMissingImports]

    flow: Any = build(zuko)
    return contender(flow, lambda x: -flow().log_prob(x).mean(), lambda number: flow().sample((number,)))


def zuko_affine(sizes: Sizes) -> Contender:
    return zuko_contender(
        lambda zuko: zuko.flows.RealNVP(sizes.features, transforms=sizes.layers, hidden_features=(HIDDEN, HIDDEN))
    )


def zuko_spline(sizes: Sizes) -> Contender:
    """Its couplings with its splines."""
    return zuko_contender(
        lambda zuko: zuko.flows.NICE(
            sizes.features,
            transforms=sizes.layers,
            univariate=zuko.transforms.MonotonicRQSTransform,
            shapes=((sizes.bins,), (sizes.bins,), (sizes.bins - 1,)),
            hidden_features=(HIDDEN, HIDDEN),
        )
    )


def zuko_nsf(sizes: Sizes) -> Contender:
    """Its masked spline flow in two passes."""
    return zuko_contender(
        lambda zuko: zuko.flows.NSF(
            sizes.features, bins=sizes.bins, transforms=sizes.layers, passes=2, hidden_features=(HIDDEN, HIDDEN)
        )
    )


def zuko_maf(sizes: Sizes) -> Contender:
    return zuko_contender(
        lambda zuko: zuko.flows.MAF(sizes.features, transforms=sizes.layers, hidden_features=(HIDDEN, HIDDEN))
    )


# nflows --------------------------------------------------------------------------------------------------------------


class Conditioner(nn.Sequential):
    """The same network as ours, called as nflows calls it."""

    hidden_features = HIDDEN  # by whose root nflows divides a spline's widths and heights

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for read, give in pairwise([inputs, HIDDEN, HIDDEN, outputs]):
            layers += [nn.Linear(read, give), nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, input: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(input)


def nflows_contender(features: int, layers: Sequence[nn.Module]) -> Contender:
    """Of nflows' transforms."""
    from nflows.distributions import StandardNormal  # pyright: ignore[reportMissingImports]
    from nflows.flows import Flow  # pyright: ignore[reportMissingImports]
    from nflows.transforms import CompositeTransform  # pyright: ignore[reportMissingImports]

    flow = Flow(CompositeTransform(layers), StandardNormal([features]))
    return contender(flow, lambda x: -flow.log_prob(x).mean(), flow.sample)


def alternate(features: int, layer: int) -> Tensor:
    """1 for the features that a layer moves."""
    return ((torch.arange(features) + layer) % 2).long()


def nflows_affine(sizes: Sizes) -> Contender:
    from nflows.transforms import AffineCouplingTransform  # pyright: ignore[reportMissingImports]

    layers = [AffineCouplingTransform(alternate(sizes.features, number), Conditioner) for number in range(sizes.layers)]
    return nflows_contender(sizes.features, layers)


def nflows_spline(sizes: Sizes) -> Contender:
    from nflows.transforms import (  # pyright: ignore[reportMissingImports]
        PiecewiseRationalQuadraticCouplingTransform as Coupling,
    )

    layers = [
        Coupling(alternate(sizes.features, number), Conditioner, num_bins=sizes.bins, tails="linear", tail_bound=BOUND)
        for number in range(sizes.layers)
    ]
    return nflows_contender(sizes.features, layers)


def nflows_maf(sizes: Sizes) -> Contender:
    """A first layer and one block make two hidden layers."""
    from nflows.transforms import (  # pyright: ignore[reportMissingImports]
        MaskedAffineAutoregressiveTransform,
        ReversePermutation,
    )

    layers: list[nn.Module] = []
    for _ in range(sizes.layers):
        layers.append(ReversePermutation(sizes.features))
        layers.append(
            MaskedAffineAutoregressiveTransform(sizes.features, HIDDEN, num_blocks=1, use_residual_blocks=False)
        )  # fmt: skip
    return nflows_contender(sizes.features, layers)


# normflows -----------------------------------------------------------------------------------------------------------


def normflows_contender(features: int, layers: Sequence[nn.Module]) -> Contender:
    """Of normflows' flows."""
    from normflows import NormalizingFlow  # pyright: ignore[reportMissingImports]
    from normflows.distributions import DiagGaussian  # pyright: ignore[reportMissingImports]

    flow = NormalizingFlow(DiagGaussian(features, trainable=False), layers)
    return contender(flow, flow.forward_kld, lambda number: flow.sample(number)[0])


def normflows_affine(sizes: Sizes) -> Contender:
    from normflows.flows import AffineCouplingBlock, Permute  # pyright: ignore[reportMissingImports]
    from normflows.nets import MLP  # pyright: ignore[reportMissingImports]

    half = sizes.features // 2
    layers: list[nn.Module] = []
    for _ in range(sizes.layers):
        layers.append(AffineCouplingBlock(MLP([half, HIDDEN, HIDDEN, 2 * half], init_zeros=True)))
        layers.append(Permute(sizes.features, mode="swap"))
    return normflows_contender(sizes.features, layers)


def normflows_spline(sizes: Sizes) -> Contender:
    """One residual block, of two layers, behind the first layer; the halves alternate."""
    from normflows.flows import CoupledRationalQuadraticSpline as Coupling  # pyright: ignore[reportMissingImports]

    layers = [
        Coupling(sizes.features, 1, HIDDEN, num_bins=sizes.bins, tail_bound=BOUND, reverse_mask=bool(number % 2))
        for number in range(sizes.layers)
    ]
    return normflows_contender(sizes.features, layers)


# Who there is --------------------------------------------------------------------------------------------------------

RIVALS: dict[str, dict[str, Callable[[Sizes], Contender]]] = {
    "affine": {"zuko": zuko_affine, "nflows": nflows_affine, "normflows": normflows_affine},
    "spline": {"zuko": zuko_spline, "zuko NSF": zuko_nsf, "nflows": nflows_spline, "normflows": normflows_spline},
    "maf": {"zuko": zuko_maf, "nflows": nflows_maf},
}


def installed(rival: str) -> bool:
    """Whether the library of a rival, its name's first word, is at hand."""
    return importlib.util.find_spec(rival.split()[0]) is not None
