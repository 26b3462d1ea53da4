"""The section `latent`: variational autoencoders against a hand-written PyTorch loop and against pythae.

Training: a step of the Trainer with everything that the command line gives it (checkpoints, random state, summary, progress
bar, TensorBoard, the datamodule's loader, fused Adam) against the same `loss` in a plain loop over PyTorch's DataLoader with
the default Adam, and against pythae's trainer. Pictures are drawn in validation, which is not timed.

Sampling: `sample` and `log_prob` against pythae's NormalSampler and `get_nll`, with the same weights.

The variational autoencoder is 784-512-16 everywhere, and the images are MNIST's where it can be had.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import dlkit
from datamodules.mnist import MNIST
from dlkit.batches import Examples
from dlkit.method import Method
from dlkit.processes import keep_freed_memory

from .latent_rivals import BATCH_SIZE, LATENT_DIM, plain_loop, pythae_fit, pythae_twin
from .timing import Held, Row, absent, excess, fit, ratio, row, seconds
from .turns import alone, take_turns

IMAGES = 20_000  # trained on
SAMPLES = 10_000  # drawn at once
GET_NLL_BATCH = 100  # its own default
SAMPLING = f"{SAMPLES:,} samples: dlkit, pythae"
PYTHAE = importlib.util.find_spec("pythae") is not None
INSTALL = "pip install dlkit[bench]"


def rows(repeats: int) -> Iterator[Row]:
    """All rows of the section."""
    examples, source = images()
    yield from training(examples, source, repeats)
    yield from sampling(examples, repeats)


def images() -> tuple[Examples, str]:
    """MNIST's first training images, or noise where it is not at hand, and which of the two.

    They are read in another process and mapped into this one. Unpacking them frees blocks after which the C library keeps more
    of what is freed for as long as the process lives, and the rivals' users do not unpack them here.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "x.npy"), Path(folder, "y.npy")
        if alone(lambda: unpacked(*files)):
            x, y = (torch.from_numpy(np.load(file, mmap_mode="c")) for file in files)  # there until nobody holds them
            return Examples(x, y), "MNIST"
    pixels = torch.randint(0, 256, (IMAGES, 1, 28, 28), dtype=torch.uint8)
    return Examples(pixels, torch.randint(0, 10, (IMAGES,))), "noise images"


def unpacked(x: Path, y: Path) -> bool:
    """Writes MNIST's first training images and their labels to files; False where they are not at hand."""
    try:
        examples = MNIST(val_size=0).load()["train"]
    except FileNotFoundError:
        return False
    assert examples.y is not None
    np.save(x, examples.x[:IMAGES].numpy())
    np.save(y, examples.y[:IMAGES].numpy())
    return True


# Training ------------------------------------------------------------------------------------------------------------


def build_vae() -> Method:
    return dlkit.VAE((1, 28, 28), latent_dim=LATENT_DIM, hidden_dims=(512,))


def build_small_classifier() -> Method:
    return dlkit.Classifier((32,), num_classes=10, network="mlp", hidden_dims=(64,))


def small_rows() -> Examples:
    """20,000 random rows of 32 bytes in ten classes."""
    return Examples(torch.randint(0, 256, (20_000, 32), dtype=torch.uint8), torch.randint(0, 10, (20_000,)))


