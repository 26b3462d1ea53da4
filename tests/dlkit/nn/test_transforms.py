"""Every layer of a flow: inverse, log-determinant against autograd's Jacobian, the identity at the start, conditioning."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch.autograd.functional import jacobian

import dlkit
from dlkit.nn.autoregressive import MaskedAutoregressive
from dlkit.nn.coupling import AffineElement, Conditioners, Couplings, SplineElement, couplings
from dlkit.nn.glow import ActNorm, Glow, ImageCoupling, InvertibleConvolution
from dlkit.nn.transforms import Backwards, Chain

CONTEXT = 3
# name -> what builds it, and the shape of one example
TRANSFORMS = {
    "affine": (lambda: couplings(6, 4, AffineElement(), (16, 16)), (6,)),
    "affine-odd": (lambda: couplings(5, 3, AffineElement(), (16,)), (5,)),
    "affine-one": (lambda: couplings(5, 1, AffineElement(), (16,)), (5,)),
    "affine-context": (lambda: couplings(6, 4, AffineElement(), (16,), CONTEXT), (6,)),
    "spline": (lambda: couplings(6, 4, SplineElement(5, 2.0), (16, 16)), (6,)),
    "spline-context": (lambda: couplings(5, 3, SplineElement(4, 2.0), (16,), CONTEXT), (5,)),
    "maf": (lambda: MaskedAutoregressive(6, (17, 13)), (6,)),
    "maf-backwards": (lambda: MaskedAutoregressive(6, (17, 13), backwards=True), (6,)),
    "maf-context": (lambda: MaskedAutoregressive(5, (16, 9), CONTEXT, backwards=True), (5,)),
    "maf-one-feature": (lambda: MaskedAutoregressive(1, (4,)), (1,)),
    "maf-narrow": (lambda: MaskedAutoregressive(7, (3,)), (7,)),
    "maf-chain": (lambda: Chain(MaskedAutoregressive(4, (16,), backwards=bool(n % 2)) for n in range(3)), (4,)),
    "iaf": (lambda: Chain(Backwards(MaskedAutoregressive(4, (16,), backwards=bool(n % 2))) for n in range(2)), (4,)),
    "act-norm": (lambda: ActNorm(3), (3, 2, 4)),
    "convolution": (lambda: InvertibleConvolution(3), (3, 2, 4)),
    "image-coupling": (lambda: ImageCoupling(3, 8), (3, 2, 4)),
    "glow": (lambda: Glow((1, 8, 4), 2, 2, 8), (1, 8, 4)),
    "glow-colour": (lambda: Glow((3, 4, 4), 2, 1, 8), (3, 4, 4)),
}
every_transform = pytest.mark.parametrize("name", TRANSFORMS)


def build(name, dtype=torch.float64, spread=0.2):
    """A transform far from the identity, five examples, and a context where it takes one."""
    make, shape = TRANSFORMS[name]
    transform = make().to(dtype).eval()
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += spread * torch.randn_like(parameter)
    context = torch.randn(5, CONTEXT, dtype=dtype) if name.endswith("context") else None
    return transform, torch.randn(5, *shape, dtype=dtype), context


@every_transform
def test_the_inverse_undoes_the_forward_map_and_their_log_determinants_cancel(name):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        transform, x, context = build(name, dtype)
        with torch.no_grad():
            z, down = transform.inverse(x, context)
            again, up = transform(z, context)
        assert down.shape == up.shape == (5,)
        assert (again - x).abs().max() < tolerance * max(1.0, float(x.abs().max()))
        assert (up + down).abs().max() < tolerance * max(1.0, float(up.abs().max()))


@every_transform
@pytest.mark.parametrize("gradients", [True, False])
def test_the_value_alone_is_that_of_the_forward_map(name, gradients):
    transform, x, context = build(name)
    with torch.set_grad_enabled(gradients):
        z = transform.inverse(x, context)[0]
        before = z.clone()
        found = transform.value(z, context)
        torch.testing.assert_close(found, transform(z, context)[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(z, before) and found.requires_grad == gradients


def test_a_map_that_is_changed_has_no_value_of_the_map_before():
    class Doubled(Couplings):
        def forward(self, z, context=None):
            x, log_det = super().forward(z, context)
            return 2 * x, log_det + len(z[0]) * math.log(2)

    class DoubledFlow(dlkit.Flow):
        def forward(self, z, labels=None):
            x, log_det = super().forward(z, labels)
            return 2 * x, log_det + self.features * math.log(2)

    made, z = couplings(4, 2, AffineElement(), (8,)), torch.randn(3, 4)
    changed = Doubled(made.first, made.second, made.element, made.conditioners)
    assert torch.equal(changed.value(z), 2 * made.value(z))
    assert torch.equal(DoubledFlow((4,), num_layers=2, hidden_dims=(8,)).decode(z), 2 * z)


def test_a_copy_of_a_compiled_transform_is_its_own():
    transform, z, _ = build("affine")
    transform.compile(backend="eager")
    twin = copy.deepcopy(transform)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.1
    assert torch.allclose(twin.value(z), twin(z)[0])
    assert not torch.allclose(twin.value(z), transform.value(z))
    assert torch.allclose(twin.inverse(twin(z)[0])[0], z)


@every_transform
def test_the_log_determinant_is_that_of_the_jacobian(name):
    transform, x, context = build(name)
    found = transform.inverse(x, context)[1]
    for row in range(len(x)):
        own = None if context is None else context[row : row + 1]
        matrix = jacobian(lambda v, own=own: transform.inverse(v[None], own)[0].flatten(), x[row]).view(x[0].numel(), -1)
        assert (torch.linalg.slogdet(matrix)[1] - found[row]).abs() < 1e-10


@every_transform
def test_both_directions_have_gradients_and_agree_with_the_passes_without(name):
    transform, x, context = build(name)
    with torch.no_grad():
        z, log_det = transform.inverse(x, context)
        without = transform(z, context)
    value, change = transform(z.requires_grad_(), context)
    assert torch.allclose(value, without[0], atol=1e-12) and torch.allclose(change, without[1], atol=1e-12)
    (value.sum() + change.sum()).backward()
    for key, parameter in transform.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert z.grad.isfinite().all()
    assert torch.allclose(change, -log_det, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in ("convolution", "glow", "glow-colour")])
def test_a_new_transform_is_the_identity(name):
    make, shape = TRANSFORMS[name]
    transform, x = make().eval(), torch.randn(5, *shape)
    context = torch.randn(5, CONTEXT) if name.endswith("context") else None
    z, log_det = transform.inverse(x, context)
    assert torch.allclose(z, x, atol=1e-5) and log_det.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["affine-context", "spline-context", "maf-context"])
def test_the_context_changes_the_map(name):
    transform, x, context = build(name)
    assert not torch.allclose(transform.inverse(x, context)[0], transform.inverse(x, context.flip(0))[0])


@pytest.mark.parametrize("name", ["affine", "spline", "maf", "iaf"])
def test_the_steps_lead_from_the_base_to_the_data(name):
    transform, z, _ = build(name)
    steps = list(transform.steps(z))
    assert torch.allclose(steps[-1], transform(z)[0])
    assert len(steps) == {"affine": 4, "spline": 4, "maf": 1, "iaf": 2}[name]
    assert all(step.shape == z.shape for step in steps)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("context_features", [0, 2])
def test_an_autoregressive_layer_reads_only_the_features_before(backwards, context_features):
    layer = MaskedAutoregressive(5, (16, 11), context_features, backwards).double()
    torch.nn.init.normal_(layer.head.weight)
    reads = torch.ones(5, 5).tril(-1).bool()
    reads = reads.flip(0, 1) if backwards else reads
    context = torch.randn(1, context_features).double() if context_features else None
    for _ in range(5):
        matrix = jacobian(lambda v: layer.parameters_of(v[None], context)[0, 5:], torch.randn(5).double())
        assert not matrix[~reads].any()
    # and by the masks it can read all of those
    paths = layer.head.mask[:5] @ layer.hidden[1].mask @ layer.hidden[0].mask
    assert torch.equal(paths > 0, reads)


@every_transform
def test_only_the_networks_run_in_half_precision(name):
    transform, x, context = build(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for direction in (transform.inverse, transform):
            for gradients in (True, False):
                with torch.set_grad_enabled(gradients):
                    exact = x if direction == transform.inverse else transform.inverse(x, context)[0]
                    value, log_det = direction(exact, context)
                assert value.dtype == log_det.dtype == torch.float32
                assert value.isfinite().all() and log_det.isfinite().all()


def test_hidden_units_of_a_masked_network_are_in_the_order_of_their_degrees():
    # The feature by feature direction fills them from the left.
    for degrees in MaskedAutoregressive(7, (20, 5), 2).degrees[1:]:
        assert torch.equal(degrees, degrees.sort().values)


def test_act_norm_is_set_by_the_first_training_batch_alone():
    layer, x = ActNorm(3), 5 + 2 * torch.randn(40, 3, 4, 4)
    assert torch.equal(layer.eval().inverse(x)[0], x)  # not by an evaluation
    assert not layer.initialized
    z = layer.train().inverse(x)[0]
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(z.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)
    scale = layer.log_scale.clone()
    layer.inverse(7 * x)
    assert torch.equal(scale, layer.log_scale)
    copy = ActNorm(3)
    copy.load_state_dict(layer.state_dict())
    copy.train().inverse(7 * x)
    assert torch.equal(copy.log_scale, layer.log_scale)


def test_act_norm_refuses_a_first_batch_without_variance():
    with pytest.raises(ValueError, match="one value in each channel"):
        ActNorm(3).train().inverse(torch.randn(1, 3, 1, 1))


def test_an_invertible_convolution_begins_as_a_rotation_and_is_a_matrix_at_each_pixel():
    layer, x = InvertibleConvolution(4), torch.randn(2, 4, 3, 3)
    lower, upper = layer.factors()
    matrix = (lower @ upper).detach()
    assert torch.allclose(matrix @ matrix.T, torch.eye(4), atol=1e-5)
    assert torch.allclose(layer.inverse(x)[0], torch.einsum("oi,bihw->bohw", matrix, x), atol=1e-5)


@pytest.mark.parametrize(("shape", "scales"), [((1, 6, 8), 2), ((1, 7, 8), 1), ((4,), 1)])
def test_pictures_that_cannot_be_squeezed_are_refused(shape, scales):
    with pytest.raises(ValueError, match="cannot be halved so often"):
        Glow(shape, scales, 1, 4)


def test_one_feature_cannot_be_cut():
    with pytest.raises(ValueError, match="cannot be cut into two halves"):
        couplings(1, 2, AffineElement(), (4,))


def test_a_masked_network_needs_a_hidden_layer():
    with pytest.raises(ValueError, match="at least one hidden layer"):
        MaskedAutoregressive(3, ())


CONDITIONERS = {
    "one": [(3, 20, 4)],
    "alike": [(3, 20, 4)] * 3,
    "in turn": [(20, 8, 17, 4), (15, 8, 17, 6)] * 2 + [(20, 8, 17, 4)],
    "without hidden layers": [(3, 4), (4, 3)],
}


def pair(name, feature_major):
    """Networks whose parameters lie together, and the same ones by themselves, by their linear layers."""
    torch.manual_seed(0)
    made = Conditioners(CONDITIONERS[name], feature_major)
    torch.manual_seed(0)
    apart = [[torch.nn.Linear(*widths) for widths in pairwise(sizes)] for sizes in CONDITIONERS[name]]
    return made, apart


def laid_together(made, apart):
    """(stacked tensors, network's number, the same network's own layer) of every layer of every network."""
    for stacked, layers in zip(made.layers, zip(*apart, strict=True), strict=True):
        yield from ((stacked, number, layer) for number, layer in enumerate(layers))


def part(tensors, number):
    return tensors[number % len(tensors)][number // len(tensors)]


every_conditioner = pytest.mark.parametrize("name", CONDITIONERS)


@every_conditioner
def test_conditioners_begin_as_linear_layers_do_and_their_last_ones_with_zeros(name):
    made, apart = pair(name, False)
    for stacked, number, layer in laid_together(made, apart):
        last = stacked is made.layers[-1]
        assert torch.equal(part(stacked.weights, number), 0 * layer.weight if last else layer.weight)
        assert torch.equal(part(stacked.biases, number), 0 * layer.bias if last else layer.bias)
    assert len(list(made.parameters())) == (
        4 if name == "without hidden layers" else 2 * len(apart[0]) + 4 * (name == "in turn")
    )


@pytest.mark.parametrize("feature_major", [True, False])
@every_conditioner
def test_conditioners_are_linear_layers_with_relu_between_them(name, feature_major):
    made, apart = pair(name, feature_major)
    with torch.no_grad():
        for stacked, number, layer in laid_together(made, apart):
            part(stacked.weights, number).copy_(layer.weight)
            part(stacked.biases, number).copy_(layer.bias)
    for network, layers in zip(made, apart, strict=True):
        x = torch.randn(7, layers[0].in_features)
        expected = layers[0](x)
        for layer in layers[1:]:
            expected = layer(expected.relu())
        y = network(x)
        torch.testing.assert_close(y, expected)
        assert y.stride() == ((1, 7) if feature_major else (layers[-1].out_features, 1))
        (y.square().sum() + expected.square().sum()).backward()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert network(x).dtype == torch.bfloat16
    for stacked, number, layer in laid_together(made, apart):
        torch.testing.assert_close(part([weight.grad for weight in stacked.weights], number), layer.weight.grad)
        torch.testing.assert_close(part([bias.grad for bias in stacked.biases], number), layer.bias.grad)


@pytest.mark.parametrize("features", [2, 5, 40])
@pytest.mark.parametrize("element", [AffineElement(), SplineElement(4, 2.0)])
def test_gradients_of_conditioners_lie_in_memory_as_their_parameters_do(element, features):
    made = couplings(features, 4, element, (20, 17))
    made.inverse(torch.randn(8, features))[1].sum().backward()
    for parameter in made.parameters():
        assert parameter.grad.stride() == parameter.stride()


def test_couplings_hold_the_networks_of_a_list():
    networks = [torch.nn.Linear(2, 4), torch.nn.Linear(2, 4)]
    made = Couplings(torch.tensor([0, 2]), torch.tensor([1, 3]), AffineElement(), networks)
    assert list(made.conditioners) == networks and len(list(made.parameters())) == 4


def test_conditioners_without_a_width_are_refused():
    with pytest.raises(ValueError, match=r"widths, \(3, 0, 4\), have to be"):
        Conditioners([(3, 0, 4)], False)


@pytest.mark.parametrize("sizes", [[], [(2, 4), (3, 4), (2, 5)], [(2, 4), (2, 3, 4)]], ids=["none", "widths", "layers"])
def test_conditioners_that_do_not_alternate_are_refused(sizes):
    with pytest.raises(ValueError, match="have to be those of one network or of two in turn"):
        Conditioners(sizes, False)
