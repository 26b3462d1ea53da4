"""Flows of lattice theories: their symmetries, exact values, and a chain that is right whatever the flow."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd.functional import jacobian

import dlkit
from datamodules import NoData
from dlkit.batches import Draws
from dlkit.functional.lattice import (
    free_log_partition,
    free_phi_squared,
    free_susceptibility,
    gauge_transform,
    plaquettes,
    topological_charge,
    u1_exact,
    wrap,
)
from dlkit.functional.monte_carlo import effective_sample_size
from dlkit.nn.lattice import LinkCoupling, TranslationLinear, field_transform, link_transform

SHAPE = (4, 6)
LINKS = (4, 8)


def shaken(transform, spread=0.3):
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += spread * torch.randn_like(parameter)
    return transform.double()


@pytest.fixture
def field():
    return shaken(field_transform(SHAPE, 3, (4, 3)))


@pytest.fixture
def links():
    return shaken(link_transform(LINKS, 2, (4, 5), 6))


def angles(n=3):
    return 2 * math.pi * torch.rand(n, 2, *LINKS).double() - math.pi


# Symmetries -----------------------------------------------------------------------------------------------------------


def moved(x, rows, columns):
    """A flat field moved along the lattice."""
    return x.view(-1, *SHAPE).roll((rows, columns), (1, 2)).flatten(1)


def test_a_linear_layer_commutes_with_translations():
    sites = torch.cartesian_prod(torch.arange(4), torch.arange(6))
    layer = TranslationLinear(2, 3, sites, SHAPE)
    x = torch.randn(5, 2, *SHAPE)
    y = layer(x.flatten(1)).view(5, 3, *SHAPE)
    again = layer(x.roll((1, 2), (2, 3)).flatten(1)).view(5, 3, *SHAPE)
    assert torch.allclose(again, y.roll((1, 2), (2, 3)), atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 0), (3, 5)])
def test_a_field_s_layers_commute_with_translations_that_keep_the_colours(field, rows, columns):
    z = torch.randn(5, 24).double()
    x, log_det = field(z)
    again, same = field(moved(z, rows, columns))
    assert torch.allclose(again, moved(x, rows, columns)) and torch.allclose(log_det, same)


def test_a_field_s_layers_commute_with_the_change_of_sign(field):
    z = torch.randn(5, 24).double()
    x, log_det = field(z)
    again, same = field(-z)
    assert torch.allclose(again, -x) and torch.allclose(log_det, same)


def test_links_are_moved_alike_in_every_gauge(links):
    theta, alpha = angles(), 6 * torch.rand(3, *LINKS).double()
    x, log_det = links(theta)
    again, same = links(gauge_transform(theta, alpha))
    assert wrap(again - gauge_transform(x, alpha)).abs().max() < 1e-10
    assert torch.allclose(log_det, same)
    assert wrap(plaquettes(again) - plaquettes(x)).abs().max() < 1e-10


@pytest.mark.parametrize("across", [0, 1])
def test_a_layer_of_links_commutes_with_translations_by_pairs_of_blocks(across):
    layer = shaken(LinkCoupling((8, 8), (2, 1), across, (4, 5), 6))
    theta = 2 * math.pi * torch.rand(3, 2, 8, 8).double() - math.pi
    x, log_det = layer(theta)
    for steps in ((4, 0), (0, 2), (4, 6)):
        again, same = layer(theta.roll(steps, (2, 3)))
        assert wrap(again - x.roll(steps, (2, 3))).abs().max() < 1e-10 and torch.allclose(log_det, same)


@pytest.mark.parametrize("across", [0, 1])
def test_a_layer_of_links_moves_loops_around_blocks_and_no_loop_around_their_pairs(across):
    layer = shaken(LinkCoupling((8, 8), (2, 1), across, (4, 5), 6))
    theta = 2 * math.pi * torch.rand(3, 2, 8, 8).double() - math.pi
    before, after = layer.loops(theta), layer.loops(layer(theta)[0])
    assert wrap(sum(before) - sum(after)).abs().max() < 1e-10
    assert wrap(before[1] - after[1]).abs().min() > 1e-6
    # as many as there are pairs of blocks of two plaquettes
    assert before[0].shape == (3, 16)


# Densities ------------------------------------------------------------------------------------------------------------


def test_inverse_and_log_determinant_of_a_field(field):
    z = torch.randn(3, 24).double()
    x, log_det = field(z)
    back, down = field.inverse(x)
    assert torch.allclose(back, z, atol=1e-10) and torch.allclose(log_det, -down, atol=1e-10)
    for row in range(3):
        matrix = jacobian(lambda v: field(v[None])[0][0], z[row])
        assert (torch.linalg.slogdet(matrix)[1] - log_det[row]).abs() < 1e-10


def test_inverse_and_log_determinant_of_links(links):
    theta = angles()
    x, log_det = links(theta)
    back, down = links.inverse(x)
    assert wrap(back - theta).abs().max() < 1e-9 and torch.allclose(log_det, -down, atol=1e-9)
    for row in range(3):
        matrix = jacobian(lambda v: links(v[None])[0][0].flatten(), theta[row]).view(64, 64)
        assert (torch.linalg.slogdet(matrix)[1] - log_det[row]).abs() < 1e-9


def test_as_many_links_are_moved_as_there_are_independent_plaquettes():
    transform = shaken(link_transform(LINKS, 1, (4,), 6))
    theta = angles(1)
    moved = wrap(transform(theta)[0] - theta).abs() > 1e-9
    assert moved.sum() == math.prod(LINKS) - 1
    assert (wrap(plaquettes(transform(theta)[0]) - plaquettes(theta)).abs() > 1e-9).all()


def test_a_new_field_flow_is_the_free_theory():
    # The spectrum begins at that of mass 1.
    flow = dlkit.LatticeFlow((8, 8), "free", m2=1.0, num_layers=2)
    _, log_weights = flow.weighted_samples(500)
    assert effective_sample_size(log_weights) > 0.9999
    assert log_weights.mean().item() == pytest.approx(free_log_partition((8, 8), 1.0), abs=1e-3)


def test_a_new_gauge_flow_is_uniform():
    flow = dlkit.LatticeFlow(LINKS, "u1", beta=1.0, num_layers=1, channels=(4,))
    theta, log_weights = flow.weighted_samples(10)
    assert torch.allclose(flow.log_prob(theta), torch.full((10,), -64 * math.log(2 * math.pi)), atol=1e-3)
    assert torch.allclose(log_weights, -flow.action(theta) + 64 * math.log(2 * math.pi), atol=1e-3)


def test_log_prob_is_that_of_the_samples():
    for action in ("phi4", "u1"):
        flow = dlkit.LatticeFlow(LINKS, action, num_layers=2, channels=(4,), num_bins=4)
        shaken(flow.network, 0.1)
        flow = flow.double()
        configurations, log_weights = flow.weighted_samples(20)
        assert torch.allclose(-flow.action(configurations) - flow.log_prob(configurations), log_weights, atol=1e-8)


@pytest.mark.parametrize("action", ["phi4", "u1"])
def test_the_path_gradient_is_the_gradient_of_the_divergence_without_its_noise(action):
    flow = dlkit.LatticeFlow((4, 4), action, num_layers=1 if action == "u1" else 4, channels=(4,), num_bins=4)
    shaken(flow.network, 0.1)
    flow = flow.double()

    def gradients(loss):
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(flow.parameters()))])

    path, plain = [], []
    for _ in range(40):
        path.append(gradients(flow.loss(Draws(torch.arange(100)))[0]))
        configurations, log_q = flow.draw(100)
        plain.append(gradients((log_q + flow.action(configurations)).mean()))
    path, plain = torch.stack(path), torch.stack(plain)
    error = (path.var(0) + plain.var(0)).div(40).sqrt()
    apart = (path.mean(0) - plain.mean(0))[error > 1e-9] / error[error > 1e-9]
    assert apart.abs().max() < 5 and plain.mean(0).norm() > 5 * error.norm() / len(error) ** 0.5


def test_the_path_gradient_of_the_theory_itself_is_zero_for_every_batch():
    flow = dlkit.LatticeFlow((4, 4), "free", m2=1.0, num_layers=2).double()
    # float32's rounding of the spectrum is all that it is off by
    flow.loss(Draws(torch.arange(7)))[0].backward()
    assert all(parameter.grad.abs().max() < 1e-4 for parameter in flow.parameters())


# The chain ------------------------------------------------------------------------------------------------------------


def test_the_chain_is_exact_though_the_flow_is_not():
    # A flow that begins at mass 1 proposes for mass 1.3.
    flow = dlkit.LatticeFlow((4, 4), "free", m2=1.3, num_layers=2)
    configurations, _ = flow.chain(60_000)
    wrong = flow.sample(60_000).square().mean()
    right = free_phi_squared((4, 4), 1.3)
    seen = flow.observe(configurations).double().unsqueeze(0)
    found = flow.estimates(seen)
    for name, exact in (("phi_squared", right), ("chi_2", free_susceptibility(1.3))):
        value, error = found[name]
        assert abs(float(value) - exact) < 4 * float(error), name
        assert float(error) < 0.02 * exact
    assert abs(float(wrong) - right) > 0.01
    assert float(found["length"].value) == pytest.approx(1 / math.sqrt(1.3), abs=4 * float(found["length"].error))


def test_a_free_theory_of_another_mass_is_learned():
    flow = dlkit.LatticeFlow((4, 4), "free", m2=0.3, num_layers=2, channels=(4,))
    batch = Draws(torch.arange(256))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    first = flow.loss(batch)[1]["reverse_kl"].item()
    for _ in range(400):
        loss, terms = flow.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > 0.1 and abs(terms["reverse_kl"].item()) < 0.02
    assert effective_sample_size(flow.weighted_samples(4096)[1]) > 0.97


def test_gauge_theory_on_a_small_lattice_is_learned_and_its_charge_is_right():
    flow = dlkit.LatticeFlow((4, 4), "u1", beta=1.0, num_layers=1, channels=(8, 8), num_bins=6)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(150):
        loss, terms = flow.loss(Draws(torch.arange(256)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert terms["reverse_kl"] < 1.0
    theta, accepted = flow.chain(20_000)
    found = flow.estimates(flow.observe(theta).double().unsqueeze(0))
    exact = u1_exact((4, 4), 1.0)
    assert accepted.float().mean() > 0.4
    assert abs(float(found["plaquette"].value) - exact.plaquette) < 4 * float(found["plaquette"].error)
    assert abs(float(found["charge_squared"].value) - exact.charge_squared) < 4 * float(found["charge_squared"].error)
    assert topological_charge(theta).unique().numel() > 2


def test_what_is_logged_lies_on_the_device_of_the_method(monkeypatch):
    """NCCL averages nothing that lies elsewhere, and Monte Carlo's numbers are the CPU's."""
    method = dlkit.LatticeFlow(SHAPE, "free", m2=1.0)
    monkeypatch.setattr(dlkit.LatticeFlow, "device", torch.device("meta"))
    logged = {}
    monkeypatch.setattr(method, "log_dict", lambda found, sync_dist: logged.update(found))
    method.log_all({"val/log_z": torch.tensor(1.0, dtype=torch.float64)})
    assert logged["val/log_z"].device.type == "meta"
    assert logged["val/log_z"].dtype == torch.float32


def test_large_volumes_do_not_overflow():
    flow = dlkit.LatticeFlow((24, 24), "phi4", m2=-4.0, lam=0.5, num_layers=2, channels=(2,))
    with torch.no_grad():
        flow.network.transforms[0].log_sigma += 3  # far off: log-weights of thousands
    _, log_weights = flow.weighted_samples(50)
    assert log_weights.max() < -1e4
    assert effective_sample_size(log_weights) >= 1 / 50
    loss, _ = flow.loss(Draws(torch.arange(50)))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in flow.parameters())


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    ({"lattice_shape": (5, 8)}, "no periodic checkerboard"),
    ({"lattice_shape": (1, 8)}, "no periodic checkerboard"),
    ({"action": "u1", "lattice_shape": (6, 8)}, "sides that are powers of two"),
    ({"action": "su3"}, "unknown action 'su3'"),
    ({"action": "free", "m2": -1.0}, "m2 = -1.0"),
    ({"action": "phi4", "lam": -1.0}, "lam = -1.0"),
    ({"action": "u1", "beta": -1.0}, "beta = -1.0"),
    ({"num_layers": 0}, "at least one layer"),
    ({"num_bins": 1}, "num_bins=1"),
    ({"channels": ()}, "at least one layer and one channel"),
])  # fmt: skip
def test_theories_and_lattices_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dlkit.LatticeFlow(**arguments)


def test_configurations_of_another_lattice_are_refused():
    with pytest.raises(ValueError, match=r"this flow's are \(8, 8\)"):
        dlkit.LatticeFlow().log_prob(torch.randn(3, 4, 4))


def test_no_data_says_how_many_to_draw_and_refuses_none():
    data = NoData(steps=3, batch_size=5, val_size=7, test_size=4)
    assert [len(batch.number) for batch in data.batches("train")] == [5, 5, 5]
    assert sum(len(batch.number) for batch in data.batches("val")) == 7
    with pytest.raises(ValueError, match="steps=0"):
        NoData(steps=0)
