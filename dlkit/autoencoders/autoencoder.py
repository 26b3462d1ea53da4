"""Autoencoder: compression by reconstruction.

    x -> z = f_theta(x) -> x^ = g_psi(z),      L(theta, psi) = (1/N) sum_n |x_n - g_psi(f_theta(x_n))|^2

With f and g linear the best solution is principal component analysis (Bourlard and Kamp 1988): a test holds the linear
network to it. Walking in the latent space, xi(x, x', a) = g((1 - a) f(x) + a f(x')), gives interpolations. The
lecture's last experiment is here too: a Gaussian fitted to the latents, decoded, gives poor samples, because nothing
told the encoder where to put them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dlkit.ability import ability
from dlkit.batches import Examples
from dlkit.checks import check_examples
from dlkit.functional.linear_gaussian import largest_angle, pca, pca_mse
from dlkit.functional.precision import single_or_better
from dlkit.method import Method, Schedule, Terms
from dlkit.nn.encoders import Decoder, Encoder, NetworkName, build_decoder, build_encoder


class Autoencoder(Method):
    """An autoencoder of examples of one fixed shape.

    Records the loss (squared error summed over an example, mean over the batch) and `mse`, the same per element.

    Args:
        data_shape: shape of one example, without the batch.
        latent_dim: D, the dimension of the latent space.
        network: "linear", "mlp" or "conv": see `dlkit.nn.encoders.build_encoder`.
        hidden_dims: widths of the encoder's hidden layers; the decoder has them in reverse.
        width: channels of the first convolution.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a network that cannot read the shape.
    """

    reads = Examples

    compiled_networks = ("encoder", "decoder")

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int = 16,
        network: NetworkName = "mlp",
        hidden_dims: tuple[int, ...] = (512, 128),
        width: int = 32,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if latent_dim < 1:
            raise ValueError(f"latent_dim={latent_dim}: give at least 1")
        self.data_shape = tuple(data_shape)
        self.latent_dim = latent_dim
        self.network: NetworkName = network
        self.hidden_dims = hidden_dims
        self.width = width
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.encoder = self.build_encoder()
        self.decoder = self.build_decoder()
        self.latent_density: dict[str, Tensor] | None = None

    def build_encoder(self) -> Encoder:
        """f_theta: (batch, *data_shape) -> (batch, latent_dim)."""
        return build_encoder(self.network, self.data_shape, self.latent_dim, self.hidden_dims, self.width)

    def build_decoder(self) -> Decoder:
        """g_psi: (batch, latent_dim) -> (batch, *data_shape)."""
        return build_decoder(self.network, self.latent_dim, self.data_shape, self.hidden_dims, self.width)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """z = f(x): (batch, *data_shape) -> (batch, latent_dim)."""
        check_examples(x, self.data_shape, type(self).__name__)
        return self.encoder(x.to(self.dtype))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """g(z): (batch, latent_dim) -> (batch, *data_shape)."""
        return self.decoder(z.to(self.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """g(f(x)): (batch, *data_shape) -> the same shape."""
        return self.decode(self.encode(x))

    def loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        return self.reconstruction_loss(batch.x, self(batch.x))

    def reconstruction_loss(self, x: Tensor, reconstruction: Tensor) -> tuple[Tensor, Terms]:
        """(1/N) sum_n |x_n - x^_n|^2, and the same divided by the number of elements of an example."""
        loss = (single_or_better(x) - reconstruction).square().sum() / len(x)
        return loss, {"mse": loss.detach() / math.prod(self.data_shape)}

    # Abilities -------------------------------------------------------------------------------------------------------

    @ability
    def reconstruct(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """g(f(x)): (batch, *data_shape) -> the same shape."""
        return self(x)

    @ability
    def anomaly_score(self, x: Tensor) -> Tensor:
        """|x - g(f(x))|^2, large for examples unlike the training data: (batch, *data_shape) -> (batch,)."""
        return (x - self(x)).square().flatten(1).sum(1)

    @ability
    def interpolate(self, x0: Tensor, x1: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
        """xi(x0, x1, a) = g((1 - a) f(x0) + a f(x1)) for `steps` values of a from 0 to 1.

        Args:
            x0: (batch, *data_shape), where the walk starts.
            x1: (batch, *data_shape), where it ends.
            steps: how many points, the ends included.
            labels: (batch,), for methods that are conditional on them.

        Returns:
            (batch, steps, *data_shape).
        """
        return interpolate(self, x0, x1, steps, labels)

    @ability
    def fit_latent_density(
        self,
        loader: Iterable[Examples],
        kind: Literal["gaussian", "mixture"] | str = "gaussian",
        components: int = 20,
        seed: int = 0,
    ) -> None:
        """Fits a density to the latents f(x) of a data set, from which `sample` then draws. It is kept in checkpoints.

        Args:
            loader: yields `Examples` as the network reads them, such as a datamodule's `batches("train")`.
            kind: "gaussian" with full covariance (the lecture's experiment, which fails), or "mixture" of Gaussians
                (scikit-learn's expectation maximisation; compare Ghosh et al. 2020, arXiv:1903.12436).
            components: Gaussians in the mixture.
            seed: of the mixture's initialisation.

        Raises:
            ValueError: an unknown kind, or fewer examples than components.
        """
        from sklearn.mixture import GaussianMixture

        if kind not in ("gaussian", "mixture"):
            raise ValueError(f"unknown latent density {kind!r}: use 'gaussian' or 'mixture'")
        components = 1 if kind == "gaussian" else components
        codes = [self.encode(batch.x.to(self.device), batch.y) for batch in loader]
        z = torch.cat(codes).cpu().double() if codes else torch.empty(0)
        if len(z) <= components:
            raise ValueError(f"{len(z)} examples are too few for a density of {components} Gaussians: give more examples")
        mixture = GaussianMixture(components, random_state=seed, reg_covar=1e-5).fit(z.numpy())
        self.latent_density = {
            "weights": torch.from_numpy(mixture.weights_).float(),
            "means": torch.from_numpy(mixture.means_).float(),
            "scales": torch.linalg.cholesky(torch.from_numpy(mixture.covariances_)).float(),
        }

    @ability
    def sample_latents(self, n: int) -> Tensor:
        """(n, latent_dim), drawn from the fitted density.

        Raises:
            ValueError: no density has been fitted.
        """
        if self.latent_density is None:
            raise ValueError("an autoencoder has no density of its own to sample: call fit_latent_density(loader) first")
        chosen = self.latent_density["weights"].multinomial(n, replacement=True)
        noise = torch.randn(n, self.latent_dim, 1)
        z = self.latent_density["means"][chosen] + (self.latent_density["scales"][chosen] @ noise).squeeze(2)
        return z.to(self.device)

    @ability
    def sample(self, n: int) -> Tensor:
        """g(z), z from the fitted density: (n, *data_shape).

        Raises:
            ValueError: no density has been fitted, or no samples are asked for.
        """
        if n < 1:
            raise ValueError(f"n={n}: ask for at least one sample")
        return self.decode(self.sample_latents(n))

    def baselines(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """PCA's mean squared error with as many dimensions; for a linear network also how near it came to PCA.

        Args:
            train, test: (n, elements), float64.

        Returns:
            `pca_mse` on `test`, per element; of a linear network `train_mse_relative_to_pca`, which is at least 1, and
            `largest_angle_to_pca` between the two subspaces, in radians. Nothing where there are too few elements or training
            rows to leave an error over.
        """
        if self.latent_dim >= min(train.shape[1], len(train) - 1):
            return {}
        found = {"pca_mse": pca_mse(train, test, self.latent_dim)}
        if self.network == "linear":
            rows = train.float().unflatten(1, self.data_shape).to(self.device)
            mse = float((self.reconstruct(rows) - rows).square().mean())
            found["train_mse_relative_to_pca"] = mse / pca_mse(train, train, self.latent_dim)
            decoder = next(module for module in self.decoder.modules() if isinstance(module, nn.Linear))
            found["largest_angle_to_pca"] = largest_angle(decoder.weight, pca(train, self.latent_dim)[1])
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["latent_density"] = self.latent_density

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        density = checkpoint["latent_density"]  # drawn from on the CPU, wherever the checkpoint is loaded
        self.latent_density = density and {name: part.cpu() for name, part in density.items()}


def interpolate(method: Any, x0: Tensor, x1: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
    """xi(x0, x1, a) = g((1 - a) f(x0) + a f(x1)) for any method that encodes and decodes: (batch, steps, *data_shape).

    Raises:
        ValueError: fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"a walk has at least its two ends, got steps={steps}")
    z0, z1 = method.encode(x0, labels), method.encode(x1, labels)
    alpha = torch.linspace(0, 1, steps, device=z0.device).view(1, steps, 1)
    z = (1 - alpha) * z0.unsqueeze(1) + alpha * z1.unsqueeze(1)
    repeated = None if labels is None else labels.repeat_interleave(steps)
    return method.decode(z.flatten(0, 1), repeated).unflatten(0, (len(x0), steps))
