"""Measures dlkit against a hand-written PyTorch loop and against pythae, in one process, in turn, by medians.

    python scripts/benchmark.py [training] [sampling] [--repeats 7] [--threads 1] [--json FILE]

training: a step of the Trainer with everything that the command line gives it (checkpoints, random state, summary,
progress bar, TensorBoard, the datamodule's loader, fused Adam) against the same `loss` in a plain loop over PyTorch's
DataLoader with the default Adam, and against pythae's trainer. Pictures are drawn in validation, which is not timed.

sampling: `sample` and `log_prob` against pythae's NormalSampler and `get_nll`, with the same weights.

The variational autoencoder is 784-512-16 everywhere, and the images are MNIST's where it can be had. Times depend on the
machine and on its load; the ratios much less, because the rivals take turns. On a machine that others use, --threads 1
gives steadier ratios: threads that wait for each other lose their time slices. A rival that is not installed is named in
its row: pip install dlkit[bench].
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dlkit
from datamodules.base import ImageData
from datamodules.mnist import MNIST
from dlkit.autoencoders.vae import LOG_SIGMA_BOUND
from dlkit.batches import Examples
from dlkit.callbacks import Checkpoints, Progress, RandomState, Summary
from dlkit.callbacks.progress import REFRESH_SECONDS
from dlkit.evaluation import silence_nags
from dlkit.method import Method

IMAGES = 20_000  # trained on
SAMPLES = 10_000  # drawn at once
BATCH_SIZE = 128
LATENT_DIM = 16
WARM_UP = 20  # steps before the clock starts
PYTHAE = importlib.util.find_spec("pythae") is not None


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


class Held(ImageData):
    """A datamodule of examples at hand, without validation."""

    def __init__(self, examples: Examples, batch_size: int) -> None:
        super().__init__(batch_size)
        self.examples = examples

    def load(self) -> dict[str, Examples]:
        return {"train": self.examples, "test": self.examples}


class Stopwatch(L.Callback):
    """Times the steps after the first few, and the whole training between its two ends."""

    def __init__(self) -> None:
        self.started = self.warm = self.stepped = self.ended = 0.0
        self.steps = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        self.stepped = time.perf_counter()
        if self.steps == WARM_UP:
            self.warm = self.stepped

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ended = time.perf_counter()

    def milliseconds_a_step(self) -> float:
        return 1e3 * (self.stepped - self.warm) / (self.steps - WARM_UP)


# What takes turns ----------------------------------------------------------------------------------------------------


def take_turns(repeats: int, rivals: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Calls every rival once to warm up and then `repeats` times, each after the other: the times that they return."""
    for rival in rivals.values():
        rival()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for repeat in range(repeats):
        names = list(rivals)
        for name in names if repeat % 2 else reversed(names):
            times[name].append(rivals[name]())
    return times


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(theirs: list[float], ours: list[float]) -> float:
    """The median of the ratios of neighbouring turns, which a change of the machine's load moves least."""
    return statistics.median(other / own for other, own in zip(theirs, ours, strict=True))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress bars and log lines, which are still written, out of the table."""
    logging.disable(logging.WARNING)
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            contextlib.redirect_stdout(nowhere),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


# Training ------------------------------------------------------------------------------------------------------------


def fit(build: Callable[[], Method], data: ImageData, folder: str, epochs: int = 1, max_steps: int = -1) -> Stopwatch:
    """Trains with what the command line gives a run, the progress bar drawn as often as in a terminal."""
    watch, progress = Stopwatch(), Progress()
    progress.interval = REFRESH_SECONDS
    trainer = L.Trainer(
        max_epochs=-1 if max_steps > 0 else epochs,
        max_steps=max_steps,
        logger=TensorBoardLogger(folder, name="benchmark", default_hp_metric=False),
        callbacks=[Checkpoints(), RandomState(), Summary("benchmark", 0), progress, watch],
        accelerator="cpu",
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(build(), datamodule=data)
    return watch


def plain_loop(build: Callable[[], Method], examples: Examples, batch_size: int, max_steps: int) -> float:
    """The loop that a person writes by hand: milliseconds a step."""
    assert examples.y is not None
    method = build().train()
    loader = DataLoader(TensorDataset(examples.x.float() / 255, examples.y), batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.Adam(method.parameters(), lr=method.learning_rate)
    start, step = 0.0, 0
    while step < max_steps:
        for x, y in loader:
            loss, _ = method.loss(Examples(x, y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == WARM_UP:
                start = time.perf_counter()
            if step == max_steps:
                break
    return 1e3 * (time.perf_counter() - start) / (max_steps - WARM_UP)


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
    with tempfile.TemporaryDirectory() as folder, quiet():
        return take_turns(
            repeats,
            {
                "ours": lambda: fit(build, data, folder, max_steps=max_steps).milliseconds_a_step(),
                "theirs": lambda: plain_loop(build, examples, batch_size, max_steps),
            },
        )


def pythae_model() -> Any:
    """pythae's VAE with its own fully connected networks, which are 784-512-16 too, and its Bernoulli likelihood."""
    from pythae.models import VAE, VAEConfig  # pyright: ignore[reportMissingImports]

    return VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT_DIM, reconstruction_loss="bce"))


