"""Neighbour search against all distances, in open space and in periodic boxes."""

from __future__ import annotations

import pytest
import torch

from datamodules.neighbours import neighbours


def brute_force(positions, cutoff, box=None):
    """Every image of every point: the edges, sorted, and where the first of them lies as seen from the second."""
    shifts = torch.zeros(1, 2, dtype=torch.float64)
    if box is not None:
        period = torch.as_tensor(box, dtype=torch.float64).expand(2)
        shifts = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3)) * period
        positions = positions % period
    seen = positions[None, :, None] + shifts - positions[:, None, None]  # (target, source, image, 2)
    near = (seen.norm(dim=-1) <= cutoff) & ~torch.eye(len(positions), dtype=torch.bool).unsqueeze(2)
    target, source, image = near.nonzero(as_tuple=True)
    return torch.stack([source, target], 1), seen[target, source, image]


@pytest.mark.parametrize("box", [None, 1.0, torch.tensor(1.0), (1.5, 1.0), (4.0, 1.1)])
@pytest.mark.parametrize("cutoff", [0.2, 0.5])
def test_neighbours_are_those_of_brute_force(box, cutoff):
    positions = 1.5 * torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edges, seen = neighbours(positions, cutoff, box)
    expected, vectors = brute_force(positions, cutoff, box)
    assert len(edges) > 0
    assert torch.equal(edges, expected)
    torch.testing.assert_close(seen, vectors, rtol=0, atol=1e-12)


def test_edges_are_symmetric_sorted_by_target_and_as_many_as_there_are():
    positions = 0.01 * torch.rand(300, 3, generator=torch.Generator().manual_seed(0))  # all within the cutoff of each other
    edges, seen = neighbours(positions, 1.0)
    assert len(edges) == 300 * 299
    assert (edges[:, 1].diff() >= 0).all()
    assert seen.dtype == torch.float32
    there = edges[:, 1] * 300 + edges[:, 0]
    back = (edges[:, 0] * 300 + edges[:, 1]).argsort()
    assert torch.equal(there, (edges[:, 0] * 300 + edges[:, 1])[back])
    assert torch.equal(seen, -seen[back])


def test_a_box_moves_with_its_points():
    positions = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edges, seen = neighbours(positions, 0.2, 1.0)
    for shift in (0.3, -7.25, 1.0 - 1e-17, -1e-18):
        moved, again = neighbours(positions + shift, 0.2, 1.0)
        assert torch.equal(moved, edges)
        torch.testing.assert_close(again, seen, rtol=0, atol=1e-9)
    assert len(edges) > len(neighbours(positions, 0.2)[0])


def test_a_point_just_below_zero_is_in_the_box():
    edges, seen = neighbours(torch.tensor([[-1e-18], [0.1]], dtype=torch.float64), 0.2, 1.0)
    assert edges.tolist() == [[1, 0], [0, 1]]
    torch.testing.assert_close(seen, torch.tensor([[0.1], [-0.1]], dtype=torch.float64))


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_points_have_no_neighbours(number):
    edges, seen = neighbours(torch.zeros(number, 3), 1.0)
    assert edges.shape == (0, 2) and edges.dtype == torch.int64
    assert seen.shape == (0, 3)


@pytest.mark.parametrize(
    ("positions", "cutoff", "box", "message"),
    [
        (torch.zeros(4), 1.0, None, r"positions have the shape \(4,\): give \(points, dimensions\)"),
        (torch.tensor([[0.0, 0.0], [0.0, float("nan")]]), 1.0, None, r"point 1 lies at \(0.0, nan\): give finite positions"),
        (torch.zeros(4, 2), 0.0, None, r"cutoff=0.0: give a distance above 0"),
        (torch.zeros(4, 2), float("nan"), None, r"cutoff=nan: give a distance above 0"),
        (torch.zeros(4, 2), 1.0, (3.0, 3.0, 3.0), r"has 3 periods and the points have 2 dimensions"),
        (
            torch.zeros(4, 2),
            1.0,
            1.9,
            r"box=1.9 is smaller than twice the cutoff 1.0, .*: give a larger box, or a smaller cutoff",
        ),
        (torch.zeros(4, 2), 1.0, (5.0, 0.5), r"is smaller than twice the cutoff"),
        (torch.zeros(4, 2), 1.0, float("nan"), r"box=nan: give finite periods, or no box for open space"),
        (torch.zeros(4, 2), 1.0, (5.0, float("inf")), r"give finite periods, or no box for open space"),
    ],
)
def test_what_cannot_be_searched_is_refused(positions, cutoff, box, message):
    with pytest.raises(ValueError, match=message):
        neighbours(positions, cutoff, box)
