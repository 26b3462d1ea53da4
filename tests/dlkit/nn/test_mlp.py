"""The fully connected network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from dlkit.nn.mlp import hidden_layers, linear, mlp


def kinds(layers):
    return [nn.Linear if isinstance(layer, nn.Linear) else type(layer) for layer in layers]


@pytest.mark.parametrize("sizes", [(3, 2), (3, 7, 2), (3, 7, 5, 2), (1, 1)], ids=str)
def test_it_maps_the_first_size_to_the_last(sizes):
    network = mlp(sizes)
    assert network(torch.randn(4, 6, sizes[0])).shape == (4, 6, sizes[-1])
    widths = [(layer.in_features, layer.out_features) for layer in network if isinstance(layer, nn.Linear)]
    assert widths == list(pairwise(sizes))


def test_two_sizes_make_a_linear_map():
    network = mlp([3, 2])
    x, y = torch.randn(2, 5, 3)
    torch.testing.assert_close(network(x) + network(y), 2 * network((x + y) / 2))


def test_relu_stands_between_the_layers_and_not_after_the_last():
    network = mlp([3, 7, 5, 2])
    assert kinds(network) == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert (network(torch.randn(200, 3)) < 0).any()


def test_hooks_see_what_each_layer_gives():
    network, seen, gradients = mlp([3, 7, 2]), [], []
    for layer in network:
        layer.register_forward_hook(lambda layer, read, given: seen.append(given))
        layer.register_full_backward_hook(lambda layer, read, given: gradients.append(given[0]))
    network(torch.randn(50, 3, requires_grad=True)).sum().backward()
    summed, hidden, _ = seen
    assert (summed < 0).any()
    torch.testing.assert_close(hidden, summed.relu())
    assert len(gradients) == 3


def test_hidden_layers_end_with_relu_and_a_single_width_has_none():
    assert hidden_layers([3]) == []
    assert kinds(hidden_layers([3, 7], dropout=0.1)) == [nn.Linear, nn.ReLU, nn.Dropout]


@pytest.mark.parametrize("sizes", [(), (0,), (3, -1)], ids=str)
def test_impossible_widths_of_hidden_layers_are_named(sizes):
    with pytest.raises(ValueError, match="all positive") as error:
        hidden_layers(sizes)
    assert str(tuple(sizes)) in str(error.value)


def test_dropout_follows_every_hidden_layer_and_stops_in_evaluation():
    network = mlp([3, 50, 50, 2], dropout=0.5)
    assert [layer.p for layer in network if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    x = torch.randn(4, 3)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_gradients_reach_every_parameter():
    network = mlp([3, 16, 16, 2])
    network(torch.randn(64, 3)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2)], ids=str)
def test_impossible_sizes_are_named(sizes):
    with pytest.raises(ValueError, match="needs at least an input and an output width") as error:
        mlp(sizes)
    assert str(tuple(sizes)) in str(error.value)


@pytest.mark.parametrize("shape", [(10,), (2, 5), ()], ids=str)
def test_a_layer_of_few_inputs_is_a_linear_layer(shape):
    layer, plain = linear(3, 40), nn.Linear(3, 40)
    plain.load_state_dict(layer.state_dict())
    given = torch.randn(*shape, 3)
    sides = []
    for made in layer, plain:
        x = given.clone().requires_grad_()
        y = made(x)
        y.square().sum().backward()
        sides.append((y, x.grad, made.weight.grad, made.bias.grad))
    torch.testing.assert_close(*sides)
    assert type(layer) is not type(plain)
    assert layer.weight.is_contiguous() and layer.weight.grad.is_contiguous()
