"""Compile: torch.compile for the parts of a method that gain from it."""

from __future__ import annotations

import lightning as L

from dlkit.method import Method


class Compile(L.Callback):
    """Compiles, before training, the networks and functions that a method names."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, Method):  # which lies by now on the device that it is compiled for
            pl_module.compile_parts()
