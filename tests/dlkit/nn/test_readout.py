"""Readouts: each is its formula, Set2Set is torch-geometric's, and neither order, padding nor company changes anything."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.nn.aggr import Set2Set

from dlkit.batches import flat, owners
from dlkit.nn.readout import Readout

KINDS = ("sum", "mean", "max", "attention", "set2set")
every_kind = pytest.mark.parametrize("kind", KINDS)
PTR = torch.tensor([0, 3, 3, 4, 9])  # the second set is empty
INDEX = owners(PTR, 9)


def members():
    return torch.randn(9, 5, dtype=torch.float64, requires_grad=True)


def padded_reference(readout, x, real):
    """The formulas over sets side by side, (sets, width, features), of which some members are not real."""
    mask = real.unsqueeze(2)
    if readout.kind == "sum":
        return (x * mask).sum(1)
    if readout.kind == "mean":
        return (x * mask).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
    if readout.kind == "max":
        return x.masked_fill(~mask, -torch.inf).amax(1).nan_to_num(neginf=0)
    if readout.kind == "attention":
        scores = readout.score(x).squeeze(2).masked_fill(~real, -torch.inf)
        return (scores.softmax(1).nan_to_num().unsqueeze(2) * x).sum(1)
    star = x.new_zeros(len(x), 2 * x.shape[2])
    state = (star[:, : x.shape[2]], star[:, : x.shape[2]])
    for _ in range(readout.num_steps):
        state = readout.cell(star, state)
        scores = torch.einsum("smf,sf->sm", x, state[0]).masked_fill(~real, -torch.inf)
        star = torch.cat([state[0], (scores.softmax(1).nan_to_num().unsqueeze(2) * x).sum(1)], 1)
    return star


@every_kind
def test_sets_one_behind_the_other_give_what_sets_side_by_side_with_gaps_give(kind):
    readout = Readout(kind, 5).double()
    real = torch.zeros(4, 7, dtype=torch.bool)
    for row, places in enumerate([[0, 2, 6], [], [3], [1, 2, 3, 5, 6]]):
        real[row, places] = True
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    values, ptr = flat(x, real)
    found = readout(values, owners(ptr, len(values)), 4)
    assert found.shape == (4, readout.output_size)
    # Weights are made in single precision.
    torch.testing.assert_close(found, padded_reference(readout, x, real), atol=1e-6, rtol=1e-6)


@every_kind
def test_neither_the_order_of_members_nor_other_sets_matter(kind):
    readout, x = Readout(kind, 5).double(), members()
    found = readout(x, INDEX, 4)
    order = torch.randperm(9)
    torch.testing.assert_close(readout(x[order], INDEX[order], 4), found)
    for number in range(4):
        alone = x[INDEX.eq(number)]
        torch.testing.assert_close(readout(alone, torch.zeros(len(alone), dtype=torch.int64), 1), found[number : number + 1])


@pytest.mark.parametrize("steps", [1, 4])
def test_set2set_is_that_of_torch_geometric_and_so_are_its_gradients(steps):
    ours, theirs, x = Readout("set2set", 5, steps).double(), Set2Set(5, steps).double(), members()
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(ours.cell, name).copy_(getattr(theirs.lstm, f"{name}_l0"))
    found, expected = ours(x, INDEX, 4), theirs(x, INDEX, dim_size=4)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    mine = torch.autograd.grad(found.square().sum(), [x, *ours.parameters()])
    other = torch.autograd.grad(expected.square().sum(), [x, *theirs.parameters()])
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@every_kind
def test_an_empty_set_is_finite_and_so_are_its_gradients(kind):
    readout = Readout(kind, 5)
    x = torch.randn(2, 5, requires_grad=True)
    found = readout(x, torch.tensor([0, 0]), 3)
    assert found.isfinite().all()
    if kind != "set2set":
        assert (found[1:] == 0).all()
    found.square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in readout.parameters())


@every_kind
def test_half_precision_comes_near(kind):
    readout, x = Readout(kind, 5), torch.randn(9, 5)
    full = readout(x, INDEX, 4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(readout(x, INDEX, 4).float(), full, atol=0.05, rtol=0.05)


def test_unknown_kinds_and_no_steps_are_refused():
    with pytest.raises(ValueError, match="unknown readout 'min': use 'sum', 'mean', 'max', 'attention', 'set2set'"):
        Readout("min", 5)
    with pytest.raises(ValueError, match="num_steps=0: give at least 1"):
        Readout("set2set", 5, 0)
