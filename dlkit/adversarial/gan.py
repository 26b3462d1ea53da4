"""GAN: a generator and a discriminator, by any of five objectives, with or without zero-centred gradient penalties.

    min_theta max_phi V(phi, theta) = E log D_phi(x) + E log(1 - D_phi(g_theta(z)))

and its relatives: see `dlkit.functional.adversarial`. The penalties are R1 and R2, gamma/2 E|grad d|^2 on real and on generated
examples (Mescheder et al. 2018, arXiv:1801.04406, equations 9 and 10). "relativistic" with "r1+r2" is R3GAN's loss (Huang et
al. 2024, arXiv:2501.05441), which converges locally and needs no other trick.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dlkit.adversarial.latent import LatentAdversarialMethod
from dlkit.batches import Examples
from dlkit.functional.adversarial import input_gradient, objective, squared_norms
from dlkit.method import Schedule, Terms
from dlkit.nn.adversarial import AdversarialNetworkName, CriticNorm, GeneratorNorm

GANObjective = Literal["minimax", "non-saturating", "least-squares", "hinge", "relativistic"]
Penalty = Literal["none", "r1", "r1+r2"]


class GAN(LatentAdversarialMethod):
    """A generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661).

    Args:
        data_shape: shape of one example, without the batch; three numbers are a picture, in [0, 1].
        latent_dim: width of the latent z ~ N(0, I).
        objective: "minimax", "non-saturating", "least-squares", "hinge" or "relativistic".
        penalty: "none", "r1" or "r1+r2".
        penalty_weight: gamma.
        critic_steps: k; the batch is cut in k, one part for each step of the discriminator.
        network: "mlp", "maxout", "dcgan" or "resnet": see `dlkit.nn.adversarial`.
        hidden_dims: widths of the fully connected networks.
        width: channels of the convolutional ones.
        generator_norm: "none" or "batch".
        critic_norm: "none", "batch" or "spectral".
        data_scale: other data than pictures is divided by it inside the networks; give about its standard deviation.
        num_classes: makes the model conditional on so many labels (Mirza and Osindero 2014; Miyato and Koyama 2018).
        ema_decay: of the generator's moving average, from which `sample` draws; 0 keeps none.
        learning_rate: Adam's step size for the generator, and for the critic if `critic_learning_rate` is None.
        critic_learning_rate: Adam's step size for the critic.
        betas: Adam's, for the generator, and for the critic if `critic_betas` is None.
        critic_betas: Adam's, for the critic.
        schedule: "constant", or "linear" or "cosine" to zero.
        gradient_clip: the largest norm of each player's gradient, or None.
        accumulation_steps: cuts each step's examples into so many pieces, of which one at a time is in memory.

    Raises:
        ValueError: an unknown name, a value outside its range, or a penalty on a critic with batch normalisation.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int = 64,
        objective: GANObjective = "non-saturating",
        penalty: Penalty = "none",
        penalty_weight: float = 1.0,
        critic_steps: int = 1,
        network: AdversarialNetworkName = "mlp",
        hidden_dims: tuple[int, ...] = (128, 128, 128),
        width: int = 64,
        generator_norm: GeneratorNorm = "none",
        critic_norm: CriticNorm = "none",
        data_scale: float = 1.0,
        num_classes: int | None = None,
        ema_decay: float = 0.0,
        learning_rate: float = 2e-4,
        critic_learning_rate: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        critic_betas: tuple[float, float] | None = None,
        schedule: Schedule = "constant",
        gradient_clip: float | None = None,
        accumulation_steps: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if objective == "wasserstein":
            raise ValueError("objective='wasserstein' needs a critic of bounded slope: use dlkit.WGAN")
        if penalty not in ("none", "r1", "r1+r2"):
            raise ValueError(f"unknown penalty {penalty!r}: use 'none', 'r1' or 'r1+r2'")
        if penalty != "none" and not penalty_weight > 0:
            raise ValueError(f"penalty_weight={penalty_weight} has to be positive: for none use penalty='none'")
        self.data_shape = tuple(data_shape)
        self.latent_dim = latent_dim
        self.penalty: Penalty = penalty
        self.penalty_weight = penalty_weight
        self.critic_steps = critic_steps
        self.network_name = network
        self.hidden_dims = tuple(hidden_dims)
        self.width = width
        self.generator_norm = generator_norm
        self.critic_norm = critic_norm
        self.data_scale = data_scale
        self.num_classes = num_classes
        self.ema_decay = ema_decay
        self.learning_rate = learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.betas = betas
        self.critic_betas = critic_betas
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.accumulation_steps = accumulation_steps
        self.set_objective(objective)
        self.build_networks()
        if penalty != "none" and self.critic_sees_batches:
            raise ValueError(
                f"penalty={penalty!r} takes the gradient of each example's logit, and batch normalisation in the critic makes "
                f"that depend on the whole batch: use critic_norm='none' or 'spectral'"
            )
        if penalty != "none":
            self.compiled_networks = ("generator",)  # torch.compile cannot differentiate twice

    def set_objective(self, name: GANObjective) -> None:
        """Chooses the losses by name."""
        self.objective = objective(name)
        self.log_odds = name in ("minimax", "non-saturating")

    def critic_loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        x, labels = self.real(batch)
        with torch.no_grad():
            generated = self.draw(len(x), labels)
        if self.penalty == "none":
            real, fake = self.logits(x, generated, labels)
            return self.objective.critic(real, fake), {"real": real.mean(), "fake": fake.mean()}
        x = x.detach().requires_grad_()
        if self.penalty == "r1":
            # Two passes: differentiating the real half of one pass would cost as much as differentiating both.
            real, fake = self.critic(x, labels), self.critic(generated, labels)
            penalty = squared_norms(input_gradient(real, x)).mean()
        else:
            generated.requires_grad_()
            real, fake = self.logits(x, generated, labels)
            gradients = torch.autograd.grad(real.sum() + fake.sum(), (x, generated), create_graph=True)
            penalty = sum((squared_norms(gradient).mean() for gradient in gradients), x.new_zeros(()))
        loss = self.objective.critic(real, fake) + 0.5 * self.penalty_weight * penalty
        return loss, {"real": real.mean(), "fake": fake.mean(), "penalty": penalty}

    def generator_loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        x, labels = self.real(batch)
        return self.generator_objective(x, self.draw(len(x), labels), labels), {}

    def generator_objective(self, x: Tensor, generated: Tensor, labels: Tensor | None) -> Tensor:
        if self.objective.pairs:
            real, fake = self.logits(x, generated, labels)
        else:
            real, fake = x.new_zeros(()), self.critic(generated, labels)
        return self.objective.generator(real, fake)
