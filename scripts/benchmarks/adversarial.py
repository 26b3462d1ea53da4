"""The section `adversarial`: alternations of GAN and WGAN against hand-written loops and against the peers.

An alternation, k steps of the critic and one of the generator, runs through the Trainer with everything that the command line
gives it (checkpoints, random state, summary, progress bar, TensorBoard, the datamodule's loader), against

- the same mathematics in a loop by somebody who knows what costs time, at DCGAN's size and with planar data; and that loop
  with freed memory kept and given back;
- torchgan's Trainer, with torchgan's networks in both;
- the loops of PyTorch-GAN's dcgan.py and wgan_gp.py, with our networks in both, and dcgan.py's with the generator's graph
  kept in the critic's step as wgan_gp.py keeps it;
- the same in bf16-mixed, which pays where the CPU computes in bfloat16.

A note gives the examples that the critic saw in a second, and the milliseconds of the critic's steps, the generator's step and
the rest of an alternation: first ours, then the rival's. Pictures are noise, which costs as much as any.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import dlkit
from datamodules import Gaussians
from datamodules.base import MemoryData
from dlkit.adversarial.latent import LatentAdversarialMethod
from dlkit.batches import Examples

from .adversarial_rivals import PENALTY_WEIGHT, as_dcgan_script, as_wgan_gp_script, by_hand
from .timing import Held, Row, Stopwatch, absent, cpu, excess, fit, ratio, row
from .torchgan_rival import TorchganGAN, TorchganWGAN, torchgan_fit
from .turns import take_turns

BATCH_SIZE = 64  # pictures of a player's step
PLANAR_BATCH_SIZE = 256
PICTURES = 3_200
COLOUR = (3, 32, 32)
GREY = (1, 28, 28)
LATENT_DIM = 100
WIDTH = 16
CRITIC_STEPS = 5  # of WGAN-GP
WARM_UP = 10  # alternations before the clock starts
TORCHGAN = importlib.util.find_spec("torchgan") is not None
INSTALL = "pip install --no-deps torchgan==0.1.0"

Precision = Literal["32-true", "bf16-mixed"]
Rival = Callable[[Stopwatch], object]


class Turn(NamedTuple):
    """Milliseconds of an alternation, and of its two parts."""

    whole: float
    critic: float
    generator: float


class Bench:
    """How the rivals of a row are timed.

    Args:
        repeats: turns of each.
        steps: alternations of a turn that are timed, or None for what steady times need.
    """

    def __init__(self, repeats: int, steps: int | None) -> None:
        self.repeats = repeats
        self.steps = steps

    def __call__(self, steps: int, examples: int, ours: Rival, theirs: Rival) -> tuple[dict[str, list[float]], str]:
        """Milliseconds an alternation of both, and the note.

        Args:
            steps: alternations of a turn that steady times need.
            examples: that the critic sees in one.
            ours, theirs: run alternations until the watch that they are given is over.
        """
        steps = self.steps or steps
        warm_up = min(WARM_UP, steps)

        def turn(rival: Rival) -> Turn:
            watch = Stopwatch(warm_up, warm_up + steps)
            rival(watch)
            return Turn(watch.milliseconds_a_step(), watch.milliseconds_of("critic"), watch.milliseconds_of("generator"))

        turns = take_turns(self.repeats, {"ours": lambda: lambda: turn(ours), "theirs": lambda: lambda: turn(theirs)})
        times = {name: [each.whole for each in found] for name, found in turns.items()}
        return times, ", ".join(described(found, examples) for found in turns.values())


def described(turns: list[Turn], examples: int) -> str:
    """Examples a second, and where an alternation's time goes."""
    parts = [(turn.critic, turn.generator, turn.whole - turn.critic - turn.generator) for turn in turns]
    where = " + ".join(f"{statistics.median(times):.2f}" for times in zip(*parts, strict=True))
    return f"{1e3 * examples / statistics.median(turn.whole for turn in turns):,.0f} a second ({where} ms)"


def trainer(build: Callable[[], LatentAdversarialMethod], data: MemoryData, precision: Precision = "32-true") -> Rival:
    """Our side: the Trainer, each player's steps timed."""

    def rival(watch: Stopwatch) -> None:
        method = build()
        step = method.step

        def timed(player: Literal["critic", "generator"], *arguments: Any) -> Any:
            with watch.part(player):
                return step(player, *arguments)

        method.step = timed  # pyright: ignore[reportAttributeAccessIssue]
        fit(lambda: method, data, max_steps=watch.total, watch=watch, precision=precision)

    return rival


def pictures(shape: tuple[int, ...], batch_size: int) -> Held:
    """Random bytes."""
    return Held(Examples(torch.randint(0, 256, (PICTURES, *shape), dtype=torch.uint8)), batch_size)


def dcgan() -> dlkit.GAN:
    """Of torchgan's size with 16 step channels."""
    return dlkit.GAN(COLOUR, LATENT_DIM, network="dcgan", width=WIDTH, generator_norm="batch")


def grey_dcgan() -> dlkit.GAN:
    return dlkit.GAN(GREY, LATENT_DIM, network="dcgan", width=2 * WIDTH, generator_norm="batch")


def wgan_gp() -> dlkit.WGAN:
    return dlkit.WGAN(COLOUR, LATENT_DIM, network="dcgan", width=WIDTH, generator_norm="batch", critic_steps=CRITIC_STEPS)


