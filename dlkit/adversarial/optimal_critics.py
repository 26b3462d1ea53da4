"""OptimalCritics: what a generator learns from a perfect critic, for two known densities at growing distances.

    p = N(0, 1),  q = N(s, 1):      D*(x) = p / (p + q) = sigmoid(s^2/2 - s x),      max_D V = 2 JSD(p, q) - log 4
                                    W(p, q) = s

No generator is trained. As s grows, the discriminator becomes certain and the gradient of E_q log(1 - D) vanishes where the
generated points lie, while that of the Wasserstein critic keeps its size: Arjovsky et al. 2017 (arXiv:1701.07875, figure 2) and
Arjovsky and Bottou 2017 (arXiv:1701.04862, theorem 2.4). Everything is measured by quadrature on the exact densities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from dlkit.ability import ability, differentiable
from dlkit.batches import Examples
from dlkit.checks import check_labels
from dlkit.functional.adversarial import OBJECTIVES, gradient_penalty, input_gradient, interpolates, slopes
from dlkit.method import Method, Schedule, Terms

POINTS = 2001  # of the quadrature, along each line
MARGIN = 8.0  # how far the line reaches beyond the two means, in standard deviations
STANDARD_ERRORS = 6.0  # from which on a mean is not taken for 0
SHARES = 64  # of the way between a real and a generated point, for the density of the points between


class Critics(nn.Module):
    """One fully connected network with SiLU for each separation, all of them in one product a layer.

    The last layer starts at zero. The penalised loss has a second minimum, of slope 1 - W / (2 lambda) and the wrong sign, in
    which a critic that starts on that side can stay.

    Args:
        separations: (members,), the distances s; a member sees its own line with mean 0 and variance 1.
        hidden_dims: widths of the hidden layers.
    """

    separations: Tensor

    def __init__(self, separations: Sequence[float], hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("separations", torch.tensor(separations)[:, None, None], persistent=False)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise([1, *hidden_dims, 1]):
            bound = 1 / math.sqrt(inputs)  # PyTorch's own, of a linear layer
            self.weights.append(torch.empty(len(separations), inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(len(separations), 1, outputs).uniform_(-bound, bound))
        nn.init.zeros_(self.weights[-1])
        nn.init.zeros_(self.biases[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(members, points, 1) -> logits (members, points)."""
        h = (x - self.separations / 2) / (1 + self.separations.square() / 4).sqrt()
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, silu(h) if layer else h, weight)
        return h.squeeze(2)


