"""Charged particles: the laws of their motion, the published systems, and what is kept on disk."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from datamodules import ChargedParticles, charged_particles
from datamodules.charged_particles import GREATEST_FORCE, TIME_STEP, move, random_orthogonal, starting_conditions


@pytest.fixture(scope="module")
def systems():
    return starting_conditions(0, 60, 5, seed=43)


@pytest.fixture(scope="module")
def calm(systems):
    """Those in which no two particles come close to each other for 200 steps."""
    x, v, charges = systems
    nearest = closest(x)
    for _ in range(20):
        x, v = move(x, v, charges, 10)
        nearest = np.minimum(nearest, closest(x))
    assert (nearest > 0.3).sum() > 20
    return [values[nearest > 0.3] for values in systems]


@pytest.fixture
def near(monkeypatch):
    """Brings the parts close together in the stream, through which everything before them has to be drawn."""
    for part, first in {"train": 0, "val": 300, "test": 600}.items():
        monkeypatch.setitem(charged_particles.FIRST, part, first)


def few(cache, **settings):
    return ChargedParticles(
        **{"num_train": 20, "num_val": 0, "num_test": 4, "start": 30, "steps": 10, "cache": str(cache), **settings}
    )


def energy(x, v, charges):
    first, second = np.triu_indices(x.shape[1], 1)
    distance = np.linalg.norm(x[:, first] - x[:, second], axis=-1)
    return (v**2).sum((1, 2)) / 2 + (charges[:, first] * charges[:, second] / distance).sum(1)


def closest(x):
    first, second = np.triu_indices(x.shape[1], 1)
    return np.linalg.norm(x[:, first] - x[:, second], axis=-1).min(1)


def test_energy_is_kept_as_well_as_the_time_step_is_short(calm, monkeypatch):
    x, v, charges = calm
    before = energy(x, v, charges)
    later, velocity = move(x, v, charges, 200)
    drift = np.abs(energy(later, velocity, charges) - before)
    assert drift.max() < 0.02 and np.median(drift) < 5e-4
    assert np.abs((velocity**2 - v**2).sum((1, 2))).max() > 0.5  # it goes back and forth between motion and place
    monkeypatch.setattr("datamodules.charged_particles.TIME_STEP", TIME_STEP / 2)
    finer = np.abs(energy(*move(x, v, charges, 400), charges) - before)
    assert finer.mean() == pytest.approx(drift.mean() / 2, rel=0.1)


def test_momentum_is_kept_and_the_centre_moves_on_a_straight_line(calm):
    x, v, charges = calm
    later, velocity = move(x, v, charges, 200)
    np.testing.assert_allclose(velocity.sum(1), v.sum(1), atol=1e-12)
    np.testing.assert_allclose(later.mean(1), x.mean(1) + 200 * TIME_STEP * v.mean(1), atol=1e-12)


def test_turned_mirrored_and_shifted_systems_move_likewise(calm):
    x, v, charges = calm
    turn, shift = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0], np.array([1.0, -2.0, 3.0])
    later, velocity = move(x, v, charges, 200)
    for matrix in (turn, turn @ np.diag([1, 1, -1])):
        turned, turned_velocity = move(x @ matrix + shift, v @ matrix, charges, 200)
        np.testing.assert_allclose(turned, later @ matrix + shift, atol=1e-10)
        np.testing.assert_allclose(turned_velocity, velocity @ matrix, atol=1e-10)


def test_all_systems_at_once_move_as_one_by_one_and_in_two_goes_as_in_one(calm, monkeypatch):
    x, v, charges = calm
    held = x.copy(), v.copy()
    together, velocities = move(x, v, charges, 200)
    halfway = move(x, v, charges, 77)
    np.testing.assert_allclose(move(*halfway, charges, 123)[0], together, atol=1e-12)
    monkeypatch.setattr("datamodules.charged_particles.CHUNK", 1)
    alone, alone_velocities = move(x, v, charges, 200)
    np.testing.assert_allclose(alone, together, atol=1e-11)
    np.testing.assert_allclose(alone_velocities, velocities, atol=1e-10)
    assert np.array_equal(x, held[0]) and np.array_equal(v, held[1])  # what is given stays as it was


def test_a_step_is_that_of_the_formula_and_like_charges_repel():
    rng = np.random.default_rng(1)
    x, v, charges = rng.normal(size=(1, 4, 3)), rng.normal(size=(1, 4, 3)), np.array([[1.0, -1.0, -1.0, 1.0]])
    force = np.zeros((4, 3))
    for i in range(4):
        for j in range(4):
            if i != j:
                away = x[0, i] - x[0, j]
                force[i] += charges[0, i] * charges[0, j] * away / np.linalg.norm(away) ** 3
    later, velocity = move(x, v, charges, 1)
    np.testing.assert_allclose(velocity[0], v[0] + TIME_STEP * force, rtol=1e-12)
    np.testing.assert_allclose(later[0], x[0] + TIME_STEP * velocity[0], rtol=1e-12)


def test_a_force_is_cut_off():
    x = np.array([[[0.0, 0.0, 0.0], [0.01, 0.0, 0.0]]])
    _, velocity = move(x, np.zeros_like(x), np.array([[1.0, 1.0]]), 1)
    np.testing.assert_allclose(velocity[0, :, 0], [-TIME_STEP * GREATEST_FORCE, TIME_STEP * GREATEST_FORCE])


def test_the_starting_conditions_are_those_of_the_task(systems):
    x, v, charges = systems
    assert x.shape == v.shape == (60, 5, 3) and charges.shape == (60, 5)
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), 0.5)
    assert set(np.unique(charges)) == {-1.0, 1.0} and abs(charges.mean()) < 0.2
    assert x.std() == pytest.approx(1, abs=0.1) and abs(x.mean()) < 0.1
    assert starting_conditions(0, 60, 40, seed=1)[0].std() == pytest.approx(2, abs=0.1)
    # Drawn one after the other, whichever part asks for them.
    for whole, part in zip(systems, starting_conditions(50, 10, 5, seed=43), strict=True):
        assert np.array_equal(whole[50:], part)


def test_they_are_drawn_in_the_order_of_the_authors_program():
    stream = np.random.RandomState(43)
    for system in range(2):
        charges = stream.choice([-1.0, 0.0, 1.0], size=(5, 1), p=[0.5, 0.0, 0.5])
        x, v = stream.randn(3, 5), stream.randn(3, 5)
        stream.randn(2, 49, 3, 5)
        found = [values[system] for values in starting_conditions(0, 2, 5, seed=43)]
        assert np.array_equal(found[0], x.T)
        np.testing.assert_allclose(found[1], 0.5 * (v / np.linalg.norm(v, axis=0)).T, rtol=1e-15)
        assert np.array_equal(found[2], charges[:, 0])


def test_batches_are_what_the_motion_gives(tmp_path, near):
    data = few(tmp_path)
    batch = next(iter(data.loader("train")))
    x, v, charges = starting_conditions(0, 20, 5, seed=43)
    positions, velocities = move(x, v, charges, 30)
    later, _ = move(x, v, charges, 40)
    for found, wanted in zip(batch, (positions, velocities, charges, later), strict=True):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)
    assert {part: len(columns.y) for part, columns in data.splits.items()} == {"train": 20, "test": 4}
    assert (data.num_particles, data.dimensions) == (5, 3)
    assert not torch.equal(data.splits["test"].y, data.splits["train"].y[:4])
    with pytest.raises(ValueError, match=r"there is no split 'val', only test, train: .* with num_val"):
        data.loader("val")


def test_the_way_leads_from_the_given_positions_to_those_to_be_foretold(tmp_path, near):
    data = few(tmp_path)
    batch = next(iter(data.loader("test")))
    way = data.trajectory(batch, 4)
    assert way.shape == (4, 5, 5, 3)
    assert torch.equal(way[:, 0], batch.positions)
    torch.testing.assert_close(way[:, -1], batch.y, atol=1e-5, rtol=0)
    x, v, charges = (part.double().numpy() for part in batch[:3])
    np.testing.assert_allclose(way[:, 1], move(x, v, charges, 2)[0], atol=1e-6)


def test_systems_are_simulated_once_for_each_setting_and_damaged_files_anew(tmp_path, near, monkeypatch):
    data = few(tmp_path)
    data.prepare_data()
    files = sorted(tmp_path.iterdir())
    assert [path.name.split("-")[0] for path in files] == ["test", "train"]

    def refuse(*_):
        raise AssertionError("simulated")

    with monkeypatch.context() as patch:
        patch.setattr("datamodules.charged_particles.move", refuse)
        again = few(tmp_path)
        again.setup()
        for part, columns in data.splits.items():
            assert all(torch.equal(a, b) for a, b in zip(columns, again.splits[part], strict=True))
        for change in ({"steps": 11}, {"start": 31}, {"split_seed": 1}, {"num_particles": 3}, {"num_train": 21}):
            with pytest.raises(AssertionError, match="simulated"):
                few(tmp_path, **change).setup()
    files[1].write_bytes(files[1].read_bytes()[:200])
    mended = few(tmp_path)
    mended.setup()
    assert torch.equal(mended.splits["train"].y, data.splits["train"].y)
    assert sorted(tmp_path.iterdir()) == files


def test_a_folder_that_cannot_be_written_to_is_told_of_and_does_without(tmp_path, near):
    (tmp_path / "file").write_text("")
    data = few(tmp_path / "file" / "folder")
    with pytest.warns(UserWarning, match=r"could not be kept in .*folder .*: name another folder with --data.cache"):
        data.setup()
    assert len(data.splits["train"].y) == 20


def test_the_straight_line_is_the_best_of_its_kind(tmp_path, near):
    data = few(tmp_path, num_train=200, num_test=200, steps=100)
    found = data.trivial_baselines()
    train, test = data.splits["train"], data.splits["test"]
    assert found["mse_at_rest"] == pytest.approx((test.y - test.positions).square().mean().item())
    errors = {c: (train.positions + c * train.velocities - train.y).square().mean().item() for c in np.linspace(0, 0.2, 81)}
    best = min(errors, key=errors.__getitem__)
    guess = (test.positions + best * test.velocities - test.y).square().mean().item()
    assert found["mse_straight_on"] == pytest.approx(guess, rel=0.02) and found["mse_straight_on"] < found["mse_at_rest"]


def test_turned_systems_are_turned_as_a_whole_and_in_training_only(tmp_path, near):
    plain, turned = few(tmp_path), few(tmp_path, rotate=True)
    before, after = next(plain.batches("train")), next(turned.batches("train"))
    assert torch.equal(after.charges, before.charges)
    assert not torch.allclose(after.positions, before.positions, atol=0.1)
    # Lengths and angles within a system, of positions, velocities and later positions alike.
    whole = [torch.cat([batch.positions, batch.velocities, batch.y], 1) for batch in (before, after)]
    torch.testing.assert_close(*(points @ points.transpose(1, 2) for points in whole), atol=1e-4, rtol=1e-4)
    assert torch.equal(next(plain.batches("test")).positions, next(turned.batches("test")).positions)
    # A state that is turned has the future that is turned.
    torch.testing.assert_close(turned.trajectory(after, 1)[:, -1], after.y, atol=1e-3, rtol=0)


def test_every_rotation_and_reflection_is_as_likely_as_any_other():
    found = random_orthogonal(20_000, 3)
    torch.testing.assert_close(found @ found.transpose(1, 2), torch.eye(3).expand(20_000, 3, 3), atol=1e-5, rtol=0)
    assert found.det().sign().mean().abs() < 0.03
    # Each entry is a coordinate of a point on the sphere, uniform on [-1, 1] (Archimedes).
    for row in range(3):
        for column in range(3):
            entry = found[:, row, column]
            assert entry.mean().abs() < 0.02 and entry.square().mean().item() == pytest.approx(1 / 3, abs=0.02)
            assert (entry > 0.8).float().mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.skipif(not os.environ.get("DLKIT_DATA"), reason="seconds of simulation, for the runs with all data")
def test_the_published_error_of_a_straight_line_is_reproduced(tmp_path):
    assert ChargedParticles(cache=str(tmp_path)).trivial_baselines()["mse_straight_on"] == pytest.approx(0.0819, abs=0.004)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_particles": 1}, "num_particles=1: give at least 2"),
        ({"num_train": 0}, "num_train=0: give 1 to 10000 systems"),
        ({"num_train": 10_001}, "num_train=10001: give 1 to 10000 systems"),
        ({"num_val": -1}, "num_val=-1: give 0 to 2000 systems"),
        ({"num_test": 0}, "num_test=0: give 1 to 2000 systems"),
        ({"steps": 0}, "steps=0: give at least 1 step"),
        ({"start": -1}, "start=-1: give 0 or more steps"),
        ({"split_seed": -1}, r"split_seed=-1: give a whole number from 0 to 2\^32 - 1"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(tmp_path, near, arguments, message):
    with pytest.raises(ValueError, match=message):
        few(tmp_path, **arguments).loader("train")


def test_a_way_of_no_frames_is_refused(tmp_path, near):
    data = few(tmp_path)
    with pytest.raises(ValueError, match="frames=0: give at least 1"):
        data.trajectory(next(iter(data.loader("test"))), 0)