def planar_gan() -> dlkit.GAN:
    return dlkit.GAN((2,), latent_dim=2, hidden_dims=(128, 128, 128))


def torchgan_gan() -> TorchganGAN:
    return TorchganGAN(COLOUR, LATENT_DIM, generator_norm="batch", critic_norm="batch")


def torchgan_wgan() -> TorchganWGAN:
    return TorchganWGAN(COLOUR, LATENT_DIM, penalty_weight=PENALTY_WEIGHT, critic_steps=CRITIC_STEPS)


def rows(repeats: int, steps: int | None) -> Iterator[Row]:
    """All rows of the section."""
    bench, data = Bench(repeats, steps), pictures(COLOUR, BATCH_SIZE)
    many, x = Held(data.examples, CRITIC_STEPS * BATCH_SIZE), data.examples.x
    yield from against_a_loop(bench, data, x)
    yield from against_torchgan(bench, data, many, x)
    yield from against_pytorch_gan(bench, data, many, x)
    yield in_bfloat16(bench)


def against_a_loop(bench: Bench, data: Held, x: Tensor) -> Iterator[Row]:
    """What the Trainer costs."""
    name, target = f"DCGAN 3x32x32, batch {BATCH_SIZE}: Trainer, loop by hand", "at most 1.1x"
    times, note = bench(50, BATCH_SIZE, trainer(dcgan, data), lambda watch: by_hand(dcgan(), x, BATCH_SIZE, watch))
    yield row(name, times, "ms", f"{1 / ratio(times['theirs'], times['ours']):.2f}x", target, note)

    name = f"DCGAN 3x32x32, batch {BATCH_SIZE}: freed memory kept, given back"
    times, note = bench(
        50,
        BATCH_SIZE,
        lambda watch: by_hand(dcgan(), x, BATCH_SIZE, watch),
        lambda watch: by_hand(dcgan(), x, BATCH_SIZE, watch, keep=False),
    )
    yield row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.2f}x", "", f"the loop by hand; {note}")

    name, target = f"2-D 3x128, batch {PLANAR_BATCH_SIZE}: Trainer, loop by hand", "at most +0.6 ms"
    plane = Gaussians("ring", val_size=0, batch_size=PLANAR_BATCH_SIZE)
    plane.setup()
    points = plane.splits["train"].x
    times, note = bench(
        300,
        PLANAR_BATCH_SIZE,
        trainer(planar_gan, plane),
        lambda watch: by_hand(planar_gan(), points, PLANAR_BATCH_SIZE, watch),
    )
    yield row(name, times, "ms", f"{excess(times['ours'], times['theirs']):+.2f} ms", target, note)


def against_torchgan(bench: Bench, data: Held, many: Held, x: Tensor) -> Iterator[Row]:
    """Its networks in both."""
    name, target = f"DCGAN 3x32x32, batch {BATCH_SIZE}: dlkit, torchgan", "at least 1.2x"
    if TORCHGAN:
        times, note = bench(
            50, BATCH_SIZE, trainer(torchgan_gan, data), lambda watch: torchgan_fit(torchgan_gan(), x, BATCH_SIZE, watch)
        )
        yield row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.2f}x", target, note)
    else:
        yield absent(name, target, "torchgan", INSTALL)

    name, target = f"WGAN-GP 3x32x32, {CRITIC_STEPS} x {BATCH_SIZE}: dlkit, torchgan", "at least 1.36x"
    if TORCHGAN:
        times, note = bench(
            10,
            CRITIC_STEPS * BATCH_SIZE,
            trainer(torchgan_wgan, many),
            lambda watch: torchgan_fit(torchgan_wgan(), x, BATCH_SIZE, watch),
        )
        yield row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.2f}x", target, note)
    else:
        yield absent(name, target, "torchgan", INSTALL)


def against_pytorch_gan(bench: Bench, data: Held, many: Held, x: Tensor) -> Iterator[Row]:
    """Our networks in both."""
    target = "at least 1.3x"
    for how, kept in (("as PyTorch-GAN", False), ("graph kept", True)):
        times, note = bench(
            50,
            BATCH_SIZE,
            trainer(dcgan, data),
            lambda watch, kept=kept: as_dcgan_script(dcgan(), x, BATCH_SIZE, watch, kept),
        )
        name = f"DCGAN 3x32x32, batch {BATCH_SIZE}: dlkit, {how}"
        yield row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.2f}x", target, note)

    name = f"WGAN-GP 3x32x32, {CRITIC_STEPS} x {BATCH_SIZE}: dlkit, as PyTorch-GAN"
    times, note = bench(
        10,
        CRITIC_STEPS * BATCH_SIZE,
        trainer(wgan_gp, many),
        lambda watch: as_wgan_gp_script(wgan_gp(), x, BATCH_SIZE, watch),
    )
    yield row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.2f}x", target, note)


def in_bfloat16(bench: Bench) -> Row:
    """bf16-mixed against float32."""
    data, able = pictures(GREY, BATCH_SIZE), "avx512_bf16" in cpu()["flags"]
    # A CPU that has to emulate it takes ten times as long.
    times, note = bench(50 if able else 2, BATCH_SIZE, trainer(grey_dcgan, data, "bf16-mixed"), trainer(grey_dcgan, data))
    name, target = f"DCGAN 1x28x28, batch {BATCH_SIZE}: bf16-mixed, float32", "above 1.0x"
    note = f"this CPU has {'' if able else 'no '}avx512_bf16; {note}"
    return row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.2f}x", target, note)
