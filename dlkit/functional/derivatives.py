"""Derivatives that are written out: when they are of use, and the second ones, which are autograd's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def written_out() -> bool:
    """Whether autograd will go backwards and needs nothing else: functorch, forward mode and compilers want operations."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def differentiably(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients of the inputs by autograd, so that they can be differentiated; None for those that need none.

    Args:
        outputs: made of the inputs by operations that autograd knows; one may be made of inputs that need no gradient alone.
        inputs: at least one that needs a gradient.
        gradients: those of the outputs.
    """
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
    known, theirs = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(known, wanted, theirs, create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)
