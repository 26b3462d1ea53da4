"""The laws of the splines: bijections with the derivative they state, and finite gradients wherever the input lies."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from dlkit.functional.spline_bins import Bin, root
from dlkit.functional.splines import (
    circular_rational_quadratic,
    evaluate,
    inverse_rational_quadratic,
    rational_quadratic,
)

BOUND, BINS = 3.0, 8
LINE = partial(rational_quadratic, bound=BOUND)
KINDS = pytest.mark.parametrize(("spline", "size"), [(LINE, 3 * BINS - 1), (circular_rational_quadratic, 3 * BINS)])
DIRECTIONS = pytest.mark.parametrize("inverse", [False, True])


def example(size, count=2000, dtype=torch.float64, scale=1.0):
    """Points of [-3, 3], inside both domains, and parameters."""
    return torch.rand(count, dtype=dtype) * 6 - 3, torch.randn(count, size, dtype=dtype) * scale


def knots(raw, bins=BINS, bound=BOUND):
    """Where the bins of the widths in `raw` end, by the definition."""
    shares = 0.99 * raw[..., :bins].softmax(-1) + 0.01 / bins
    return 2 * bound * F.pad(shares.cumsum(-1), (1, 0)) - bound


def derivative(spline, x, raw, inverse):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(spline(x, raw, inverse=inverse)[0].sum(), x)[0]


def assert_finite_gradients(spline, x, raw, inverse):
    x, raw = x.clone().requires_grad_(), raw.clone().requires_grad_()
    y, log_derivative = spline(x, raw, inverse=inverse)
    assert y.isfinite().all() and log_derivative.isfinite().all()
    for gradient in (
        *torch.autograd.grad(y.sum(), (x, raw), retain_graph=True),
        *torch.autograd.grad(log_derivative.sum(), (x, raw)),
    ):
        assert gradient.isfinite().all()


def test_it_is_equation_4_of_the_paper():
    """The paper's own form, one point at a time."""
    x, raw = example(3 * BINS - 1, 100)
    y, log_derivative = LINE(x, raw)
    across, up = knots(raw), knots(raw[..., BINS:])
    shift = math.log(math.expm1(1 - 1e-3))
    slopes = F.pad(F.softplus(raw[..., 2 * BINS :] + shift) + 1e-3, (1, 1), value=1.0)
    for i in range(len(x)):
        k = int((across[i, 1:-1] <= x[i]).sum())
        w, h = across[i, k + 1] - across[i, k], up[i, k + 1] - up[i, k]
        s, xi, d0, d1 = h / w, (x[i] - across[i, k]) / w, slopes[i, k], slopes[i, k + 1]
        below = s + (d1 + d0 - 2 * s) * xi * (1 - xi)
        expected = up[i, k] + h * (s * xi**2 + d0 * xi * (1 - xi)) / below
        rate = s**2 * (d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) / below**2
        torch.testing.assert_close(y[i], expected)
        torch.testing.assert_close(log_derivative[i], rate.log())


@KINDS
@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_parameters_give_the_identity(spline, size, inverse, dtype):
    x, _ = example(size, dtype=dtype)
    y, log_derivative = spline(x, x.new_zeros(len(x), size), inverse=inverse)
    assert y.dtype == log_derivative.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y, x, atol=tolerance, rtol=0)
    torch.testing.assert_close(log_derivative, torch.zeros_like(x), atol=tolerance, rtol=0)


