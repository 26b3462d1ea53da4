"""What the sections share: a stopwatch, a run as the command line makes it, and the table."""

from __future__ import annotations

import contextlib
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from datamodules.base import ImageData
from dlkit.batches import Examples
from dlkit.callbacks import Checkpoints, Progress, RandomState, Summary
from dlkit.callbacks.progress import REFRESH_SECONDS
from dlkit.method import Method
from dlkit.processes import keep_freed_memory
from dlkit.runner import Unprofiled

WARM_UP = 20  # steps before the clock starts


# Times ---------------------------------------------------------------------------------------------------------------


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def milliseconds(step: Callable[[], Any], steps: int) -> float:
    """Of one of so many steps, after a few that are not timed: another process had the caches."""
    for _ in range(min(steps, 3)):
        step()
    return 1e3 * seconds(lambda: [step() for _ in range(steps)]) / steps


def ratio(theirs: list[float], ours: list[float]) -> float:
    """The median of the ratios of neighbouring turns, which a change of the machine's load moves least."""
    return statistics.median(other / own for other, own in zip(theirs, ours, strict=True))


def excess(ours: list[float], theirs: list[float]) -> float:
    """The median of the differences of neighbouring turns."""
    return statistics.median(own - other for own, other in zip(ours, theirs, strict=True))


def cpu() -> dict[str, str]:
    """What Linux says of the first CPU; elsewhere "model name" and "flags" alone, the latter empty."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().partition("\n\n")[0].splitlines() if file.is_file() else []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {"model name": platform.machine(), "flags": "", **said}


class Stopwatch(L.Callback):
    """Times the steps after the first few, what is named within them, and a Trainer's training between its two ends.

    Args:
        warm_up: steps before the clock starts.
        total: steps after which it is `over`, for loops that ask.
    """

    def __init__(self, warm_up: int = WARM_UP, total: int = 0) -> None:
        self.started = self.warm = self.stepped = self.ended = 0.0
        self.steps = 0
        self.warm_up = warm_up
        self.total = total
        self.parts: dict[str, float] = defaultdict(float)

    def lap(self) -> None:
        """A step is over."""
        self.steps += 1
        self.stepped = time.perf_counter()
        if self.steps == self.warm_up:
            self.warm = self.stepped
            self.parts.clear()

    @property
    def over(self) -> bool:
        """Whether the steps are done."""
        return self.steps == self.total

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times its body as a part of the step."""
        start = time.perf_counter()
        yield
        self.parts[name] += time.perf_counter() - start

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.lap()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ended = time.perf_counter()

    def milliseconds_a_step(self) -> float:
        return 1e3 * (self.stepped - self.warm) / (self.steps - self.warm_up)

    def milliseconds_of(self, name: str) -> float:
        """The same, of one part."""
        return 1e3 * self.parts[name] / (self.steps - self.warm_up)


# A run as the command line makes it ----------------------------------------------------------------------------------


class Held(ImageData):
    """A datamodule of examples at hand, without validation."""

    def __init__(self, examples: Examples, batch_size: int) -> None:
        super().__init__(batch_size)
        self.examples = examples

    def load(self) -> dict[str, Examples]:
        return {"train": self.examples, "test": self.examples}


def fit(
    build: Callable[[], Method],
    data: L.LightningDataModule,
    epochs: int = 1,
    max_steps: int = -1,
    watch: Stopwatch | None = None,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    clip: float | None = None,
) -> Stopwatch:
    """Trains with what the command line gives a run, the progress bar drawn as often as in a terminal."""
    keep_freed_memory()
    watch, progress = watch or Stopwatch(), Progress()
    progress.interval = REFRESH_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=-1 if max_steps > 0 else epochs,
            max_steps=max_steps,
            logger=TensorBoardLogger(folder, name="benchmark", default_hp_metric=False),
            profiler=Unprofiled(),
            callbacks=[Checkpoints(), RandomState(), Summary("benchmark", 0), progress, watch],
            accelerator="cpu",
            precision=precision,
            gradient_clip_val=clip,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(build(), datamodule=data)
    return watch


# The table -----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: what is measured.
        ours: dlkit's time, in `unit`.
        theirs: the rival's.
        unit: of both.
        value: what the target is about: a ratio, or a difference in `unit`.
        target: what is aimed at, in words.
        note: anything else worth knowing.
    """

    name: str
    ours: float | None
    theirs: float | None
    unit: str
    value: str
    target: str
    note: str = ""


def row(name: str, times: dict[str, list[float]], unit: str, value: str, target: str, note: str = "") -> Row:
    """A row of the medians."""
    return Row(name, statistics.median(times["ours"]), statistics.median(times["theirs"]), unit, value, target, note)


def absent(name: str, target: str, rival: str, install: str) -> Row:
    """The row of a rival that is not installed."""
    return Row(name, None, None, "", "-", target, f"{rival} is not installed: {install}")


def show_header() -> None:
    """Prints the table's first line."""
    print(f"{'':52}{'first':>12}{'second':>12}{'measured':>12}  {'target':18}")


def times_of(line: Row) -> list[str]:
    """Both times with their unit, or dashes."""
    return ["-" if value is None else f"{value:.3f} {line.unit}" for value in (line.ours, line.theirs)]


def in_markdown(rows: list[Row], conditions: str) -> str:
    """The rows as a page of Markdown.

    Args:
        conditions: how they were measured, but for the CPU.
    """
    processor = f"{cpu()['model name']} with {torch.backends.cpu.get_cpu_capability()}"
    head = [
        "# Speed",
        "",
        f"What `scripts/benchmark.py --table` measured on {processor}: {conditions}.",
        "Two that are named behind a colon took turns, each in a process of its own; their times follow in that order.",
        "The command line's process keeps the memory that it frees (`dlkit.processes.keep_freed_memory`); so do ours here",
        "and the loops that show what the Trainer costs. Peers, and loops as they write them, run as their users start them;",
        "so do both whose memory is measured.",
        "",
        "| | first | second | measured | aimed at | |",
        "|---|---|---|---|---|---|",
    ]
    lines = [f"| {' | '.join((line.name, *times_of(line), line.value, line.target, line.note))} |" for line in rows]
    return "\n".join([*head, *lines]) + "\n"


def show(line: Row) -> None:
    """Prints a row."""
    times = times_of(line)
    print("{:52}{:>12}{:>12}{:>12}  {:18}{}".format(line.name, *times, line.value, line.target, line.note), flush=True)
