"""Rivals that take turns, each in a process of its own, on a machine that is as fast as it was.

What a process has freed, compiled or set for the whole of itself, as some libraries do when they are imported, is then its
own: each is as fast as when it runs alone. The process that measures computes nothing with threads, which a fork would lose.
A rival's process ends with the one that started it and can start none itself.

What a process loads and frees before it forks counts too: a C library that was once given back a large block keeps more from
then on. So every section of the benchmark has a process of its own as well, and begins as its first command would.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch

T = TypeVar("T")

SIZES = 256, 128, 128  # of the products by which the machine's speed is told
PRODUCTS = 200
STEADY = 1.1  # times its third shortest time, up to which a product counts as undisturbed
BEGINNING = 40  # looks at the machine before anything is measured
PAUSE = 0.25  # seconds between two looks
ROUNDS_AGAIN = 2  # how often a disturbed round is taken anew


class Settings:
    """Of a run of the benchmark.

    Attributes:
        threads: of every rival.
        watched: whether the machine is looked at.
        patience: seconds that the whole of it may still wait for an undisturbed machine.
        rounds: that were counted.
        disturbed: how many of them while the machine was disturbed.
    """

    threads = 1
    watched = False
    patience = 0.0
    rounds = 0
    disturbed = 0


def start(threads: int | None, patience: float) -> int:
    """Says how to measure, and leaves this process one thread: how many every rival has.

    Args:
        threads: of every rival, or None for as many as this process has.
        patience: seconds that may be waited for an undisturbed machine; with 0 nobody looks at it.

    Raises:
        OSError: a system that cannot fork.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        raise OSError("the benchmark forks a process for each rival, which this system cannot: measure on Linux")
    Settings.threads = torch.get_num_threads() if threads is None else threads
    Settings.watched, Settings.patience = patience > 0, patience
    torch.set_num_threads(1)
    if Settings.watched:
        gauge()  # the same for all sections
    return Settings.threads


class Worker:
    """A process that makes a function, and returns what it returns each time that it is asked.

    Args:
        name: of the rival, for what goes wrong.
        make: called in the process, where it may take what it needs from this one.
        rivals: whether the process may start others.

    Raises:
        RuntimeError: `make` or the function failed, or the process was ended.
    """

    def __init__(self, name: str, make: Callable[[], Callable[[], Any]], rivals: bool = False) -> None:
        self.name = name
        context: Any = multiprocessing.get_context("fork")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, self.connection, make), daemon=not rivals)
        self.process.start()
        other.close()
        try:
            self.answer()
        except BaseException:
            self.close()
            raise

    def __call__(self) -> Any:
        with contextlib.suppress(OSError):  # the answer says that nobody listens
            self.connection.send_bytes(b"again")
        return self.answer()

    def answer(self) -> Any:
        """What the process says."""
        try:
            said = self.connection.recv_bytes()
        except (EOFError, OSError):
            self.process.join()
            raise RuntimeError(f"the process of {self.name} was ended: exit code {self.process.exitcode}") from None
        error, value = pickle.loads(said)
        if error:
            raise RuntimeError(f"{self.name} failed:\n{error}")
        return value

    def close(self) -> None:
        """Ends the process."""
        self.connection.close()  # whatever it still wants to say
        self.process.terminate()
        self.process.join()


def serve(connection: Any, asking: Any, make: Callable[[], Callable[[], Any]]) -> NoReturn:
    """The process of a rival: answers until nobody asks any more. Whatever it prints stays out of the table."""
    asking.close()  # the other end, or this process would never see that nobody holds it any more
    try:
        sys.stdout = sys.stderr = nowhere = open(os.devnull, "w")  # noqa: SIM115, as long as the process
        for output in (1, 2):  # libraries' own
            os.dup2(nowhere.fileno(), output)
        logging.disable(logging.WARNING)
        torch.set_num_threads(Settings.threads)
        turn = make()
        connection.send_bytes(pickle.dumps((None, None)))
        while asked(connection):
            connection.send_bytes(pickle.dumps((None, turn())))
    except BaseException:
        with contextlib.suppress(OSError):  # nobody may be there to hear it
            connection.send_bytes(pickle.dumps((traceback.format_exc(), None)))
    finally:
        os._exit(0)


