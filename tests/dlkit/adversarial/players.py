"""Small players, and what the tests of adversarial methods do with them."""

from __future__ import annotations

import lightning as L
import pytest
import torch
import training

import dlkit
from datamodules import Digits, Gaussians

METHODS = {
    "gan": lambda **more: dlkit.GAN((2,), 2, hidden_dims=(16,), **more),
    "gan-r1": lambda **more: dlkit.GAN((2,), 2, penalty="r1", hidden_dims=(16,), **more),
    "r3gan": lambda **more: dlkit.GAN((2,), 2, "relativistic", "r1+r2", hidden_dims=(16,), **more),
    "sngan": lambda **more: dlkit.GAN((2,), 2, "hinge", hidden_dims=(16,), critic_norm="spectral", **more),
    "conditional": lambda **more: dlkit.GAN((2,), 2, "least-squares", "r1", hidden_dims=(16,), num_classes=8, **more),
    "wgan-gp": lambda **more: dlkit.WGAN((2,), 2, hidden_dims=(16,), **{"critic_steps": 2, **more}),
    "wgan-clip": lambda **more: dlkit.WGAN((2,), 2, "clip", hidden_dims=(16,), clip=0.1, **{"critic_steps": 2, **more}),
    "wgan-spectral": lambda **more: dlkit.WGAN((2,), 2, "spectral", hidden_dims=(16,), num_classes=8, **more),
    "dcgan": lambda **more: dlkit.GAN(
        (1, 8, 8), 4, network="dcgan", width=4, generator_norm="batch", critic_norm="batch", **more
    ),
    "resnet": lambda **more: dlkit.GAN(
        (1, 8, 8), 4, "hinge", network="resnet", width=4, generator_norm="batch", critic_norm="spectral", num_classes=10, **more
    ),
}  # fmt: skip


every_method = pytest.mark.parametrize("name", METHODS)


def data_for(method, batch_size=128):
    """The modes of a ring for points of the plane, digits for pictures; both with labels."""
    if len(method.data_shape) == 3:
        return Digits(batch_size=batch_size)
    return Gaussians(num_examples=2000, val_size=200, batch_size=batch_size)


def trainer(**arguments):
    return training.trainer(**{"limit_val_batches": 0, **arguments})


def fit(method, batch_size=128, **arguments):
    run = trainer(**{"max_epochs": 1, **arguments})
    run.fit(method, datamodule=data_for(method, batch_size))
    return run


def batch_for(method, n=12):
    return next(iter(data_for(method, n).batches("train")))


def parameters(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def gradients(network):
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in network.parameters()]


def equal(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


class Steps(L.Callback):
    """Keeps the batches, the players and the schedule after each batch, and counts the optimizers' steps."""

    def __init__(self):
        self.batches, self.losses, self.global_steps, self.rates = [], [], [], []
        self.critics, self.generators, self.critic_gradients, self.generator_gradients = [], [], [], []
        self.norms = ([], [])

    def on_train_start(self, trainer, pl_module):
        for optimizer, norms in zip(trainer.optimizers, self.norms, strict=True):
            optimizer.register_step_pre_hook(lambda optimizer, args, kwargs, norms=norms: norms.append(norm(optimizer)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)
        self.losses.append(outputs["loss"].item())
        self.global_steps.append(trainer.global_step)
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
        self.critics.append(parameters(pl_module.critic))
        self.generators.append(parameters(pl_module.generator))
        self.critic_gradients.append(gradients(pl_module.critic))
        self.generator_gradients.append(gradients(pl_module.generator))


def norm(optimizer):
    return torch.cat([parameter.grad.flatten() for parameter in optimizer.param_groups[0]["params"]]).norm().item()
