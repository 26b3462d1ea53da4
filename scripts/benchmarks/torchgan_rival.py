"""torchgan's Trainer, and our methods with torchgan's networks: pip install --no-deps torchgan==0.1.0."""

from __future__ import annotations

import functools
import itertools
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

import dlkit
from dlkit.adversarial.latent import LatentAdversarialMethod

from .adversarial_rivals import as_built, loader
from .timing import Stopwatch

STEP_CHANNELS = 16


@functools.cache
def import_torchgan() -> Any:
    """torchgan, without torchvision: it asks for that when it is imported, and uses it to draw pictures, which is not timed."""
    stub = None if "torchvision" in sys.modules else sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))
    try:
        import torchgan.losses  # pyright: ignore[reportMissingImports]
        import torchgan.models  # pyright: ignore[reportMissingImports]
        import torchgan.trainer  # pyright: ignore[reportMissingImports]
    finally:
        if stub is not None:
            del sys.modules["torchvision"]
    return torchgan


class TorchganNetworks(LatentAdversarialMethod):
    """Hooks that build torchgan's DCGAN; the critic with batch normalisation where `critic_norm` says so."""

    def build_generator(self) -> nn.Module:
        return import_torchgan().models.DCGANGenerator(self.latent_dim, step_channels=STEP_CHANNELS)

    def build_critic(self) -> nn.Module:
        return import_torchgan().models.DCGANDiscriminator(step_channels=STEP_CHANNELS, batchnorm=self.critic_norm == "batch")


class TorchganGAN(TorchganNetworks, dlkit.GAN):
    """Our GAN with torchgan's networks."""


class TorchganWGAN(TorchganNetworks, dlkit.WGAN):
    """Our WGAN-GP with torchgan's networks."""


def torchgan_fit(method: TorchganGAN | TorchganWGAN, x: Tensor, batch_size: int, watch: Stopwatch) -> None:
    """torchgan's Trainer, with the networks, the optimizers' settings and the numbers of steps of our method.

    The networks lie in memory as torchgan builds them; channels innermost are a choice of our methods. It logs losses and
    gradients after every batch, as it always does; the pictures and the model that it writes at the end of an epoch are left
    out. Its WGAN-GP takes two steps of the critic's optimizer for one of ours, the penalty's separately, with
    one share for the whole batch and the norm over all of it.
    """
    torchgan = import_torchgan()
    as_built(method)
    adam = {"name": Adam, "args": {"lr": method.learning_rate, "betas": method.betas}}
    models = {
        name: {"name": functools.partial(lambda network: network, network), "optimizer": adam}
        for name, network in (("generator", method.generator), ("discriminator", method.critic))
    }
    if isinstance(method, dlkit.WGAN):
        names = ("WassersteinGeneratorLoss", "WassersteinDiscriminatorLoss", "WassersteinGradientPenalty")
    else:
        names = ("MinimaxGeneratorLoss", "MinimaxDiscriminatorLoss")
    losses = [getattr(torchgan.losses, name)() for name in names]
    for name, loss in zip(names, losses, strict=True):
        loss.train_ops = timed(loss.train_ops, watch, "generator" if "Generator" in name else "critic")
    with tempfile.TemporaryDirectory() as folder:
        trainer = torchgan.trainer.Trainer(
            models, losses, device=torch.device("cpu"), ncritic=method.critic_steps, epochs=1,
            checkpoints=f"{folder}/model/gan", recon=f"{folder}/images", log_dir=f"{folder}/logs",
        )  # fmt: skip
        trainer.save_model = trainer.logger.run_end_epoch = lambda *_: None
        trainer(Watched(x, batch_size, method.critic_steps, watch))


def timed(function: Callable[..., Any], watch: Stopwatch, part: str) -> Callable[..., Any]:
    """The same function, timed."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with watch.part(part):
            return function(*args, **kwargs)

    return wrapper


class Watched:
    """A DataLoader with one epoch, which ends when the watch is over; every k batches are a lap."""

    def __init__(self, x: Tensor, batch_size: int, critic_steps: int, watch: Stopwatch) -> None:
        self.loader = loader(x, batch_size)
        self.batch_size = batch_size
        self.critic_steps = critic_steps
        self.watch = watch

    def __iter__(self) -> Iterator[Tensor]:
        for count, real in enumerate(itertools.chain.from_iterable(itertools.repeat(self.loader)), 1):
            yield real
            if count % self.critic_steps == 0:
                self.watch.lap()
            if self.watch.over:
                return
