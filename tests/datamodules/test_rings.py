"""Rings: colour refinement needs as many rounds as they say, and no fewer."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch

from datamodules import Rings
from datamodules.columns import select


def graphs(data, part="test"):
    """Each graph's marks, neighbours and class."""
    data.setup()
    columns = data.splits[part]
    for row in range(len(columns["y"])):
        one = select(columns, torch.tensor([row]))
        neighbours = defaultdict(list)
        for source, target in one["edges"].values.tolist():
            neighbours[target].append(source)
        yield one["x"].values[:, 0].tolist(), neighbours, int(one["y"])


def colours(marks, neighbours, rounds):
    """The multiset of colours after so many rounds of colour refinement (Weisfeiler and Leman 1968)."""
    found = dict(enumerate(marks))
    for _ in range(rounds):
        found = {node: (found[node], *sorted(map(repr, (found[other] for other in neighbours[node])))) for node in found}
        found = {node: hash(colour) for node, colour in found.items()}
    return tuple(sorted(Counter(found.values()).items()))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr("datamodules.rings.NUM_TEST", 60)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_each_round_tells_one_class_more_and_none_of_those_above_it(rounds):
    found = list(graphs(Rings(rounds, num_examples=10, val_size=0)))
    for given in range(rounds + 1):
        classes = defaultdict(set)  # by size and colours
        for marks, neighbours, y in found:
            classes[len(marks), colours(marks, neighbours, given)].add(min(y, given))
        assert all(len(seen) == 1 for seen in classes.values())  # classes below are told from each other and from the rest
        # All rings of one size whose class is not below look the same, whatever it is.
        rest = [(len(marks), colours(marks, neighbours, given), y) for marks, neighbours, y in found if y >= given]
        assert len({(size, colour) for size, colour, _ in rest}) == len({size for size, _, _ in rest})
        assert given == rounds or len({y for _, _, y in rest}) > 1


@pytest.mark.usefixtures("few")
def test_a_graph_is_one_ring_with_two_marks_as_far_apart_as_its_class_says():
    rounds = 3
    for marks, neighbours, y in graphs(Rings(rounds, num_examples=10, val_size=0)):
        size = len(marks)
        assert 4 * rounds + 2 <= size <= 6 * rounds + 2
        assert sum(marks) == 2
        assert all(len(neighbours[node]) == 2 for node in range(size))
        walk = [marks.index(1)]
        while len(walk) < size:
            walk.append(next(node for node in neighbours[walk[-1]] if node not in walk[-2:] and node not in walk))
        assert sorted(walk) == list(range(size))
        apart = next(place for place, node in enumerate(walk) if place and marks[node])
        apart = min(apart, size - apart)
        assert apart in (2 * y + 1, 2 * y + 2) if y < rounds else apart > 2 * rounds


def test_class_and_size_are_independent_and_the_seed_draws_the_rings():
    data = Rings(2)
    drawn = data.draw(20_000, seed=0)
    assert data.num_classes == 3 and data.class_names == ("1 round", "2 rounds", "far")
    for size in drawn["x"].lengths.unique():
        shares = drawn["y"][drawn["x"].lengths == size].bincount(minlength=3).double()
        torch.testing.assert_close(shares / shares.sum(), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.04, rtol=0)
    first, again, other = (next(Rings(num_examples=100, val_size=10, split_seed=seed).batches("val")) for seed in (0, 0, 1))
    assert torch.equal(first.edge_index, again.edge_index)
    assert first.y.tolist() != other.y.tolist() or first.edge_index.shape != other.edge_index.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rounds": 0}, "rounds=0: give 1 or more"), ({"num_examples": 0}, "num_examples=0: give at least 1")],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rings(**arguments)