@KINDS
@DIRECTIONS
def test_parameters_made_of_the_point_itself_have_both_derivatives(spline, size, inverse):
    x = torch.linspace(-2.5, 2.6, 7, dtype=torch.float64, requires_grad=True)  # none of them at a knot
    weight = torch.randn(size, dtype=torch.float64)

    def moved(x):
        return spline(x, torch.tanh(x.unsqueeze(1) * weight), inverse=inverse)

    for output in moved(x):
        (once,), (again,) = (torch.autograd.grad(output.sum(), x, retain_graph=True, create_graph=twice) for twice in (0, 1))
        torch.testing.assert_close(once, again)
    assert torch.autograd.gradgradcheck(moved, x)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_value_of_the_inverse_alone_is_the_same(compiled):
    y, raw = example(3 * BINS - 1, scale=3.0)
    y, raw = (1.2 * y).requires_grad_(), raw.requires_grad_()
    torch._dynamo.reset()
    alone = torch.compile(inverse_rational_quadratic, backend="aot_eager") if compiled else inverse_rational_quadratic
    sides = []
    for x in (alone(y, raw, BOUND), LINE(y, raw, inverse=True)[0]):
        sides.append((x, *torch.autograd.grad(x.square().sum(), (y, raw))))
    torch.testing.assert_close(*sides, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="raw must be"):
        inverse_rational_quadratic(y, raw[:, :-1], BOUND)


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 20.0])
def test_the_value_of_the_inverse_without_gradients_is_as_exact(scale):
    y, raw = (values.float() for values in example(3 * BINS - 1, 50_000, scale=scale))
    y = torch.cat([1.2 * y, torch.tensor([-math.inf, -BOUND, 0.0, BOUND, math.inf])])
    raw = torch.cat([raw, raw[:5]])
    before = y.clone(), raw.clone()
    exact = LINE(y.double(), raw.double(), inverse=True)[0]
    found, other = inverse_rational_quadratic(y, raw, BOUND), LINE(y, raw, inverse=True)[0]
    assert torch.equal(y, before[0]) and torch.equal(raw, before[1])
    torch.testing.assert_close(inverse_rational_quadratic(y.double(), raw.double(), BOUND), exact, rtol=0, atol=1e-12)
    finite = exact.isfinite()
    assert torch.equal(found[~finite], other[~finite]) and (~finite).sum() == 2
    outside = y.abs() >= BOUND
    assert torch.equal(found[outside], y[outside]) and outside.sum() > 5000
    misses, others = ((x - exact)[finite].abs() for x in (found, other))
    assert misses.max() <= 1.1 * others.max() + 1e-6 and misses.mean() <= 1.1 * others.mean() + 1e-7


@torch.no_grad()
def test_the_root_is_in_the_bin_where_rounding_left_it_and_parameters_are_absurd():
    one = torch.ones(1)
    steep = Bin(0 * one, one, one, 800 * one, 1e-3 * one, one)
    assert root(one.nextafter(-one), steep) == 0 and root(801 * one.nextafter(2 * one), steep) == 1
    for left, right, place in ((1e30, 1.0, 0.0), (1.0, 1e30, 1.0), (1e30, 1e30, 0.5)):
        at = Bin(0 * one, 0 * one, one, one, left * one, right * one)
        assert root(0.5 * one, at) == place


@KINDS
@DIRECTIONS
def test_forward_mode_knows_it_too(spline, size, inverse):
    x, raw = example(size, 20)
    _, along = torch.func.jvp(lambda x: spline(x, raw, inverse=inverse)[0], (x,), (torch.ones_like(x),))
    torch.testing.assert_close(along, derivative(spline, x, raw, inverse))


@KINDS
@DIRECTIONS
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_derivative_that_is_written_out_is_that_of_autograd(spline, size, inverse, scale):
    x, raw = example(size, scale=scale)
    x = (1.2 * x).requires_grad_()  # the tails of the line, too
    raw = raw.requires_grad_()
    weights = torch.randn(2, len(x), dtype=torch.float64)
    written = torch.autograd.grad(spline(x, raw, inverse=inverse), (x, raw), tuple(weights))
    bound = BOUND if size % 3 else math.pi
    point = x if size % 3 else torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    found = torch.autograd.grad(evaluate(point, raw.T, bound, inverse)[:2], (x, raw), tuple(weights))
    for ours, expected in zip(written, found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@KINDS
@DIRECTIONS
def test_what_a_compiler_is_given_is_the_same_spline(spline, size, inverse):
    x, raw = example(size, scale=3.0)
    x, raw = (1.2 * x).view(40, 50).requires_grad_(), raw.view(40, 50, size).requires_grad_()
    weights = torch.randn(2, *x.shape, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(spline, backend="aot_eager", fullgraph=True)
    sides = [function(x, raw, inverse=inverse) for function in (spline, compiled)]
    torch.testing.assert_close(sides[1], sides[0], rtol=1e-9, atol=1e-9)
    ours, expected = (torch.autograd.grad(side, (x, raw), tuple(weights)) for side in reversed(sides))
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, raw, inverse=inverse), sides[0], rtol=1e-9, atol=1e-9)


