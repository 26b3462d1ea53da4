"""Networks of interacting particles: their symmetries, their loss, and what they refuse."""

from __future__ import annotations

from typing import Literal

import lightning as L
import pytest
import torch

import dlkit
from datamodules import ChargedParticles, charged_particles
from dlkit import InteractionNetwork, Particles

every_network = pytest.mark.parametrize("network", ["mpnn", "egnn"])
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def systems(n=4, particles=5, dtype=torch.float32):
    x, v, y = torch.randn(3, n, particles, 3, dtype=dtype)
    return Particles(x, v, torch.randint(0, 2, (n, particles)).to(dtype) * 2 - 1, y)


def shaken(network: Literal["mpnn", "egnn"] = "egnn", dtype=torch.float32, **settings):
    """With weights of which none is small, so that every part of the network matters."""
    method = InteractionNetwork(network, **{"hidden_size": 16, "num_layers": 3, **settings})
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return method.to(dtype)


@pytest.fixture
def data(tmp_path, monkeypatch):
    for part, first in {"train": 0, "val": 80, "test": 120}.items():
        monkeypatch.setitem(charged_particles.FIRST, part, first)
    return ChargedParticles(num_train=80, num_val=40, num_test=40, start=20, steps=100, batch_size=20, cache=str(tmp_path))


def test_the_equivariant_network_s_futures_turn_shift_and_are_mirrored_with_the_system():
    for dtype in (torch.float32, torch.float64):
        method, batch = shaken(dtype=dtype), systems(dtype=dtype)
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0].to(dtype)
        shift = torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
        for matrix in (turn, turn @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=dtype))):
            found = method.network(batch.positions @ matrix + shift, batch.velocities @ matrix, batch.charges)
            wanted = method.network(*batch[:3])
            assert ((found - (wanted @ matrix + shift)).abs() / wanted.abs().clamp(min=1)).max() < TOLERANCE[dtype]
            assert (wanted - batch.positions).abs().max() > 0.05


@every_network
def test_particles_have_no_order_systems_no_neighbours_and_charges_no_names(network):
    method, batch = shaken(network), systems()
    whole = method(*batch[:3])
    order = torch.randperm(5)
    torch.testing.assert_close(method(*(part[:, order] for part in batch[:3])), whole[:, order])
    for number in range(4):
        torch.testing.assert_close(method(*(part[number : number + 1] for part in batch[:3])), whole[number : number + 1])
    torch.testing.assert_close(method(*batch[:2], -batch.charges), whole)
    changed = batch.charges.clone()
    changed[0, 0] *= -1
    others = method(*batch[:2], changed)
    assert (others[0] != whole[0]).any() and torch.equal(others[1:], whole[1:])


def test_only_the_equivariant_network_knows_that_directions_are_alike():
    batch, turn = systems(), torch.linalg.qr(torch.randn(3, 3))[0]
    plain = shaken("mpnn")
    found, wanted = plain(batch.positions @ turn, batch.velocities @ turn, batch.charges), plain(*batch[:3]) @ turn
    assert (found - wanted).abs().max() > 0.01


@every_network
def test_the_loss_is_the_mean_over_all_coordinates_and_pure(network):
    method, batch = shaken(network), systems()
    loss, terms = method.loss(batch)
    assert loss.item() == pytest.approx(((method(*batch[:3]) - batch.y) ** 2).sum().item() / (4 * 5 * 3))
    assert not terms and torch.equal(method.loss(batch)[0], loss)
    gradients = torch.autograd.grad(loss, list(method.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)  # no parameter is idle


@every_network
def test_systems_of_any_number_of_particles_and_dimensions(network):
    for particles, dimensions in ((2, 2), (9, 3)):
        method = shaken(network, dimensions=dimensions)
        x, v = torch.randn(2, 3, particles, dimensions)
        assert method.predict_positions(x, v, torch.ones(3, particles)).shape == x.shape


@every_network
def test_a_few_systems_are_learnt_by_heart(network):
    method, batch = InteractionNetwork(network, hidden_size=16, num_layers=2), systems(3)
    batch = batch._replace(y=batch.positions + 0.5 * batch.velocities + 0.1 * batch.y)
    before, _ = method.loss(batch)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss, _ = method.loss(batch)
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * before


@every_network
def test_training_records_the_error_and_its_own_and_a_checkpoint_keeps_the_method(network, data, tmp_path):
    method = InteractionNetwork(network, hidden_size=16, num_layers=2, learning_rate=3e-3)
    run = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    before = run.validate(method, datamodule=data, verbose=False)[0]["val/mse"]
    run.fit(method, datamodule=data)
    assert run.callback_metrics["val/mse"] < before
    run.save_checkpoint(tmp_path / "method.ckpt")
    found = run.test(method, datamodule=data, verbose=False)[0]
    batches = list(data.batches("test"))
    squared = torch.cat([(method.predict_positions(*batch[:3]) - batch.y).square().mean((1, 2)) for batch in batches])
    assert found["test/mse"] == pytest.approx(squared.mean().item()) == found["test/loss"]
    assert found["test/mse_error"] == pytest.approx(squared.std().item() / 40**0.5)
    loaded = dlkit.load(tmp_path / "method.ckpt")
    assert torch.equal(loaded.predict_positions(*batches[0][:3]), method.predict_positions(*batches[0][:3]))


def test_a_subclass_brings_its_own_network():
    class Straight(torch.nn.Module):
        def forward(self, positions, velocities, charges):
            return positions + velocities

    class StraightOn(InteractionNetwork):
        def build_network(self, network, hidden_size, num_layers):
            return Straight()

    batch = systems()
    assert torch.equal(StraightOn().predict_positions(*batch[:3]), batch.positions + batch.velocities)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "gnn"}, "unknown network 'gnn': use 'mpnn' or 'egnn'"),
        ({"dimensions": 0}, "dimensions=0: give at least 1"),
        ({"hidden_size": 0}, "hidden_size=0: give at least 1"),
        ({"num_layers": 0}, "num_layers=0: give at least 1"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        InteractionNetwork(**arguments)


@every_network
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": torch.zeros(4, 5, 2)}, r"positions are \(4, 5, 2\): give \(batch, particles, 3\), or set dimensions"),
        ({"positions": torch.zeros(5, 3)}, r"positions are \(5, 3\): give \(batch, particles, 3\)"),
        ({"velocities": torch.zeros(4, 4, 3)}, r"velocities are \(4, 4, 3\) and charges \(4, 5\), and positions \(4, 5, 3\)"),
        ({"charges": torch.zeros(4, 5, 1)}, r"charges \(4, 5, 1\), and positions \(4, 5, 3\): give a velocity and a charge"),
        ({"velocities": torch.full((4, 5, 3), float("nan"))}, "velocities hold NaN or infinity: look at the data"),
        ({"y": torch.zeros(4, 4, 3)}, r"positions later are \(4, 4, 3\) and those given \(4, 5, 3\): give one for each"),
    ],
    ids=["dimensions", "no batch", "velocities", "charges", "NaN", "y"],
)
def test_batches_that_do_not_go_together_are_refused(network, change, message):
    with pytest.raises(ValueError, match=message):
        shaken(network).loss(systems()._replace(**change))


@every_network
def test_a_lonely_particle_is_refused(network):
    with pytest.raises(ValueError, match=r"positions are \(4, 1, 3\): give at least 2 particles"):
        shaken(network).loss(systems(particles=1))
