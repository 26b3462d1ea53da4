"""Flow: a normalizing flow, an exact density of examples and an exact sampler.

    base        z ~ p(z), a standard normal or a uniform density
    data        x = f(z), f invertible
    density     log p(x) = log p(z) + log |det df^-1 / dx|,   z = f^-1(x)
    objective   max  mean log p(x) over the data: maximum likelihood

Rezende and Mohamed 2015 (arXiv:1505.05770); Real NVP: Dinh et al. 2017 (arXiv:1605.08803); spline couplings: Durkan et al.
2019 (arXiv:1906.04032); MAF: Papamakarios et al. 2017 (arXiv:1705.07057); IAF: Kingma et al. 2016 (arXiv:1606.04934);
Glow: Kingma and Dhariwal 2018 (arXiv:1807.03039).

Pixels have levels, and a density of levels would be infinite. So a level k of L becomes k + u with u uniform on [0, 1), and
the flow learns the density of (k + u) / L in the logit's scale: a lower bound of the levels' log-probability (Theis et al.
2016, arXiv:1511.01844, section 3.1), in nats; bits a dimension are nats / (dimensions log 2).
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from dlkit.ability import ability
from dlkit.batches import Examples
from dlkit.checks import check_examples, check_labels
from dlkit.functional.divergences import importance_bound
from dlkit.functional.likelihoods import LOG_2PI
from dlkit.functional.precision import single_or_better
from dlkit.method import Method, Schedule, Terms
from dlkit.nn.autoregressive import MaskedAutoregressive
from dlkit.nn.coupling import AffineElement, SplineElement, couplings
from dlkit.nn.glow import Glow
from dlkit.nn.transforms import Backwards, Chain, Transform

TransformName = Literal["affine", "spline", "maf", "iaf", "glow"]
SMALLEST_MARGIN = 1e-6  # what single precision can still tell from 1
ROUNDING = 1e-5  # relative, by which a spline may miss the edge of its box
TEST_DRAWS = 16  # of the noise, over which the test's bound is tightened


class Flow(Method):
    """A normalizing flow of examples of one fixed shape.

    Records the loss (the mean of -log p(x), nats), and `bits_per_dim` of pictures.

    Args:
        data_shape: shape of one example, without the batch.
        transform: "affine": couplings of alternate features (Real NVP); "spline": the same with rational-quadratic splines;
            "maf": masked autoregressive layers, fast in density; "iaf": the same backwards, fast in sampling, slow in
            density; "glow": the multi-scale flow of pictures.
        num_layers: couplings or autoregressive layers; for "glow" the steps of each scale.
        hidden_dims: widths of each layer's network; for "glow" the first is its channels.
        base: "normal"; or "uniform", on [-bound, bound] in every dimension, for splines, whose data it must hold.
        num_bins: of a spline.
        bound: splines are the identity outside [-bound, bound].
        num_scales: of "glow".
        num_levels: values that a pixel can take, x = level / (num_levels - 1); 0 for real numbers.
        logit_margin: alpha; pixels are squeezed into [alpha, 1 - alpha] before the logit. A small one pulls the darkest and the
            brightest level apart from the others, which helps where most pixels have one of them. Dinh et al. 2017, section
            4.1, squeeze one end only.
        num_classes: conditions the density on a class label, p(x | y), when it is not None.
        context_features: width of a real vector on which the density is conditioned; 0 for none. With it, the batch's y is
            that vector, (batch, context_features).
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a shape that the transform cannot cut or squeeze, options that exclude each other, labels or contexts
            that are missing or of another width, pixels outside [0, 1].
    """

    reads = Examples

    compiled_networks = ("network",)
    compiled_functions = ("objective",)

    def __init__(
        self,
        data_shape: tuple[int, ...],
        transform: TransformName = "affine",
        num_layers: int = 8,
        hidden_dims: tuple[int, ...] = (64, 64),
        base: Literal["normal", "uniform"] = "normal",
        num_bins: int = 8,
        bound: float = 5.0,
        num_scales: int = 2,
        num_levels: int = 0,
        logit_margin: float = 0.05,
        num_classes: int | None = None,
        context_features: int = 0,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if transform not in get_args(TransformName):
            raise ValueError(f"unknown transform {transform!r}: use 'affine', 'spline', 'maf', 'iaf' or 'glow'")
        if num_layers < 1 or num_scales < 1 or num_bins < 2:
            raise ValueError(f"num_layers={num_layers}, num_scales={num_scales}, num_bins={num_bins}: give at least 1, 1 and 2")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound={bound}: give a positive number")
        if base not in ("normal", "uniform"):
            raise ValueError(f"unknown base {base!r}: use 'normal' or 'uniform'")
        if base == "uniform" and transform != "spline":
            raise ValueError(f"base='uniform' ends where a spline does, and transform={transform!r} goes on: use base='normal'")
        if num_levels < 0 or num_levels == 1:
            raise ValueError(f"num_levels={num_levels}: give 0 for real numbers, or 2 or more")
        if not SMALLEST_MARGIN <= logit_margin < 0.5:
            raise ValueError(f"logit_margin={logit_margin}: give a number from {SMALLEST_MARGIN:g} to 0.5")
        if context_features < 0 or (num_classes is not None and (num_classes < 1 or context_features)):
            raise ValueError(
                f"num_classes={num_classes} and context_features={context_features}: give one of them, at least 1, or neither"
            )
        if not hidden_dims:
            raise ValueError("hidden_dims=(): a layer's network needs at least one hidden layer")
        if transform == "glow" and (num_classes or context_features):
            raise ValueError("transform='glow' takes no labels and no context: use 'affine', 'spline', 'maf' or 'iaf'")
        self.data_shape = tuple(data_shape)
        self.features = math.prod(self.data_shape)
        self.transform: TransformName = transform
        self.num_layers = num_layers
        self.hidden_dims = tuple(hidden_dims)
        self.base = base
        self.num_bins = num_bins
        self.bound = bound
        self.num_scales = num_scales
        self.num_levels = num_levels
        self.logit_margin = logit_margin
        self.num_classes = num_classes
        self.context_features = num_classes or context_features
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.network = self.build_transform()

    def build_transform(self) -> Transform:
        """z (batch, features) <-> x, (batch, features), or (batch, *data_shape) for "glow"."""
        if self.transform == "glow":
            return Glow(self.data_shape, self.num_scales, self.num_layers, self.hidden_dims[0])
        if self.transform in ("maf", "iaf"):
            # Backwards every other time, so that the feature that knew nothing of the others knows them all in the next layer.
            layers = [
                MaskedAutoregressive(self.features, self.hidden_dims, self.context_features, backwards=bool(number % 2))
                for number in range(self.num_layers)
            ]
            return Chain(layers if self.transform == "maf" else map(Backwards, layers))
        element = AffineElement() if self.transform == "affine" else SplineElement(self.num_bins, self.bound)
        return couplings(self.features, self.num_layers, element, self.hidden_dims, self.context_features)

    def compile_parts(self, **options: Any) -> None:
        """Compiles in place what gains from it.

        Args:
            options: of `torch.compile`. Without any, kernels are called by C++ on a CPU, where Python's calls take longer than
                many of them; but those of "glow", which take longer, as does their C++ to be compiled.
        """
        if not options and self.device.type == "cpu" and self.transform != "glow":
            options = {"options": {"cpp_wrapper": True}}
        super().compile_parts(**options)

    # The density -----------------------------------------------------------------------------------------------------

    def context(self, labels: Tensor | None, count: int) -> Tensor | None:
        """What the density is conditioned on: one-hot labels or real vectors, (batch, context_features); None without.

        Raises:
            ValueError: labels or contexts that are missing, or of another width.
        """
        if self.num_classes is not None:
            if labels is None or not torch.compiler.is_compiling():  # a look at their values would break what is compiled
                labels = check_labels(labels, self.num_classes, "a conditional flow")
            return F.one_hot(labels, self.num_classes).to(self.dtype)
        if not self.context_features:
            return None
        if labels is None or tuple(labels.shape) != (count, self.context_features):
            given = "none" if labels is None else tuple(labels.shape)
            raise ValueError(f"this flow needs a context of shape {(count, self.context_features)} and was given {given}")
        return labels

    def forward(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x = f(z) and log |det df/dz|: (batch, features) -> (batch, *data_shape), (batch,). Without pixels' levels."""
        x, log_det = self.network(z, self.context(labels, len(z)))
        return self.shaped(x), log_det

    def shaped(self, x: Tensor) -> Tensor:
        """What the network gives, (batch, features) or images, as examples: (batch, *data_shape)."""
        return x.view(len(x), *self.data_shape) if x.dim() == 2 else x

    def inverse(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = f^-1(x) and log |det df^-1/dx|: (batch, *data_shape) -> (batch, features), (batch,). Without pixels' levels."""
        check_examples(x, self.data_shape, "Flow")
        return self.network.inverse(x if self.transform == "glow" else x.flatten(1), self.context(labels, len(x)))

    def log_density(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p(x) of real numbers, in nats: (batch, *data_shape) -> (batch,)."""
        z, log_det = self.inverse(x, labels)
        # Sums of many small numbers stay in float32, whatever precision the networks run in.
        return self.base_log_prob(single_or_better(z)) + log_det

    def base_log_prob(self, z: Tensor) -> Tensor:
        """log p(z): (batch, features) -> (batch,)."""
        if self.base == "normal":
            return -0.5 * (z.square().sum(1) + self.features * LOG_2PI)
        inside = (z.abs() <= self.bound * (1 + ROUNDING)).all(1)
        return torch.where(inside, -self.features * math.log(2 * self.bound), -math.inf)

    def base_sample(self, n: int) -> Tensor:
        """z ~ p(z): (n, features)."""
        noise = next(self.parameters()).new_empty(n, self.features)  # which know their type and device, whoever moved them
        return noise.normal_() if self.base == "normal" else noise.uniform_(-self.bound, self.bound)

    # Pixels ----------------------------------------------------------------------------------------------------------

    def dequantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Levels to real numbers: y = logit(alpha + (1 - 2 alpha) v), v = (k + u) / L, k = x (L - 1), u ~ U[0, 1).

        Returns:
            y, (batch, *data_shape), and log |det dy/d(k + u)|, (batch,), the -log L of every pixel included.
        """
        v = ((x * (self.num_levels - 1)).round() + torch.rand_like(x)) / self.num_levels
        squeezed = self.logit_margin + (1 - 2 * self.logit_margin) * v
        y = squeezed.logit()
        # dy/dv = (1 - 2 alpha) / (s (1 - s)), and log s + log (1 - s) = -softplus(-y) - softplus(y).
        log_det = F.softplus(y) + F.softplus(-y)
        constant = math.log(1 - 2 * self.logit_margin) - math.log(self.num_levels)
        return y, log_det.flatten(1).sum(1) + self.features * constant

    def quantize(self, y: Tensor) -> Tensor:
        """The pixels of real numbers, the inverse of `dequantize`: any shape -> the same, in [0, 1]."""
        v = (y.sigmoid() - self.logit_margin) / (1 - 2 * self.logit_margin)
        return (v * self.num_levels).floor().clamp(0, self.num_levels - 1) / (self.num_levels - 1)

    def log_likelihood(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p(x), of pixels the lower bound with one draw of the noise: (batch, *data_shape) -> (batch,), nats."""
        if not self.num_levels:
            return self.log_density(x, labels)
        self.check_pixels(x)
        y, log_det = self.dequantize(single_or_better(x))
        return self.log_density(y.to(x.dtype), labels) + log_det

    def check_pixels(self, x: Tensor) -> None:
        """Refuses pixels outside [0, 1]; where it is compiled it does not look at them.

        Raises:
            ValueError: there are some.
        """
        check_examples(x, self.data_shape, "Flow")
        if torch.compiler.is_compiling():
            return
        # Looked at on the CPU, and on an accelerator only at the start: the look makes the step wait for the device.
        if (x.is_cpu or self.global_step == 0) and x.numel():
            low, high = (float(bound) for bound in x.aminmax())
            if low < 0 or high > 1:
                raise ValueError(
                    f"num_levels={self.num_levels} is for pixels in [0, 1] and the data spans [{low:g}, {high:g}]: "
                    f"rescale it, or use num_levels=0"
                )

    # The objective ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        # Values are looked at here, before what may be compiled.
        if self.num_levels:
            self.check_pixels(batch.x)
        if self.base == "uniform" and batch.x.is_cpu and float(batch.x.abs().max()) > self.bound:
            raise ValueError(
                f"the data reaches {float(batch.x.abs().max()):g} and base='uniform' ends at bound={self.bound:g}: raise bound"
            )
        labels = self.labels(batch)
        if self.num_classes is not None:
            check_labels(labels, self.num_classes, "a conditional flow")
        loss = self.objective(batch.x, labels)
        return loss, self.terms(loss)

    def objective(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The mean of -log p(x), nats."""
        return -self.log_likelihood(x, labels).mean()

    def labels(self, batch: Examples) -> Tensor | None:
        """The batch's labels, for a flow that looks at them."""
        return batch.y if self.context_features else None

    def terms(self, loss: Tensor) -> Terms:
        """Bits a dimension, of pixels."""
        return {"bits_per_dim": loss / (self.features * math.log(2))} if self.num_levels else {}

    def evaluation_step(self, stage: str, batch: Examples) -> None:
        """The loss with one draw of the noise in validation; in the test the bound is tightened by 16."""
        if stage == "test" and self.num_levels:
            loss = -self.log_prob(batch.x, self.labels(batch), TEST_DRAWS).mean()
            self.record(stage, {"loss": loss, **self.terms(loss)}, batch)
        else:
            super().evaluation_step(stage, batch)

    # What it can do --------------------------------------------------------------------------------------------------

    @ability
    def log_prob(self, x: Tensor, labels: Tensor | None = None, num_samples: int = 1) -> Tensor:
        """log p(x), in nats: (batch, *data_shape) -> (batch,).

        Of pixels it is a lower bound on average, which tightens with `num_samples` draws of the noise: Burda et al.'s.
        """
        if not self.num_levels:
            return self.log_density(x, labels)
        return importance_bound(torch.stack([self.log_likelihood(x, labels) for _ in range(num_samples)]))

    @ability
    def sample(self, n: int, labels: Tensor | None = None) -> Tensor:
        """(n, *data_shape). Labels are drawn evenly for a conditional flow that is given none."""
        if labels is None and self.num_classes is not None:
            labels = torch.randint(self.num_classes, (n,), device=self.device)
        return self.decode(self.base_sample(n), labels if labels is None else labels.to(self.device))

    @ability
    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """z = f^-1(x), normal where the flow is right: (batch, *data_shape) -> (batch, features)."""
        return self.inverse(self.dequantize(x)[0] if self.num_levels else x, labels if self.context_features else None)[0]

    @ability
    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """x = f(z): (batch, features) -> (batch, *data_shape)."""
        if type(self).forward is Flow.forward:
            x = self.shaped(self.network.value(z, self.context(labels, len(z))))
        else:
            x = self(z, labels)[0]
        return self.quantize(x) if self.num_levels else x

    @ability
    def layers(self, z: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """What z passes through on its way to x, z first: (batch, features) each."""
        return [z, *self.network.steps(z, self.context(labels, len(z)))]

    def distribution(self, context: Tensor | None = None) -> FlowDistribution:
        """p(x | context) as one of torch's distributions, so that it can be a prior or a posterior elsewhere.

        Args:
            context: (*batch, context_features), real or, with `num_classes`, labels (*batch,); None without.

        Raises:
            ValueError: a flow of pixels, whose probabilities are of levels and not a density.
        """
        if self.num_levels:
            raise ValueError(f"num_levels={self.num_levels}: pixels' levels have no density: use log_prob and sample")
        return FlowDistribution(self, context)


class FlowDistribution(Distribution):
    """A flow's density of real numbers, with gradients.

    Args:
        flow: whose density it is.
        context: of each member of the batch, (*batch, context_features) or labels (*batch,); None for none.
        batch_shape: of a density without context.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(self, flow: Flow, context: Tensor | None = None, batch_shape: Any = ()) -> None:
        self.flow = flow
        self.context = context
        self.inner_dims = 0 if flow.num_classes is not None else 1  # of one member's context
        if context is not None:
            batch_shape = context.shape[: context.dim() - self.inner_dims]
        super().__init__(torch.Size(batch_shape), torch.Size(flow.data_shape), validate_args=False)

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """The same for a larger batch."""
        if self.context is None:
            return FlowDistribution(self.flow, None, batch_shape)
        inner = self.context.shape[len(self.batch_shape) :]
        return FlowDistribution(self.flow, self.context.expand(*batch_shape, *inner))

    def log_prob(self, value: Tensor) -> Tensor:
        """(*sample, *batch, *data_shape) -> (*sample, *batch), nats; shapes are broadcast."""
        shape = torch.broadcast_shapes(value.shape[: value.dim() - len(self.event_shape)], self.batch_shape)
        flat = value.expand(*shape, *self.event_shape).reshape(-1, *self.event_shape)
        return self.flow.log_density(flat, self.repeated(shape)).view(shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, *data_shape), with gradients to the flow's parameters and the context."""
        shape = torch.Size((*sample_shape, *self.batch_shape))
        x, _ = self.flow(self.flow.base_sample(shape.numel()), self.repeated(shape))
        return x.view(*shape, *self.event_shape)

    def repeated(self, shape: torch.Size) -> Tensor | None:
        """The context of values of a batch: (values, context_features) or (values,)."""
        if self.context is None:
            return None
        inner = self.context.shape[len(self.batch_shape) :]
        return self.context.expand(*shape, *inner).reshape(-1, *inner)
