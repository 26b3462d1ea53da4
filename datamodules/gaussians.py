"""Gaussians: mixtures of equal Gaussians in the plane, on which a generator that forgets modes is found out."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from datamodules.drawn import DrawnPoints
from dlkit.batches import Examples

STANDARD_DEVIATIONS = {"ring": 0.01, "grid": 0.05, "pair": 1.0}


class Gaussians(DrawnPoints):
    """Points of the plane from an equal mixture of isotropic Gaussians; the label is the mode that a point is drawn from.

    "ring": 8 modes on the unit circle, standard deviation 0.01. "grid": 25 modes at -4, -2, 0, 2, 4 in both directions,
    standard deviation 0.05 (Srivastava et al. 2017, arXiv:1705.07761; with these numbers Lin et al. 2018,
    arXiv:1712.04086, section 4.1). "pair": 2 modes of standard deviation 1 at -separation / 2 and separation / 2 on the
    first axis, whose Jensen-Shannon divergence saturates as they part (Arjovsky and Bottou 2017, arXiv:1701.04862).

    Args:
        layout: "ring", "grid" or "pair".
        separation: between the two modes of "pair"; the other layouts make no use of it.
        num_examples, batch_size, val_size, split_seed: see `DrawnPoints`.

    Attributes:
        means: the centres of the modes, (num_classes, 2), float32.
        std: the standard deviation of every mode, in each direction.
    """

    data_shape = (2,)

    def __init__(
        self,
        layout: Literal["ring", "grid", "pair"] = "ring",
        num_examples: int = 100_000,
        separation: float = 4.0,
        batch_size: int = 256,
        val_size: int = 10_000,
        split_seed: int = 0,
    ) -> None:
        super().__init__(num_examples, batch_size, val_size, split_seed)
        if layout not in STANDARD_DEVIATIONS:
            raise ValueError(f"unknown layout {layout!r}: use 'ring', 'grid' or 'pair'")
        if not 0 <= separation < math.inf:
            raise ValueError(f"separation={separation}: give a finite distance of 0 or more")
        self.layout: Literal["ring", "grid", "pair"] = layout
        self.separation = separation
        self.means = centres(layout, separation)
        self.std = STANDARD_DEVIATIONS[layout]
        self.num_classes = len(self.means)
        self.class_names = tuple(map(str, range(self.num_classes)))

    def draw(self, n: int, seed: int) -> Examples:
        """Independent points x (n, 2), float32, with their modes y (n,), int64."""
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(len(self.means), (n,), generator=generator)
        return Examples(self.means[y] + self.std * torch.randn(n, 2, generator=generator), y)


def centres(layout: Literal["ring", "grid", "pair"], separation: float) -> Tensor:
    """The means of a layout's modes: (modes, 2); the ring anticlockwise from (1, 0), the grid column by column."""
    if layout == "ring":
        angles = 2 * math.pi * torch.arange(8) / 8
        return torch.stack([angles.cos(), angles.sin()], dim=1)
    if layout == "grid":
        places = torch.arange(-4.0, 5.0, 2.0)
        return torch.cartesian_prod(places, places)
    return torch.tensor([[-separation / 2, 0.0], [separation / 2, 0.0]])
