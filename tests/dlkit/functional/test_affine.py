"""The affine map: a bijection with the derivatives it states, of both orders."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from dlkit.functional.affine import LOG_SCALE_BOUND, affine, affine_value, evaluate, soft_bound

DIRECTIONS = pytest.mark.parametrize("inverse", [False, True])
SHAPES = pytest.mark.parametrize("shape", [(7, 3), (2, 3, 4, 5)], ids=["vectors", "images"])


def example(shape, scale=3.0):
    x, raw = (
        torch.randn(shape, dtype=torch.float64),
        scale * torch.randn(shape[0], 2 * shape[1], *shape[2:], dtype=torch.float64),
    )
    return x.requires_grad_(), raw.requires_grad_()


def test_it_is_the_formula():
    y, log_derivative = affine(torch.tensor([[2.0]]), torch.tensor([[3.0, 0.5]]))
    torch.testing.assert_close(log_derivative, torch.tensor([[1.5]]))
    torch.testing.assert_close(y, 2 * torch.tensor([[1.5]]).exp() + 0.5)


@SHAPES
def test_the_inverse_undoes_it(shape):
    x, raw = example(shape)
    y, there = affine(x, raw)
    z, back = affine(y, raw, inverse=True)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(back, -there)


@SHAPES
def test_the_value_alone_is_the_same(shape):
    x, raw = example(shape, 10.0)
    sides = [(y, *torch.autograd.grad(y.square().sum(), (x, raw))) for y in (affine_value(x, raw), affine(x, raw)[0])]
    torch.testing.assert_close(*sides, rtol=1e-12, atol=1e-12)


@SHAPES
@DIRECTIONS
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)], ids=["both", "x", "raw"])
def test_gradients_of_both_orders_are_those_of_finite_differences(shape, inverse, wanted):
    def function(x, raw):
        return affine(x, raw, inverse)

    x, raw = (value.requires_grad_(needed) for value, needed in zip(example(shape, 1.0), wanted, strict=True))
    assert torch.autograd.gradcheck(function, (x, raw))
    assert torch.autograd.gradgradcheck(function, (x, raw))


@DIRECTIONS
def test_the_derivative_that_is_written_out_is_that_of_autograd(inverse):
    x, raw = example((50, 4))
    weights = tuple(torch.randn(2, 50, 4, dtype=torch.float64))
    with torch.no_grad():
        raw[0] = 0  # where |raw| has no derivative, and s has
    found = [torch.autograd.grad(function(x, raw, inverse), (x, raw), weights) for function in (affine, evaluate)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@DIRECTIONS
def test_parameters_made_of_the_point_itself_have_both_derivatives(inverse):
    def function(x):
        return affine(x, torch.cat([x.sin(), x.cos()], 1), inverse)

    assert torch.autograd.gradgradcheck(function, example((4, 2))[0])


@DIRECTIONS
def test_forward_mode_knows_it_too(inverse):
    x, raw = (value.detach() for value in example((4, 2)))
    expected = affine(x, raw, inverse)[1].exp()
    torch.testing.assert_close(torch.func.jvp(lambda x: affine(x, raw, inverse)[0], (x,), (torch.ones_like(x),))[1], expected)
    with forward_ad.dual_level():
        dual = affine(forward_ad.make_dual(x, torch.ones_like(x)), raw, inverse)[0]
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)


def test_log_scales_are_bounded_whatever_a_network_says():
    raw = torch.tensor([-1e30, -1e4, 0.0, 1e-4, 1e4, 1e30])
    assert (soft_bound(raw).abs() <= LOG_SCALE_BOUND).all()
    assert soft_bound(raw)[3].item() == pytest.approx(1e-4, rel=1e-3)