def test_a_compiler_searches_among_many_bins():
    x, raw = example(3 * 16 - 1, count=50)
    torch._dynamo.reset()
    compiled = torch.compile(LINE, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, raw), LINE(x, raw), rtol=1e-9, atol=1e-9)


def test_a_compiled_function_may_take_the_derivative_by_functorch():
    def slope(x, raw):
        return torch.func.grad(lambda x: LINE(x, raw)[0].sum())(x)

    x, raw = example(3 * BINS - 1, count=50)
    torch._dynamo.reset()
    compiled = torch.compile(slope, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, raw), LINE(x, raw)[1].exp(), rtol=1e-8, atol=1e-8)


@KINDS
@DIRECTIONS
def test_what_a_compiler_is_given_has_finite_gradients(spline, size, inverse):
    x, raw = example(size, dtype=torch.float32, scale=30.0)
    torch._dynamo.reset()
    assert_finite_gradients(torch.compile(spline, backend="aot_eager", fullgraph=True), 1.2 * x, raw, inverse)


@KINDS
@DIRECTIONS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_inverse_undoes_it(spline, size, inverse, dtype, tolerance):
    x, raw = example(size, dtype=dtype, scale=0.5)
    y, log_derivative = spline(x, raw, inverse=inverse)
    back, log_back = spline(y, raw, inverse=not inverse)
    assert (y - x).abs().max() > 0.5
    torch.testing.assert_close(back, x, atol=tolerance, rtol=0)
    torch.testing.assert_close(log_back, -log_derivative, atol=10 * tolerance, rtol=0)


@pytest.mark.parametrize("scale", [3.0, 50.0])
def test_the_inverse_of_steep_bins_is_still_mapped_back_in_single_precision(scale):
    y, raw = example(3 * BINS - 1, 20_000, torch.float32, scale)
    x, _ = LINE(y, raw, inverse=True)
    # In double precision, since only the rounding of the inverse is in question: it moves y by the slope at x.
    back, log_derivative = LINE(x.double(), raw.double())
    assert ((back - y).abs() / (1 + log_derivative.exp())).quantile(0.999) < 3e-6


@KINDS
@DIRECTIONS
def test_the_log_derivative_is_that_of_autograd(spline, size, inverse):
    x, raw = example(size, scale=2.0)
    _, log_derivative = spline(x, raw, inverse=inverse)
    torch.testing.assert_close(log_derivative, derivative(spline, x, raw, inverse).log(), atol=1e-7, rtol=1e-7)


@DIRECTIONS
def test_outside_it_is_the_identity_and_depends_on_no_parameter(inverse):
    x = torch.tensor([-1e30, -50.0, -3.0001, -3.0, 3.0, 3.0001, 50.0, 1e30], dtype=torch.float64, requires_grad=True)
    raw = torch.randn(8, 3 * BINS - 1, dtype=torch.float64, requires_grad=True)
    y, log_derivative = LINE(x, raw, inverse=inverse)
    assert torch.equal(y, x) and torch.equal(log_derivative, torch.zeros_like(x))
    along, parameters = torch.autograd.grad((y + log_derivative).sum(), (x, raw))
    assert torch.equal(along, torch.ones_like(x)) and torch.equal(parameters, torch.zeros_like(raw))


@DIRECTIONS
def test_the_tails_join_smoothly(inverse):
    _, raw = example(3 * BINS - 1, 100)
    for side in (-1, 1):
        x = torch.full((100,), side * (BOUND - 1e-9), dtype=torch.float64)
        y, log_derivative = LINE(x, raw, inverse=inverse)
        torch.testing.assert_close(y, x, atol=1e-8, rtol=0)
        torch.testing.assert_close(log_derivative, torch.zeros_like(x), atol=1e-5, rtol=0)


