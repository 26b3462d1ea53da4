"""AttentionMIL: a label for a bag of instances, and which instances it comes from.

Multiple-instance learning by neural networks (Ilse et al. 2018, arXiv:1802.04712). With h_k the features of instance k:

    attention        z = sum_k a_k h_k,  a = softmax_k(w . tanh(V h_k)),                       p = sigmoid(c . z + b)    (7, 8)
    gated            z = sum_k a_k h_k,  a = softmax_k(w . (tanh(V h_k) * sigmoid(U h_k))),    p = sigmoid(c . z + b)    (7, 9)
    embedding-mean   z = mean_k h_k,                                                           p = sigmoid(c . z + b)
    embedding-max    z = max_k h_k, feature by feature,                                        p = sigmoid(c . z + b)
    instance-max     p = max_k sigmoid(c . h_k + b)

    L = -(1/N) sum_n (y_n log p_n + (1 - y_n) log(1 - p_n))

Deviation: many bags are in a batch, one behind the other, where the paper's has one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.ability import ability
from dlkit.batches import Sets, flat, owners
from dlkit.functional.segments import segment_max, segment_mean, segment_sum
from dlkit.method import Method, Schedule, Terms
from dlkit.metrics.auc import AUC
from dlkit.nn.bags import BagAttention, build_instance_encoder
from dlkit.sets.set_method import check_not_empty, check_sets

BagPooling = Literal["attention", "gated", "instance-max", "embedding-mean", "embedding-max"]


class Reading(NamedTuple):
    """What is read in a batch of bags.

    Attributes:
        logits: (bags,), of a bag's being positive.
        instance_logits: (instances,), c . h_k + b.
        weights: (instances,), how much each counts in its bag, of "attention" and "gated"; None of the others.
    """

    logits: Tensor
    instance_logits: Tensor
    weights: Tensor | None


class AttentionMIL(Method):
    """Tells positive bags of instances from negative ones. Bags of any sizes are in one batch.

    Records the loss in nats and the accuracy; in evaluation the area under the ROC curve of the bags, `auc`, and, where the
    data knows the instances, that of the instances of all positive bags, `instance_auc`: whether those that make them positive
    have the greatest weights, or logits with "instance-max". NaN stands for an area where a class is missing.

    Args:
        data_shape: of an instance.
        pooling: "attention", "gated", "instance-max", "embedding-mean" or "embedding-max".
        embedding_dim: features of an instance, h.
        attention_dim: of tanh(V h), with "attention" and "gated".
        dropout: see `dlkit.nn.bags.build_instance_encoder`, the network of an instance; a subclass may build another.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.
        weight_decay: added to the gradients, times the parameters.

    Raises:
        ValueError: a setting outside its range, instances that there is no network for; in use, instances of another shape, or
            NaN, a bag without instances, bounds of bags that do not fit, labels other than 0 and 1.
    """

    reads = Sets

    compiled_networks = ("encoder",)

    def __init__(
        self,
        data_shape: tuple[int, ...],
        pooling: BagPooling = "attention",
        embedding_dim: int = 500,
        attention_dim: int = 128,
        dropout: float = 0.0,
        learning_rate: float = 5e-4,
        schedule: Schedule = "constant",
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if pooling not in get_args(BagPooling):
            raise ValueError(f"unknown pooling {pooling!r}: use {', '.join(map(repr, get_args(BagPooling)))}")
        if embedding_dim < 1 or attention_dim < 1:
            raise ValueError(f"embedding_dim={embedding_dim} and attention_dim={attention_dim}: give at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is outside [0, 1)")
        if weight_decay < 0:
            raise ValueError(f"weight_decay={weight_decay}: give 0 or more")
        self.data_shape = tuple(data_shape)
        self.pooling: BagPooling = pooling
        self.embedding_dim = embedding_dim
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.encoder = self.build_encoder()
        gated = pooling == "gated"
        self.weigh = BagAttention(embedding_dim, attention_dim, gated) if gated or pooling == "attention" else None
        self.head = nn.Linear(embedding_dim, 1)
        self.auc = AUC()
        self.instance_auc = AUC()

    def build_encoder(self) -> nn.Module:
        """The network of an instance: (instances, *data_shape) -> (instances, embedding_dim)."""
        return build_instance_encoder(self.data_shape, self.embedding_dim, self.dropout)

    def read(self, x: Tensor, ptr: Tensor) -> Reading:
        """Instances (instances, *data_shape), those of bag n from `ptr[n]` to `ptr[n + 1]`; ptr (bags + 1,), int64."""
        check_sets(x, ptr, self.data_shape, type(self).__name__)
        check_not_empty(ptr, "a bag needs at least 1 instance")
        index, bags = owners(ptr, len(x)), len(ptr) - 1
        h = self.encoder(x)
        instance_logits = self.head(h).squeeze(1)
        if self.pooling == "instance-max":
            return Reading(segment_max(instance_logits, index, bags), instance_logits, None)
        weights = None
        if self.pooling == "embedding-mean":
            z = segment_mean(h, index, bags)
        elif self.pooling == "embedding-max":
            z = segment_max(h, index, bags)
        else:
            assert self.weigh is not None
            weights = self.weigh(h, index, bags)
            z = segment_sum(weights.unsqueeze(1) * h, index, bags).to(h.dtype)
        return Reading(self.head(z).squeeze(1), instance_logits, weights)

    def forward(self, x: Tensor, ptr: Tensor) -> Tensor:
        """Logits of the bags, (bags,): see `read`."""
        return self.read(x, ptr).logits

    def forward_padded(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same of bags that are padded to one size: the padding is taken out, and changes nothing, whatever it holds.

        Args:
            x: (bags, width, *data_shape).
            mask: (bags, width), bool, True at instances.
        """
        return self(*flat(x, mask))

    # Learning --------------------------------------------------------------------------------------------------------

    def batch_size(self, batch: Sets) -> int:
        return len(batch.ptr) - 1

    def loss(self, batch: Sets) -> tuple[Tensor, Terms]:
        return self.loss_of(self(batch.x, batch.ptr), batch.y)

    def loss_of(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """The loss of bags' logits."""
        check_bag_labels(y, len(logits))
        loss = F.binary_cross_entropy_with_logits(logits.float(), y.float())
        return loss, {"accuracy": ((logits > 0) == (y == 1)).float().mean()}

    def evaluation_step(self, stage: str, batch: Sets) -> None:
        found = self.read(batch.x, batch.ptr)
        loss, terms = self.loss_of(found.logits, batch.y)
        self.record(stage, {"loss": loss, **terms}, batch)
        self.auc.update(found.logits.double().sigmoid(), batch.y)
        self.log(f"{stage}/auc", self.auc, on_epoch=True, on_step=False)
        scores = found.instance_logits.double().sigmoid() if self.pooling == "instance-max" else found.weights
        if batch.member_y is not None and scores is not None:
            in_positive = batch.y[batch.index] == 1
            self.instance_auc.update(scores[in_positive], batch.member_y[in_positive])
            self.log(f"{stage}/instance_auc", self.instance_auc, on_epoch=True, on_step=False)

    # What it does for a user -----------------------------------------------------------------------------------------

    @ability
    def classify(self, x: Tensor, ptr: Tensor) -> Tensor:
        """Probabilities of a negative and of a positive bag: see `read`; -> (bags, 2)."""
        p = self(x, ptr).sigmoid()
        return torch.stack([1 - p, p], 1)

    @ability
    def attention(self, x: Tensor, ptr: Tensor) -> Tensor:
        """How much each instance counts: see `read`; -> (instances,), which sum to one in each bag.

        Raises:
            ValueError: the method has no attention.
        """
        return self.attended(x, ptr)[0]

    @ability
    def rescaled_attention(self, x: Tensor, ptr: Tensor) -> Tensor:
        """The same from 0 to 1 in each bag, for heat maps: a'_k = (a_k - min a) / (max a - min a) (Figure 5); -> (instances,).

        Where all weights of a bag are equal, as in a bag of one instance, all are 1.
        """
        return rescale(self.attended(x, ptr)[0], ptr)

    @ability
    def contributions(self, x: Tensor, ptr: Tensor) -> Tensor:
        """What each instance adds to its bag's logit: a_k (c . h_k + b), which sum to it in each bag; -> (instances,).

        A weight says how much an instance counts, and this also for which label.
        """
        weights, instance_logits = self.attended(x, ptr)
        return weights * instance_logits

    def attended(self, x: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and logits of the instances, (instances,) each; refuses a method without attention."""
        found = self.read(x, ptr)
        if found.weights is None:
            raise ValueError(f"pooling={self.pooling!r} gives instances no weights: use pooling='attention' or 'gated'")
        return found.weights, found.instance_logits


def rescale(weights: Tensor, ptr: Tensor) -> Tensor:
    """From 0 to 1 in each bag, or 1 where all are equal: (instances,), (bags + 1,) -> (instances,)."""
    index, bags = owners(ptr, len(weights)), len(ptr) - 1
    least, most = -segment_max(-weights, index, bags), segment_max(weights, index, bags)
    extent = (most - least)[index]
    return torch.where(extent > 0, (weights - least[index]) / extent, 1.0)


def check_bag_labels(y: Tensor, bags: int) -> None:
    """Refuses labels that are no vector of zeros and ones.

    Raises:
        ValueError: naming what was given.
    """
    if tuple(y.shape) != (bags,) or y.dtype != torch.int64:
        raise ValueError(
            f"AttentionMIL was given labels of shape {tuple(y.shape)}, {y.dtype}, for {bags} bags: give each bag 0 or 1, int64"
        )
    if y.is_cpu and bags and (int(y.min()) < 0 or int(y.max()) > 1):
        wrong = int(y.max()) if int(y.max()) > 1 else int(y.min())
        raise ValueError(f"a bag has the label {wrong}: AttentionMIL tells positive bags, 1, from negative ones, 0")
