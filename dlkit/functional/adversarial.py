"""The objectives and penalties of adversarial models, on logits throughout.

A critic d gives one logit an example; the discriminator of the course's slides is D = sigmoid(d). With real examples x and
fakes g = g(z), softplus(t) = log(1 + e^t), every loss is a mean over the batch, to be minimised:

| objective       | critic                                 | generator               |
|-----------------|----------------------------------------|-------------------------|
| minimax         | softplus(-d(x)) + softplus(d(g)) = -V  | -softplus(d(g))         |
| non-saturating  | the same                               | softplus(-d(g))         |
| least-squares   | (d(x) - 1)^2 / 2 + d(g)^2 / 2          | (d(g) - 1)^2 / 2        |
| hinge           | max(0, 1 - d(x)) + max(0, 1 + d(g))    | -d(g)                   |
| wasserstein     | d(g) - d(x)                            | -d(g)                   |
| relativistic    | softplus(-(d(x) - d(g)))               | softplus(-(d(g) - d(x)))|

V(phi, theta) = E log D(x) + E log(1 - D(g)) is Goodfellow et al. 2014 (arXiv:1406.2661, equation 1), non-saturating its section
3; least squares Mao et al. 2017 (arXiv:1611.04076, equation 2 with a = 0, b = c = 1); hinge Lim and Ye 2017
(arXiv:1705.02894); Wasserstein Arjovsky et al. 2017 (arXiv:1701.07875); relativistic, with paired examples,
Jolicoeur-Martineau 2019 (arXiv:1807.00734).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

ObjectiveName = Literal["minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"]


class Objective(NamedTuple):
    """What the two players minimise.

    Attributes:
        critic: (logits of real examples, logits of fakes), both (batch,) -> scalar.
        generator: the same arguments -> scalar; only the relativistic one reads the real examples' logits.
        pairs: whether the generator's loss reads the real examples' logits.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    pairs: bool = False


def minimax_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-V(phi, theta) of logits: 2 log 2 where the critic cannot tell, log 4 - 2 JSD at its optimum."""
    return softplus(-real).mean() + softplus(fake).mean()


OBJECTIVES: dict[str, Objective] = {
    "minimax": Objective(minimax_critic, lambda real, fake: -softplus(fake).mean()),
    "non-saturating": Objective(minimax_critic, lambda real, fake: softplus(-fake).mean()),
    "least-squares": Objective(
        lambda real, fake: 0.5 * ((real - 1).square().mean() + fake.square().mean()),
        lambda real, fake: 0.5 * (fake - 1).square().mean(),
    ),
    "hinge": Objective(
        lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(),
        lambda real, fake: -fake.mean(),
    ),
    "wasserstein": Objective(lambda real, fake: fake.mean() - real.mean(), lambda real, fake: -fake.mean()),
    "relativistic": Objective(
        lambda real, fake: softplus(fake - real).mean(),
        lambda real, fake: softplus(real - fake).mean(),
        pairs=True,
    ),
}


def objective(name: str) -> Objective:
    """The losses by name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: use one of {', '.join(get_args(ObjectiveName))}")
    return OBJECTIVES[name]


def input_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """The gradient of each example's logit with respect to that example, itself differentiable: (batch, *shape).

    Args:
        logits: (batch,), a function of x that treats each example by itself (no batch normalisation).
        x: (batch, *shape), with requires_grad.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient


def squared_norms(gradient: Tensor) -> Tensor:
    """The squared Euclidean norm of each example's gradient, in float32: (batch, *shape) -> (batch,)."""
    return gradient.flatten(1).float().square().sum(1)


def interpolates(real: Tensor, fake: Tensor) -> Tensor:
    """A point on the segment between each real example and its fake, uniformly drawn for each: (batch, *shape), a leaf of
    the real examples' precision."""
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype)
    return torch.lerp(real.detach(), fake.detach().to(real.dtype), share).requires_grad_()


def gradient_penalty(slopes: Tensor) -> Tensor:
    """WGAN-GP's E(|grad d(x^)| - 1)^2 of the slopes |grad d(x^)| at interpolates x^: (batch,) -> scalar.

    With weight lambda and densities whose optimal transport moves every point in one direction, the penalised optimum has
    the slope 1 + W / (2 lambda) and the gap W (1 + W / (2 lambda)), which is not W: gap / slope is. Gulrajani et al. 2017
    (arXiv:1704.00028, equation 3).
    """
    return (slopes - 1).square().mean()


def slopes(gradient: Tensor) -> Tensor:
    """|grad d(x)| of each example, with a finite derivative where the gradient is zero: (batch, *shape) -> (batch,)."""
    return (squared_norms(gradient) + 1e-12).sqrt()


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Puts every parameter into [-bound, bound], in place; buffers (running statistics) are left alone. arXiv:1701.07875."""
    for parameter in network.parameters():
        parameter.clamp_(-bound, bound)