@KINDS
@DIRECTIONS
def test_it_is_monotone(spline, size, inverse):
    x = torch.linspace(-3.1, 3.1, 5000, dtype=torch.float64)
    for scale in (1.0, 50.0):
        raw = torch.randn(size, dtype=torch.float64) * scale
        y, _ = spline(x, raw.expand(len(x), size), inverse=inverse)
        assert (y.diff() > 0).all()


@KINDS
@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_gradients_are_finite_everywhere(spline, size, inverse, dtype, scale):
    bound = BOUND if size % 3 else math.pi
    _, raw = example(size, 1000, dtype, scale)
    raw = raw.clamp(-50, 50)
    largest = torch.finfo(dtype).max
    for value in (-largest, -50.0, -bound, 0.0, bound, 50.0, 1e30, largest):
        assert_finite_gradients(spline, raw.new_full((1000,), value), raw, inverse)
    at_knots = knots(raw[..., BINS:] if inverse else raw, bound=bound)
    for x in at_knots.unbind(-1):
        assert_finite_gradients(spline, x, raw, inverse)


@KINDS
@DIRECTIONS
@pytest.mark.parametrize("sign", [-50.0, 50.0])
def test_gradients_are_finite_for_one_extreme_bin(spline, size, inverse, sign):
    raw = sign * torch.eye(size)
    for value in (-2.9, -1.0, 0.0, 0.7, 2.9999):
        assert_finite_gradients(spline, torch.full((size,), value), raw, inverse)


@KINDS
@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [7, 8, 10])
def test_the_derivative_at_a_knot_is_not_lost_to_rounding(spline, size, inverse, dtype, bins):
    """Ten bins, since 0.1 has no exact representation: where rounding puts a knot beyond the bin's end."""
    raw = torch.zeros(bins + 1, 3 * bins - (size % 3 != 0), dtype=dtype)
    bound = BOUND if size % 3 else math.pi
    x = torch.linspace(-bound, bound, bins + 1, dtype=dtype)
    torch.testing.assert_close(derivative(spline, x, raw, inverse), torch.ones_like(x), atol=1e-5, rtol=0)
    # The middle of a bin is where both roots of the inverse meet.
    middle = (x[1:] + x[:-1]) / 2
    torch.testing.assert_close(derivative(spline, middle, raw[1:], inverse), torch.ones_like(middle), atol=1e-5, rtol=0)


@KINDS
@DIRECTIONS
def test_gradients_of_both_orders_are_those_of_finite_differences(spline, size, inverse):
    bins = 3
    x = torch.tensor([-2.5, -1.1, 0.3, 1.4, 2.2], dtype=torch.float64, requires_grad=True)
    raw = torch.randn(5, 3 * bins - (size % 3 != 0), dtype=torch.float64, requires_grad=True)
    function = partial(spline, inverse=inverse)
    assert torch.autograd.gradcheck(function, (x, raw))
    assert torch.autograd.gradgradcheck(function, (x, raw))


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(spline, size, dtype):
    x, raw = example(size, 50, dtype)
    y, log_derivative = spline(x, raw)
    expected, expected_log = spline(x.float(), raw.float())
    assert torch.equal(y, expected) and torch.equal(log_derivative, expected_log)
    assert torch.equal(spline(x.float(), raw)[0], expected)


@KINDS
@DIRECTIONS
def test_every_element_has_its_own_spline_and_shapes_are_kept(spline, size, inverse):
    x, raw = example(size, 12)
    y, log_derivative = spline(x, raw, inverse=inverse)
    shaped, shaped_log = spline(x.view(2, 3, 2), raw.view(2, 3, 2, size), inverse=inverse)
    assert shaped.shape == shaped_log.shape == (2, 3, 2)
    torch.testing.assert_close(shaped.flatten(), y)
    torch.testing.assert_close(shaped_log.flatten(), log_derivative)
    for i in range(12):
        single, single_log = spline(x[i], raw[i], inverse=inverse)
        torch.testing.assert_close((single, single_log), (y[i], log_derivative[i]))


@KINDS
@DIRECTIONS
def test_an_empty_batch_works(spline, size, inverse):
    x, raw = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4, size, requires_grad=True)
    y, log_derivative = spline(x, raw, inverse=inverse)
    assert y.shape == log_derivative.shape == (0, 4)
    (y.sum() + log_derivative.sum()).backward()
    assert raw.grad is not None and raw.grad.shape == raw.shape


