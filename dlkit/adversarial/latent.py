"""LatentAdversarialMethod: a generator that turns latents z ~ N(0, I) into examples, and a critic of examples.

What GAN and WGAN share; they differ in their losses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlkit.ability import ability, differentiable
from dlkit.adversarial.method import AdversarialMethod
from dlkit.batches import Examples
from dlkit.checks import check_examples, check_labels
from dlkit.nn.adversarial import (
    AdversarialNetworkName,
    CriticNorm,
    GeneratorNorm,
    build_critic,
    build_generator,
    has_batch_norm,
)
from dlkit.protocols import Labelled


class LatentAdversarialMethod(AdversarialMethod):
    """The base of methods whose generator draws from latents. A subclass sets the attributes below and calls
    `build_networks()`.

    Inside the networks pictures (three-dimensional data), which lie in [0, 1], lie in [-1, 1]; other data is divided by
    `data_scale`.

    Attributes:
        data_shape: shape of one example.
        latent_dim: width of z.
        data_scale: the size of data that are no pictures; networks learn best what has unit size.
        network, hidden_dims, width, generator_norm, critic_norm: see `dlkit.nn.adversarial`.
        num_classes: how many labels, where the model is conditional on them, or None.
        log_odds: whether the critic's logits estimate log p(x) / q(x).
    """

    reads = Examples

    data_shape: tuple[int, ...]
    latent_dim: int
    data_scale: float = 1.0
    network_name: AdversarialNetworkName
    hidden_dims: tuple[int, ...]
    width: int
    generator_norm: GeneratorNorm
    critic_norm: CriticNorm
    num_classes: int | None
    log_odds: bool = False

    def build_networks(self) -> None:
        """Builds both players by their hooks, and starts the moving average."""
        if self.latent_dim < 1:
            raise ValueError(f"latent_dim={self.latent_dim}: give 1 or more")
        if not self.data_scale > 0:
            raise ValueError(f"data_scale={self.data_scale} has to be positive")
        if self.width < 1 or not all(size >= 1 for size in self.hidden_dims):
            raise ValueError(f"width={self.width} and hidden_dims={self.hidden_dims}: give 1 or more")
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes}: give the number of classes, or None for an unconditional model")
        self.check_settings()
        self.generator = self.build_generator()
        self.critic = self.build_critic()
        # Convolutions are a tenth faster with the channels innermost; on pictures of 8x8 they are slower.
        if len(self.data_shape) == 3 and self.data_shape[-1] > 16:
            self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        # A critic that normalises over the batch must not see real and generated examples as one.
        self.critic_sees_batches = has_batch_norm(self.critic)
        self.start_average()

    def build_generator(self) -> nn.Module:
        """The generator: (batch, latent_dim), labels or None -> (batch, *data_shape)."""
        return build_generator(
            self.network_name, self.latent_dim, self.data_shape, self.hidden_dims, self.width, self.generator_norm,
            self.num_classes,
        )  # fmt: skip

    def build_critic(self) -> nn.Module:
        """The critic: (batch, *data_shape), labels or None -> logits (batch,)."""
        return build_critic(
            self.network_name, self.data_shape, self.hidden_dims, self.width, self.critic_norm, self.num_classes
        )

    def standardize(self, x: Tensor) -> Tensor:
        """Data as the networks see it."""
        x = x.to(self.dtype)
        return 2 * x - 1 if len(self.data_shape) == 3 else x / self.data_scale

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of `standardize`."""
        return (x + 1) / 2 if len(self.data_shape) == 3 else x * self.data_scale

    @property
    def unit(self) -> float:
        """How long a distance of 1 inside the networks is in the data's units."""
        return 0.5 if len(self.data_shape) == 3 else self.data_scale

    def real(self, batch: Examples) -> tuple[Tensor, Tensor | None]:
        """The examples as the critic sees them, and their labels where the model is conditional."""
        check_examples(batch.x, self.data_shape, type(self).__name__)
        # Looked at on the CPU only: on an accelerator the look would make every step wait.
        if batch.x.is_cpu and len(self.data_shape) == 3:
            low, high = batch.x.aminmax()
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"{type(self).__name__} was given pictures with values from {low:g} to {high:g}: bring them into [0, 1]"
                )
        labels = check_labels(batch.y, self.num_classes, type(self).__name__) if self.num_classes else None
        return self.standardize(batch.x), labels

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        known = data.num_classes if isinstance(data, Labelled) else None
        if self.num_classes and known and self.num_classes > known:
            raise ValueError(
                f"num_classes={self.num_classes} and the data has {known}: the others would be drawn and never be learnt"
            )

    def draw_latents(self, n: int) -> Tensor:
        """z ~ N(0, I): (n, latent_dim)."""
        return torch.randn(n, self.latent_dim, device=self.device).to(self.dtype)

    def draw(self, n: int, labels: Tensor | None) -> Tensor:
        """Generated examples as the critic sees them: (n, *data_shape)."""
        return self.generator(self.draw_latents(n), labels)

    def logits(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The critic's logits of real and generated examples, in one pass if it treats examples one by one."""
        if self.critic_sees_batches:
            return self.critic(real, labels), self.critic(fake, labels)
        twice = None if labels is None else torch.cat([labels, labels])
        first, second = self.critic(torch.cat([real, fake]), twice).split(len(real))
        return first, second

    def generator_objective(self, x: Tensor, generated: Tensor, labels: Tensor | None) -> Tensor:
        """What the generator minimises, of these generated examples beside these real ones, all as the critic sees them."""
        raise NotImplementedError(f"{type(self).__name__} has to define generator_objective(x, generated, labels) -> loss")

    def checked(self, labels: Tensor | None, n: int) -> Tensor | None:
        """Labels given by a user for n examples.

        Raises:
            ValueError: they are out of range or of another number, or the model is conditional and they are missing, or it
                is not and they are given.
        """
        if self.num_classes is None:
            if labels is not None:
                raise ValueError(
                    f"this {type(self).__name__} is not conditional and takes no labels: leave them out, or train one with "
                    f"num_classes"
                )
            return None
        if labels is None:
            raise ValueError(f"this {type(self).__name__} is conditional: give a label for each of the {n} examples")
        labels = check_labels(labels.to(self.device), self.num_classes, type(self).__name__)
        if len(labels) != n:
            raise ValueError(f"{len(labels)} labels for {n} examples: give one for each")
        return labels

    @ability
    def sample(self, n: int, labels: Tensor | None = None) -> Tensor:
        """n new examples, from the generator's moving average where there is one: (n, *data_shape).

        Args:
            n: how many.
            labels: (n,), int64, for a conditional model; drawn evenly where they are not given.

        Raises:
            ValueError: labels for a model that takes none, out of range, or of another number than n.
        """
        if n < 1:
            raise ValueError(f"n={n}: ask for at least one sample")
        if self.num_classes and labels is None:
            labels = torch.randint(self.num_classes, (n,), device=self.device)
        labels = self.checked(labels, n)
        return self.restore(self.trained_generator(self.draw_latents(n), labels))

    @ability
    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The example that the trained generator makes of a latent: (batch, latent_dim) -> (batch, *data_shape)."""
        return self.restore(self.trained_generator(z.to(self.dtype), self.checked(labels, len(z))))

    @ability
    def discriminate(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The critic's logits, larger for what looks real: (batch, *data_shape) -> (batch,)."""
        check_examples(x, self.data_shape, type(self).__name__)
        return self.critic(self.standardize(x), self.checked(labels, len(x)))

    @ability
    def pull(self, x: Tensor, real: Tensor, labels: Tensor | None = None) -> Tensor:
        """Where the generator is told to move each generated example: n times minus the gradient of its loss, a mean over the
        n examples, with respect to them.

        Args:
            x: (n, *data_shape), generated.
            real: (n, *data_shape), real; x_i is paired with real_i by the relativistic loss, and other losses ignore them.
            labels: (n,), of both, for a conditional model.

        Returns:
            (n, *data_shape), in units of the loss per unit of the data.

        Raises:
            ValueError: examples of another shape than the model's, or not as many real ones; labels as in `discriminate`.
        """
        for examples in (x, real):
            check_examples(examples, self.data_shape, type(self).__name__)
        if len(x) != len(real):
            raise ValueError(f"{len(real)} real examples beside {len(x)} generated ones: give as many")
        labels = self.checked(labels, len(x))
        with differentiable():
            # Copies, because validation's tensors cannot be differentiated through.
            x, real = x.detach().clone().requires_grad_(), real.clone()
            labels = None if labels is None else labels.clone()
            loss = self.generator_objective(self.standardize(real), self.standardize(x), labels)
            (gradient,) = torch.autograd.grad(loss, x)
        return -len(x) * gradient
