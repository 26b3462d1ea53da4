"""RandomState: what Lightning leaves out of a checkpoint, and without which dropout and sampling cannot be resumed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch

from dlkit.processes import of_all

EVALUATION_SEED = 20_210_126


def capture() -> dict[str, Any]:
    """The state of every generator in use, as tensors and plain data."""
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
    }
    if torch.cuda.is_initialized():  # not where there is a GPU that the run leaves alone
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Puts every generator where `capture` found it."""
    torch.set_rng_state(state["torch"].cpu())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextlib.contextmanager
def isolated(seed: int = EVALUATION_SEED) -> Iterator[None]:
    """Runs its body with seeded random numbers, and leaves the random state as it found it."""
    state = capture()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore(state)


class RandomState(L.Callback):
    """Saves and restores the random state of every process; gives each process, and validation, random numbers of its own.

    Lightning seeds all processes alike, so that each would draw the same noise. Validation draws the same numbers each time,
    torch's, and disturbs nothing: its loss is comparable between epochs, and how often it runs does not change what is trained.
    """

    def __init__(self) -> None:
        self.before_validation: dict[str, Any] | None = None
        self.restored: list[dict[str, Any]] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.restored is not None:
            # A run resumed on another number of processes cannot be exact; it starts from a state that was saved.
            restore(self.restored[trainer.global_rank % len(self.restored)])
            self.restored = None
        elif trainer.global_rank:
            torch.manual_seed((torch.initial_seed() + trainer.global_rank) % 2**63)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.before_validation = capture()
        torch.manual_seed(EVALUATION_SEED + trainer.global_rank)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.before_validation is not None:
            restore(self.before_validation)
            self.before_validation = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_validation_start(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"processes": of_all(self.before_validation or capture())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict["processes"]
