"""The loader: every example once, an order that is a function of seed and epoch, exact resumption, sharding."""

from __future__ import annotations

import copy

import pytest
import torch

import datamodules.loader
from datamodules.loader import Loader
from dlkit.batches import Examples

SIZES = [1, 7, 12, 13, 24, 25, 31]  # divisible by the batch of 4 and by 3 processes, and not


def make(n=23, batch_size=4, shuffle=True, seed=0):
    x = torch.arange(n, dtype=torch.uint8).view(n, 1)
    return Loader.of(Examples(x, x[:, 0].long()), batch_size, shuffle, seed)


def rows(batches):
    """Which examples each batch holds."""
    return [batch.y.tolist() for batch in batches]


def flat(batches):
    return [row for batch in rows(batches) for row in batch]


def joined(batches):
    return sorted(row for batch in batches for row in batch)


@pytest.fixture
def pretend(monkeypatch):
    """pretend(rank, world_size) makes this process one of several."""

    def set_world(rank, world_size):
        monkeypatch.setattr(datamodules.loader, "world", lambda: (rank, world_size))

    return set_world


# One process ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
def test_evaluation_sees_every_example_once_and_in_order(n):
    loader = make(n, shuffle=False)
    for _ in range(2):
        batches = list(loader)
        assert flat(batches) == list(range(n))
        assert len(batches) == len(loader) == -(-n // 4)
        assert all(len(batch.x) == 4 for batch in batches[:-1])


@pytest.mark.parametrize("n", SIZES)
def test_training_sees_whole_batches_without_repeating_an_example(n):
    loader = make(n)
    for _ in range(3):
        batches = list(loader)
        assert len(batches) == len(loader) == max(1, n // 4)
        assert all(len(batch.x) == min(n, 4) for batch in batches)
        assert len(set(flat(batches))) == len(flat(batches))


def test_what_is_left_over_in_one_epoch_comes_in_another():
    loader = make(7)
    seen = set()
    for _ in range(20):
        seen.update(flat(loader))
    assert seen == set(range(7))


def test_x_and_y_stay_together_and_keep_their_types():
    for batch in make():
        assert batch.x[:, 0].tolist() == batch.y.tolist()
        assert batch.x.dtype == torch.uint8
        assert batch.y.dtype == torch.int64


def test_data_without_labels_have_none():
    batches = list(Loader.of(Examples(torch.arange(10.0)), 4))
    assert [batch.y for batch in batches] == [None] * 3
    assert torch.cat([batch.x for batch in batches]).tolist() == list(range(10))


# The order -----------------------------------------------------------------------------------------------------------


def test_one_seed_gives_one_order_and_each_epoch_its_own():
    first, second = make(), make()
    epochs = [rows(first) for _ in range(4)]
    assert epochs == [rows(second) for _ in range(4)]
    assert len({str(epoch) for epoch in epochs}) == 4


def test_seeds_and_epochs_do_not_share_orders():
    """Seed s in epoch e + 1 is not seed s + 1 in epoch e."""
    orders = set()
    for seed in range(6):
        loader = make(seed=seed)
        for epoch in range(6):
            loader.set_epoch(epoch)
            orders.add(tuple(loader.order().tolist()))
    assert len(orders) == 36


def test_the_order_does_not_depend_on_the_global_random_state():
    torch.manual_seed(1)
    first = rows(make())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert rows(make()) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_the_order_does_not_depend_on_how_it_is_iterated():
    expected = [rows(make_at_epoch(epoch)) for epoch in range(3)]
    by_next, abandoned, jumping = make(), make(), make()

    seen = []
    for _ in range(3):
        iterator, epoch = iter(by_next), []
        while (batch := next(iterator, None)) is not None:
            epoch.append(batch.y.tolist())
        seen.append(epoch)
    assert seen == expected

    for position, epoch in ((1, 0), (3, 1)):  # breaking off early ends an epoch as finishing it does
        iterator = iter(abandoned)
        assert [next(iterator).y.tolist() for _ in range(position)] == expected[epoch][:position]
    assert rows(abandoned) == expected[2]

    for epoch in (2, 0, 1):
        jumping.set_epoch(epoch)
        assert rows(jumping) == expected[epoch]


def make_at_epoch(epoch, **arguments):
    loader = make(**arguments)
    loader.set_epoch(epoch)
    return loader


def test_every_order_is_as_likely():
    """The first example of an epoch is each of four about equally often."""
    loader = make(4, batch_size=1)
    firsts = []
    for epoch in range(2000):
        loader.set_epoch(epoch)
        firsts.append(int(loader.order()[0]))
    counts = torch.bincount(torch.tensor(firsts), minlength=4)
    assert ((counts - 500).abs() < 5 * (2000 * 0.25 * 0.75) ** 0.5).all()


def test_a_new_iterator_without_a_batch_taken_skips_no_epoch():
    loader = make()
    iter(loader)
    iter(loader)
    assert rows(loader) == rows(make())


def test_set_epoch_goes_to_the_start_of_another_epoch():
    loader = make()
    next(iter(loader))
    loader.set_epoch(5)
    assert (loader.epoch, loader.position) == (5, 0)
    assert rows(loader) == rows(make_at_epoch(5))


def test_lightning_finds_the_loader_as_its_own_sampler():
    loader = make()
    assert loader.sampler is loader
    assert loader.batch_sampler is None


# Resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("position", range(6))
def test_a_loader_resumed_at_any_position_continues_exactly(epoch, position):
    interrupted = make_at_epoch(epoch, seed=7)
    iterator = iter(interrupted)
    for _ in range(position):
        next(iterator)
    state = copy.deepcopy(interrupted.state_dict())
    rest = [rows(iterator), rows(interrupted), rows(interrupted)]

    resumed = make(seed=1)  # of another seed: the state decides
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(rest[0]) == len(resumed) - position
    # At position 0 and at the end alike, what follows is the rest of this epoch and then whole epochs.
    assert [rows(resumed), rows(resumed), rows(resumed)] == rest


@pytest.mark.parametrize("position", range(1, 5))
def test_a_resumed_loader_told_its_own_epoch_stays_where_it_was(position):
    resumed = make()
    resumed.load_state_dict({"seed": 3, "epoch": 2, "position": position})
    resumed.set_epoch(2)
    assert rows(resumed) == rows(make_at_epoch(2, seed=3))[position:]
    resumed.set_epoch(3)
    assert rows(resumed) == rows(make_at_epoch(3, seed=3))


def test_a_resumed_loader_told_another_epoch_starts_it():
    resumed = make()
    resumed.load_state_dict({"seed": 3, "epoch": 2, "position": 4})
    resumed.set_epoch(3)
    assert rows(resumed) == rows(make_at_epoch(3, seed=3))


def test_the_state_is_plain_data():
    loader = make(seed=7)
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    assert loader.state_dict() == {"seed": 7, "epoch": 0, "position": 2}


# Several processes ---------------------------------------------------------------------------------------------------


def ranks(pretend, world_size, **arguments):
    """The batches of every process, for three epochs: [rank][epoch][batch]."""
    result = []
    for rank in range(world_size):
        pretend(rank, world_size)
        loader = make(**arguments)
        result.append([rows(loader) for _ in range(3)])
        assert len(loader) == len(result[-1][0])
    return result


@pytest.mark.parametrize("n", [3, 5, 12, 13, 14, 23, 24, 25, 26, 31])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("shuffle", [True, False], ids=["train", "evaluate"])
def test_every_process_sees_the_same_number_of_batches(pretend, n, world_size, shuffle):
    for epochs in zip(*ranks(pretend, world_size, n=n, shuffle=shuffle), strict=True):
        assert len({len(batches) for batches in epochs}) == 1
        assert all(batch for batches in epochs for batch in batches)


@pytest.mark.parametrize("n", [3, 5, 12, 13, 14, 23, 24, 25, 26, 31])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_train_together_on_what_one_process_trains_on(pretend, n, world_size):
    """The union of the k-th batches is one process's k-th batch of world_size times the size."""
    together = ranks(pretend, world_size, n=n)
    pretend(0, 1)
    alone = make(n, batch_size=4 * world_size)
    for epoch in range(3):
        union = [joined(batches) for batches in zip(*(rank[epoch] for rank in together), strict=True)]
        assert union == [sorted(batch) for batch in rows(alone)]


@pytest.mark.parametrize("n", [12, 13, 24, 25, 26, 31])
@pytest.mark.parametrize("world_size", [2, 3])
def test_whole_training_batches_are_shared_evenly(pretend, n, world_size):
    sizes = {len(batch) for rank in ranks(pretend, world_size, n=n) for epoch in rank for batch in epoch}
    assert sizes == {4}


@pytest.mark.parametrize("n", [3, 5, 12, 13, 14, 23, 24, 25, 26, 31])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_evaluate_every_example_once_between_them(pretend, n, world_size):
    together = ranks(pretend, world_size, n=n, shuffle=False)
    for epoch in range(3):
        assert joined(batch for rank in together for batch in rank[epoch]) == list(range(n))


@pytest.mark.parametrize("world_size", [2, 3])
def test_evaluation_batches_together_are_one_process_s_batches(pretend, world_size):
    """All but the last, which takes in a remainder too small to give every process an example."""
    n = 24 * world_size + 1
    together = ranks(pretend, world_size, n=n, shuffle=False)
    union = [joined(batches) for batches in zip(*(rank[0] for rank in together), strict=True)]
    pretend(0, 1)
    alone = rows(make(n, batch_size=4 * world_size, shuffle=False))
    assert union == [*alone[:-2], alone[-2] + alone[-1]]


def test_a_process_resumes_its_own_share(pretend):
    pretend(1, 2)
    interrupted = make(31)
    iterator = iter(interrupted)
    next(iterator)
    state = interrupted.state_dict()
    rest = [rows(iterator), rows(interrupted)]
    resumed = make(31)
    resumed.load_state_dict(state)
    assert [rows(resumed), rows(resumed)] == rest


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [0, -3])
def test_an_impossible_batch_size_is_named(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: give at least 1"):
        make(batch_size=batch_size)


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match=r"there are no examples to load: look at the data and the sizes of its splits"):
        make(0)


@pytest.mark.parametrize("shuffle", [True, False])
def test_fewer_examples_than_processes_are_refused(pretend, shuffle):
    pretend(0, 3)
    with pytest.raises(ValueError, match=r"2 examples cannot be shared by 3 processes: use fewer devices"):
        next(iter(make(2, shuffle=shuffle)))
