"""What the section `adversarial` is measured against: a loop written by hand, and PyTorch-GAN's scripts.

Each runs until its stopwatch is over, whose laps are alternations with the parts "critic" and "generator": k critic steps and
one generator step. What is left of a lap is the loading of data, logging and the like.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam
from torch.utils.data import DataLoader

import dlkit
from dlkit.processes import keep_freed_memory

from .timing import Stopwatch

PENALTY_WEIGHT = 10.0


def noise(method: Any, real: Tensor) -> Tensor:
    """Latents for as many examples."""
    return torch.randn(len(real), method.latent_dim)


# By hand -------------------------------------------------------------------------------------------------------------


def by_hand(method: dlkit.GAN, x: Tensor, batch_size: int, watch: Stopwatch, keep: bool = True) -> None:
    """The loop of somebody who knows what costs time: whole batches by index, fused Adam, fakes without a graph, one pass of
    the critic over both halves, no gradients of the critic's parameters in the generator's step, and freed memory is kept.

    Args:
        method: for its networks, its latents and its optimizers' settings.
        x: all examples, (n, *data_shape), bytes or float32.
        keep: whether freed memory is kept.
    """
    if keep:
        keep_freed_memory()
    generator, critic = method.generator, method.critic
    critic_optimizer = Adam(critic.parameters(), method.learning_rate, method.betas, fused=True)
    generator_optimizer = Adam(generator.parameters(), method.learning_rate, method.betas, fused=True)
    for batch in endless(x, method.critic_steps * batch_size):
        for real in batch.split(batch_size):
            with watch.part("critic"):
                with torch.no_grad():
                    generated = generator(noise(method, real))
                on_real, on_generated = critic(torch.cat([real, generated])).split(len(real))
                loss = softplus(-on_real).mean() + softplus(on_generated).mean()
                critic_optimizer.zero_grad()
                loss.backward()
                critic_optimizer.step()
        with watch.part("generator"):
            critic.requires_grad_(False)
            loss = softplus(-critic(generator(noise(method, batch[:batch_size])))).mean()
            generator_optimizer.zero_grad()
            loss.backward()
            generator_optimizer.step()
            critic.requires_grad_(True)
        watch.lap()
        if watch.over:
            break


def endless(x: Tensor, size: int) -> Iterator[Tensor]:
    """Shuffled batches, epoch after epoch; bytes become float32 in [-1, 1]."""
    while True:
        for rows in torch.randperm(len(x))[: len(x) // size * size].split(size):
            yield x[rows].float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x[rows]


# PyTorch-GAN ---------------------------------------------------------------------------------------------------------


def as_dcgan_script(method: dlkit.GAN, x: Tensor, batch_size: int, watch: Stopwatch, graph_kept: bool = False) -> None:
    """The loop of PyTorch-GAN's dcgan.py, with our networks of the same size: a DataLoader, the default Adam, sigmoid and
    BCELoss, the generator's step first, through a critic whose gradients are computed and thrown away, and two passes of the
    critic. It saves a pass of the generator by giving the critic the generator's own fakes.

    Args:
        graph_kept: the critic has fakes of its own instead, and its loss is differentiated through the generator too, as
            their wgan_gp.py does.
    """
    as_built(method)
    generator, critic = method.generator, nn.Sequential(method.critic, nn.Sigmoid())
    generator_optimizer = Adam(generator.parameters(), method.learning_rate, method.betas)
    critic_optimizer = Adam(critic.parameters(), method.learning_rate, method.betas)
    cross_entropy = nn.BCELoss()
    batches = loader(x, batch_size)
    while True:
        for real in batches:
            valid, fake = torch.ones(len(real)), torch.zeros(len(real))
            with watch.part("generator"):
                generator_optimizer.zero_grad()
                generated = generator(noise(method, real))
                generator_loss = cross_entropy(critic(generated), valid)
                generator_loss.backward()
                generator_optimizer.step()
            with watch.part("critic"):
                critic_optimizer.zero_grad()
                on_real = cross_entropy(critic(real), valid)
                generated = generator(noise(method, real)) if graph_kept else generated.detach()
                on_generated = cross_entropy(critic(generated), fake)
                critic_loss = (on_real + on_generated) / 2
                critic_loss.backward()
                critic_optimizer.step()
            print(critic_loss.item(), generator_loss.item())
            watch.lap()
            if watch.over:
                return


def as_wgan_gp_script(method: dlkit.WGAN, x: Tensor, batch_size: int, watch: Stopwatch) -> None:
    """The loop of PyTorch-GAN's wgan_gp.py, with our networks of the same size: the default Adam, separate passes, a critic's
    loss that is differentiated through the generator too, whose graph is kept, and a generator's step that computes the
    gradients of the critic.
    """
    as_built(method)
    generator, critic = method.generator, method.critic
    generator_optimizer = Adam(generator.parameters(), method.learning_rate, method.betas)
    critic_optimizer = Adam(critic.parameters(), method.learning_rate, method.betas)
    batches, count = loader(x, batch_size), 0
    while True:
        for real in batches:
            count += 1
            with watch.part("critic"):
                critic_optimizer.zero_grad()
                z = noise(method, real)
                generated = generator(z)
                on_real, on_generated = critic(real), critic(generated)
                share = torch.rand(len(real), 1, 1, 1)
                between = (share * real + (1 - share) * generated.detach()).requires_grad_(True)
                on_between = critic(between)
                (slope,) = torch.autograd.grad(on_between, between, torch.ones_like(on_between), create_graph=True)
                penalty = ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
                critic_loss = -on_real.mean() + on_generated.mean() + PENALTY_WEIGHT * penalty
                critic_loss.backward()
                critic_optimizer.step()
            if count % method.critic_steps:
                continue
            with watch.part("generator"):
                generator_optimizer.zero_grad()
                generator_loss = -critic(generator(z)).mean()
                generator_loss.backward()
                generator_optimizer.step()
            print(critic_loss.item(), generator_loss.item())
            watch.lap()
            if watch.over:
                return


def as_built(method: Any) -> None:
    """Puts networks into the order of memory in which PyTorch builds them; channels innermost are a choice of our methods."""
    method.to(memory_format=torch.contiguous_format)


def loader(x: Tensor, batch_size: int) -> DataLoader[Tensor]:
    """PyTorch's loader of shuffled batches, float32 in [-1, 1], turned from bytes beforehand."""
    floats: Any = x.float().div_(127.5).sub_(1)
    return DataLoader(floats, batch_size, shuffle=True, drop_last=True)
