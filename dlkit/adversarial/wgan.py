"""WGAN: the generator minimises the Wasserstein-1 distance, which a critic of bounded slope estimates.

    W(p, q) = sup over |d|_Lip <= 1 of E_p d(x) - E_q d(x)

The slope is bounded by clipping the weights (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1), by a penalty on the gradient
(Gulrajani et al. 2017, arXiv:1704.00028), or by spectral normalisation (Miyato et al. 2018, arXiv:1802.05957).

The gap E d(x) - E d(g) is not the distance: clipping leaves the slope at some K, and the penalty of weight lambda lets it grow
to 1 + W / (2 lambda). What is recorded as `wasserstein` is gap / slope, in the data's units, the slope being the mean
gradient's norm between real and generated examples; it is the distance where the slope is the same all the way between.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from dlkit.adversarial.latent import LatentAdversarialMethod
from dlkit.batches import Examples
from dlkit.functional.adversarial import (
    OBJECTIVES,
    clip_weights,
    gradient_penalty,
    input_gradient,
    interpolates,
    slopes,
)
from dlkit.method import Schedule, Terms
from dlkit.nn.adversarial import AdversarialNetworkName, GeneratorNorm

Lipschitz = Literal["clip", "gradient-penalty", "spectral"]


class WGAN(LatentAdversarialMethod):
    """A Wasserstein generative adversarial network.

    Args:
        data_shape: shape of one example, without the batch; three numbers are a picture, in [0, 1].
        latent_dim: width of the latent z ~ N(0, I).
        lipschitz: "clip" (RMSprop, as the paper asks), "gradient-penalty" or "spectral" (both Adam).
        penalty_weight: lambda of the gradient penalty; 10 for pictures, .1 for planar data.
        clip: bound of the weights.
        critic_steps: k; the batch is cut in k, one part for each step of the critic.
        network: "mlp", "maxout", "dcgan" or "resnet": see `dlkit.nn.adversarial`.
        hidden_dims: widths of the fully connected networks.
        width: channels of the convolutional ones.
        generator_norm: "none" or "batch"; the critic has no batch normalisation, its slope being each example's own.
        data_scale: other data than pictures is divided by it inside the networks; give about its standard deviation.
        num_classes: makes the model conditional on so many labels.
        ema_decay: of the generator's moving average, from which `sample` draws; 0 keeps none.
        learning_rate: step size for the generator, and for the critic if `critic_learning_rate` is None.
        critic_learning_rate: step size for the critic.
        betas: Adam's, for the generator, and for the critic if `critic_betas` is None; RMSprop has none.
        critic_betas: Adam's, for the critic.
        schedule: "constant", or "linear" or "cosine" to zero.
        gradient_clip: the largest norm of each player's gradient, or None.
        accumulation_steps: cuts each step's examples into so many pieces, of which one at a time is in memory.

    Raises:
        ValueError: an unknown name, or a value outside its range.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int = 64,
        lipschitz: Lipschitz = "gradient-penalty",
        penalty_weight: float = 10.0,
        clip: float = 0.01,
        critic_steps: int = 5,
        network: AdversarialNetworkName = "mlp",
        hidden_dims: tuple[int, ...] = (128, 128, 128),
        width: int = 64,
        generator_norm: GeneratorNorm = "none",
        data_scale: float = 1.0,
        num_classes: int | None = None,
        ema_decay: float = 0.0,
        learning_rate: float = 1e-4,
        critic_learning_rate: float | None = None,
        betas: tuple[float, float] = (0.0, 0.9),
        critic_betas: tuple[float, float] | None = None,
        schedule: Schedule = "constant",
        gradient_clip: float | None = None,
        accumulation_steps: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if lipschitz not in ("clip", "gradient-penalty", "spectral"):
            raise ValueError(f"unknown lipschitz {lipschitz!r}: use 'clip', 'gradient-penalty' or 'spectral'")
        if not penalty_weight > 0:
            raise ValueError(f"penalty_weight={penalty_weight} has to be positive")
        if not clip > 0:
            raise ValueError(f"clip={clip} has to be positive")
        self.data_shape = tuple(data_shape)
        self.latent_dim = latent_dim
        self.lipschitz: Lipschitz = lipschitz
        self.penalty_weight = penalty_weight
        self.clip = clip
        self.critic_steps = critic_steps
        self.network_name = network
        self.hidden_dims = tuple(hidden_dims)
        self.width = width
        self.generator_norm = generator_norm
        self.critic_norm = "spectral" if lipschitz == "spectral" else "none"
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
        self.build_networks()
        if self.critic_sees_batches:
            raise ValueError(
                "the critic of a WGAN has a slope for each example, and batch normalisation makes that depend on the whole "
                "batch: build a critic without it"
            )
        if lipschitz == "gradient-penalty":
            self.compiled_networks = ("generator",)  # torch.compile cannot differentiate twice
        if lipschitz == "clip":
            clip_weights(self.critic, clip)

    def critic_loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        x, labels = self.real(batch)
        with torch.no_grad():
            generated = self.draw(len(x), labels)
        real, fake = self.logits(x, generated, labels)
        loss = OBJECTIVES["wasserstein"].critic(real, fake)
        terms = {"gap_not_w1": -loss}
        if self.lipschitz == "gradient-penalty":
            slope = self.slopes(x, generated, labels)
            penalty = gradient_penalty(slope)
            loss = loss + self.penalty_weight * penalty
            terms |= {"penalty": penalty, "slope": slope.mean()}
        return loss, terms

    def slopes(self, x: Tensor, generated: Tensor, labels: Tensor | None) -> Tensor:
        """|grad d| at points between real and generated examples: (batch,)."""
        between = interpolates(x, generated)
        return slopes(input_gradient(self.critic(between, labels), between))

    def generator_loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        x, labels = self.real(batch)
        return self.generator_objective(x, self.draw(len(x), labels), labels), {}

    def generator_objective(self, x: Tensor, generated: Tensor, labels: Tensor | None) -> Tensor:
        fake = self.critic(generated, labels)
        return OBJECTIVES["wasserstein"].generator(fake, fake)

    def after_critic_step(self) -> None:
        # After the step, as in the paper; clipped before it, the generator would meet a critic out of bounds.
        if self.lipschitz == "clip":
            clip_weights(self.critic, self.clip)

    def held_out_terms(self, batch: Examples) -> Terms:
        """Also the estimate of the Wasserstein distance, gap / slope, in the data's units."""
        terms = super().held_out_terms(batch)
        if "slope" not in terms:
            x, labels = self.real(batch)
            with torch.no_grad():
                generated = self.draw(len(x), labels)
            terms["slope"] = self.slopes(x, generated, labels).mean()
        return {**terms, "wasserstein": self.unit * terms["gap_not_w1"] / terms["slope"]}

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for both; with clipped weights RMSprop, because momentum makes such critics unstable (arXiv:1701.07875)."""
        if self.lipschitz != "clip":
            return super().build_optimizers()
        critic_rate = self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate
        rates: list[tuple[Any, float]] = [(self.critic, critic_rate), (self.generator, self.learning_rate)]
        return [torch.optim.RMSprop(network.parameters(), lr=rate) for network, rate in rates]
