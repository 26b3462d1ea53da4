"""DenoisingAutoencoder: a map from corrupted data back to clean data.

    x~ ~ c(x~ | x),      L = (1/N) sum_n |x_n - phi_w(x~_n)|^2

Vincent et al. 2008. The slide writes the norm without its square; the square is minimised here, so that the best
phi is the posterior mean E[x | x~], and for Gaussian data the Wiener filter, which the tests hold it against.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dlkit.ability import ability
from dlkit.autoencoders.autoencoder import Autoencoder
from dlkit.batches import Examples
from dlkit.functional.linear_gaussian import wiener_mse
from dlkit.method import Schedule, Terms
from dlkit.nn.encoders import NetworkName

Corruption = Literal["gaussian", "mask", "salt-pepper"]


class DenoisingAutoencoder(Autoencoder):
    """An autoencoder trained to undo a corruption; `mse` is measured against the clean example.

    Args:
        data_shape: shape of one example, without the batch.
        latent_dim: dimension of the code; wide codes are allowed, since the corruption forbids the identity.
        network: "linear", "mlp" or "conv".
        hidden_dims: widths of the encoder's hidden layers; the decoder has them in reverse.
        width: channels of the first convolution.
        corruption: "gaussian" adds N(0, noise^2) to every element; "mask" sets each to zero with probability `noise`;
            "salt-pepper" sets each with probability `noise` to 0 or 1, evenly.
        noise: standard deviation, in the data's units, or probability.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: an unknown corruption, or a noise outside its range.
    """

    reads = Examples

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int = 64,
        network: NetworkName = "mlp",
        hidden_dims: tuple[int, ...] = (512,),
        width: int = 32,
        corruption: Corruption = "gaussian",
        noise: float = 0.5,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(data_shape, latent_dim, network, hidden_dims, width, learning_rate, schedule)
        self.save_hyperparameters()
        if corruption not in ("gaussian", "mask", "salt-pepper"):
            raise ValueError(f"unknown corruption {corruption!r}: use 'gaussian', 'mask' or 'salt-pepper'")
        if not noise >= 0 or (corruption != "gaussian" and noise > 1):
            raise ValueError(f"noise={noise} is out of range: a standard deviation is >= 0, a probability in [0, 1]")
        self.corruption: Corruption = corruption
        self.noise = noise

    def corrupt(self, x: Tensor) -> Tensor:
        """x~ ~ c(x~ | x): (batch, *data_shape) -> the same shape."""
        if self.corruption == "gaussian":
            return x + self.noise * torch.randn_like(x)
        hit = torch.rand_like(x) < self.noise
        if self.corruption == "mask":
            return x.masked_fill(hit, 0.0)
        return torch.where(hit, (torch.rand_like(x) < 0.5).to(x.dtype), x)

    def loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        return self.reconstruction_loss(batch.x, self(self.corrupt(batch.x)))

    @ability
    def denoise(self, x: Tensor) -> Tensor:
        """phi(x~): (batch, *data_shape) -> the same shape."""
        return self(x)

    def baselines(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """The mean squared error of the Wiener filter, the best affine map, for Gaussian noise: both (n, elements)."""
        return {"wiener_mse": wiener_mse(train, test, self.noise)} if self.corruption == "gaussian" else {}
