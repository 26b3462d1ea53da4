"""Layers of sets: equivariant ones are the formula and let every order pass; each member is read by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlkit.batches import flat, owners, padded
from dlkit.nn.deep_sets import EquivariantLayer, build_member_encoder, dense

PTR = torch.tensor([0, 3, 3, 4, 9])  # the second set is empty
INDEX = owners(PTR, 9)
POOLS = {"sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "max": lambda x: x.amax(0)}
every_pooling = pytest.mark.parametrize("pooling", POOLS)


def members():
    return torch.randn(9, 4, dtype=torch.float64)


@every_pooling
def test_a_layer_is_its_formula_set_by_set(pooling):
    layer, x = EquivariantLayer(4, 3, pooling).double(), members()
    found = layer(x, INDEX, 4)
    for number in (0, 2, 3):
        own = x[INDEX.eq(number)]
        expected = own @ layer.own.weight.T + POOLS[pooling](own) @ layer.whole.weight.T + layer.own.bias
        torch.testing.assert_close(found[INDEX.eq(number)], expected)


@every_pooling
def test_a_permutation_of_members_permutes_what_a_layer_gives(pooling):
    layer, x = EquivariantLayer(4, 3, pooling).double(), members()
    order = torch.cat([torch.tensor([2, 0, 1, 3]), 4 + torch.randperm(5)])
    torch.testing.assert_close(layer(x[order], INDEX, 4), layer(x, INDEX, 4)[order])


def test_of_single_numbers_it_is_every_linear_map_that_knows_no_order():
    """Equation 4: lambda on the diagonal and gamma everywhere."""
    layer = EquivariantLayer(1, 1, "sum").double()
    index = torch.zeros(5, dtype=torch.int64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x.unsqueeze(1), index, 1).squeeze(1), torch.randn(5).double())
    expected = layer.own.weight * torch.eye(5) + layer.whole.weight * torch.ones(5, 5)
    torch.testing.assert_close(jacobian, expected)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="unknown pooling 'min' of an equivariant layer: use 'sum', 'mean', 'max'"):
        EquivariantLayer(2, 2, "min")


@pytest.mark.parametrize(
    ("shape", "vocab_size", "network"),
    [((), 11, "mlp"), ((5,), None, "mlp"), ((1, 8, 8), None, "mlp"), ((1, 8, 8), None, "cnn"), ((3, 28, 28), None, "cnn")],
    ids=str,
)
@pytest.mark.parametrize("hidden_dims", [(6,), (9, 6)], ids=str)
def test_each_member_is_read_by_itself(shape, vocab_size, network, hidden_dims):
    encoder = build_member_encoder(shape, vocab_size, hidden_dims, network, "tanh").double().eval()
    x = torch.randint(1, 11, (5,)) if vocab_size else torch.randn(5, *shape, dtype=torch.float64)
    found = encoder(x)
    assert found.shape == (5, 6)
    torch.testing.assert_close(torch.cat([encoder(member) for member in x.split(1)]), found)


def test_the_activation_stands_behind_every_layer():
    network = dense([3, 4, 5], "tanh")
    assert [type(layer) for layer in network] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh]
    assert len(dense([3], "relu")) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((5,), None, ()), r"hidden_dims=\(\) leaves nothing to read a member with"),
        (((5,), None, (4, 0)), r"layers of widths \(4, 0\): give each 1 or more"),
        (((5,), None, (4,), "rnn"), "unknown network 'rnn': use 'mlp' or 'cnn'"),
        (((5,), None, (4,), "mlp", "gelu"), "unknown activation 'gelu': use 'relu' or 'tanh'"),
        (((5,), None, (4,), "cnn"), r"network='cnn' reads images .* and the data has shape \(5,\)"),
        (((1, 6, 8), None, (4,), "cnn"), "network='cnn' reads square images, and the data is 6x8"),
        (((1, 8, 8), None, (4,), "cnn", "relu", 0), "width=0: give the first block of network='cnn' at least 1 channel"),
        (((1, 5, 5), None, (4,), "cnn"), "network='cnn' needs images of at least 6x6 pixels, got 5x5"),
        (((), None, (4,)), r"data_shape=\(\) and vocab_size=None: give the shape of a member"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_member_encoder(*arguments)


def test_sets_are_padded_and_flattened_again():
    x = members()
    side_by_side, real = padded(x, PTR)
    assert side_by_side.shape == (4, 5, 4)
    assert real.sum(1).tolist() == [3, 0, 1, 5]
    assert (side_by_side[~real] == 0).all()
    values, ptr = flat(side_by_side, real)
    assert torch.equal(values, x) and torch.equal(ptr, PTR)
    gaps = torch.tensor([[True, False, True], [False, True, False]])
    values, ptr = flat(torch.arange(6).view(2, 3), gaps)
    assert values.tolist() == [0, 2, 4] and ptr.tolist() == [0, 2, 3]


def test_batch_normalisation_refuses_a_single_member_in_training_alone():
    encoder = build_member_encoder((1, 8, 8), None, (4,), "cnn")
    with pytest.raises(ValueError, match="a training batch has one member, and"):
        encoder(torch.rand(1, 1, 8, 8))
    assert encoder.eval()(torch.rand(1, 1, 8, 8)).shape == (1, 4)