def pythae_fit(examples: Examples, folder: str, epochs: int) -> float:
    """Seconds an epoch of pythae's trainer, from the beginning of its training to the end."""
    from pythae.data.datasets import BaseDataset  # pyright: ignore[reportMissingImports]
    from pythae.trainers import BaseTrainer, BaseTrainerConfig  # pyright: ignore[reportMissingImports]
    from pythae.trainers.training_callbacks import TrainingCallback  # pyright: ignore[reportMissingImports]

    class Clock(TrainingCallback):
        started = ended = 0.0

        def on_train_begin(self, training_config: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_train_end(self, training_config: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()

    assert examples.y is not None
    clock = Clock()
    config = BaseTrainerConfig(output_dir=folder, num_epochs=epochs, per_device_train_batch_size=BATCH_SIZE, no_cuda=True)
    dataset = BaseDataset(examples.x.float() / 255, examples.y)
    BaseTrainer(pythae_model(), dataset, training_config=config, callbacks=[clock]).train()
    return (clock.ended - clock.started) / epochs


def against_pythae(examples: Examples, repeats: int, epochs: int = 2) -> dict[str, list[float]]:
    """Seconds an epoch, the writing of the trained model included."""
    data = Held(examples, BATCH_SIZE)

    def ours() -> float:
        watch = fit(build_vae, data, folder, epochs=epochs)
        return (watch.ended - watch.started) / epochs

    with tempfile.TemporaryDirectory() as folder, quiet():
        return take_turns(repeats, {"ours": ours, "theirs": lambda: pythae_fit(examples, folder, epochs)})


def training(examples: Examples, source: str, repeats: int) -> Iterator[Row]:
    """The rows about training."""
    times = against_the_plain_loop(build_vae, examples, BATCH_SIZE, 200, repeats)
    share = 1 / ratio(times["theirs"], times["ours"])
    yield row(f"VAE step, batch {BATCH_SIZE}: Trainer, plain loop", times, "ms", f"{share:.2f}x", "at most 1.0x", source)

    times = against_the_plain_loop(build_small_classifier, small_rows(), 32, 620, repeats)
    extra = statistics.median(own - other for own, other in zip(times["ours"], times["theirs"], strict=True))
    yield row("MLP 32-64-10 step, batch 32: Trainer, plain loop", times, "ms", f"{extra:+.3f} ms", "at most +0.45 ms")

    name, target = f"VAE epoch of {IMAGES:,}: dlkit, pythae", "at least 1.35x"
    if PYTHAE:
        times = against_pythae(examples, max(3, repeats // 2))
        yield row(name, times, "s", f"{ratio(times['theirs'], times['ours']):.2f}x", target, source)
    else:
        yield absent(name, target)


# Sampling ------------------------------------------------------------------------------------------------------------


class BoundedLogVariance(nn.Module):
    """The bend that dlkit gives the encoder's log sigma, put on pythae's log variance."""

    def forward(self, log_variance: Tensor) -> Tensor:
        return 2 * LOG_SIGMA_BOUND * torch.tanh(log_variance / (2 * LOG_SIGMA_BOUND))


@torch.no_grad()
def pythae_twin(method: Any) -> Any:
    """pythae's VAE with the weights of ours, so that both are the same density."""
    twin = pythae_model()
    hidden, last = (layer for layer in method.encoder.modules() if isinstance(layer, nn.Linear))
    first, output = (layer for layer in method.decoder.modules() if isinstance(layer, nn.Linear))
    encoder, decoder = twin.encoder, twin.decoder
    encoder.layers[0][0].load_state_dict(hidden.state_dict())
    decoder.layers[0][0].load_state_dict(first.state_dict())
    decoder.layers[1][0].load_state_dict(output.state_dict())
    encoder.embedding.weight.copy_(last.weight[:LATENT_DIM])
    encoder.embedding.bias.copy_(last.bias[:LATENT_DIM])
    encoder.log_var.weight.copy_(2 * last.weight[LATENT_DIM:])
    encoder.log_var.bias.copy_(2 * last.bias[LATENT_DIM:])
    encoder.log_var = nn.Sequential(encoder.log_var, BoundedLogVariance())
    twin.device = "cpu"
    return twin.eval()


def sampling_rows(method: Any, twin: Any, repeats: int) -> Iterator[Row]:
    """The rows about drawing images: in memory, and with each one's own way of saving them."""
    from pythae.samplers import NormalSampler  # pyright: ignore[reportMissingImports]

    sampler = NormalSampler(twin)
    with torch.no_grad():
        times = take_turns(
            repeats,
            {
                "ours": lambda: seconds(lambda: method.sample(SAMPLES)),
                "theirs": lambda: seconds(lambda: sampler.sample(SAMPLES)),
            },
        )
        yield row(sampling_name(), times, "s", f"{ratio(times['theirs'], times['ours']):.1f}x", "", "in memory")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "samples.npz")
            times = take_turns(
                1,
                {
                    "ours": lambda: seconds(lambda: np.savez_compressed(file, x=method.sample(SAMPLES).numpy())),
                    "theirs": lambda: seconds(lambda: sampler.sample(SAMPLES, output_dir=folder)),
                },
            )
    note = "saved: one npz, a PNG each"
    yield row(sampling_name(), times, "s", f"{ratio(times['theirs'], times['ours']):.1f}x", "", note)


def log_prob_row(method: Any, twin: Any, x: Tensor, num_samples: int, repeats: int) -> Row:
    """log p(x) by importance sampling: the time of an image, and whether both estimates agree.

    pythae draws `batch_size` samples where fewer are asked for, so its batch is never larger than what is asked for. It
    takes one image after another, hence fewer of them are enough to time it; the estimates are of the same images. Both
    run without gradients, which pythae leaves to the caller.
    """
    ours, theirs = x, x[: 100 if num_samples < 100 else 20]
    estimates: dict[str, list[float]] = {"ours": [], "theirs": []}

    def our_turn() -> float:
        start = time.perf_counter()
        log_prob = method.log_prob(ours, num_samples=num_samples)
        elapsed = time.perf_counter() - start
        estimates["ours"].append(float(log_prob[: len(theirs)].mean()))
        return 1e3 * elapsed / len(ours)

    def their_turn() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            estimate = twin.get_nll(theirs, n_samples=num_samples, batch_size=min(100, num_samples))
        elapsed = time.perf_counter() - start
        estimates["theirs"].append(float(estimate))  # despite its name, pythae's is log p(x), not its negative
        return 1e3 * elapsed / len(theirs)

    times = take_turns(repeats, {"ours": our_turn, "theirs": their_turn})
    note = "log p(x) " + " and ".join(
        f"{statistics.mean(values):.2f}+-{statistics.stdev(values) / len(values) ** 0.5:.2f}" for values in estimates.values()
    )
    target = "at least 20x"
    return row(log_prob_name(num_samples), times, "ms", f"{ratio(times['theirs'], times['ours']):.1f}x", target, note)


def sampling_name() -> str:
    return f"{SAMPLES:,} samples: dlkit, pythae"


def log_prob_name(num_samples: int) -> str:
    return f"log p(x) of an image, K = {num_samples}: dlkit, pythae"


def sampling(examples: Examples, repeats: int) -> Iterator[Row]:
    """The rows about sampling and density, of a model trained for an epoch."""
    sizes = (1, 10, 100, 500)
    if not PYTHAE:
        yield absent(sampling_name(), "")
        for num_samples in sizes:
            yield absent(log_prob_name(num_samples), "at least 20x")
        return
    method = build_vae()
    with tempfile.TemporaryDirectory() as folder, quiet():
        fit(lambda: method, Held(examples, BATCH_SIZE), folder)
    method.eval()
    twin = pythae_twin(method)
    yield from sampling_rows(method, twin, repeats)
    x = examples.x.float() / 255
    for num_samples in sizes:
        yield log_prob_row(method, twin, x[: 1000 if num_samples < 100 else 200], num_samples, repeats)


# The table -----------------------------------------------------------------------------------------------------------


def row(name: str, times: dict[str, list[float]], unit: str, value: str, target: str, note: str = "") -> Row:
    """A row of the medians."""
    return Row(name, statistics.median(times["ours"]), statistics.median(times["theirs"]), unit, value, target, note)


def absent(name: str, target: str) -> Row:
    """The row of a rival that is not installed."""
    return Row(name, None, None, "", "-", target, "pythae is not installed: pip install dlkit[bench]")


def show(line: Row) -> None:
    """Prints a row."""
    times = ("-" if value is None else f"{value:.3f} {line.unit}" for value in (line.ours, line.theirs))
    print("{:52}{:>12}{:>12}{:>12}  {:18}{}".format(line.name, *times, line.value, line.target, line.note), flush=True)


def images() -> tuple[Examples, str]:
    """MNIST's first training images, or noise where it is not at hand, and which of the two."""
    try:
        examples = MNIST(val_size=0).load()["train"]
    except FileNotFoundError:
        pixels = torch.randint(0, 256, (IMAGES, 1, 28, 28), dtype=torch.uint8)
        return Examples(pixels, torch.randint(0, 10, (IMAGES,))), "noise images"
    assert examples.y is not None
    return Examples(examples.x[:IMAGES], examples.y[:IMAGES]), "MNIST"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures dlkit against a plain loop and pythae.", allow_abbrev=False)
    parser.add_argument("sections", nargs="*", help="training, sampling (both)")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each rival, at least 2 (7)")
    parser.add_argument("--threads", type=int, help="of PyTorch (one a core)")
    parser.add_argument("--json", type=Path, help="where to write the rows as JSON")
    arguments = parser.parse_args()
    sections = arguments.sections or ["training", "sampling"]
    unknown = [section for section in sections if section not in ("training", "sampling")]
    if unknown:
        parser.error(f"there is no section '{unknown[0]}': choose training or sampling")
    if arguments.repeats < 2:
        parser.error(f"--repeats {arguments.repeats}: a median needs at least 2")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    silence_nags()
    torch.manual_seed(0)
    examples, source = images()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {arguments.repeats} turns")
    print(f"{'':52}{'first':>12}{'second':>12}{'measured':>12}  {'target':18}")
    rows: list[Row] = []
    for section in sections:
        made = training(examples, source, arguments.repeats) if section == "training" else sampling(examples, arguments.repeats)
        for line in made:
            show(line)
            rows.append(line)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([line._asdict() for line in rows], indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
