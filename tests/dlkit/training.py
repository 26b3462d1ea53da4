"""A Trainer that writes nothing, two processes, and callbacks that tests of training share."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

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


@contextlib.contextmanager
def two_processes() -> Iterator[None]:
    """What is within is run by this process and by a copy of it, as the two that `torch.distributed.run` would have started.

    Raises:
        RuntimeError: the copy failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0")
    second = os.fork()
    os.environ["LOCAL_RANK"] = "0" if second else "1"
    yield
    if second and os.waitpid(second, 0)[1]:
        raise RuntimeError("the second process failed, as it says above")


class Losses(L.Callback):
    """The loss of each training step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())