class OptimalCritics(Method):
    """A discriminator and a Wasserstein critic for each separation, trained on fixed densities until they are optimal.

    The data are `datamodules.Gaussians(layout="pair", separation=0)`: points of the plane with a label 0 or 1. Those of label
    0 are real; those of label 1, moved by s along the first axis, are the generated ones. The second axis tells nothing apart
    and is not looked at.

    Records in validation and test, by quadrature: `discriminator_error`, the mean over (p + q) / 2 of |D - D*|; `value_error`,
    2 JSD - log 4 - V(D), never negative; `wasserstein_error`, that of gap / slope relative to s, the slope being the mean at
    points between independent real and generated ones; all three averaged over the separations. Then the mean gradients at
    generated points, `minimax_gradient_at_<s>` and `wasserstein_gradient_at_<s>`, and `gradient_ratio`, the first over the
    second at the largest separation. Far from the boundary D is so near 0 and 1 that the data do not tell the slope of its
    logit; there the gradients of a trained discriminator are not the exact ones.

    Args:
        separations: the distances s between the means, in standard deviations.
        penalty_weight: lambda of the Wasserstein critics' gradient penalty.
        hidden_dims: widths of every network.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: no separations, or a value that is not positive.
    """

    reads = Examples

    def __init__(
        self,
        separations: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0),
        penalty_weight: float = 10.0,
        hidden_dims: tuple[int, ...] = (32, 32),
        learning_rate: float = 1e-2,
        schedule: Schedule = "cosine",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not separations or not all(0 < separation < math.inf for separation in separations):
            raise ValueError(f"separations={tuple(separations)}: give one or more finite distances above 0")
        if not penalty_weight > 0:
            raise ValueError(f"penalty_weight={penalty_weight} has to be positive")
        self.separations = tuple(sorted(map(float, separations)))
        self.penalty_weight = penalty_weight
        self.hidden_dims = tuple(hidden_dims)
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.discriminators = self.build_critics()
        self.critics = self.build_critics()

    def build_critics(self) -> nn.Module:
        """A network for each separation, side by side: (separations, points, 1) -> (separations, points)."""
        return Critics(self.separations, self.hidden_dims)

    def points(self, batch: Examples) -> tuple[Tensor, Tensor]:
        """As many real as generated points on each separation's line: both (separations, points, 1).

        Raises:
            ValueError: examples that are no points of the plane, labels other than 0 and 1, or a batch without one of them.
        """
        labels = check_labels(batch.y, 2, type(self).__name__)
        if batch.x.dim() != 2:
            raise ValueError(
                f"{type(self).__name__} was given examples of shape {tuple(batch.x.shape[1:])}: use datamodules.Gaussians with "
                f"layout='pair' and separation=0"
            )
        real, other = batch.x[labels == 0, :1], batch.x[labels == 1, :1]
        count = min(len(real), len(other))
        if not count:
            raise ValueError(f"all {len(labels)} labels of a batch are the same: raise --data.batch_size")
        shift = real.new_tensor(self.separations)[:, None, None]
        return real[:count].expand(len(self.separations), -1, -1), other[:count] + shift

    def loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        """The sum over the separations of -V(D) and of the penalised Wasserstein loss; the terms are means over them."""
        real, generated = self.points(batch)
        both, count = torch.cat([real, generated], 1), real.shape[1]
        discriminator = OBJECTIVES["minimax"].critic(*self.discriminators(both).split(count, 1))
        gap = -OBJECTIVES["wasserstein"].critic(*self.critics(both).split(count, 1))
        between = interpolates(real.flatten(0, 1), generated.flatten(0, 1))
        slope = slopes(input_gradient(self.critics(between.unflatten(0, (-1, count))), between))
        penalty = gradient_penalty(slope)
        loss = len(self.separations) * (discriminator - gap + self.penalty_weight * penalty)
        return loss, {"value": -discriminator, "gap_not_w1": gap, "penalty": penalty}

    def evaluation_step(self, stage: str, batch: Examples) -> None:
        """Records the loss on held-out points, and how far the critics are from optimal ones.

        Raises:
            ValueError: the points of label 0 or 1 are not around 0.
        """
        for number, points in enumerate((batch.x[batch.y == 0], batch.x[batch.y == 1])):
            mean = float(points[:, 0].mean())
            if abs(mean) * math.sqrt(len(points)) > STANDARD_ERRORS:
                raise ValueError(
                    f"the points of label {number} are around {mean:.2f} on the first axis, and {type(self).__name__} moves "
                    f"them apart itself: use datamodules.Gaussians with layout='pair' and separation=0"
                )
        with differentiable():  # the penalty is a gradient
            loss, terms = self.loss(Examples(*batch).map(torch.clone))
        found = {name: values.to(loss) for name, values in self.by_separation().items()}
        terms |= {
            "discriminator_error": found["discriminator_error"].mean(),
            "value_error": (found["exact_value"] - found["value"]).mean(),
            "wasserstein_error": (found["wasserstein"] / found["separation"] - 1).abs().mean(),
            "gradient_ratio": found["minimax_gradient"][-1] / found["wasserstein_gradient"][-1],
        }
        for number, separation in enumerate(self.separations):
            for name in ("minimax_gradient", "wasserstein_gradient"):
                terms[f"{name}_at_{separation:g}"] = found[name][number]
        self.record(stage, {"loss": loss, **terms}, batch)

    # Abilities -------------------------------------------------------------------------------------------------------

    @ability
    def along_the_lines(self) -> dict[str, Tensor]:
        """Densities, critics and gradients at evenly spaced points `x` of each separation's line, on the CPU.

        Returns:
            Each (separations, points), float64: `real` and `generated`, the densities p and q; `logit`, d with D = sigmoid(d),
            and `exact_logit`, that of D*; `critic`, f; and the size of the gradient of the generator's loss at a point:
            `minimax_gradient`, D |d'|; `non_saturating_gradient`, (1 - D) |d'|; `wasserstein_gradient`, |f'|.
        """
        s = torch.tensor(self.separations, dtype=torch.float64)[:, None]
        x = -MARGIN + (s + 2 * MARGIN) * torch.linspace(0, 1, POINTS, dtype=torch.float64)
        with differentiable():
            places = x.to(self.device, self.dtype).requires_grad_()  # pyright: ignore[reportCallIssue, reportArgumentType]
            functions = [network(places.unsqueeze(2)).float() for network in (self.discriminators, self.critics)]
            slopes_of_both = [input_gradient(function, places) for function in functions]
        logit, critic, logit_slope, critic_slope = (values.detach().cpu().double() for values in (*functions, *slopes_of_both))
        return {
            "x": x,
            "real": normal(x),
            "generated": normal(x - s),
            "logit": logit,
            "exact_logit": s.square() / 2 - s * x,
            "critic": critic,
            "minimax_gradient": logit.sigmoid() * logit_slope.abs(),
            "non_saturating_gradient": (-logit).sigmoid() * logit_slope.abs(),
            "wasserstein_gradient": critic_slope.abs(),
        }

    @ability
    def by_separation(self) -> dict[str, Tensor]:
        """What the critics have reached, beside the exact values, for each `separation`, on the CPU.

        Returns:
            Each (separations,), float64: `discriminator_error`, `value` and `exact_value`, V(D) and V(D*); `slope` and
            `wasserstein` as the class says; the mean over q of the three gradients of `along_the_lines`, and
            `exact_minimax_gradient` and `exact_non_saturating_gradient`, those of D*, whose logit has the slope s.
        """
        s, line = torch.tensor(self.separations, dtype=torch.float64), self.along_the_lines()
        x, p, q, logit, exact = (line[name] for name in ("x", "real", "generated", "logit", "exact_logit"))
        step = x[:, 1] - x[:, 0]

        def integral(values: Tensor) -> Tensor:
            return values.sum(1) * step

        # The density of (1 - t) x + t g with x ~ p, g ~ q and t uniform, all independent: a mixture of normals over t.
        share = (torch.arange(SHARES, dtype=torch.float64)[:, None, None] + 0.5) / SHARES
        deviation = ((1 - share).square() + share.square()).sqrt()
        between = (normal((x - share * s[:, None]) / deviation) / deviation).mean(0)
        slope = integral(between * line["wasserstein_gradient"])
        gradients = {name: integral(q * values) for name, values in line.items() if name.endswith("gradient")}
        return {
            "separation": s,
            "discriminator_error": integral((p + q) / 2 * (logit.sigmoid() - exact.sigmoid()).abs()),
            "value": -integral(p * softplus(-logit) + q * softplus(logit)),
            "exact_value": -integral(p * softplus(-exact) + q * softplus(exact)),
            "slope": slope,
            "wasserstein": integral((p - q) * line["critic"]) / slope,
            **gradients,
            "exact_minimax_gradient": s * integral(q * exact.sigmoid()),
            "exact_non_saturating_gradient": s * integral(q * (-exact).sigmoid()),
        }


def normal(x: Tensor) -> Tensor:
    """The density of N(0, 1)."""
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
