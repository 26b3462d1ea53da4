"""Sequences of different lengths: padding, buckets, and the same order wherever and whenever it is asked for."""

from __future__ import annotations

import pytest
import torch

import datamodules.loader
from datamodules.ragged import BucketLoader, Ragged

SEQUENCES = [[5], [1, 2, 3], [], [7, 8], [9, 9, 9, 9]]


def lengths(n=200, longest=30):
    return torch.randint(1, longest, (n,), generator=torch.Generator().manual_seed(3))


def loader(n=200, batch_size=8, shuffle=True, seed=0, **more):
    return BucketLoader(lengths(n), lambda rows: rows, batch_size, shuffle=shuffle, seed=seed, **more)


@pytest.fixture
def pretend(monkeypatch):
    """pretend(rank, world_size) makes this process one of several."""

    def set_world(rank, world_size):
        monkeypatch.setattr(datamodules.loader, "world", lambda: (rank, world_size))

    return set_world


def test_sequences_are_padded_to_the_longest_of_those_asked_for():
    ragged = Ragged.of(SEQUENCES)
    values, lengths = ragged.padded(torch.tensor([3, 1, 2]))
    assert values.tolist() == [[7, 8, 0], [1, 2, 3], [0, 0, 0]]
    assert values.dtype == torch.int64
    assert lengths.tolist() == [2, 3, 0]
    assert ragged[torch.tensor([4, 0])].padded(torch.tensor([0, 1]))[0].tolist() == [[9] * 4, [5, 0, 0, 0]]
    assert len(ragged) == 5


def test_steps_may_have_features():
    values = torch.randn(6, 3)
    padded, _ = Ragged(values, torch.tensor([4, 2])).padded(torch.tensor([1, 0]))
    assert torch.equal(padded[0, :2], values[4:])
    assert torch.equal(padded[1], values[:4])
    assert (padded[0, 2:] == 0).all()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("more", [{}, {"batch_steps": 60}], ids=str)
def test_every_sequence_comes_once_in_batches_of_like_length_within_both_bounds(shuffle, more):
    buckets = loader(shuffle=shuffle, **more)
    for _ in range(2):
        batches = list(buckets)
        assert sorted(torch.cat(batches).tolist()) == list(range(200))
        assert len(batches) == len(buckets)
        for rows in batches:
            here = lengths()[rows]
            assert len(rows) <= 8
            assert not more or len(rows) * here.max() <= 60
        padding = sum(len(rows) * int(lengths()[rows].max()) for rows in batches) / int(lengths().sum())
        assert padding < 1.1


def test_the_order_is_new_each_epoch_in_every_batch_and_among_them_and_a_function_of_seed_and_epoch():
    first, again, other = loader(), loader(), loader(seed=1)
    epochs = [[rows.tolist() for rows in first] for _ in range(2)]
    assert [rows.tolist() for rows in again] == epochs[0] != [rows.tolist() for rows in other]
    assert epochs[0] != epochs[1]
    assert {tuple(sorted(rows)) for rows in epochs[0]} != {tuple(sorted(rows)) for rows in epochs[1]}
    assert [len(rows) for rows in epochs[0]] != [len(rows) for rows in epochs[1]] or epochs[0][0] != epochs[1][0]


def test_without_shuffling_the_shortest_come_first():
    widths = [int(lengths()[rows].max()) for rows in loader(shuffle=False)]
    assert widths == sorted(widths)


def test_a_loader_goes_on_where_another_was():
    first, second = loader(), loader()
    passed = iter(first)
    begun = [next(passed).tolist() for _ in range(5)]
    second.load_state_dict(first.state_dict())
    second.set_epoch(0)
    rest = [rows.tolist() for rows in second]
    assert begun + rest == [rows.tolist() for rows in loader()]


@pytest.mark.parametrize("n", [200, 201, 7, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_every_batch_and_have_as_many(pretend, n, shuffle):
    found = []
    for rank in range(3):
        pretend(rank, 3)
        found.append([rows.tolist() for rows in loader(n, shuffle=shuffle)])
    assert len({len(batches) for batches in found}) == 1
    assert sorted(row for batches in found for rows in batches for row in rows) == list(range(n))
    for rows in zip(*found, strict=True):
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
        assert min(map(len, rows)) >= 1


def test_a_bound_below_the_longest_sequence_gives_it_a_batch_of_its_own():
    assert all(len(rows) == 1 for rows in loader(batch_steps=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
        ({"batch_steps": -1}, "batch_steps=-1: give a number of steps, or 0"),
        ({"n": 0}, "there are no examples to load"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        loader(**arguments)


def test_more_processes_than_sequences_are_refused(pretend):
    pretend(0, 3)
    with pytest.raises(ValueError, match="2 sequences cannot be shared by 3 processes"):
        list(loader(2))
