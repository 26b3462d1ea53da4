"""PrecisionRecallDensityCoverage: the fidelity and the diversity of generated examples, told apart."""

from __future__ import annotations

import torch
from torch import Tensor

from dlkit.metrics.two_sample import TwoSampleMetric, distance_rows


def radii(x: Tensor, k: int) -> Tensor:
    """The distance of each point to its k-th nearest other point.

    Args:
        x: (n, d), n > k.

    Returns:
        (n,).
    """
    result = []
    for chunk, distances in distance_rows(x, x):
        rows = torch.arange(len(distances), device=x.device)
        distances[rows, rows + chunk.start] = torch.inf  # a point is not its own neighbour
        result.append(distances.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(result)


class PrecisionRecallDensityCoverage(TwoSampleMetric):
    """Fidelity (precision, density) and diversity (recall, coverage) of generated examples by nearest neighbours.

    With B(x) the open ball around x that reaches to the k-th nearest neighbour of x among its own kind, N real examples x_i
    and M generated examples y_j:

        precision = 1/M  sum_j 1[y_j in some B(x_i)]        recall   = 1/N sum_i 1[x_i in some B(y_j)]
        density   = 1/kM sum_j sum_i 1[y_j in B(x_i)]       coverage = 1/N sum_i 1[some y_j in B(x_i)]

    Precision and recall: Kynkaanniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2, who take k = 3. Density and
    coverage: Naeem et al. 2020 (arXiv:2002.09797), equations 3 to 5, who take k = 5. All lie in [0, 1] but density, which
    may exceed 1. For equal distributions density is 1 and, for N = M, coverage about 1 - 2^-k; precision and recall stay
    below 1, the more so the higher the dimension: compare numbers of one N, M, k and feature network only.

    Deviation: open balls, as in Naeem's code; Kynkaanniemi's are closed. It matters for generated examples that are exact
    copies of real ones: their ties are broken by rounding and density may rise by up to a factor (k + 1)/k.

    Time grows as (N + M)^2, memory as N + M.

    Args:
        k: which neighbour gives the radius.

    Raises:
        ValueError: k below 1; k or fewer examples of a kind; also what `TwoSampleMetric` raises.
    """

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k={k} must be at least 1: the first neighbour is the nearest")
        self.k = k

    def compute(self) -> dict[str, Tensor]:
        """Scalars "precision", "recall", "density" and "coverage"."""
        real, generated = self.samples(self.k + 1)
        real, generated = real - real.mean(0), generated - real.mean(0)  # the same distances, with less cancellation
        real_radii, generated_radii = radii(real, self.k), radii(generated, self.k)
        precise = torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
        recalled, inside, covered = (torch.zeros((), dtype=torch.int64, device=real.device) for _ in range(3))
        for chunk, distances in distance_rows(real, generated):
            in_real_ball = distances < real_radii[chunk].unsqueeze(1)
            precise |= in_real_ball.any(0)
            covered += in_real_ball.any(1).sum()
            inside += in_real_ball.sum()
            recalled += (distances < generated_radii).any(1).sum()
        return {
            "precision": precise.float().mean(),
            "recall": recalled.float() / len(real),
            "density": (inside.double() / (self.k * len(generated))).float(),
            "coverage": covered.float() / len(real),
        }
