"""The flow as a density: it integrates to one, its samples have it, its bits count as they should."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.nn import functional as F

import dlkit
from datamodules import Density2D, Digits
from dlkit.batches import Examples
from dlkit.flows.flow import FlowDistribution

KINDS = {
    "affine": {"transform": "affine", "num_layers": 4},
    "spline": {"transform": "spline", "num_layers": 4, "bound": 3.0},
    "uniform-spline": {"transform": "spline", "num_layers": 4, "base": "uniform", "bound": 3.0},
    "maf": {"transform": "maf", "num_layers": 3},
    "iaf": {"transform": "iaf", "num_layers": 2},
}
every_kind = pytest.mark.parametrize("name", KINDS)


def build(name="affine", data_shape=(2,), spread=0.15, **more):
    """A flow whose last layers, which begin at zero, are anything."""
    flow = dlkit.Flow(data_shape, hidden_dims=(16, 16), **{**KINDS[name], **more})
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += spread * torch.randn_like(parameter)
    return flow


def square(side, cells):
    """Centres of cells of a square about 0, (cells^2, 2), and the area of one."""
    places = (torch.arange(cells) + 0.5) / cells * side - side / 2
    return torch.cartesian_prod(places, places), (side / cells) ** 2


@every_kind
def test_the_density_of_the_plane_integrates_to_one(name):
    flow = build(name).double()
    places, area = square(6.0 if "uniform" in name else 40.0, 1000)
    total = torch.cat([flow.log_prob(part) for part in places.double().split(100_000)]).exp().sum() * area
    assert total.item() == pytest.approx(1.0, abs=1e-3)


@every_kind
def test_samples_have_the_density(name):
    # The mean of any function by samples equals its integral with the density.
    flow = build(name)
    places, area = square(6.0 if "uniform" in name else 40.0, 800)
    density = flow.log_prob(places).exp().double()
    samples = flow.sample(20_000).double()
    for function in (lambda x: (x[:, 0] > 0.3).double(), lambda x: torch.sin(x[:, 0] + 2 * x[:, 1])):
        values = function(samples)
        assert values.mean().item() == pytest.approx(
            float((function(places.double()) * density).sum() * area), abs=4 * float(values.std()) / len(values) ** 0.5 + 1e-3
        )


@every_kind
def test_encoding_and_decoding_undo_each_other_and_the_density_is_the_change_of_variables(name):
    flow = build(name).double()
    x = flow.sample(50)
    z, log_det = flow.inverse(x)
    assert torch.allclose(flow.decode(flow.encode(x)), x, atol=1e-9)
    base = Normal(0, 1).log_prob(z).sum(1) if flow.base == "normal" else torch.tensor(-2 * math.log(6.0)).double()
    assert torch.allclose(flow.log_prob(x), base + log_det, atol=1e-12)


def test_a_new_flow_is_its_base():
    x = torch.randn(5, 2)
    expected = Normal(0, 1).log_prob(x).sum(1)
    for name in ("affine", "maf", "iaf", "spline"):
        assert torch.allclose(dlkit.Flow((2,), **KINDS[name]).log_prob(x), expected, atol=1e-5)
    uniform = dlkit.Flow((2,), **KINDS["uniform-spline"]).log_prob(torch.tensor([[2.9, -2.9], [3.1, 0.0]]))
    assert uniform[0].item() == pytest.approx(-2 * math.log(6)) and uniform[1] == -math.inf


def test_maximum_likelihood_finds_a_correlated_gaussian():
    covariance = torch.tensor([[1.5, 0.9], [0.9, 0.8]])
    target = MultivariateNormal(torch.tensor([1.0, -2.0]), covariance)
    flow = dlkit.Flow((2,), num_layers=4, hidden_dims=(32,))
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for _ in range(600):
        loss, _ = flow.loss(Examples(target.sample((512,))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = target.sample((20_000,))
    divergence = float((target.log_prob(x) - flow.log_prob(x)).mean())
    assert -0.005 <= divergence < 0.02


# Labels and contexts --------------------------------------------------------------------------------------------------


def test_each_label_has_a_density_of_its_own():
    flow = build("affine", num_classes=3)
    places, area = square(40.0, 400)
    densities = [flow.log_prob(places, torch.full((len(places),), label)).exp() for label in range(3)]
    for density in densities:
        assert float(density.sum() * area) == pytest.approx(1.0, abs=2e-3)
    assert not torch.allclose(densities[0], densities[1])
    assert flow.sample(7, torch.tensor([0, 1, 2, 0, 1, 2, 0])).shape == (7, 2)
    assert flow.sample(5).shape == (5, 2)


def test_a_flow_without_labels_takes_no_notice_of_the_data_s():
    flow = build("affine")
    x, y = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    assert torch.equal(flow.loss(Examples(x, y))[0], flow.loss(Examples(x))[0])
    assert torch.equal(flow.encode(x, y), flow.encode(x))


@pytest.mark.parametrize("transform", ["affine", "spline", "maf"])
def test_noise_follows_the_parameters_whoever_changed_their_type(transform):
    flow = dlkit.Flow((2,), transform, num_layers=2, hidden_dims=(8,))
    torch.nn.ModuleDict({"prior": flow}).double()  # of which the flow is not told
    assert flow.sample(3).dtype == flow.distribution().rsample((3,)).dtype == torch.float64
    if transform == "affine":  # splines compute in float32 at the least
        assert flow.bfloat16().sample(3).dtype == torch.bfloat16


def test_a_distribution_is_one_of_torch_s():
    flow = build("affine", context_features=3)
    context = torch.randn(4, 3, requires_grad=True)
    found = flow.distribution(context)
    assert isinstance(found, FlowDistribution) and found.batch_shape == (4,) and found.event_shape == (2,)
    x = found.rsample((5,))
    assert x.shape == (5, 4, 2)
    log_prob = found.log_prob(x)
    assert log_prob.shape == (5, 4)
    assert torch.allclose(log_prob[2], flow.log_density(x[2], context))
    (x.sum() + log_prob.sum()).backward()
    assert context.grad is not None and context.grad.abs().sum() > 0
    assert torch.allclose(found.log_prob(x[0, 0]), flow.log_density(x[0, 0].expand(4, 2), context))  # broadcast
    wider = found.expand((2, 4))
    assert wider.batch_shape == (2, 4) and wider.rsample((3,)).shape == (3, 2, 4, 2)
    assert torch.allclose(wider.log_prob(x[0]), log_prob[0].expand(2, 4))
    labelled = build("affine", num_classes=3).distribution(torch.tensor([0, 2]))
    assert labelled.batch_shape == (2,) and labelled.log_prob(labelled.sample((5,))).shape == (5, 2)
    with pytest.raises(ValueError, match="levels have no density"):
        build("affine", num_levels=4).distribution()
    single = build("affine").distribution()
    assert single.sample().shape == (2,) and single.log_prob(single.sample()).shape == ()
    assert Independent(Normal(torch.zeros(2), 1), 1).event_shape == single.event_shape


def test_a_flow_serves_as_the_posterior_of_a_variational_model():
    # KL[q | N(0, 1)] by samples of a new flow's distribution is 0.
    flow = dlkit.Flow((2,), num_layers=2)
    q, p = flow.distribution(), Independent(Normal(torch.zeros(2), 1), 1)
    z = q.rsample((100,))
    assert (q.log_prob(z) - p.log_prob(z)).abs().max() < 1e-4


@pytest.mark.parametrize(("more", "labels", "message"), [
    ({"num_classes": 2}, None, "needs labels"),
    ({"num_classes": 2}, torch.tensor([0, 2, 1]), "label 2 is outside"),
    ({"context_features": 2}, None, r"needs a context of shape \(3, 2\) and was given none"),
    ({"context_features": 2}, torch.randn(3, 4), r"needs a context of shape \(3, 2\) and was given \(3, 4\)"),
])  # fmt: skip
def test_wrong_labels_and_contexts_are_refused(more, labels, message):
    with pytest.raises(ValueError, match=message):
        build("affine", **more).log_prob(torch.randn(3, 2), labels)


# Pixels ---------------------------------------------------------------------------------------------------------------


def test_the_probabilities_of_all_levels_sum_to_the_density_s_share_within_the_range():
    # With two pixels of 4 levels. The logit's margin leaves room for a density of values outside the range, which is lost.
    flow = build("affine", (2,), num_levels=4)
    levels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) / 3
    total = flow.log_likelihood(levels.repeat(4000, 1)).exp().view(4000, 16).mean(0).sum()
    y = flow(flow.base_sample(100_000))[0]
    within = ((y.sigmoid() > flow.logit_margin) & (y.sigmoid() < 1 - flow.logit_margin)).all(1).float().mean()
    assert 0.5 < within < 1
    assert total.item() == pytest.approx(within.item(), abs=0.01)


margins = pytest.mark.parametrize("margin", [0.05, 1e-6])


@margins
def test_bits_per_dimension_are_those_of_a_uniform_density_where_nothing_is_known(margin):
    # A density of v = (k + u) / L that is uniform has log2 L bits: here the flow's y = logit(...) with the right density.
    flow = dlkit.Flow((1, 2, 2), num_levels=17, logit_margin=margin)
    x = torch.randint(17, (1000, 1, 2, 2)) / 16
    y, log_det = flow.dequantize(x)
    log_uniform = (F.logsigmoid(y) + F.logsigmoid(-y) - math.log(1 - 2 * margin)).flatten(1).sum(1)
    bits = -(log_uniform + log_det) / (4 * math.log(2))
    assert torch.allclose(bits, torch.full_like(bits, math.log2(17)), atol=1e-4)
    loss, terms = flow.loss(Examples(x))
    assert terms["bits_per_dim"].item() == pytest.approx(loss.item() / (4 * math.log(2)))


@margins
def test_quantising_undoes_dequantising(margin):
    flow = dlkit.Flow((1, 4, 4), num_levels=256, logit_margin=margin)
    x = torch.randint(256, (50, 1, 4, 4)) / 255
    y, _ = flow.dequantize(x)
    assert torch.equal(flow.quantize(y), x)
    levels = flow.sample(3) * 255
    assert levels.shape == (3, 1, 4, 4) and (levels - levels.round()).abs().max() < 1e-3


def test_more_draws_of_the_noise_tighten_the_bound():
    flow = build("affine", (1, 2, 2), num_levels=5)
    x = torch.randint(5, (200, 1, 2, 2)) / 4
    bounds = [flow.log_prob(x, num_samples=count).mean() for count in (1, 8, 64)]
    assert bounds[0] < bounds[1] < bounds[2]


def test_pixels_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\] and the data spans \[0, 255\]"):
        dlkit.Flow((2,), num_levels=256).loss(Examples(torch.tensor([[0.0, 255.0]])))


def test_glow_keeps_the_shape_of_pictures():
    flow = dlkit.Flow((1, 8, 8), "glow", num_layers=2, hidden_dims=(8,), num_levels=17).eval()
    data = Digits(batch_size=32)
    x = next(iter(data.batches("train"))).x
    assert flow.encode(x).shape == (32, 64)
    assert flow.sample(3).shape == (3, 1, 8, 8)
    y = flow.dequantize(x)[0]
    assert torch.allclose(flow(flow.inverse(y)[0])[0], y, atol=1e-3)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    ({"transform": "planar"}, "unknown transform 'planar'"),
    ({"base": "cauchy"}, "unknown base 'cauchy'"),
    ({"base": "uniform"}, "base='uniform' ends where a spline does"),
    ({"num_layers": 0}, "num_layers=0"),
    ({"bound": -1.0}, "bound=-1.0"),
    ({"num_levels": 1}, "num_levels=1"),
    ({"logit_margin": 0.5}, "logit_margin=0.5"),
    ({"logit_margin": 1e-9}, "logit_margin=1e-09"),
    ({"num_classes": 2, "context_features": 3}, "give one of them"),
    ({"transform": "glow", "num_classes": 2, "data_shape": (1, 8, 8)}, "takes no labels"),
    ({"transform": "glow", "data_shape": (1, 6, 6)}, "cannot be halved so often"),
    ({"data_shape": (1,)}, "cannot be cut into two halves"),
    ({"transform": "maf", "hidden_dims": ()}, "at least one hidden layer"),
    ({"transform": "glow", "hidden_dims": (), "data_shape": (1, 8, 8)}, "at least one hidden layer"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dlkit.Flow(**{"data_shape": (2,), **arguments})


def test_data_of_another_shape_or_beyond_the_base_is_refused():
    with pytest.raises(ValueError, match=r"built for examples of shape \(2,\) and was given \(3,\)"):
        build("affine").loss(Examples(torch.randn(4, 3)))
    with pytest.raises(ValueError, match="the data reaches 7 and base='uniform' ends at bound=3"):
        build("uniform-spline").loss(Examples(torch.tensor([[0.0, 7.0]])))


# Compiled ------------------------------------------------------------------------------------------------------------

SMALL = {"num_layers": 2, "num_bins": 4}  # the compiler takes its time for every bin of every layer
COMPILED = {
    **{name: (name, (4,), {}) for name in ("affine", "maf")},
    **{name: (name, (4,), SMALL) for name in ("spline", "uniform-spline")},
    "labels": ("spline", (3,), {"num_classes": 3, **SMALL}),
    "context": ("affine", (3,), {"context_features": 2}),
    "pixels": ("affine", (1, 2, 2), {"num_levels": 17}),
}


def compiled(flow, in_one_piece=True):
    torch._dynamo.reset()
    flow.compile_parts(backend="aot_eager", fullgraph=in_one_piece)
    return flow


@pytest.mark.parametrize("kind", COMPILED)
def test_a_compiled_flow_has_the_same_loss_and_gradients(kind):
    name, data_shape, more = COMPILED[kind]
    flow = build(name, data_shape, **more)
    x = torch.rand(30, *data_shape)
    y = torch.randint(3, (30,)) if kind == "labels" else torch.randn(30, 2)
    sides = []
    for made in flow, compiled(copy.deepcopy(flow)):
        torch.manual_seed(1)
        loss, _ = made.loss(Examples(x, y))
        loss.backward()
        sides.append([loss, *(parameter.grad for parameter in made.parameters())])
    torch.testing.assert_close(sides[1], sides[0])


@pytest.mark.parametrize(
    ("device", "transform", "options"),
    [("cpu", "affine", {"options": {"cpp_wrapper": True}}), ("meta", "affine", {}), ("cpu", "glow", {})],
)
def test_small_kernels_are_called_without_python_on_a_cpu(device, transform, options, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function, **given: seen.append(given) or function)
    dlkit.Flow((1, 4, 4), transform, num_layers=1, hidden_dims=(4,)).to(device).compile_parts()
    assert seen == 4 * [options]  # both directions, the values alone, and the objective


def test_what_a_subclass_changes_is_compiled_too():
    class Doubled(dlkit.Flow):
        def log_density(self, x, labels=None):
            return 2 * super().log_density(x, labels)

    flow, x = Doubled((4,), num_layers=2, hidden_dims=(8,)), torch.randn(30, 4)
    expected = -2 * dlkit.Flow.log_density(flow, x).mean()
    torch.testing.assert_close(compiled(flow).loss(Examples(x))[0], expected)


def test_a_compiled_flow_computes_its_loss_by_what_was_compiled():
    pieces, flow = [], build("spline", (4,))
    torch._dynamo.reset()
    flow.compile_parts(backend=lambda graph, inputs: pieces.append(graph) or graph.forward)
    flow.loss(Examples(torch.randn(30, 4)))
    assert len(pieces) == 1


@pytest.mark.parametrize("function", ["log_prob", "log_likelihood"])
def test_pixels_out_of_range_are_refused_wherever_they_are_given(function):
    flow = build("affine", (4,), num_levels=17)
    with pytest.raises(ValueError, match=r"is for pixels in \[0, 1\] and the data spans \[2, 2\]"):
        getattr(flow, function)(torch.full((3, 4), 2.0))


def test_a_copy_of_a_compiled_flow_is_its_own():
    flow, batch = compiled(build("affine", (4,))), Examples(torch.randn(30, 4))
    before = flow.loss(batch)[0].item()
    twin = copy.deepcopy(flow)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.3
    assert twin.loss(batch)[0].item() != pytest.approx(before)
    assert flow.loss(batch)[0].item() == pytest.approx(before)


def test_a_compiled_flow_refuses_the_same():
    with pytest.raises(ValueError, match=r"is for pixels in \[0, 1\] and the data spans \[0, 2\]"):
        compiled(build("affine", (4,), num_levels=17)).loss(Examples(torch.tensor([[0.0, 1.0, 2.0, 0.5]])))
    with pytest.raises(ValueError, match=r"built for examples of shape \(2,\) and was given \(3,\)"):
        compiled(build("affine"), in_one_piece=False).loss(Examples(torch.randn(4, 3)))
    with pytest.raises(ValueError, match=r"label 3 is outside 0\.\.2"):
        compiled(build("spline", num_classes=3)).loss(Examples(torch.randn(4, 2), torch.tensor([0, 1, 2, 3])))


def test_two_moons_are_learned_in_a_few_steps():
    data = Density2D("moons", num_examples=20_000, batch_size=500, val_size=0)
    flow = dlkit.Flow((2,), num_layers=8, hidden_dims=(32, 32))
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for epoch in range(5):
        for batch in data.batches("train", epoch=epoch):
            loss, _ = flow.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    x = next(iter(data.batches("test"))).x
    gap = float((data.log_density(x) - flow.log_prob(x).double()).mean())
    assert -0.05 < gap < 0.3
