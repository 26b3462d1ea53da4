"""SetMethod: the base of methods that predict targets, or a class, from sets of any size."""

from __future__ import annotations

import torch
from torch import Tensor

from dlkit.ability import ability
from dlkit.batches import Sets, check_bounds, flat
from dlkit.checks import check_examples
from dlkit.metrics.by_size import ErrorsBySize
from dlkit.supervised import Objective, Supervised

MOST_SIZES = 16  # that are recorded one by one


class SetMethod(Supervised):
    """`Supervised` for sets. A subclass gives `read(x, ptr)`, the network's outputs.

    Records what `Supervised` does; and where an evaluation sees several sizes of sets, but few, also the share of right answers
    among the sets of each size N, `accuracy_at_size_N`. A right answer to a regression is one that becomes the target when
    it is rounded: where all targets are whole numbers it is recorded as `exact_at_size_N`, and in any case there is the mean
    absolute error, `mae_at_size_N`.

    Args:
        data_shape: shape of a member; () for tokens.
        vocab_size: how many tokens there are, padding included; None for members that are no tokens.
        task, num_targets, num_classes, target_mean, target_std, target_names, objective: see `Supervised`.

    Raises:
        ValueError: as `Supervised`; in use, members of another shape, or NaN, and bounds that do not fit.
    """

    reads = Sets

    def __init__(
        self,
        data_shape: tuple[int, ...],
        vocab_size: int | None,
        task: str,
        num_targets: int,
        num_classes: int | None,
        target_mean: tuple[float, ...],
        target_std: tuple[float, ...],
        target_names: tuple[str, ...],
        objective: Objective,
    ) -> None:
        super().__init__(task, num_targets, num_classes, target_mean, target_std, target_names, objective)
        self.data_shape = tuple(data_shape)
        self.vocab_size = vocab_size
        self.sizes = ErrorsBySize()

    def read(self, x: Tensor, ptr: Tensor) -> Tensor:
        """Sets in the flat form, members (members, *data_shape) and bounds (sets + 1,) -> (sets, num_outputs)."""
        raise NotImplementedError(f"{type(self).__name__} has to define read()")

    def check(self, x: Tensor, ptr: Tensor) -> None:
        """Raises ValueError for what are no sets of the method's; see `check_sets`."""
        check_sets(x, ptr, self.data_shape, type(self).__name__, self.vocab_size is not None)

    def forward(self, batch: Sets) -> Tensor:
        """The network's outputs: (sets, num_outputs)."""
        self.check(batch.x, batch.ptr)
        return self.read(batch.x, batch.ptr)

    def forward_padded(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same of sets that are padded to one size: the padding is taken out, and changes nothing, whatever it holds.

        Args:
            x: (sets, width, *data_shape).
            mask: (sets, width), bool, True at members.
        """
        members, ptr = flat(x, mask)
        self.check(members, ptr)
        return self.read(members, ptr)

    # Evaluation by size ----------------------------------------------------------------------------------------------

    def measure(self, stage: str, predicted: Tensor, y: Tensor, batch: Sets) -> None:
        super().measure(stage, predicted, y, batch)
        if self.task == "classification":
            right = (predicted.argmax(1) == y).float()
            self.sizes.update(right, 1 - right, batch.ptr.diff())
        elif self.task == "regression":
            error = (predicted - y).abs().nanmean(1)
            known = ~error.isnan()
            right = torch.where((y == y.round()).all(1), (predicted.round() == y).all(1).float(), torch.nan)
            self.sizes.update(right[known], error[known], batch.ptr.diff()[known])

    def forget(self) -> None:
        super().forget()
        self.sizes.reset()

    def by_size(self) -> dict[str, Tensor]:
        """How the last pass of evaluation went at each size: `size`, and `accuracy` or `exact` and `mae`, (sizes,) each."""
        # torchmetrics takes the only entry of a vector for a scalar.
        found = {name: values.reshape(-1) for name, values in self.sizes.compute().items()}
        if self.task != "regression":
            return {"size": found["size"], "accuracy": found["right"]}
        exact = {} if found["right"].isnan().any() else {"exact": found["right"]}
        return {"size": found["size"], **exact, "mae": found["error"]}

    def summarize(self, stage: str) -> None:
        super().summarize(stage)
        found = self.by_size()
        sizes = found.pop("size").tolist()
        if 1 < len(sizes) <= MOST_SIZES:
            for name, values in found.items():
                for size, value in zip(sizes, values.float(), strict=True):
                    self.log(f"{stage}/{name}_at_size_{size}", value)

    # What it does for a user -----------------------------------------------------------------------------------------

    @ability
    def predict(self, x: Tensor, ptr: Tensor) -> Tensor:
        """Predictions for sets in the flat form.

        Args:
            x: (members, *data_shape), the members of all sets one behind the other.
            ptr: (sets + 1,), int64; the members of set s are `ptr[s]` to `ptr[s + 1]`.

        Returns:
            Targets in their units, (sets, num_targets), or the classes' probabilities, (sets, num_classes).
        """
        self.check(x, ptr)
        return self.predictions(self.read(x, ptr))


def check_sets(x: Tensor, ptr: Tensor, data_shape: tuple[int, ...], method: str, tokens: bool = False) -> None:
    """Refuses members of another shape or type or that are not finite, and bounds that do not fit them.

    Raises:
        ValueError: naming what was given.
    """
    check_examples(x, data_shape, method)
    check_bounds(ptr, len(x), "sets", "members")
    if tokens == x.is_floating_point():
        raise ValueError(
            f"{method} was given members of {x.dtype}: give {'tokens, int64' if tokens else 'real numbers, float32'}"
        )
    # Looked at on the CPU only: on an accelerator the look would make the step wait.
    if x.is_cpu and x.is_floating_point() and not bool(x.isfinite().all()):
        member = int((~x.isfinite()).flatten(1).any(1).nonzero()[0]) if x.dim() > 1 else int((~x.isfinite()).nonzero()[0])
        owner = int(torch.searchsorted(ptr, member, right=True)) - 1
        raise ValueError(f"member {member - int(ptr[owner])} of set {owner} is not finite: mend it, or leave it out")


def check_not_empty(ptr: Tensor, what: str) -> None:
    """Refuses empty sets.

    Raises:
        ValueError: naming the first.
    """
    if ptr.is_cpu and bool((ptr.diff() == 0).any()):
        raise ValueError(f"set {int((ptr.diff() == 0).nonzero()[0])} of the batch is empty, and {what}: leave it out")
