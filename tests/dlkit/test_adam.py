"""Adam: torch's numbers, whichever parameters have gradients, and torch's state dicts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dlkit.adam import Adam

SHAPES = ((3, 2), (5,), (1,), (4, 4))


def pair(seed=0, weight_decay=0.0):
    """Ours and torch's, of the same parameters; some of another type."""
    torch.manual_seed(seed)
    start = [torch.randn(shape, dtype=torch.float64 if len(shape) == 1 else torch.float32) for shape in SHAPES]
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    return (
        (ours, Adam(ours, 0.1, (0.8, 0.9), weight_decay)),
        (theirs, torch.optim.Adam(theirs, 0.1, (0.8, 0.9), weight_decay=weight_decay, fused=True)),
    )


def step(sides, with_gradient=(0, 1, 2, 3)):
    """A step of all with the same gradients, for some of the parameters."""
    gradients = [torch.randn_like(parameter) for parameter in sides[0][0]]
    for parameters, optimizer in sides:
        optimizer.zero_grad()
        for number in with_gradient:
            parameters[number].grad = gradients[number].clone()
        optimizer.step()


def assert_equal(sides):
    (ours, _), (theirs, _) = sides
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def counts(optimizer):
    return [float(state["step"]) for state in optimizer.state_dict()["state"].values()]


def test_the_formula():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer, m, v, w = Adam([parameter], 0.1, (0.8, 0.9), 0.5), 0.0, 0.0, parameter.detach().clone()
    for t in range(1, 6):
        g = torch.tensor([0.3 * t, -1.0], dtype=torch.float64)
        parameter.grad = g.clone()
        optimizer.step()
        g = g + 0.5 * w
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        w = w - 0.1 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
        torch.testing.assert_close(parameter.detach(), w)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_steps_as_torch_does_whichever_parameters_have_gradients(weight_decay):
    sides = pair(weight_decay=weight_decay)
    for some in [(0, 1), (0, 1), (1, 2, 3), (0, 1, 2, 3), (3,), (), (0, 1, 2, 3)]:
        step(sides, some)
        assert_equal(sides)
    assert counts(sides[0][1]) == counts(sides[1][1]) == [4, 5, 3, 4]


def test_parameters_that_step_together_share_their_count():
    sides = pair()
    step(sides)
    ours, optimizer = sides[0]
    assert len({id(optimizer.state[parameter]["step"]) for parameter in ours}) == 1
    step(sides, (0, 1, 2))
    assert len({id(optimizer.state[parameter]["step"]) for parameter in ours}) == 2


@pytest.mark.parametrize("reader", [0, 1], ids=["ours reads torch's", "torch's reads ours"])
def test_state_dicts_are_torchs(reader, tmp_path):
    sides = pair()
    for some in [(0, 1, 3), (0, 1, 2, 3), (0, 1, 2)]:
        step(sides, some)
    torch.save(sides[1 - reader][1].state_dict(), tmp_path / "state")
    fresh = pair(seed=1)[reader][1]
    parameters = fresh.param_groups[0]["params"]
    with torch.no_grad():
        for parameter, value in zip(parameters, sides[0][0], strict=True):
            parameter.copy_(value)
    fresh.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    sides = (sides[0], (parameters, fresh))
    for _ in range(3):
        step(sides)
        assert_equal(sides)
    assert counts(fresh) == [6, 6, 5, 5]


def test_counts_are_shared_after_a_state_was_loaded_too():
    sides = pair()
    step(sides)
    fresh = pair(seed=1)[0][1]
    fresh.load_state_dict(sides[0][1].state_dict())
    assert len({id(fresh.state[parameter]["step"]) for parameter in fresh.param_groups[0]["params"]}) == 1


def test_a_state_dict_that_was_loaded_stays_as_it_was():
    sides = pair()
    step(sides)
    state = sides[1][1].state_dict()
    fresh = pair(seed=1)[0]
    fresh[1].load_state_dict(state)
    step((fresh,))
    assert [float(own["step"]) for own in state["state"].values()] == [1, 1, 1, 1]


@pytest.mark.parametrize("variant", ["amsgrad", "maximize"])
def test_the_state_of_a_variant_is_refused(variant):
    sides = pair()
    state = torch.optim.Adam(sides[1][0], 0.1, **{variant: True}).state_dict()
    step(sides)
    with pytest.raises(ValueError, match=variant):
        sides[0][1].load_state_dict(state)
    assert counts(sides[0][1]) == [1, 1, 1, 1]


def test_a_parameter_may_change_its_group_or_stay_away():
    sides = pair()
    step(sides)
    away = [optimizer.param_groups[0]["params"].pop() for _, optimizer in sides]
    step(sides)
    for (_, optimizer), parameter in zip(sides, away, strict=True):
        optimizer.add_param_group({"params": [parameter], "lr": 0.01})
    for _ in range(2):
        step(sides)
        assert_equal(sides)
    assert counts(sides[0][1]) == counts(sides[1][1]) == [4, 4, 4, 3]


def test_a_copy_goes_on_by_itself():
    sides = pair()
    step(sides)
    parameters, optimizer = copy.deepcopy(sides[0])
    before = [parameter.clone() for parameter in parameters]
    step(sides)
    assert counts(optimizer) == [1, 1, 1, 1]
    assert all(torch.equal(first, second) for first, second in zip(before, parameters, strict=True))


def test_the_closure_has_gradients_and_its_loss_comes_back():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Adam([parameter], 0.1)

    def closure():
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 3
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.9))


def test_groups_have_their_own_step_size():
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Adam([first], 0.1)
    optimizer.add_param_group({"params": [second], "lr": 0.0})
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert first[0] < 1
    assert second[0] == 1


def test_gradients_are_forgotten_or_set_to_zero():
    (ours, optimizer), _ = pair()
    for parameter in ours[1:]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.zero_grad(set_to_none=False)
    assert ours[0].grad is None
    assert all(not parameter.grad.any() for parameter in ours[1:])
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in ours)
