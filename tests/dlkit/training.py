"""A Trainer that writes nothing, and callbacks that tests of training share."""

from __future__ import annotations

import lightning as L


def trainer(**arguments):
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **arguments,
    }
    return L.Trainer(**settings)


class Losses(L.Callback):
    """The loss of each training step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())
