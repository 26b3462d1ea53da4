"""Recurrent networks over sequences of different lengths: simple (Elman), GRU and LSTM; stacked; bidirectional.

    simple   h' = tanh(W x + U h + b)
    GRU      h' = (1 - z) n + z h,       z, r = sigmoid(W x + U h + b),  n = tanh(W x + b + r (U h + b))
    LSTM     h' = o tanh(c'),  c' = f c + i g,    i, f, o = sigmoid(W x + U h + b),  g = tanh(W x + U h + b)

Elman 1990 (doi:10.1207/s15516709cog1402_1); Cho et al. 2014 (arXiv:1406.1078); Hochreiter and Schmidhuber 1997
(doi:10.1162/neco.1997.9.8.1735), with the forget gate of Gers et al. 2000.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

Cell = Literal["rnn", "gru", "lstm"]
CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


class RecurrentState(NamedTuple):
    """What a recurrent network knows of the past.

    Attributes:
        hidden: h, (layers, directions, batch, hidden_size); the forward direction comes first.
        memory: c of an LSTM, of the same shape; None for other cells.
    """

    hidden: Tensor
    memory: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> RecurrentState:
        """The same state with `function` applied to h, and to c where there is one."""
        return RecurrentState(function(self.hidden), None if self.memory is None else function(self.memory))

    def detach(self) -> RecurrentState:
        """The same numbers, through which no gradient flows: the cut of truncated back-propagation through time."""
        return self.map(torch.Tensor.detach)

    def select(self, rows: Tensor) -> RecurrentState:
        """The states of some sequences of the batch, repeated as often as they are named: (n,), int64."""
        return self.map(lambda part: part.index_select(2, rows))

    @property
    def top(self) -> Tensor:
        """h of the last layer, both directions side by side: (batch, directions * hidden_size)."""
        return self.hidden[-1].transpose(0, 1).flatten(1)


class Encoded(NamedTuple):
    """What a recurrent network makes of sequences.

    Attributes:
        outputs: h of the last layer at every step, both directions side by side, zero after a sequence's end:
            (batch, time, directions * hidden_size).
        final_state: after each sequence's last step, for the backward direction its first.
    """

    outputs: Tensor
    final_state: RecurrentState


class RecurrentEncoder(nn.Module):
    """A stack of recurrent layers, each reading the outputs of the one below.

    A padded batch gives exactly what each of its sequences gives alone: outputs, final states and gradients.

    Weights start orthogonal from state to state (Saxe et al. 2014, arXiv:1312.6120) and Glorot-uniform from input to
    state, gate by gate; biases are zero, and 1 for an LSTM's forget gate (Jozefowicz et al. 2015): once, although PyTorch
    has two of them.

    Dropout keeps one mask for all steps of a sequence, as a model average over weights asks for: Gal and Ghahramani 2016
    (arXiv:1512.05287), section 4; here it falls on the outputs of every layer but the last.

    Args:
        input_size: features of a step.
        hidden_size: q, width of h in each direction.
        cell: "rnn", "gru" or "lstm".
        num_layers: how many, one upon the other.
        bidirectional: each layer also reads backwards, from each sequence's own end.
        dropout: probability of zeroing a feature between layers.

    Raises:
        ValueError: an unknown cell, a size below one, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        cell: Cell = "lstm",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"unknown cell {cell!r}: use {', '.join(map(repr, get_args(Cell)))}")
        if min(input_size, hidden_size, num_layers) < 1:
            raise ValueError(f"input_size={input_size}, hidden_size={hidden_size} and num_layers={num_layers}: give 1 or more")
        self.cell = cell
        self.hidden_size = hidden_size
        self.directions = 2 if bidirectional else 1
        self.output_size = hidden_size * self.directions
        self.dropout = SequenceDropout(dropout)
        self.layers = nn.ModuleList()
        for layer in range(num_layers):
            width = self.output_size if layer else input_size
            self.layers.append(CELLS[cell](width, hidden_size, batch_first=True, bidirectional=bidirectional))
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Draws the weights anew, as the class says."""
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
                if self.cell == "lstm" and "bias_ih" in name:
                    parameter[self.hidden_size : 2 * self.hidden_size] = 1  # the forget gate is the second
                continue
            for gate in parameter.chunk(GATES[self.cell]):
                (nn.init.orthogonal_ if "weight_hh" in name else nn.init.xavier_uniform_)(gate)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: RecurrentState | None = None) -> Encoded:
        """Reads sequences from their first step to their last.

        Args:
            x: (batch, time, input_size).
            lengths: (batch,), int64, how many steps of each sequence are real, from the first; None if all are. Without
                lengths nothing is packed, which is faster on a CPU, and steps that a sequence does not have must be ignored
                by the caller; this is only right in the forward direction and where the final state is of no use.
            state: the state before the first step; zeros where it is None.

        Raises:
            ValueError: lengths below one or above the width of x, or not one for each sequence.
        """
        if x.is_cpu:
            # Some CPUs have no LSTM in half precision, and oneDNN refuses instead of falling back.
            dtype = next(self.parameters()).dtype
            state = None if state is None else state.map(lambda part: part.to(dtype))
            with torch.autocast("cpu", enabled=False):
                return self.read(x.to(dtype), lengths, state)
        return self.read(x, lengths, state)

    def read(self, x: Tensor, lengths: Tensor | None, state: RecurrentState | None) -> Encoded:
        """What `forward` does, in the precision of x."""
        packed = None if lengths is None else pack(x, lengths)
        steps: Tensor | PackedSequence = x if packed is None else packed
        hidden: list[Tensor] = []
        memory: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            if number:
                steps = self.dropout(steps)
            before = None if state is None else state.map(lambda part, number=number: part[number])
            given = None if before is None else (before.hidden if before.memory is None else tuple(before))
            steps, after = layer(steps, given)
            hidden.append(after[0] if self.cell == "lstm" else after)
            if self.cell == "lstm":
                memory.append(after[1])
        outputs = steps
        if isinstance(steps, PackedSequence):
            outputs, _ = pad_packed_sequence(steps, batch_first=True, total_length=x.shape[1])
        assert isinstance(outputs, Tensor)
        return Encoded(outputs, RecurrentState(torch.stack(hidden), torch.stack(memory) if memory else None))


class SequenceDropout(nn.Module):
    """Dropout with one mask for all steps of a sequence, drawn anew for each sequence.

    Args:
        probability: of zeroing a feature; what stays is divided by one minus it.

    Raises:
        ValueError: a probability outside [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout={probability} is outside [0, 1)")
        self.probability = probability

    def forward(self, x: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """(batch, time, features), or the same packed -> the same."""
        if not self.training or not self.probability:
            return x
        if isinstance(x, Tensor):
            return x * self.mask(x[:, :1])
        # The sequences of a packed batch are sorted by length: step t holds the first batch_sizes[t] of them.
        rows = torch.cat([torch.arange(int(size)) for size in x.batch_sizes]).to(x.data.device)
        mask = self.mask(x.data[: int(x.batch_sizes[0])])
        return x._replace(data=x.data * mask[rows])

    def mask(self, like: Tensor) -> Tensor:
        """Zero, or one over the share that stays, in the shape given."""
        return torch.empty_like(like).bernoulli_(1 - self.probability).div_(1 - self.probability)


def pack(x: Tensor, lengths: Tensor) -> PackedSequence:
    """Sequences without their padding.

    Raises:
        ValueError: see `RecurrentEncoder.forward`.
    """
    lengths = lengths.cpu()  # where packing needs them; an accelerator is waited for once
    check_lengths(lengths, *x.shape[:2])
    return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def check_lengths(lengths: Tensor, batch: int, width: int) -> None:
    """Refuses lengths that do not fit a padded batch.

    Raises:
        ValueError: naming the length and its place.
    """
    if lengths.shape != (batch,):
        raise ValueError(f"{tuple(lengths.shape)} lengths for {batch} sequences: give one for each, (batch,)")
    wrong = ((lengths < 1) | (lengths > width)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise ValueError(
            f"sequence {place} of the batch has the length {int(lengths[place])}, and the batch is {width} steps wide: "
            f"lengths are from 1 to the width; leave empty sequences out"
        )


def real_steps(lengths: Tensor, width: int) -> Tensor:
    """Which steps of a padded batch are real: (batch,), int64 -> (batch, width), bool, on the device of the lengths."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)
