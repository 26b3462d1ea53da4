"""The fully connected network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from dlkit.nn.mlp import mlp


@pytest.mark.parametrize("sizes", [(3, 2), (3, 7, 2), (3, 7, 5, 2), (1, 1)], ids=str)
def test_it_maps_the_first_size_to_the_last(sizes):
    network = mlp(sizes)
    assert network(torch.randn(4, 6, sizes[0])).shape == (4, 6, sizes[-1])
    linear = [(layer.in_features, layer.out_features) for layer in network if isinstance(layer, nn.Linear)]
    assert linear == list(pairwise(sizes))


def test_two_sizes_make_a_linear_map():
    network = mlp([3, 2])
    x, y = torch.randn(2, 5, 3)
    torch.testing.assert_close(network(x) + network(y), 2 * network((x + y) / 2))


def test_relu_stands_between_the_layers_and_not_after_the_last():
    network, x = mlp([3, 7, 5, 2]), torch.randn(200, 3)
    h = x
    for layer in network[:-1]:
        h = torch.relu(nn.functional.linear(h, layer.weight, layer.bias))
        assert (h == 0).any()
    torch.testing.assert_close(network(x), nn.functional.linear(h, network[-1].weight, network[-1].bias))
    assert (network(x) < 0).any()


def test_hooks_see_each_hidden_layer_with_its_relu_and_second_derivatives_are_right():
    network, x = mlp([3, 7, 5, 2]).double(), torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    seen, gradients = [], []
    for layer in network:
        layer.register_forward_hook(lambda layer, read, given: seen.append(given.detach().clone()))
        layer.register_full_backward_hook(lambda layer, read, given: gradients.append(given[0]))
    network(x).sum().backward()
    assert [(hidden >= 0).all().item() for hidden in seen] == [True, True, False]
    assert len(gradients) == 3
    assert torch.autograd.gradcheck(network, x)
    assert torch.autograd.gradgradcheck(lambda x: network(x).tanh(), x)


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
