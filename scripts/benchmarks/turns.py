"""Rivals that take turns, each in a process of its own, on a machine that is as fast as it was.

What a process has freed, compiled or set for the whole of itself, as some libraries do when they are imported, is then its
own: each is as fast as when it runs alone. The process that measures computes nothing with threads, which a fork would lose.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import pickle
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch

T = TypeVar("T")

SIZES = 256, 128, 128  # of the products by which the machine's speed is told
PRODUCTS = 200
STEADY = 1.1  # times its shortest time, up to which a product counts as undisturbed
BEGINNING = 40  # looks at the machine before anything is measured
PAUSE = 0.25  # seconds between two looks
ROUNDS_AGAIN = 2  # how often a disturbed round is taken anew
FORK = multiprocessing.get_context("fork")


class Settings:
    """Of a run of the benchmark.

    Attributes:
        threads: of every rival.
        patience: seconds that the whole of it may still wait for an undisturbed machine.
    """

    threads = 1
    patience = 0.0


def start(threads: int | None, patience: float) -> int:
    """Says how to measure, and leaves this process one thread: how many every rival has.

    Args:
        threads: of every rival, or None for as many as this process has.
        patience: seconds that may be waited for an undisturbed machine.
    """
    Settings.threads = threads or torch.get_num_threads()
    Settings.patience = patience
    torch.set_num_threads(1)
    return Settings.threads


class Worker:
    """A process that makes a function, and calls it each time that it is asked.

    Args:
        make: called in the process, where it may take what it needs from this one.

    Raises:
        RuntimeError: what went wrong there.
    """

    def __init__(self, make: Callable[[], Callable[[], Any]]) -> None:
        self.connection, other = FORK.Pipe()
        self.process = FORK.Process(target=serve, args=(other, self.connection, make), daemon=True)
        self.process.start()
        other.close()
        self.answer()

    def __call__(self) -> Any:
        self.connection.send_bytes(b"again")
        return self.answer()

    def answer(self) -> Any:
        """What the process says."""
        try:
            error, value = pickle.loads(self.connection.recv_bytes())
        except EOFError:
            self.process.join()
            raise RuntimeError(f"a rival's process ended with exit code {self.process.exitcode}") from None
        if error:
            raise RuntimeError(error)
        return value

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):  # it may have ended
            self.connection.send_bytes(b"")
        self.process.join()
        self.connection.close()


def serve(connection: Any, asking: Any, make: Callable[[], Callable[[], Any]]) -> NoReturn:
    """The process of a rival: answers until nobody asks any more. Its progress bars and log lines, which are still written,
    stay out of the table."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, as long as the process
    logging.disable(logging.WARNING)
    torch.set_num_threads(Settings.threads)
    asking.close()  # the other end, or this process would never see that nobody holds it any more
    try:
        turn = make()
        connection.send_bytes(pickle.dumps((None, None)))
        while connection.recv_bytes():
            connection.send_bytes(pickle.dumps((None, turn())))
    except EOFError:
        pass
    except BaseException:
        connection.send_bytes(pickle.dumps((traceback.format_exc(), None)))
    finally:
        os._exit(0)


def alone(function: Callable[[], T]) -> T:
    """Calls a function in a process of its own, for what it returns."""
    worker = Worker(lambda: function)
    try:
        return worker()
    finally:
        worker.close()


def take_turns(repeats: int, rivals: dict[str, Callable[[], Callable[[], T]]]) -> dict[str, list[T]]:
    """Calls every rival once to warm up and then `repeats` times, each after the other: what they return.

    A round counts where the machine was undisturbed before and after it; else it is taken again, a few times.

    Args:
        rivals: each is called in its own process and returns what is called in turn.
    """
    found: dict[str, list[T]] = {name: [] for name in rivals}
    workers: dict[str, Worker] = {}
    try:
        for name, make in rivals.items():
            workers[name] = Worker(make)
        for worker in workers.values():
            worker()
        for repeat in range(repeats):
            names = list(rivals) if repeat % 2 else list(reversed(rivals))
            for _ in range(1 + ROUNDS_AGAIN):
                wait_until_steady()
                answers = {name: workers[name]() for name in names}
                if Settings.patience <= 0 or steady():
                    break
            for name, answer in answers.items():
                found[name].append(answer)
    finally:
        for worker in workers.values():
            worker.close()
    return found


# The machine's speed -------------------------------------------------------------------------------------------------
#
# Where the cores of a virtual machine are lent to others, or do not lie side by side, threads that exchange data take half as
# long again, which is more than most of what is measured here.


def wait_until_steady() -> None:
    """Waits, as long as there is patience left."""
    while Settings.patience > 0 and not steady():
        time.sleep(PAUSE)
        Settings.patience -= PAUSE


def steady() -> bool:
    """Whether all threads together multiply small matrices about as fast as at their best in this run of the benchmark."""
    worker, times = gauge()
    times.append(worker())
    return times[-1] <= STEADY * min(times)


@functools.cache
def gauge() -> tuple[Worker, list[float]]:
    """What measures a small product, and all times that it took."""
    worker, times = Worker(lambda: product), []
    for _ in range(BEGINNING):
        times.append(worker())
        time.sleep(PAUSE)
    return worker, times


def product() -> float:
    """Seconds, the median of many."""
    rows, inner, columns = SIZES
    one, other, out = torch.ones(rows, inner), torch.ones(inner, columns), torch.empty(rows, columns)
    times = []
    for _ in range(PRODUCTS):
        begin = time.perf_counter()
        torch.mm(one, other, out=out)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
