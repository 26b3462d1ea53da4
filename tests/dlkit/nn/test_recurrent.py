"""Recurrent networks: the formulas, and that padding changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlkit.nn.recurrent import GATES, RecurrentEncoder, RecurrentState, SequenceDropout, pack, real_steps

CELLS = tuple(GATES)
VARIANTS = [
    pytest.param(cell, layers, bidirectional, id=f"{cell}-{layers}-{'both' if bidirectional else 'forward'}")
    for cell in CELLS
    for layers in (1, 2)
    for bidirectional in (False, True)
]
LENGTHS = torch.tensor([3, 7, 1, 5])


def encoder(cell="lstm", layers=1, bidirectional=False, dropout=0.0):
    return RecurrentEncoder(4, 6, cell, layers, bidirectional, dropout).double()


def step(layer, cell, x, h, c, suffix=""):
    """The docstring's formulas for one step: (batch, inputs), (batch, hidden) -> h', c'."""
    w, u, b, d = (getattr(layer, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    inputs, states = x @ w.T + b, h @ u.T + d
    if cell == "rnn":
        return torch.tanh(inputs + states), c
    if cell == "gru":
        (r, z, n), (r_of_h, z_of_h, n_of_h) = inputs.chunk(3, 1), states.chunk(3, 1)
        r, z = torch.sigmoid(r + r_of_h), torch.sigmoid(z + z_of_h)
        n = torch.tanh(n + r * n_of_h)
        return (1 - z) * n + z * h, c
    i, f, g, o = (inputs + states).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_the_formula(cell):
    network, x = encoder(cell), torch.randn(2, 5, 4).double()
    h = c = torch.zeros(2, 6).double()
    outputs, state = network(x, torch.tensor([5, 5]))
    for t in range(5):
        h, c = step(network.layers[0], cell, x[:, t], h, c)
        torch.testing.assert_close(outputs[:, t], h)
    torch.testing.assert_close(state.hidden[0, 0], h)
    assert (state.memory is None) == (cell != "lstm")
    if cell == "lstm":
        torch.testing.assert_close(state.memory[0, 0], c)


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), VARIANTS)
def test_a_padded_batch_gives_what_each_sequence_gives_alone(cell, layers, bidirectional):
    """Outputs, final states, and the gradients of all parameters and inputs."""
    network = encoder(cell, layers, bidirectional)
    x = torch.randn(4, 7, 4).double()
    x[~real_steps(LENGTHS, 7)] = 1e3  # whatever stands in the padding
    x.requires_grad_()
    outputs, state = network(x, LENGTHS)
    assert outputs.shape == (4, 7, network.output_size)
    assert state.hidden.shape == (layers, network.directions, 4, 6)
    weights = torch.randn_like(outputs)

    def value(outputs, state, rows):
        parts = [part for part in state if part is not None]
        return (outputs * weights[rows][:, : outputs.shape[1]]).sum() + sum(part.square().sum() for part in parts)

    gradients = torch.autograd.grad(value(outputs, state, slice(None)), [x, *network.parameters()])
    total = [torch.zeros_like(gradient) for gradient in gradients]
    for row, length in enumerate(LENGTHS.tolist()):
        alone = network(x[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(alone.outputs[0], outputs[row, :length])
        for part, parts in zip(alone.final_state, state, strict=True):
            if part is not None:
                torch.testing.assert_close(part[:, :, 0], parts[:, :, row])
        torch.testing.assert_close(alone.final_state.top[0], state.top[row])
        found = torch.autograd.grad(value(*alone, slice(row, row + 1)), [x, *network.parameters()])
        total = [sum_so_far + one for sum_so_far, one in zip(total, found, strict=True)]
    for one, other in zip(gradients, total, strict=True):
        torch.testing.assert_close(one, other)
    assert (outputs[~real_steps(LENGTHS, 7)] == 0).all()
    assert (gradients[0][~real_steps(LENGTHS, 7)] == 0).all()


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), VARIANTS)
def test_without_lengths_every_step_is_real(cell, layers, bidirectional):
    network, x = encoder(cell, layers, bidirectional), torch.randn(3, 5, 4).double()
    for one, other in zip(network(x), network(x, torch.full((3,), 5)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_in_two_parts_is_the_sequence(cell):
    network, x = encoder(cell, 2), torch.randn(3, 6, 4).double()
    whole = network(x)
    first = network(x[:, :2])
    second = network(x[:, 2:], state=first.final_state)
    torch.testing.assert_close(torch.cat([first.outputs, second.outputs], 1), whole.outputs)
    for one, other in zip(second.final_state, whole.final_state, strict=True):
        torch.testing.assert_close(one, other)
    # With lengths too, each sequence going on from its own state.
    begun = network(x[:, :2], torch.tensor([2, 1, 2]))
    ended = network(x[:, 2:], torch.tensor([4, 1, 2]), begun.final_state)
    again = network(x[2:, :4], state=None)
    torch.testing.assert_close(ended.final_state.hidden[:, :, 2:], again.final_state.hidden)


def test_a_state_is_detached_selected_and_read_by_layer_and_direction():
    state = RecurrentState(torch.arange(24.0).view(2, 2, 3, 2).requires_grad_())
    assert not state.detach().hidden.requires_grad
    chosen = state.select(torch.tensor([2, 2, 0]))
    assert torch.equal(chosen.hidden, state.hidden[:, :, [2, 2, 0]])
    assert torch.equal(state.top[1], torch.cat([state.hidden[1, 0, 1], state.hidden[1, 1, 1]]))


@pytest.mark.parametrize("cell", CELLS)
def test_weights_start_orthogonal_and_the_forget_gate_open_once(cell):
    network = encoder(cell, 2, True)
    for layer in network.layers:
        for suffix in ("", "_reverse"):
            for gate in getattr(layer, f"weight_hh_l0{suffix}").chunk(GATES[cell]):
                torch.testing.assert_close(gate @ gate.T, torch.eye(6).double(), atol=1e-5, rtol=0)
            bias = getattr(layer, f"bias_ih_l0{suffix}") + getattr(layer, f"bias_hh_l0{suffix}")
            expected = torch.zeros_like(bias)
            if cell == "lstm":
                expected[6:12] = 1
            assert torch.equal(bias, expected)


def test_dropout_keeps_one_mask_for_all_steps_of_a_sequence_and_another_for_each_sequence():
    dropout = SequenceDropout(0.5)
    padded = dropout(torch.ones(4, 7, 50))
    packed = dropout(pack(torch.ones(4, 7, 50), LENGTHS))
    unpacked, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    for row, length in enumerate(LENGTHS.tolist()):
        for x in (padded[row], unpacked[row, :length]):
            assert set(x.unique().tolist()) == {0.0, 2.0}
            assert torch.equal(x, x[:1].expand_as(x))
    assert not torch.equal(padded[0, 0], padded[1, 0])
    assert not torch.equal(unpacked[0, 0], unpacked[1, 0])
    assert dropout(torch.ones(2000, 1, 50)).mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(dropout.eval()(padded), padded)


def test_dropout_falls_between_layers_in_training_alone():
    x = torch.randn(3, 5, 4).double()
    for layers in (1, 2):
        network = encoder(layers=layers, dropout=0.5)
        drawn = [network(x).outputs for _ in range(2)]
        assert torch.equal(*drawn) == (layers == 1)
        network.eval()
        assert torch.equal(network(x).outputs, network(x).outputs)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 0], r"sequence 1 of the batch has the length 0, and the batch is 5 steps wide: .* leave empty sequences out"),
        ([6, 3], r"sequence 0 of the batch has the length 6"),
        ([3, -1], r"sequence 1 of the batch has the length -1"),
        ([3, 3, 3], r"\(3,\) lengths for 2 sequences: give one for each"),
    ],
    ids=str,
)
def test_lengths_that_do_not_fit_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        encoder()(torch.randn(2, 5, 4).double(), torch.tensor(lengths))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "lmu"}, r"unknown cell 'lmu': use 'rnn', 'gru', 'lstm'"),
        ({"hidden_size": 0}, r"hidden_size=0 .* give 1 or more"),
        ({"num_layers": 0}, r"num_layers=0: give 1 or more"),
        ({"dropout": 1.0}, r"dropout=1\.0 is outside \[0, 1\)"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecurrentEncoder(**{"input_size": 4, "hidden_size": 6, **arguments})
