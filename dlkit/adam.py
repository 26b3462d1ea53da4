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

    torch keeps a t for each parameter, a tensor of one number, and adding 1 to each of them takes longer on a CPU than all the
    rest of a small network's step. Here parameters that began in the same step hold one tensor between them; one that is left
    out of a step, because it has no gradient, gets its own. State dicts are torch's: each reads the other's.

    Gradients may be clipped in every precision: a fused optimizer offers to take float16's loss scale out of the gradients
    itself, and Lightning then refuses to clip them in any mixed precision, bfloat16's too, which has no scale. This one does
    not offer it, so gradients are unscaled before they are clipped.

    Args:
        parameters: what to train.
        learning_rate: step size.
        betas: decay rates of both moments.
        weight_decay: adds so many times the parameters to their gradients.
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
        begun: dict[torch.device, Tensor] = {}
        kinds: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = defaultdict(list)
        resting = []
        for parameter in group["params"]:
            if parameter.grad is None:
                resting.append(parameter)
                continue
            kinds[parameter.device, parameter.dtype].append(parameter)
            state = self.state[parameter]
            if not state:
                state["step"] = begun.setdefault(parameter.device, torch.zeros((), device=parameter.device))
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        for parameter in resting:
            if own := self.state.get(parameter):
                own["step"] = own["step"].clone()
        if not kinds:
            return

        states = {kind: [self.state[parameter] for parameter in parameters] for kind, parameters in kinds.items()}
        counts = {id(state["step"]): state["step"] for kind in states.values() for state in kind}
        torch._foreach_add_(list(counts.values()), 1)  # pyright: ignore[reportPrivateImportUsage]
        beta1, beta2 = group["betas"]
        for kind, parameters in kinds.items():
            torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage, reportCallIssue]
                parameters,  # pyright: ignore[reportArgumentType]
                [parameter.grad for parameter in parameters],  # pyright: ignore[reportArgumentType]
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
        """After a state was loaded: one tensor for all counts that are equal."""
        super().__setstate__(state)
        for group in self.param_groups:
            counts: dict[tuple[torch.device, float], Tensor] = {}
            for parameter in group["params"]:
                if own := self.state.get(parameter):
                    own["step"] = counts.setdefault((own["step"].device, float(own["step"])), own["step"])
