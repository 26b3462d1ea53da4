"""ExponentialMovingAverage: a smoothed copy of the parameters, which evaluates better than the last step's."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor


class ExponentialMovingAverage(L.Callback):
    """theta_avg <- d theta_avg + (1 - d) theta after each optimizer step, with d = min(decay, (1 + t) / (10 + t)).

    The average is what validation, the pictures and the test see, what checkpoints offer to whoever loads them, and what the
    method holds when training is over; training itself goes on with the raw parameters, which a checkpoint also keeps.
    Polyak and Juditsky 1992; the rising decay, which forgets the start sooner, is TensorFlow's. Buffers are not averaged.

    Args:
        decay: d, in [0, 1).

    Raises:
        ValueError: a decay outside its range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} of the moving average is outside [0, 1)")
        self.decay = decay
        self.average: list[Tensor] = []
        self.updates = 0
        self.step = 0
        self.swapped = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.swapped:  # by the end of an earlier fit
            self.swap(pl_module)
        if self.average:  # loaded before the method moved to its device and took its precision
            pairs = zip(self.average, pl_module.parameters(), strict=True)
            self.average = [average.to(parameter) for average, parameter in pairs]
        else:
            self.average = [parameter.detach().clone() for parameter in pl_module.parameters()]
            self.step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:  # gradients are being accumulated
            return
        self.step = trainer.global_step
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        raw = [parameter.detach() for parameter in pl_module.parameters()]
        torch._foreach_lerp_(self.average, raw, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.updates += 1

    @torch.no_grad()
    def swap(self, pl_module: L.LightningModule) -> None:
        """Exchanges the average and the parameters."""
        for average, parameter in zip(self.average, pl_module.parameters(), strict=True):
            held = average.clone()
            average.copy_(parameter)
            parameter.copy_(held)
        self.swapped = not self.swapped

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.average and not trainer.sanity_checking and trainer.state.fn == "fit":  # after which the method holds it
            self.swap(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.swapped and trainer.state.fn == "fit":
            self.swap(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.average:
            self.swap(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self.swapped and trainer.state.fn == "fit":
            self.swap(pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.average:
            return
        raw, average = [parameter.detach() for parameter in pl_module.parameters()], self.average
        if self.swapped:
            raw, average = average, raw
        # A parameter that is tied to others is in the method's state under each of its names.
        place = {parameter: number for number, parameter in enumerate(pl_module.parameters())}
        named = {name: place[parameter] for name, parameter in pl_module.named_parameters(remove_duplicate=False)}
        averages = {name: average[number] for name, number in named.items()}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **averages}
        held = {name: raw[number] for name, number in named.items()}
        checkpoint["ema"] = {"raw": held, "updates": self.updates, "step": self.step}

    @torch.no_grad()
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Called after the method has loaded its state, which is the average."""
        if trainer.state.fn != "fit" or "ema" not in checkpoint:
            return
        self.average = []
        for name, parameter in pl_module.named_parameters():
            self.average.append(checkpoint["state_dict"][name].to(parameter, copy=True))
            parameter.copy_(checkpoint["ema"]["raw"][name])
        self.updates, self.step = checkpoint["ema"]["updates"], checkpoint["ema"]["step"]
