"""The section `flows`: normalizing flows against zuko, nflows and normflows, and against a loop written by hand.

A step is the loss, its gradient and the optimizer's step, with the optimizer that each library's user would take: ours the
method's fused Adam, the rivals' the default one. Samples are drawn without gradients. The flows have the same sizes, and the
note says how many parameters; networks of two hidden layers of 128 everywhere:

    affine   8 couplings of 64 features, batches of 256
    spline   4 rational-quadratic spline couplings of 16 features, 8 bins, batches of 512
    maf      5 masked autoregressive layers of 16 features, batches of 512

"compiled" is ours after `flow.compile_parts()`, as `--compile` does, against the fastest rival; the first turn, which is not
timed, compiles. Then what the Trainer costs, and how a step grows with the layers and the features of affine couplings: the
slope of log time over log size by least squares, between the smallest size and the largest.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

import dlkit
from datamodules.base import MemoryData
from dlkit.batches import Examples
from dlkit.flows.flow import TransformName
from dlkit.processes import keep_freed_memory

from .flows_rivals import BOUND, HIDDEN, INSTALL, LEARNING_RATE, RIVALS, Contender, Sizes, by_hand, contender, installed
from .timing import Row, Stopwatch, absent, fit, milliseconds, ratio, row
from .turns import alone, take_turns

STEPS = 30  # of a turn
DRAWS = 5  # turns of samples, which take less time, have so many times as many
LOOP_STEPS = 200  # of a turn against the loop by hand
WARM_UP = 10
BATCHES = 16  # trained on in turn
AFFINE, SPLINE, MAF = Sizes(64, 8, 256), Sizes(16, 4, 512), Sizes(16, 5, 512)
DEPTHS, WIDTHS = (4, 8, 16, 32), (64, 128, 256, 512)

Times = dict[str, list[float]]


def rows(repeats: int, steps: int | None) -> Iterator[Row]:
    """All rows of the section."""
    bench = Bench(repeats, steps or STEPS, why_not_compiled())
    yield from bench("affine", AFFINE, ("at least 1.3x", "at least 1.3x"), "at least 1.8x")
    yield from bench("spline", SPLINE, ("at least 2x", "at least 2x"), "at least 4x")
    yield from bench("maf", MAF, ("at least 1x", "at least 3x"), None)
    yield against_a_loop(repeats, steps or LOOP_STEPS)
    yield growth("layers", {layers: AFFINE._replace(layers=layers) for layers in DEPTHS}, repeats, steps or STEPS)
    yield growth("features", {features: AFFINE._replace(features=features) for features in WIDTHS}, repeats, steps or STEPS)


def build(transform: TransformName, sizes: Sizes) -> dlkit.Flow:
    return dlkit.Flow(
        (sizes.features,),
        transform,
        num_layers=sizes.layers,
        hidden_dims=(HIDDEN, HIDDEN),
        num_bins=sizes.bins,
        bound=BOUND,
        learning_rate=LEARNING_RATE,
    )


def ours(transform: TransformName, sizes: Sizes, compiled: bool = False) -> Contender:
    """dlkit's flow, in a process like the command line's."""
    keep_freed_memory()
    flow = build(transform, sizes)
    if compiled:
        flow.compile_parts()
    return contender(flow, lambda x: flow.loss(Examples(x))[0], flow.sample, flow.configure_optimizers())


def why_not_compiled() -> str:
    """Why `torch.compile` does not work here; nothing where it does."""
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
        return "TORCH_COMPILE_DISABLE is 1"

    def tried() -> str:
        try:
            torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
        except Exception as error:  # of many kinds: no compiler, no headers, a folder that nothing may be written to
            return f"torch.compile fails: {str(error).strip().splitlines()[0]}"
        return ""

    return alone(tried)


# Steps and samples ---------------------------------------------------------------------------------------------------


def stepping(flow: Contender, sizes: Sizes, steps: int) -> Callable[[], float]:
    """A turn of training: milliseconds a step."""
    batches = cycle(torch.randn(BATCHES, sizes.batch, sizes.features))

    def step() -> None:
        loss = flow.loss(next(batches))
        flow.optimizer.zero_grad()
        loss.backward()
        flow.optimizer.step()

    return lambda: milliseconds(step, steps)


def sampling(flow: Contender, sizes: Sizes, steps: int) -> Callable[[], float]:
    """A turn of sampling: milliseconds for as many samples as a batch holds."""

    @torch.no_grad()
    def sample() -> Tensor:
        return flow.sample(sizes.batch)

    return lambda: milliseconds(sample, DRAWS * steps)


class Bench:
    """Measures one kind of flow against its rivals.

    Args:
        repeats: turns of each.
        steps: of a turn.
        not_compiled: why nothing is compiled, or nothing.
    """

    def __init__(self, repeats: int, steps: int, not_compiled: str) -> None:
        self.repeats = repeats
        self.steps = steps
        self.not_compiled = not_compiled

    def __call__(
        self, transform: TransformName, sizes: Sizes, targets: tuple[str, str], compiled_target: str | None
    ) -> Iterator[Row]:
        """The rows of one kind.

        Args:
            targets: of a step, and of samples, against each rival.
            compiled_target: of both when compiled, against the fastest rival; None where nothing is compiled.
        """
        rivals = {name: rival for name, rival in RIVALS[transform].items() if installed(name)}
        flows: dict[str, Callable[[], Contender]] = {"dlkit": lambda: ours(transform, sizes)}
        flows |= {name: lambda rival=rival: rival(sizes) for name, rival in rivals.items()}
        sizes_of = {name: alone(lambda flow=flow: flow().parameters) for name, flow in flows.items()}
        if compiled_target and rivals and not self.not_compiled:
            flows["compiled"] = lambda: ours(transform, sizes, compiled=True)
        what = f"{transform} {sizes.layers} x {sizes.features}-D"
        parts = (f"step of {sizes.batch}", stepping), (f"{sizes.batch} samples", sampling)
        for (part, turn), target in zip(parts, targets, strict=True):
            turns = {name: lambda flow=flow, turn=turn: turn(flow(), sizes, self.steps) for name, flow in flows.items()}
            times = take_turns(self.repeats, turns)
            for name in RIVALS[transform]:
                line = f"{what}, {part}: dlkit, {name}"
                if name in rivals:
                    yield against(line, times, "dlkit", name, target, parameters(sizes_of["dlkit"], sizes_of[name]))
                else:
                    yield absent(line, target, name.split()[0], INSTALL)
            if compiled_target:
                yield self.compiled(f"{what}, {part}: compiled", times, list(rivals), compiled_target)

    def compiled(self, line: str, times: Times, rivals: list[str], target: str) -> Row:
        """Against the fastest rival."""
        if "compiled" not in times:
            return Row(line, None, None, "", "-", target, self.not_compiled or f"no rival is installed: {INSTALL}")
        fastest = min(rivals, key=lambda name: statistics.median(times[name]))
        note = f"the fastest; {ratio(times['dlkit'], times['compiled']):.2f}x of ours not compiled"
        return against(f"{line}, {fastest}", times, "compiled", fastest, target, note)


def against(line: str, times: Times, name: str, rival: str, target: str, note: str) -> Row:
    """The row of two of those that took turns."""
    pair = {"ours": times[name], "theirs": times[rival]}
    return row(line, pair, "ms", f"{ratio(pair['theirs'], pair['ours']):.2f}x", target, note)


def parameters(ours: int, theirs: int) -> str:
    """How many each has; a rival may have more, where its library has no smaller flow."""
    assert theirs >= ours, "the rival is smaller"
    return f"{ours:,} parameters each" if theirs == ours else f"{ours:,} and {theirs:,} parameters"


# The Trainer ---------------------------------------------------------------------------------------------------------


class Points(MemoryData):
    """Normal points."""

    def __init__(self, number: int, features: int, batch_size: int) -> None:
        super().__init__(batch_size)
        self.x = torch.randn(number, features)

    def load(self) -> dict[str, Examples]:
        return {"train": Examples(self.x), "test": Examples(self.x)}


def against_a_loop(repeats: int, steps: int) -> Row:
    """What the Trainer costs."""
    data = Points(64 * AFFINE.batch, AFFINE.features, AFFINE.batch)
    total = WARM_UP + steps

    def trainer() -> float:
        watch = Stopwatch(WARM_UP, total)
        fit(lambda: build("affine", AFFINE), data, max_steps=total, watch=watch)
        return watch.milliseconds_a_step()

    def loop() -> float:
        watch = Stopwatch(WARM_UP, total)
        by_hand(build("affine", AFFINE), data.x, AFFINE.batch, watch)
        return watch.milliseconds_a_step()

    times = take_turns(repeats, {"ours": lambda: trainer, "theirs": lambda: loop})
    name = f"affine {AFFINE.layers} x {AFFINE.features}-D, step of {AFFINE.batch}: Trainer, loop by hand"
    return row(
        name, times, "ms", f"{1 / ratio(times['theirs'], times['ours']):.2f}x", "at most 1.1x", "torch's fused Adam by hand"
    )


# Growth --------------------------------------------------------------------------------------------------------------


def growth(what: str, grown: dict[int, Sizes], repeats: int, steps: int) -> Row:
    """How a step grows: the exponent."""
    turns = {str(size): lambda sizes=sizes: stepping(ours("affine", sizes), sizes, steps) for size, sizes in grown.items()}
    times = take_turns(repeats, turns)
    medians = [statistics.median(turn) for turn in times.values()]
    exponent = float(np.polyfit([math.log(size) for size in grown], np.log(medians), 1)[0])
    name = f"affine step of {AFFINE.batch}: {min(grown)} {what}, {max(grown)}"
    note = ", ".join(f"{time:.1f}" for time in medians) + f" ms at {', '.join(times)} {what}"
    return Row(name, medians[0], medians[-1], "ms", f"n^{exponent:.2f}", "at most n^1.1", note)
