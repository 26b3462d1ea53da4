"""Invertible maps whose Jacobian's determinant is known: the base of every layer of a normalizing flow, and chains of them.

A transform maps z, drawn from a simple density, to x, an example:

    forward     z, c -> x = f(z; c),        log |det df/dz|
    inverse     x, c -> z = f^-1(x; c),     log |det df^-1/dx| = -log |det df/dz|

both in one pass, with c a context vector or None. Values are (batch, features) or images, log-determinants (batch,).
Tabak and Turner 2013; Rezende and Mohamed 2015 (arXiv:1505.05770).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

Changed = tuple[Tensor, Tensor]  # a value, and the log-determinant of the map that made it


class Transform(nn.Module):
    """One invertible map; a subclass gives both directions."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls) and "value" not in vars(cls):
            cls.value = Transform.value  # one that was inherited would be that of another map

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        """From the base to the data: z -> x, log |det dx/dz|, (batch,)."""
        raise NotImplementedError(f"{type(self).__name__} has to define forward(z, context)")

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        """From the data to the base: x -> z, log |det dz/dx|, (batch,)."""
        raise NotImplementedError(f"{type(self).__name__} has to define inverse(x, context)")

    def value(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """x alone, as samples need it: a layer that can spares itself the log-determinant."""
        return self(z, context)[0]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles both directions in place; a module's own `compile` takes `forward` alone."""
        # What ReLU gave is kept for the gradients of the next layer's weights anyway. Unless views of it are taken anew, the
        # compiler keeps a mask of it beside, and writing that takes a CPU longer than all of a layer's other small operations.
        # This holds for the whole process: torch has no such option of one compilation.
        torch._functorch.config.recompute_views = True
        super().compile(*args, **kwargs)
        self.inverse = torch.compile(self.inverse, *args, **kwargs)
        self.value = torch.compile(self.value, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is not compiled: what was compiled would go on with the original's parameters.
        return {name: value for name, value in super().__getstate__().items() if name not in ("inverse", "value")}

    def steps(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        """What z passes through on its way to x, x last: a picture for each layer."""
        yield self(z, context)[0]


class Chain(Transform):
    """Transforms one after the other: x = f_n(... f_1(z)); the log-determinants add."""

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        total = z.new_zeros(len(z))
        for transform in self.transforms:
            z, log_det = transform(z, context)
            total = total + log_det
        return z, total

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        total = x.new_zeros(len(x))
        for transform in reversed(self.transforms):
            assert isinstance(transform, Transform)
            x, log_det = transform.inverse(x, context)
            total = total + log_det
        return x, total

    def value(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for transform in self.transforms:
            assert isinstance(transform, Transform)
            z = transform.value(z, context)
        return z

    def steps(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        for transform in self.transforms:
            assert isinstance(transform, Transform)
            between = z
            for between in transform.steps(z, context):
                yield between
            z = between


class Backwards(Transform):
    """A transform read the other way round: IAF is MAF read so (Papamakarios et al. 2017, arXiv:1705.07057, section 3.2)."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        return self.transform.inverse(z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        return self.transform(x, context)


def joined(x: Tensor, context: Tensor | None) -> Tensor:
    """Features with the context beside them: what a conditioner reads."""
    return x if context is None else torch.cat([x, context], 1)
