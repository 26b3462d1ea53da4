"""What the section `latent` is measured against: a loop written by hand, and pythae."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dlkit.autoencoders.vae import LOG_SIGMA_BOUND
from dlkit.batches import Examples
from dlkit.method import Method
from dlkit.processes import keep_freed_memory

from .timing import WARM_UP

BATCH_SIZE = 128
LATENT_DIM = 16


def plain_loop(build: Callable[[], Method], examples: Examples, batch_size: int, max_steps: int) -> float:
    """The loop that a person writes by hand, in a process that keeps freed memory too: milliseconds a step."""
    keep_freed_memory()
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


def pythae_model() -> Any:
    """pythae's VAE with its own fully connected networks, which are 784-512-16 too, and its Bernoulli likelihood."""
    from pythae.models import VAE, VAEConfig  # pyright: ignore[reportMissingImports]

    return VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT_DIM, reconstruction_loss="bce"))


def pythae_fit(examples: Examples, epochs: int) -> float:
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
    dataset = BaseDataset(examples.x.float() / 255, examples.y)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(output_dir=folder, num_epochs=epochs, per_device_train_batch_size=BATCH_SIZE, no_cuda=True)
        BaseTrainer(pythae_model(), dataset, training_config=config, callbacks=[clock]).train()
    return (clock.ended - clock.started) / epochs


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
