"""The watch for losses that are not finite, which on an accelerator must not make every step wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from dlkit.errors import NonFiniteError
from dlkit.processes import of_all

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

    def check(self, together: bool = False) -> None:
        """Reads the memory back.

        Args:
            together: whether every process asks, so that all stop where one of them has to. One that stopped alone would leave
                the others waiting for it.

        Raises:
            NonFiniteError: naming the step and the term; `loss` only where no term is to blame.
        """
        first = {
            name: step for names, steps in self.first_steps.items() for name, step in zip(names, steps.tolist(), strict=True)
        }
        own = min(first.values(), default=NEVER)
        step = min(of_all(own)) if together else own
        if step == NEVER:
            return
        guilty = [name for name, broken in first.items() if broken == step]
        # A sum is not to blame for its terms.
        term = next((name for name in guilty if not name.endswith("loss")), guilty[0] if guilty else None)
        what = f"the term '{term}' of the loss" if term else "another process's loss"
        raise NonFiniteError(
            f"{what} is not finite at step {step}: lower the learning rate, clip gradients or look at the data of that step; "
            f"what was saved before is kept"
        )
