"""SetRNN: a set read as a sequence, in the order in which its members happen to lie.

h_1 .. h_n = network(phi(x_1) .. phi(x_n)),   f(X) = A h_n + b
"""

from __future__ import annotations

from torch import Tensor, nn

from dlkit.batches import padded
from dlkit.method import Schedule
from dlkit.nn.deep_sets import Activation, MemberNetwork, build_member_encoder
from dlkit.nn.recurrent import Cell, RecurrentEncoder
from dlkit.sets.set_method import SetMethod, check_not_empty
from dlkit.supervised import Objective, Task


class SetRNN(SetMethod):
    """A recurrent network that reads a set: what `dlkit.DeepSets` is compared with (Zaheer et al. 2017, arXiv:1703.06114, 4.1).

    Its answer depends on the order of the members, and it knows no larger sets than it has seen.

    Args:
        data_shape, vocab_size, num_targets, num_classes, network, activation, target_mean, target_std,
            target_names, objective, learning_rate, schedule: see `dlkit.DeepSets`.
        task: "regression" or "classification".
        hidden_dims: widths of the layers that read a member.
        cell: "rnn", "gru" or "lstm".
        hidden_size: width of the recurrent state.

    Raises:
        ValueError: a setting outside its range; in use, an empty set, and what `dlkit.DeepSets` refuses.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        vocab_size: int | None = None,
        num_targets: int = 0,
        num_classes: int | None = None,
        task: Task = "regression",
        network: MemberNetwork = "mlp",
        hidden_dims: tuple[int, ...] = (128,),
        cell: Cell = "lstm",
        hidden_size: int = 50,
        activation: Activation = "relu",
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
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.phi = build_member_encoder(data_shape, vocab_size, hidden_dims, network, activation)
        self.recurrent = RecurrentEncoder(hidden_dims[-1], hidden_size, cell)
        self.head = nn.Linear(hidden_size, self.num_outputs)

    def read(self, x: Tensor, ptr: Tensor) -> Tensor:
        """Sets in the flat form -> (sets, num_outputs)."""
        check_not_empty(ptr, "has no last member to stop at")
        steps, _ = padded(self.phi(x), ptr)
        return self.head(self.recurrent(steps, ptr.diff()).final_state.top)
