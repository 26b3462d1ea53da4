"""VAE: the variational autoencoder, conditional and importance-weighted versions included.

    prior       p(z) = N(0, 1)
    decoder     p(x | z), its parameters predicted by a network
    encoder     q(z | x) = N(mu(x), sigma(x)^2)
    sampling    z = sigma(x) * eps + mu(x),  eps ~ N(0, 1)
    objective   max  E_q[log p(x | z)] - beta KL[q(z | x) | p(z)]  <=  log p(x)   for beta = 1

Kingma and Welling 2013 (arXiv:1312.6114); beta: Higgins et al. 2017; free bits: Kingma et al. 2016 (arXiv:1606.04934,
equation 15); importance weighting: Burda et al. 2016 (arXiv:1509.00519). All numbers are nats, summed over
pixels and latents and averaged over the batch, with every constant kept: they can be compared between models.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.ability import ability
from dlkit.autoencoders.autoencoder import interpolate
from dlkit.batches import Examples
from dlkit.checks import check_examples, check_labels
from dlkit.functional.divergences import importance_bound, kl_to_standard_normal
from dlkit.functional.likelihoods import bernoulli_log_prob, categorical_log_prob, gaussian_log_prob
from dlkit.functional.linear_gaussian import probabilistic_pca_nll
from dlkit.functional.precision import single_or_better
from dlkit.method import Method, Schedule, Terms
from dlkit.metrics.active_units import ActiveUnits
from dlkit.nn.encoders import Decoder, Encoder, NetworkName, build_decoder, build_encoder

Likelihood = Literal["bernoulli", "gaussian", "categorical"]

SIGMA_FLOOR = 1e-3  # Constant pixels (the corners of a digit) would otherwise drive a learned sigma to 0 and log p to infinity.
LOG_SIGMA_BOUND = 7.0  # The encoder's log sigma bends towards +-7, so that exp() neither overflows nor vanishes.
VALUES_AT_ONCE = 400_000  # Many rows are decoded in chunks of so many values, which stay in a CPU's cache,
FEWEST_ROWS_AT_ONCE = 64  # but of so many rows at least, which keep the matrix products efficient.
LARGER_ON_ACCELERATORS = 8  # How many times, since they take longer to be started on a small chunk than to compute it,
MOST_ROWS_ON_ACCELERATORS = 4096  # up to so many rows, since hidden layers may be wider than an example.


class VAE(Method):
    """A variational autoencoder of examples of one fixed shape.

    Records the loss (the negative objective), `reconstruction` = E_q[log p(x|z)], `kl`, `active_units`, `sigma` where
    it is learned, and in the test `nll`, the importance-sampling estimate of -log p(x).

    Args:
        data_shape: shape of one example, without the batch.
        latent_dim: dimension of z.
        network: "linear", "mlp" or "conv": see `dlkit.nn.encoders.build_encoder`.
        hidden_dims: widths of the encoder's hidden layers; the decoder has them in reverse.
        width: channels of the first convolution.
        likelihood: p(x | z): "bernoulli" for x in [0, 1] (binarise the data for a true likelihood); "gaussian";
            "categorical" over `num_levels` values, x = level / (num_levels - 1).
        sigma: of the Gaussian likelihood: "learned-shared" (one number), "learned-per-pixel" (sigma_theta(z), predicted
            by the decoder beside mu_theta(z)), or a fixed number. Learned ones have a floor of 0.001.
        num_levels: values a pixel can take, for the categorical likelihood.
        beta: weight of the KL.
        kl_warmup: optimizer steps over which the weight of the KL rises linearly from 0 to `beta`. It applies in
            training under a Trainer, which counts the steps; evaluation always uses `beta`.
        free_bits: nats of each latent dimension's batch-mean KL that are not penalised in training.
        importance_samples: K; above 1 the objective is L_K of Burda et al. (an IWAE).
        num_classes: conditions encoder and decoder on a class label, p(x | y), when it is not None.
        test_samples: importance samples of the test's `nll`.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a network that cannot read the shape, values outside the likelihood's range, labels missing or out
            of range, or options that exclude each other.
    """

    reads = Examples

    compiled_networks = ("encoder", "decoder")

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int = 16,
        network: NetworkName = "mlp",
        hidden_dims: tuple[int, ...] = (512,),
        width: int = 32,
        likelihood: Likelihood = "bernoulli",
        sigma: Literal["learned-shared", "learned-per-pixel"] | float = "learned-shared",
        num_levels: int = 256,
        beta: float = 1.0,
        kl_warmup: int = 0,
        free_bits: float = 0.0,
        importance_samples: int = 1,
        num_classes: int | None = None,
        test_samples: int = 500,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if likelihood not in ("bernoulli", "gaussian", "categorical"):
            raise ValueError(f"unknown likelihood {likelihood!r}: use 'bernoulli', 'gaussian' or 'categorical'")
        if isinstance(sigma, str) and sigma not in ("learned-shared", "learned-per-pixel"):
            raise ValueError(f"unknown sigma {sigma!r}: use 'learned-shared', 'learned-per-pixel' or a number")
        if not isinstance(sigma, str) and not sigma > 0:
            raise ValueError(f"sigma={sigma} is no standard deviation: give a positive number")
        if latent_dim < 1:
            raise ValueError(f"latent_dim={latent_dim}: give at least 1")
        if beta < 0:
            raise ValueError(f"beta={beta} would reward a posterior far from the prior: give 0 or more")
        if likelihood == "categorical" and num_levels < 2:
            raise ValueError(f"num_levels={num_levels}: a categorical likelihood has at least 2")
        if kl_warmup < 0 or free_bits < 0 or test_samples < 1:
            raise ValueError(
                f"kl_warmup={kl_warmup}, free_bits={free_bits} and test_samples={test_samples} have to be at least 0, 0 and 1"
            )
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: give the number of classes, or None for an unconditional model")
        if importance_samples < 1:
            raise ValueError(f"importance_samples={importance_samples}: give 1 for a VAE, more for an IWAE")
        if importance_samples > 1 and (beta != 1 or kl_warmup or free_bits):
            raise ValueError(
                "the importance-weighted bound has no KL term to weigh: with importance_samples > 1 leave beta at 1, "
                "kl_warmup and free_bits at 0"
            )
        self.data_shape = tuple(data_shape)
        self.latent_dim = latent_dim
        self.network: NetworkName = network
        self.hidden_dims = hidden_dims
        self.width = width
        self.likelihood: Likelihood = likelihood
        self.sigma = sigma
        self.num_levels = num_levels
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.free_bits = free_bits
        self.importance_samples = importance_samples
        self.num_classes = num_classes
        self.test_samples = test_samples
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.encoder = self.build_encoder()
        self.decoder = self.build_decoder()
        if likelihood == "gaussian" and sigma == "learned-shared":
            self.raw_log_sigma = nn.Parameter(torch.zeros(()))
        self.active_units = ActiveUnits(latent_dim)

    def build_encoder(self) -> Encoder:
        """(batch, *data_shape), label -> (batch, 2 latent_dim): mu(x), and log sigma(x) before it is bounded."""
        return build_encoder(
            self.network, self.data_shape, 2 * self.latent_dim, self.hidden_dims, self.width, self.num_classes or 0
        )

    def build_decoder(self) -> Decoder:
        """(batch, latent_dim), label -> the likelihood's parameters, stacked along the first dimension of an example."""
        parameters = {"bernoulli": 1, "gaussian": 2 if self.sigma == "learned-per-pixel" else 1}
        stacked = parameters.get(self.likelihood, self.num_levels)
        out_shape = (stacked * self.data_shape[0], *self.data_shape[1:])
        return build_decoder(self.network, self.latent_dim, out_shape, self.hidden_dims, self.width, self.num_classes or 0)

    # The densities ---------------------------------------------------------------------------------------------------

    def context(self, labels: Tensor | None) -> Tensor | None:
        """One-hot labels for a conditional model, None for another: (batch,) -> (batch, num_classes)."""
        if self.num_classes is None:
            return None
        labels = check_labels(labels, self.num_classes, "a conditional VAE")
        return F.one_hot(labels, self.num_classes).to(self.dtype)

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu(x) and log sigma(x) of q(z | x): (batch, *data_shape) -> two (batch, latent_dim)."""
        check_examples(x, self.data_shape, "VAE")
        mean, raw = self.encoder(x.to(self.dtype), self.context(labels)).chunk(2, 1)
        return mean, LOG_SIGMA_BOUND * torch.tanh(raw / LOG_SIGMA_BOUND)

    def reparameterize(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """z = sigma * eps + mu, eps ~ N(0, 1): any shape -> the same shape."""
        return torch.addcmul(mean, torch.exp(log_sigma), torch.randn_like(mean))

    def log_likelihood(self, x: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p(x | z): x (batch, *data_shape), z (batch, latent_dim) or (K, batch, latent_dim) -> (batch,) or (K, batch)."""
        context = self.context(labels)
        if context is not None and z.dim() == 3:
            context = context.repeat(len(z), 1)
        # The likelihood is a sum of many small numbers: it stays in float32 or better whatever precision the networks run in.
        parameters = single_or_better(self.decoder(z.flatten(0, -2).to(self.dtype), context)).unflatten(0, z.shape[:-1])
        dims = len(self.data_shape)
        if self.likelihood == "bernoulli":
            return bernoulli_log_prob(x, parameters, dims)
        if self.likelihood == "gaussian":
            mean, log_sigma = self.split_gaussian(parameters)
            return gaussian_log_prob(x, mean, log_sigma, dims)
        levels = (x * (self.num_levels - 1)).round().long()
        logits = parameters.unflatten(-dims, (self.num_levels, self.data_shape[0]))
        return categorical_log_prob(levels.expand(*z.shape[:-1], *self.data_shape), logits, dims)

    def split_gaussian(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """mu(z) and log sigma(z), the latter broadcastable: a learned sigma is floor + exp(raw)."""
        if self.sigma == "learned-per-pixel":
            mean, raw = parameters.chunk(2, -len(self.data_shape))
            return mean, torch.log(SIGMA_FLOOR + torch.exp(raw.clamp(max=LOG_SIGMA_BOUND)))
        if self.sigma == "learned-shared":
            return parameters, torch.log(SIGMA_FLOOR + torch.exp(self.raw_log_sigma))
        return parameters, parameters.new_full((), math.log(float(self.sigma)))

    def check_range(self, x: Tensor) -> None:
        """Refuses values that the likelihood gives no probability to.

        Raises:
            ValueError: naming the range found.
        """
        # Looked at on the CPU, and on an accelerator only at the start: the look makes the step wait for the device.
        if self.likelihood != "gaussian" and (x.is_cpu or self.global_step == 0) and x.numel():
            low, high = (float(bound) for bound in x.aminmax())
            if low < 0 or high > 1:
                raise ValueError(
                    f"likelihood='{self.likelihood}' is for values in [0, 1] and the data spans [{low:g}, {high:g}]: "
                    f"rescale it, or use likelihood='gaussian'"
                )

    # The objective ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        x, labels = batch
        self.check_range(x)
        if self.importance_samples > 1:
            log_weights = self.log_weights(x, labels, self.importance_samples)
            bound = importance_bound(log_weights).mean()
            terms = {"elbo": log_weights.mean()}
        else:
            reconstruction, kl = (term.mean(0) for term in self.elbo_terms(x, labels))
            terms = {"reconstruction": reconstruction, "kl": kl.sum()}
            penalty = kl.clamp(min=self.free_bits).sum() if self.training and self.free_bits else terms["kl"]
            bound = reconstruction - self.kl_weight() * penalty
        if self.likelihood == "gaussian" and self.sigma == "learned-shared":
            terms["sigma"] = SIGMA_FLOOR + torch.exp(self.raw_log_sigma.detach())
        return -bound, terms

    def elbo_terms(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log p(x | z) with one z ~ q(z | x), (batch,); KL[q(z | x) | p(z)] of each dimension, (batch, latent_dim)."""
        mean, log_sigma = (single_or_better(parameter) for parameter in self.posterior(x, labels))
        reconstruction = self.log_likelihood(x, self.reparameterize(mean, log_sigma), labels)
        return reconstruction, kl_to_standard_normal(mean, log_sigma)

    def log_weights(self, x: Tensor, labels: Tensor | None, num_samples: int) -> Tensor:
        """log w_k = log p(x | z_k) + log p(z_k) - log q(z_k | x), z_k ~ q(z | x): (num_samples, batch)."""
        mean, log_sigma = (single_or_better(parameter) for parameter in self.posterior(x, labels))
        return self.log_weights_of_posterior(x, mean, log_sigma, labels, num_samples)

    def log_weights_of_posterior(
        self, x: Tensor, mean: Tensor, log_sigma: Tensor, labels: Tensor | None, num_samples: int
    ) -> Tensor:
        """The same for an x that has been encoded: once is enough, however many samples are drawn."""
        z = self.reparameterize(mean.expand(num_samples, *mean.shape), log_sigma.expand(num_samples, *mean.shape))
        # log p(z) - log q(z | x), with both constants: the log(2 pi) of the two cancel.
        eps = (z - mean) * torch.exp(-log_sigma)
        prior_to_posterior = 0.5 * (eps.square() - z.square()).sum(2) + log_sigma.sum(1)
        return self.log_likelihood(x, z, labels) + prior_to_posterior

    def kl_weight(self) -> float:
        """beta, or less while it warms up."""
        if self.training and self.kl_warmup and self._trainer is not None:
            return self.beta * min(1.0, self.global_step / self.kl_warmup)
        return self.beta

    def evaluation_step(self, stage: str, batch: Examples) -> None:
        super().evaluation_step(stage, batch)
        self.active_units.update(self.posterior(batch.x, batch.y)[0])
        self.log(f"{stage}/active_units", self.active_units, on_step=False, on_epoch=True)
        if stage == "test":
            nll = -self.log_prob(batch.x, batch.y, self.test_samples).mean()
            self.record(stage, {"nll": nll}, batch)

    # Abilities -------------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The posterior's mean: (batch, *data_shape) -> (batch, latent_dim)."""
        return self.posterior(x, labels)[0]

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[x | z], in the data's units: (batch, latent_dim) -> (batch, *data_shape)."""
        parameters = single_or_better(self.decoder(z.to(self.dtype), self.context(labels)))
        if self.likelihood == "bernoulli":
            return parameters.sigmoid()
        if self.likelihood == "gaussian":
            return self.split_gaussian(parameters)[0]
        probabilities = parameters.unflatten(1, (self.num_levels, self.data_shape[0])).softmax(1)
        levels = torch.linspace(0, 1, self.num_levels, device=z.device)
        return (probabilities.movedim(1, -1) * levels).sum(-1)

    def baselines(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """-log p of `test` under probabilistic PCA with as many dimensions, for the Gaussian likelihood, in nats.

        Args:
            train, test: (n, elements), float64.

        Returns:
            `probabilistic_pca_nll`; nothing where there are too few elements or training rows to leave a variance over.
        """
        if self.likelihood != "gaussian" or self.latent_dim >= min(train.shape[1], len(train) - 1):
            return {}
        return {"probabilistic_pca_nll": probabilistic_pca_nll(train, test, self.latent_dim)}

    @ability
    def elbo(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """E_q[log p(x | z)] - KL[q | p] with one sample of z, a lower bound of log p(x): -> (batch,), nats."""
        self.check_range(x)
        reconstruction, kl = self.elbo_terms(x, labels)
        return reconstruction - kl.sum(1)

    def rows_at_once(self) -> int:
        """How many rows are decoded together where there are many."""
        levels = self.num_levels if self.likelihood == "categorical" else 1
        rows = VALUES_AT_ONCE // (levels * math.prod(self.data_shape))
        if self.device.type != "cpu":
            rows = max(rows, min(LARGER_ON_ACCELERATORS * rows, MOST_ROWS_ON_ACCELERATORS))
        return max(FEWEST_ROWS_AT_ONCE, rows)

    @ability
    def log_prob(self, x: Tensor, labels: Tensor | None = None, num_samples: int = 500) -> Tensor:
        """The importance-sampling estimate log (1/K) sum_k w_k of log p(x), or of log p(x | y).

        On average a lower bound of log p(x) that tightens as K grows, so quote K beside it. Each x is encoded once and
        the samples are decoded in chunks that suit the device.

        Args:
            x: (batch, *data_shape).
            labels: (batch,), for a conditional model.
            num_samples: K.

        Returns:
            (batch,), nats.

        Raises:
            ValueError: no examples, fewer than one sample, or values outside the likelihood's range.
        """
        if num_samples < 1 or not len(x):
            raise ValueError(f"num_samples={num_samples} for {len(x)} examples: give at least one of each")
        self.check_range(x)
        rows_at_once = self.rows_at_once()
        estimates = []
        for start in range(0, len(x), rows_at_once):
            rows = slice(start, start + rows_at_once)
            x_rows, label_rows = x[rows], None if labels is None else labels[rows]
            mean, log_sigma = (single_or_better(parameter) for parameter in self.posterior(x_rows, label_rows))
            step = max(1, rows_at_once // len(x_rows))
            chunks = [
                self.log_weights_of_posterior(x_rows, mean, log_sigma, label_rows, min(step, num_samples - done))
                for done in range(0, num_samples, step)
            ]
            estimates.append(importance_bound(torch.cat(chunks)))
        return torch.cat(estimates)

    @ability
    def sample_latents(self, n: int) -> Tensor:
        """z ~ N(0, 1): (n, latent_dim)."""
        return torch.randn(n, self.latent_dim, device=self.device)

    @ability
    def sample(self, n: int, labels: Tensor | None = None) -> Tensor:
        """E[x | z] for z ~ p(z), the noise of p(x | z) left out: (n, *data_shape).

        Args:
            n: how many.
            labels: (n,), for a conditional model; None goes through the classes in turn.

        Raises:
            ValueError: no samples asked for, labels given to an unconditional model, or not `n` of them.
        """
        if n < 1:
            raise ValueError(f"n={n}: ask for at least one sample")
        if labels is not None and self.num_classes is None:
            raise ValueError("labels were given to an unconditional VAE: train it with num_classes to choose a class")
        if self.num_classes is not None:
            labels = torch.arange(n) % self.num_classes if labels is None else labels
            if len(labels) != n:
                raise ValueError(f"{len(labels)} labels for n={n} samples: give one label each")
            labels = labels.to(self.device)
        z, rows = self.sample_latents(n), self.rows_at_once()
        label_chunks = [None] * n if labels is None else labels.split(rows)
        return torch.cat([self.decode(*chunk) for chunk in zip(z.split(rows), label_chunks, strict=False)])

    @ability
    def reconstruct(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[x | z = mu(x)]: (batch, *data_shape) -> the same shape."""
        return self.decode(self.encode(x, labels), labels)

    @ability
    def interpolate(self, x0: Tensor, x1: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
        """g((1 - a) f(x0) + a f(x1)), f the posterior mean, g the likelihood's mean: (batch, steps, *data_shape).

        A conditional model takes one label for the whole walk, x1 included.
        """
        return interpolate(self, x0, x1, steps, labels)

    @ability
    def kl_per_dimension(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """KL[q(z_d | x) | p(z_d)]: (batch, *data_shape) -> (batch, latent_dim), nats."""
        return kl_to_standard_normal(*self.posterior(x, labels))
