"""Compile: torch.compile for the networks that gain from it."""

from __future__ import annotations

import lightning as L

from dlkit.method import Method


class Compile(L.Callback):
    """Compiles in place, before training, the networks that the method names in `compiled_networks`.

    In place, because `torch.compile(network)` would wrap it and change the names in every checkpoint.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(pl_module, Method):
            for name in pl_module.compiled_networks:
                getattr(pl_module, name).compile()
