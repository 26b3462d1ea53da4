"""The processes of a run: which this one is, and what each of them knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed


def accelerator() -> str:
    """What a run takes unless it is told: Lightning's choice, but never Apple's GPU, which has no float64 to add up in."""
    only_apple = torch.backends.mps.is_available() and not torch.cuda.is_available()
    return "cpu" if only_apple else "auto"


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def of_all(own: Any) -> list[Any]:
    """What each process gives, by rank; every process has to ask."""
    states = [own]
    if world()[1] > 1:
        states *= world()[1]
        distributed.all_gather_object(states, own)
    return states
