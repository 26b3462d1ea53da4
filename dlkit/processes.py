"""The processes of a run: which this one is, what each of them knows, the memory that it keeps, and how it writes a file."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

LARGE_BLOCK = 32 << 20  # bytes, the most that glibc takes
LIMITS = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_"}  # glibc's variables


def accelerator() -> str:
    """What a run takes unless it is told: Lightning's choice, but never Apple's GPU, which has no float64 to add up in."""
    only_apple = torch.backends.mps.is_available() and not torch.cuda.is_available()
    return "cpu" if only_apple else "auto"


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed for what is allocated next, where it would give much of it back to the system.

    Every step allocates what the last one freed, and each page that the system hands out anew is cleared and costs a fault
    (`scripts/benchmark.py adversarial` measures what that makes). Blocks above 32 MiB still go back. That is how far glibc
    raises this limit by itself, once such a block was freed; from then on it may hold more than was ever in use at once, where
    blocks that grow leave holes between smaller ones in use. The command line calls it; a program of your own may. It acts on
    the whole process and what it forks, and on glibc alone, and leaves limits that the environment has set
    (`MALLOC_TRIM_THRESHOLD_` and the like, or `GLIBC_TUNABLES`) as they are.
    """
    if LIMITS & os.environ.keys() or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(trim_threshold, -1)  # free memory at the end of the heap stays
    mallopt(mmap_threshold, LARGE_BLOCK)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is to be there whole or not at all: beside its place, to which it is moved at the end.

    The move is a rename within one folder, which a kill or a full disk cannot leave half done: at any moment the path holds
    the old file or the new one.

    Raises:
        OSError: it cannot be written or moved; it names the file.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # as where the disk is full
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with whole(path) as temporary:
        temporary.write_text(text)


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class SumOfAll(torch.autograd.Function):
    """Its derivative is the sum of the derivatives: what each process gives is in the sum of every one of them."""

    @staticmethod
    def forward(own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *derivatives: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return SumOfAll.apply(derivatives[0])


def sum_of_all(own: Tensor) -> Tensor:
    """The sum over processes, each of which has to ask, and again for the derivative; differentiable as often as you like.

    What one process adds is differentiated by the losses of all. DistributedDataParallel takes the mean of the gradients of
    the processes, which is then the gradient of the mean of their losses.
    """
    return SumOfAll.apply(own)  # pyright: ignore[reportReturnType]


def of_all(own: Any) -> list[Any]:
    """What each process gives, by rank; every process has to ask."""
    states = [own]
    if world()[1] > 1:
        states *= world()[1]
        distributed.all_gather_object(states, own)
    return states