def against_the_plain_loop(
    build: Callable[[], Method], examples: Examples, batch_size: int, max_steps: int, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds a step of the Trainer ("ours") and of the plain loop ("theirs")."""
    data = Held(examples, batch_size)
    return take_turns(
        repeats,
        {
            "ours": lambda: lambda: fit(build, data, max_steps=max_steps).milliseconds_a_step(),
            "theirs": lambda: lambda: plain_loop(build, examples, batch_size, max_steps),
        },
    )


def against_pythae(examples: Examples, repeats: int, epochs: int = 2) -> dict[str, list[float]]:
    """Seconds an epoch, the writing of the trained model included."""
    data = Held(examples, BATCH_SIZE)

    def ours() -> float:
        watch = fit(build_vae, data, epochs=epochs)
        return (watch.ended - watch.started) / epochs

    return take_turns(repeats, {"ours": lambda: ours, "theirs": lambda: lambda: pythae_fit(examples, epochs)})


def training(examples: Examples, source: str, repeats: int) -> Iterator[Row]:
    """The rows about training."""
    times = against_the_plain_loop(build_vae, examples, BATCH_SIZE, 200, repeats)
    share = 1 / ratio(times["theirs"], times["ours"])
    yield row(f"VAE step, batch {BATCH_SIZE}: Trainer, plain loop", times, "ms", f"{share:.2f}x", "at most 1.0x", source)

    times = against_the_plain_loop(build_small_classifier, small_rows(), 32, 620, repeats)
    extra = excess(times["ours"], times["theirs"])
    yield row("MLP 32-64-10 step, batch 32: Trainer, plain loop", times, "ms", f"{extra:+.3f} ms", "at most +0.45 ms")

    name, target = f"VAE epoch of {IMAGES:,}: dlkit, pythae", "at least 1.35x"
    if PYTHAE:
        times = against_pythae(examples, max(3, repeats // 2))
        yield row(name, times, "s", f"{ratio(times['theirs'], times['ours']):.2f}x", target, source)
    else:
        yield absent(name, target, "pythae", INSTALL)


# Sampling ------------------------------------------------------------------------------------------------------------


def in_a_folder(draw: Callable[[str], None]) -> float:
    """How long it takes; the folder is made before and removed after that."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds(lambda: draw(folder))


def sampling_rows(method: Any, twin: Any, repeats: int) -> Iterator[Row]:
    """The rows about drawing images: in memory, and with each one's own way of saving them."""

    def ours(save: bool) -> Callable[[], float]:
        keep_freed_memory()  # as sample.py does

        def draw(folder: str) -> None:
            x = method.sample(SAMPLES)
            if save:
                np.savez(Path(folder, "samples.npz"), x=x.numpy())

        return lambda: in_a_folder(draw)

    def theirs(save: bool) -> Callable[[], float]:
        from pythae.samplers import NormalSampler  # pyright: ignore[reportMissingImports]

        sampler = NormalSampler(twin)

        @torch.no_grad()
        def draw(folder: str) -> None:
            sampler.sample(SAMPLES, output_dir=folder if save else None)  # pyright: ignore[reportArgumentType]

        return lambda: in_a_folder(draw)

    for save, turns, note in ((False, repeats, "in memory"), (True, 1, "saved: one npz, a PNG each")):
        times = take_turns(turns, {"ours": lambda save=save: ours(save), "theirs": lambda save=save: theirs(save)})
        yield row(SAMPLING, times, "s", f"{ratio(times['theirs'], times['ours']):.1f}x", "", note)


def log_prob_row(method: Any, twin: Any, x: Tensor, num_samples: int, repeats: int, batch_size: int) -> Row:
    """log p(x) by importance sampling: the time of an image, and whether both estimates agree.

    pythae draws and averages `batch_size` samples where fewer are asked for. It takes one image after another, hence fewer of
    them are enough to time it; the estimates are of the same images. Both run without gradients, which pythae leaves to the
    caller.
    """
    few = x[: 100 if num_samples < 100 else 20]

    def our_turn() -> tuple[float, float]:
        start = time.perf_counter()
        log_prob = method.log_prob(x, num_samples=num_samples)
        elapsed = time.perf_counter() - start
        return 1e3 * elapsed / len(x), float(log_prob[: len(few)].mean())

    @torch.no_grad()
    def their_turn() -> tuple[float, float]:
        start = time.perf_counter()
        estimate = twin.get_nll(few, n_samples=num_samples, batch_size=batch_size)
        elapsed = time.perf_counter() - start
        return 1e3 * elapsed / len(few), float(estimate)  # despite its name, pythae's is log p(x), not its negative

    def ours() -> Callable[[], tuple[float, float]]:
        keep_freed_memory()
        return our_turn

    turns = take_turns(repeats, {"ours": ours, "theirs": lambda: their_turn})
    times = {name: [turn for turn, _ in found] for name, found in turns.items()}
    note = "log p(x) " + " and ".join(
        f"{statistics.mean(values):.2f}+-{statistics.stdev(values) / len(values) ** 0.5:.2f}"
        for values in ([estimate for _, estimate in found] for found in turns.values())
    )
    target = "at least 20x"
    if batch_size > num_samples:
        target, note = "", f"pythae draws and averages {batch_size}; {note}"
    name = log_prob_name(num_samples, batch_size)
    return row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.1f}x", target, note)


def log_prob_name(num_samples: int, batch_size: int) -> str:
    rival = "pythae with its own batch" if batch_size > num_samples else "pythae"
    return f"log p(x) of an image, K = {num_samples}: dlkit, {rival}"


def trained_weights(examples: Examples) -> dict[str, Tensor]:
    """After an epoch."""
    method = build_vae()
    fit(lambda: method, Held(examples, BATCH_SIZE))
    return method.state_dict()


def sampling(examples: Examples, repeats: int) -> Iterator[Row]:
    """The rows about sampling and density, of a model trained for an epoch."""
    # As many samples of theirs as of ours; and what somebody waits for who gives get_nll no batch size.
    sizes = ((1, 1), (10, 10), (100, GET_NLL_BATCH), (500, GET_NLL_BATCH), (1, GET_NLL_BATCH), (10, GET_NLL_BATCH))
    if not PYTHAE:
        yield absent(SAMPLING, "", "pythae", INSTALL)
        for size in sizes:
            yield absent(log_prob_name(*size), "at least 20x", "pythae", INSTALL)
        return
    method = build_vae().eval()
    method.load_state_dict(alone(lambda: trained_weights(examples)))
    twin = pythae_twin(method)
    yield from sampling_rows(method, twin, repeats)
    x = examples.x.float() / 255
    for num_samples, batch_size in sizes:
        yield log_prob_row(method, twin, x[: 1000 if num_samples < 100 else 200], num_samples, repeats, batch_size)
