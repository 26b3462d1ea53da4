"""DeepSets: functions of sets, whatever the order of their members (Zaheer et al. 2017, arXiv:1703.06114).

f(X) = rho(sum_k phi(x_k))                            theorem 2; or another pool than the sum
h_k <- sigma(Lambda h_k + Gamma pool_j h_j + beta)    equation 4: layers in which members learn of each other
outlier: p(k is the odd one) = softmax_k rho(h_k),    L = -mean log p(the odd one)      section 4.3
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dlkit.ability import ability
from dlkit.batches import Sets, owners
from dlkit.functional.segments import segment_argmax, segment_log_softmax
from dlkit.method import Schedule, Terms
from dlkit.nn.deep_sets import (
    ACTIVATIONS,
    Activation,
    EquivariantLayer,
    EquivariantPooling,
    MemberNetwork,
    build_member_encoder,
    dense,
)
from dlkit.nn.readout import Readout, ReadoutKind
from dlkit.sets.set_method import SetMethod, check_not_empty
from dlkit.supervised import Objective

SetTask = Literal["regression", "classification", "outlier"]


class DeepSets(SetMethod):
    """Predicts targets or a class of a set, or finds the outlier among its members.

    A set without members is taken for what its pool gives, which is 0 but for "set2set"; no outlier can be found there, and it
    is refused. A network that pools sums can go on to larger sets than it has seen; one that pools means cannot tell sizes
    apart.

    Args:
        data_shape: shape of a member; () for tokens.
        vocab_size: how many tokens there are, padding included; None for members that are no tokens.
        num_targets: of "regression".
        num_classes: of "classification".
        task: "regression", "classification" or "outlier".
        network: of phi: "mlp", or "cnn" for pictures; see `dlkit.nn.deep_sets.build_member_encoder`.
        hidden_dims: widths of phi's layers.
        equivariant_dims: widths of the equivariant layers that follow phi; "outlier" needs one at least.
        equivariant_pooling: of those layers, "sum", "mean" or "max".
        pooling: of the set, "sum", "mean", "max", "attention" or "set2set": see `dlkit.nn.readout.Readout`. "outlier" has none.
        rho_dims: widths of rho's hidden layers; none makes it linear.
        activation: sigma, behind every layer but the last, "relu" or "tanh".
        width: channels of the first block of "cnn".
        target_mean, target_std, target_names, objective: see `dlkit.supervised.Supervised`.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a setting outside its range; in use, members of another shape, NaN or outside the vocabulary, bounds that do
            not fit, targets of another kind, for "outlier" an empty set, or a place outside its set.
    """

    reads = Sets

    tasks = get_args(SetTask)

    def __init__(
        self,
        data_shape: tuple[int, ...],
        vocab_size: int | None = None,
        num_targets: int = 0,
        num_classes: int | None = None,
        task: SetTask = "regression",
        network: MemberNetwork = "mlp",
        hidden_dims: tuple[int, ...] = (128, 128),
        equivariant_dims: tuple[int, ...] = (),
        equivariant_pooling: EquivariantPooling = "mean",
        pooling: ReadoutKind = "sum",
        rho_dims: tuple[int, ...] = (),
        activation: Activation = "relu",
        width: int = 16,
        target_mean: tuple[float, ...] = (),
        target_std: tuple[float, ...] = (),
        target_names: tuple[str, ...] = (),
        objective: Objective = "mse",
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(
            data_shape, vocab_size, task, num_targets, num_classes, target_mean, target_std, target_names, objective
        )
        self.save_hyperparameters()
        if task == "outlier" and not equivariant_dims:
            raise ValueError("task='outlier' without equivariant_dims: a member's score would know no others, give a width")
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.pooling: ReadoutKind = pooling
        self.additive = task != "outlier" and pooling == "sum" and not equivariant_dims
        self.phi = build_member_encoder(data_shape, vocab_size, hidden_dims, network, activation, width)
        widths = (hidden_dims[-1], *equivariant_dims)
        self.equivariant = nn.ModuleList(EquivariantLayer(*pair, equivariant_pooling) for pair in pairwise(widths))
        self.sigma = ACTIVATIONS[activation]()
        if task == "outlier":
            self.num_outputs = 1
            size = widths[-1]
        else:
            self.readout = Readout(pooling, widths[-1])
            size = self.readout.output_size
        self.rho = nn.Sequential(*dense([size, *rho_dims], activation), nn.Linear((size, *rho_dims)[-1], self.num_outputs))

    def read(self, x: Tensor, ptr: Tensor) -> Tensor:
        """Sets in the flat form -> (sets, num_outputs); of "outlier" the members' scores, (members,)."""
        index, number = owners(ptr, len(x)), len(ptr) - 1
        h = self.members(x, index, number)
        if self.task != "outlier":
            return self.rho(self.readout(h, index, number))
        check_not_empty(ptr, "has no outlier")
        return self.rho(h).squeeze(1)

    def members(self, x: Tensor, index: Tensor, number: int) -> Tensor:
        """What is pooled of each member: (members, *data_shape), the set of each, and how many sets -> (members, features)."""
        h = self.phi(x)
        for layer in self.equivariant:
            h = self.sigma(layer(h, index, number))
        return h

    def forward_padded(self, x: Tensor, mask: Tensor) -> Tensor:
        """As `SetMethod.forward_padded`; of "outlier" the members' scores, (sets, width), -infinity at the padding."""
        outputs = super().forward_padded(x, mask)
        if self.task != "outlier":
            return outputs
        return outputs.new_full(mask.shape, -torch.inf).masked_scatter(mask, outputs)

    # Outliers --------------------------------------------------------------------------------------------------------

    def loss(self, batch: Sets) -> tuple[Tensor, Terms]:
        if self.task != "outlier":
            return super().loss(batch)
        loss, found = self.search(batch)
        return loss, {"accuracy": found.mean()}

    def search(self, batch: Sets) -> tuple[Tensor, Tensor]:
        """The loss of "outlier", and whether the odd one of each set has the greatest score, 1 or 0: (sets,)."""
        log_p = segment_log_softmax(self(batch).float(), batch.index, len(batch.ptr) - 1)
        odd = batch.ptr[:-1] + self.check_places(batch.y, batch.ptr)
        found = segment_argmax(log_p, batch.index, len(odd)) == odd
        return -log_p[odd].mean(), found.float()

    def check_places(self, y: Tensor, ptr: Tensor) -> Tensor:
        """Refuses places that are no whole numbers, or outside their sets.

        Raises:
            ValueError: naming what was given.
        """
        if tuple(y.shape) != (len(ptr) - 1,) or y.dtype != torch.int64:
            raise ValueError(
                f"{type(self).__name__} looks for an outlier in each of {len(ptr) - 1} sets and was given {tuple(y.shape)}, "
                f"{y.dtype}: give the place of each, int64"
            )
        if y.is_cpu and bool(((y < 0) | (y >= ptr.diff())).any()):
            wrong = int(((y < 0) | (y >= ptr.diff())).nonzero()[0])
            raise ValueError(
                f"the outlier of set {wrong} is at place {int(y[wrong])}, and the set has {int(ptr.diff()[wrong])} members: "
                f"places are counted from 0 in each set"
            )
        return y

    def evaluation_step(self, stage: str, batch: Sets) -> None:
        if self.task != "outlier":
            super().evaluation_step(stage, batch)
            return
        loss, found = self.search(batch)
        self.record(stage, {"loss": loss, "accuracy": found.mean()}, batch)
        self.sizes.update(found, 1 - found, batch.ptr.diff())

    # What it does for a user -----------------------------------------------------------------------------------------

    @ability
    def predict(self, x: Tensor, ptr: Tensor) -> Tensor:
        """As `SetMethod.predict`; of "outlier" each member's probability of being its set's odd one, (members,)."""
        if self.task != "outlier":
            return super().predict(x, ptr)
        self.check(x, ptr)
        return segment_log_softmax(self.read(x, ptr).float(), owners(ptr, len(x)), len(ptr) - 1).exp()

    @ability
    def contributions(self, x: Tensor, ptr: Tensor) -> Tensor:
        """What each member adds to its set's prediction: f(X) - f(X without it), (members, num_outputs).

        Where rho is linear they sum to f(X) - f({}). Of targets in their units, of classes in logits.

        Args:
            x, ptr: see `predict`.

        Raises:
            ValueError: the members are not summed, or learn of each other before they are.
        """
        if not self.additive:
            raise ValueError(
                f"task={self.task!r} with pooling={self.pooling!r} and {len(self.equivariant)} equivariant layers does not sum "
                f"its members: only a sum of them, without equivariant layers, tells what each adds"
            )
        self.check(x, ptr)
        index = owners(ptr, len(x))
        h = self.phi(x)
        total = self.readout(h, index, len(ptr) - 1)
        added = self.rho(total)[index] - self.rho(total[index] - h)
        return added.float() * self.target_std if self.task == "regression" else added.float()
