"""Compile: torch.compile for the parts of a method that gain from it."""

from __future__ import annotations

import lightning as L

from dlkit.method import Method


class Compile(L.Callback):
    """Compiles, before training, the networks and functions that a method names."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(pl_module, Method):
            pl_module.compile_parts()
