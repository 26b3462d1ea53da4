"""The watch for losses that are not finite, which on an accelerator must not make every step wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from dlkit.errors import NonFiniteError

NEVER = torch.iinfo(torch.int64).max


class FiniteWatch:
    """Remembers, on the device and without waiting for it, the first step at which each term was not finite."""

    def __init__(self) -> None:
        # By the names of the terms seen together: a method with two players has two losses.
        self.first_steps: dict[tuple[str, ...], Tensor] = {}

    def see(self, step: int, values: dict[str, Tensor]) -> None:
        """Notes the terms of one step; nothing is read back from the device."""
        stacked = torch.stack([value.detach().float().mean() for value in values.values()])
        broken_now = torch.where(stacked.isfinite(), NEVER, step)
        names = tuple(values)
        self.first_steps[names] = torch.minimum(self.first_steps.get(names, broken_now), broken_now)

    def check(self) -> None:
        """Reads the memory back.

        Raises:
            NonFiniteError: naming the step and the term; `loss` only where no term is to blame.
        """
        first = {
            name: step
            for names, steps in self.first_steps.items()
            for name, step in zip(names, steps.tolist(), strict=True)
            if step != NEVER
        }
        if first:
            step = min(first.values())
            guilty = [name for name, broken in first.items() if broken == step]
            # A sum is not to blame for its terms.
            term = next((name for name in guilty if not name.endswith("loss")), guilty[0])
            raise NonFiniteError(
                f"the term '{term}' of the loss is not finite at step {step}: lower the learning rate, clip gradients "
                f"or look at the data of that step; what was saved before is kept"
            )