@pytest.mark.parametrize("bins", [1, 2, 5, 2000])
def test_any_number_of_bins(bins):
    x, raw = example(3 * bins - 1, 20, scale=0.3)
    torch.testing.assert_close(LINE(LINE(x, raw)[0], raw, inverse=True)[0], x, atol=1e-9, rtol=0)
    x, raw = example(3 * bins, 20, scale=0.3)
    y, _ = circular_rational_quadratic(x, raw)
    torch.testing.assert_close(circular_rational_quadratic(y, raw, inverse=True)[0], x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@DIRECTIONS
def test_the_circle_is_closed_and_keeps_its_fixed_point(dtype, inverse):
    raw = torch.randn(200, 3 * BINS, dtype=dtype)
    start = raw.new_full((200,), -math.pi)
    below_pi = torch.nextafter(-start, torch.zeros_like(start))
    y, log_derivative = circular_rational_quadratic(start, raw, inverse)
    assert torch.equal(y, start)
    assert log_derivative.abs().min() > 1e-4  # unlike on the line
    end, log_end = circular_rational_quadratic(below_pi, raw, inverse)
    distance = (end - start).remainder(2 * math.pi)
    assert torch.minimum(distance, 2 * math.pi - distance).max() < 1e3 * torch.finfo(dtype).eps
    torch.testing.assert_close(log_end, log_derivative, atol=3e-3 if dtype == torch.float32 else 1e-8, rtol=0)


@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_come_back_in_range(dtype, inverse):
    pi = torch.tensor(math.pi, dtype=dtype)
    near = [torch.nextafter(pi, pi - 1), pi, torch.nextafter(pi, pi + 1), -pi, torch.nextafter(-pi, -pi - 1)]
    for x in (*near, pi * 11, -pi * 100, pi * 1e6):
        y, _ = circular_rational_quadratic(x.expand(500), torch.randn(500, 3 * BINS, dtype=dtype) * 3, inverse)
        assert (y >= -pi).all() and (y < pi).all()


@DIRECTIONS
def test_full_turns_change_nothing(inverse):
    x, raw = example(3 * BINS)
    y, log_derivative = circular_rational_quadratic(x, raw, inverse)
    turned, turned_log = circular_rational_quadratic(x + 6 * math.pi, raw, inverse)
    torch.testing.assert_close((turned, turned_log), (y, log_derivative), atol=1e-9, rtol=0)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
@DIRECTIONS
def test_a_transformed_uniform_is_a_density_of_the_circle(shift, inverse):
    """Riemann sums from anywhere on the circle: the mass is 1, and the derivative averages to one turn."""
    angles = (torch.arange(200_000, dtype=torch.float64) + 0.5) * (2 * math.pi / 200_000) - math.pi
    raw = torch.randn(3 * BINS, dtype=torch.float64).expand(len(angles), -1)
    _, log_derivative = circular_rational_quadratic(angles + shift, raw, inverse)
    density = (log_derivative - math.log(2 * math.pi)).exp()
    assert density.std() > 0.01
    assert density.mean().item() * 2 * math.pi == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [0, 1, 3, 24])
def test_parameters_that_do_not_fit_the_line_are_refused(size):
    with pytest.raises(ValueError, match=rf"raw must be \(4, '3K - 1'\), not \(4, {size}\)"):
        LINE(torch.zeros(4), torch.zeros(4, size))


@pytest.mark.parametrize("size", [0, 1, 2, 23])
def test_parameters_that_do_not_fit_the_circle_are_refused(size):
    with pytest.raises(ValueError, match=rf"raw must be \(4, '3K'\), not \(4, {size}\)"):
        circular_rational_quadratic(torch.zeros(4), torch.zeros(4, size))


@KINDS
def test_a_batch_of_another_shape_is_refused(spline, size):
    with pytest.raises(ValueError, match="raw must be"):
        spline(torch.zeros(6, 2), torch.zeros(4, 3, size))


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(ValueError, match=f"bound must be positive, not {bound}"):
        rational_quadratic(torch.zeros(4), torch.zeros(4, 23), bound)
