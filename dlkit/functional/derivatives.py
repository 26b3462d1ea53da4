"""When a derivative that is written out is of use."""

from __future__ import annotations

import torch


def written_out() -> bool:
    """Whether autograd will go backwards and needs nothing else: functorch, forward mode and compilers want operations."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )
