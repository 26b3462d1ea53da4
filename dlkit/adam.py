"""Adam (Kingma and Ba 2015, arXiv:1412.6980), as every method here takes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Adam(torch.optim.Adam):
    """torch's fused Adam, whose parameters count their steps together: the same numbers, in half the time for small networks.

        m <- beta1 m + (1 - beta1) g,    v <- beta2 v + (1 - beta2) g^2,
        w <- w - learning_rate * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + 1e-8),    g = dL/dw + weight_decay * w

    torch keeps a t for each parameter, a tensor of one number, and adding 1 to each of them takes longer on a CPU than the
    update itself where they are small. Here parameters of a group that began in the same step hold one tensor between them; one
    that sits out a step, because it has no gradient or left its group, gets its own. State dicts are torch's: each reads the
    other's.

    Gradients may be clipped in every precision: a fused optimizer offers to take float16's loss scale out of the gradients
    itself, and Lightning then refuses to clip them in any mixed precision, bfloat16's too, which has no scale. This one does
    not offer it, so gradients are unscaled before they are clipped.

    Args:
        parameters: what to train.
        learning_rate: step size.
        betas: decay rates of both moments.
        weight_decay: adds so many times the parameters to their gradients.

    Raises:
        ValueError: a state dict of Adam's variants is loaded (`amsgrad`, `maximize`, `decoupled_weight_decay`).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
        self._step_supports_amp_scaling = False
        self._together: dict[int, list[int]] = {}  # group -> the parameters that stepped last

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, without the profiler's note of it, which takes a small network several times longer."""
        if not set_to_none:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step for all parameters that have a gradient; returns what the closure, which computes them, does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.update(group)
        return loss

    def update(self, group: dict[str, Any]) -> None:
        """One step for the parameters of a group."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        begun: dict[torch.device, Tensor] = {}
        kinds: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            kinds[parameter.device, parameter.dtype].append(parameter)
            state = self.state[parameter]
            if not state:
                zero = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["step"] = begun.setdefault(parameter.device, zero)
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        states = {kind: [self.state[parameter] for parameter in some] for kind, some in kinds.items()}
        counts = {id(state["step"]): state["step"] for kind in states.values() for state in kind}
        together = [id(parameter) for parameter in parameters]
        if together != self._together.get(id(group)):
            for parameter, state in self.state.items():
                if id(parameter) not in together and id(state.get("step")) in counts:
                    state["step"] = state["step"].clone()
            self._together[id(group)] = together

        for count in counts.values():
            count.add_(1)
        beta1, beta2 = group["betas"]
        for kind, some in kinds.items():
            torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage, reportCallIssue]
                some,  # pyright: ignore[reportArgumentType]
                [parameter.grad for parameter in some],  # pyright: ignore[reportArgumentType]
                [state["exp_avg"] for state in states[kind]],
                [state["exp_avg_sq"] for state in states[kind]],
                [],
                [state["step"] for state in states[kind]],
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with a count for each parameter, so that any Adam can go on with it."""
        found = super().state_dict()
        found["state"] = {key: {**own, "step": own["step"].clone()} for key, own in found["state"].items()}
        return found

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a state was loaded or copied: one new tensor for all counts of a group that are equal."""
        for variant in ("amsgrad", "maximize", "decoupled_weight_decay"):
            if any(group.get(variant) for group in state["param_groups"]):
                raise ValueError(f"the state is of an Adam with {variant}, which dlkit's has not: load it into torch's")
        super().__setstate__(state)
        self._together = {}
        for group in self.param_groups:
            group["fused"] = True
            counts: dict[tuple[torch.device, float], Tensor] = {}
            for parameter in group["params"]:
                if own := self.state.get(parameter):
                    count = own["step"].to(parameter.device, torch.float32, copy=True)
                    own["step"] = counts.setdefault((count.device, float(count)), count)