def asked(connection: Any) -> bool:
    """Waits to be asked; False where whoever asks has gone."""
    try:
        connection.recv_bytes()
    except EOFError:
        return False
    return True


def alone(function: Callable[[], T]) -> T:
    """Calls a function in a process of its own, for what it returns.

    Raises:
        RuntimeError: it failed.
    """
    worker = Worker("what is found out in a process of its own", lambda: function)
    try:
        return worker()
    finally:
        worker.close()


def apart(name: str, rows: Callable[[], Iterator[T]]) -> Iterator[T]:
    """What an iterator gives, each as it comes, made in a process of its own that may start others.

    Args:
        name: for what goes wrong.
        rows: makes the iterator, in that process.

    Raises:
        RuntimeError: it failed.
    """

    def make() -> Callable[[], tuple[T | None, float, int, int]]:
        torch.set_num_threads(1)  # as in this process: what it starts has threads
        given = rows()
        return lambda: (next(given, None), Settings.patience, Settings.rounds, Settings.disturbed)

    worker = Worker(name, make, rivals=True)
    try:
        while True:
            found, Settings.patience, Settings.rounds, Settings.disturbed = worker()
            if found is None:
                return
            yield found
    finally:
        worker.close()


def take_turns(repeats: int, rivals: dict[str, Callable[[], Callable[[], T]]]) -> dict[str, list[T]]:
    """Calls every rival once to warm up and then `repeats` times, each after the other: what they return.

    A round counts where the machine was undisturbed before and after it; else it is taken again, a few times, and the last
    of them counts as a disturbed one.

    Args:
        rivals: each is called in its own process and returns what is called in turn.

    Raises:
        RuntimeError: one of them failed.
    """
    found: dict[str, list[T]] = {name: [] for name in rivals}
    workers: dict[str, Worker] = {}
    try:
        for name, make in rivals.items():
            workers[name] = Worker(name, make)
        for worker in workers.values():
            worker()
        for repeat in range(repeats):
            names = list(rivals) if repeat % 2 else list(reversed(rivals))
            undisturbed, answers = False, {}
            for _ in range(1 + ROUNDS_AGAIN):
                before = wait_until_steady()
                answers = {name: workers[name]() for name in names}
                undisturbed = before and steady()
                if undisturbed or Settings.patience <= 0:
                    break
            Settings.rounds += 1
            Settings.disturbed += not undisturbed
            for name, answer in answers.items():
                found[name].append(answer)
    finally:
        for worker in workers.values():
            worker.close()
    return found


# The machine's speed -------------------------------------------------------------------------------------------------
#
# Where the cores of a virtual machine are lent to others, or do not share a cache, threads that exchange data take half as
# long again, which is more than most of what is measured here.


def wait_until_steady() -> bool:
    """Waits, as long as there is patience left, for an undisturbed machine; whether it is one."""
    while not (found := steady()) and Settings.patience > 0:
        begin = time.monotonic()
        time.sleep(PAUSE)
        Settings.patience -= time.monotonic() - begin
    return found


def steady() -> bool:
    """Whether all threads together multiply small matrices about as fast as when this run of the benchmark is undisturbed."""
    if not Settings.watched:
        return True
    begin = time.monotonic()
    worker, times = gauge()
    times.append(worker())
    Settings.patience -= time.monotonic() - begin
    return times[-1] <= STEADY * sorted(times)[2]  # not the shortest: a single look may be wrong


@functools.cache
def gauge() -> tuple[Worker, list[float]]:
    """What measures a small product, and all times that it took."""
    worker, times = Worker("the gauge of the machine", lambda: product), []
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
    return float(np.median(times))
