"""AggregateSum: what each member counts, learned from the sums alone by maximum likelihood.

P(m_k = v | x_k) = softmax(phi(x_k))_v,    v = 0 .. V - 1
P(sum = s | X)   = (p_1 * ... * p_n)(s),   the convolution of the members' laws
L                = -mean log P(y | X)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlkit.ability import ability
from dlkit.functional.sums import log_law_of_sums
from dlkit.method import Schedule, Terms
from dlkit.nn.deep_sets import Activation, MemberNetwork, build_member_encoder
from dlkit.sets.set_method import SetMethod


class AggregateSum(SetMethod):
    """Predicts the sum of whole numbers, one of each member of a set, that are seen in their sum only.

    The likelihood of an aggregate whose parts are independent given the members, here a sum of classes (Zhang, Charoenphakdee,
    Wu and Sugiyama 2020, Learning from aggregate observations, arXiv:2004.06316). The logarithm of a law's Fourier transform
    turns convolution into a sum, so that this is rho(sum phi(x)), as `dlkit.DeepSets` is; but a member's number is known
    beforehand to be whole and below V, which a regression is not told. It goes on to sets of any size.

    What is predicted is the most likely sum; that of no members is 0.

    Args:
        data_shape: shape of a member; () for tokens.
        num_values: V.
        vocab_size: how many tokens there are, padding included; None for members that are no tokens.
        network, hidden_dims, activation, width: of phi, behind which a linear map gives the logits; see
            `dlkit.nn.deep_sets.build_member_encoder`.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a setting outside its range; in use, targets that are missing, of half precision, or no sum of whole numbers
            of the set's members; and members and bounds that `dlkit.DeepSets` refuses.
    """

    additive = True

    def __init__(
        self,
        data_shape: tuple[int, ...],
        num_values: int,
        vocab_size: int | None = None,
        network: MemberNetwork = "mlp",
        hidden_dims: tuple[int, ...] = (128,),
        activation: Activation = "relu",
        width: int = 16,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(data_shape, vocab_size, "regression", 1, None, (), (), ("sum",), "mae")
        if num_values < 2:
            raise ValueError(f"num_values={num_values}: give 2 or more, of one value there is nothing to learn")
        self.save_hyperparameters()
        self.num_values = num_values
        self.learning_rate = learning_rate
        self.schedule = schedule
        encoder = build_member_encoder(data_shape, vocab_size, hidden_dims, network, activation, width)
        self.phi = nn.Sequential(encoder, nn.Linear(hidden_dims[-1], num_values))

    def read(self, x: Tensor, ptr: Tensor) -> Tensor:
        """Sets in the flat form -> log P(sum = s), (sets, as many sums as the largest set can have)."""
        return log_law_of_sums(self.log_p(x), ptr)

    def log_p(self, x: Tensor) -> Tensor:
        """log P(m = v | x): (members, *data_shape) -> (members, V), in float32 at least."""
        logits = self.phi(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)

    def check_targets(self, y: Tensor, examples: int) -> Tensor:
        if tuple(y.shape) != (examples, 1):
            raise ValueError(
                f"AggregateSum learns from one sum of each of {examples} sets and was given {tuple(y.shape)}: "
                f"give {(examples, 1)}"
            )
        if y.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"large sums are rounded in {y.dtype}: use --trainer.precision bf16-mixed or 16-mixed")
        return y

    def loss_of(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """Of the sums' laws, as `read` gives them, and the sums, (sets, 1)."""
        sums = y.long()
        wrong = (y != sums) | (sums < 0) | (sums >= outputs.shape[1])
        wrong |= outputs.gather(1, sums.masked_fill(wrong, 0)).isneginf()
        # Looked at on every device: how long the loop over members is was asked already.
        if bool(wrong.any()):
            first = int(wrong.squeeze(1).nonzero()[0])
            greatest = int((~outputs[first].isneginf()).sum()) - 1
            raise ValueError(
                f"set {first} of the batch has the sum {y[first].item()}, which is no whole number from 0 to {greatest}, what "
                f"its {greatest // (self.num_values - 1)} members can sum to: mend it, leave the set out, or set num_values "
                f"to the data's"
            )
        exact = outputs.argmax(1, keepdim=True) == sums
        return -outputs.gather(1, sums).mean(), {"exact": exact.float().mean()}

    def predictions(self, outputs: Tensor) -> Tensor:
        """The most likely sums, (sets, 1)."""
        return outputs.argmax(1, keepdim=True).float()

    # What it does for a user -----------------------------------------------------------------------------------------

    @ability
    def law(self, x: Tensor, ptr: Tensor) -> Tensor:
        """P(sum = s | X): (sets, as many sums as the largest set can have).

        Args:
            x, ptr: see `predict`.
        """
        self.check(x, ptr)
        return self.read(x, ptr).exp()

    @ability
    def values(self, x: Tensor) -> Tensor:
        """P(m = v | x): (members, *data_shape) -> (members, V)."""
        self.check(x, torch.arange(len(x) + 1, device=x.device))
        return self.log_p(x).exp()

    @ability
    def contributions(self, x: Tensor, ptr: Tensor) -> Tensor:
        """The most likely number of each member, (members, 1); the most likely sum may be another than theirs.

        Args:
            x, ptr: see `predict`.
        """
        self.check(x, ptr)
        return self.values(x).argmax(1, keepdim=True).float()
