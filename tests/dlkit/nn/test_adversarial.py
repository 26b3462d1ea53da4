"""Generators and critics: shapes, range, labels, starting weights, errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dlkit.nn.adversarial import (
    Maxout,
    build_critic,
    build_generator,
    doublings,
    has_batch_norm,
    normalize_spectrally,
)

PICTURES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
CASES = [
    *[(network, shape) for network in ("mlp", "maxout") for shape in [(2,), *PICTURES]],
    *[(network, shape) for network in ("dcgan", "resnet") for shape in PICTURES],
]
LATENT = 5


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


def pair(network, shape, num_classes=None, generator_norm="none", critic_norm="none"):
    if network == "resnet" and num_classes:
        generator_norm = "batch"
    sizes = {"hidden_dims": (16, 12), "width": 4, "num_classes": num_classes}
    generator = build_generator(network, LATENT, shape, norm=generator_norm, **sizes)
    return generator, build_critic(network, shape, norm=critic_norm, **sizes)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_latents_become_examples_and_examples_one_logit_each(case, num_classes):
    network, shape = case
    generator, critic = pair(network, shape, num_classes)
    labels = torch.tensor([0, 1, 2, 0, 1, 2]) if num_classes else None
    x = generator(torch.randn(6, LATENT), labels)
    assert x.shape == (6, *shape)
    assert critic(x, labels).shape == (6,)


def test_pictures_lie_in_minus_one_to_one_however_large_the_weights_and_vectors_are_free(case):
    network, shape = case
    generator = pair(network, shape)[0].eval()
    for parameter in generator.parameters():
        parameter.data.mul_(100)
    x = generator(100 * torch.randn(6, LATENT))
    assert (x.abs().max() <= 1) == (len(shape) == 3)


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_gradients_reach_every_parameter_of_both(case, num_classes, norm):
    network, shape = case
    generator, critic = pair(network, shape, num_classes, generator_norm=norm)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]) if num_classes else None
    critic(generator(torch.randn(8, LATENT), labels), labels).square().sum().backward()
    for name, parameter in [*generator.named_parameters(), *critic.named_parameters()]:
        assert parameter.grad is not None, name
        # A bias before batch normalisation is subtracted again with the mean: its gradient is zero.
        assert parameter.grad.abs().sum() > 0 or name.endswith("bias"), name


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_examples_of_a_batch_do_not_see_each_other_in_a_critic(case, norm):
    network, shape = case
    critic = pair(network, shape, critic_norm=norm)[1].eval()
    x = torch.rand(6, *shape)
    torch.testing.assert_close(critic(x)[2:3], critic(x[2:3]))
    assert not has_batch_norm(critic)


def test_every_label_has_an_output_of_its_own(case):
    network, shape = case
    generator, critic = pair(network, shape, 3)
    if network == "resnet":  # conditional normalisation starts with the same scale and shift for all
        for module in generator.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
    z, x = torch.randn(1, LATENT).expand(3, -1), torch.rand(1, *shape).expand(3, *shape)
    generated = generator.eval()(z, torch.arange(3)).flatten(1)
    assert torch.pdist(generated).min() > 0
    assert torch.pdist(critic(x, torch.arange(3))[:, None]).min() > 0


def test_a_conditional_critic_adds_the_inner_product_of_the_features_and_the_labels_vector(case):
    network, shape = case
    critic = pair(network, shape, 3)[1]
    x, labels = torch.rand(6, *shape), torch.tensor([0, 1, 2, 2, 1, 0])
    features = critic.trunk(x)
    projection = torch.stack([row @ critic.embedding.weight[label] for row, label in zip(features, labels, strict=True)])
    torch.testing.assert_close(critic(x, labels), features @ critic.head.weight[0] + critic.head.bias + projection)


def test_logits_are_in_single_precision_also_where_the_network_runs_in_half(case):
    network, shape = case
    critic = pair(network, shape)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(torch.rand(6, *shape)).dtype == torch.float32
    assert critic.double()(torch.rand(6, *shape).double()).dtype == torch.float64


def test_a_maxout_unit_is_the_largest_of_its_affine_maps():
    layer, x = Maxout(3, 4, pieces=5), torch.randn(6, 3)
    weights, biases = (parameter.unflatten(0, (4, 5)).unbind(1) for parameter in layer.parameters())
    maps = [x @ weight.T + bias for weight, bias in zip(weights, biases, strict=True)]
    torch.testing.assert_close(layer(x), torch.stack(maps).amax(0))


def spread(parameter):
    return parameter.std().item()


def test_dcgan_with_batch_normalisation_starts_small_as_in_the_paper():
    sizes = {"width": 32, "norm": "batch"}
    for network in (build_generator("dcgan", 64, (1, 32, 32), **sizes), build_critic("dcgan", (1, 32, 32), **sizes)):
        weights = [layer.weight for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
        for weight in weights:
            assert spread(weight) == pytest.approx(0.02, rel=5 / math.sqrt(2 * weight.numel()))
            assert weight.mean().item() == pytest.approx(0, abs=5 * 0.02 / math.sqrt(weight.numel()))
        scales = torch.cat([layer.weight for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)])
        assert scales.mean().item() == pytest.approx(1, abs=0.01)
        assert spread(scales) == pytest.approx(0.02, rel=0.4)
        assert all((value == 0).all() for name, value in network.named_parameters() if name.endswith("bias"))


def test_dcgan_without_batch_normalisation_does_not_start_small():
    for network in (build_generator("dcgan", 64, (1, 32, 32)), build_critic("dcgan", (1, 32, 32))):
        weights = [layer.weight for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
        assert spread(weights[0]) > 0.05


def test_batch_normalisation_stands_where_it_is_asked_for_and_nowhere_else(case):
    network, shape = case
    assert has_batch_norm(pair(network, shape)[0]) == (network == "maxout")
    assert has_batch_norm(pair(network, shape, generator_norm="batch")[0])
    assert not has_batch_norm(pair(network, shape)[1])
    if network == "dcgan":
        critic = pair(network, shape, critic_norm="batch")[1]
        convolutions = [layer for layer in critic.modules() if isinstance(layer, nn.Conv2d)]
        norms = [layer for layer in critic.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert len(norms) == len(convolutions) - 1  # the layer that reads the picture has none


def test_dcgan_reads_and_writes_by_convolutions_of_stride_two():
    generator, critic = pair("dcgan", (3, 32, 32))
    up = [layer for layer in generator.modules() if isinstance(layer, nn.ConvTranspose2d)]
    down = [layer for layer in critic.modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in up] == [(16, 8), (8, 4), (4, 3)]
    assert [(layer.in_channels, layer.out_channels) for layer in down] == [(3, 4), (4, 8), (8, 16)]
    assert all(layer.stride == (2, 2) and layer.kernel_size == (4, 4) for layer in [*up, *down])


@pytest.mark.parametrize(("side", "sides"), [(8, [2, 4, 8]), (28, [7, 14, 28]), (32, [4, 8, 16, 32]), (64, [4, 8, 16, 32, 64])])
def test_pictures_grow_by_doubling(side, sides):
    assert doublings(side) == sides


def test_spectral_normalisation_reaches_every_layer_with_weights(case):
    network, shape = case
    critic = build_critic(network, shape, hidden_dims=(16, 12), width=4, norm="spectral", num_classes=3)
    layers = [layer for layer in critic.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding))]
    assert layers and all(hasattr(layer, "parametrizations") for layer in layers)


def test_spectral_normalisation_does_not_change_in_evaluation():
    network = nn.Sequential(nn.Linear(6, 8))
    normalize_spectrally(network)
    with torch.no_grad():
        network[0].parametrizations.weight.original.normal_()
    network.eval()
    x = torch.randn(2, 6)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("build", [lambda *case: build_generator(case[0], LATENT, case[1]), build_critic])
@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        ("dcgan", (2,), r"network='dcgan' reads images .* the data has shape \(2,\): use network='mlp'"),
        ("resnet", (2,), r"network='resnet' reads images .* the data has shape \(2,\): use network='mlp'"),
        ("dcgan", (1, 28, 32), r"reads square images, and the data is 28x32: use network='mlp'"),
        ("resnet", (1, 28, 32), r"reads square images, and the data is 28x32: use network='mlp'"),
        ("dcgan", (1, 27, 27), r"pictures of side 27 cannot be reached by doubling: pad them"),
        ("dcgan", (1, 2, 2), r"pictures of side 2 cannot be reached by doubling"),
        ("stylegan", (1, 8, 8), r"unknown network 'stylegan': use 'mlp', 'maxout', 'dcgan' or 'resnet'"),
    ],
)
def test_a_network_that_cannot_take_the_data_says_why(build, network, shape, message):
    with pytest.raises(ValueError, match=message):
        build(network, shape)


def test_an_unknown_or_misplaced_normalisation_is_refused():
    with pytest.raises(ValueError, match=r"unknown norm 'layer' of the generator: use 'none' or 'batch'"):
        build_generator("mlp", LATENT, (2,), norm="layer")
    with pytest.raises(ValueError, match=r"unknown norm 'layer' of the critic: use 'none', 'batch' or 'spectral'"):
        build_critic("mlp", (2,), norm="layer")
    with pytest.raises(ValueError, match=r"the critic 'mlp' has no batch normalisation: use norm='none' or 'spectral'"):
        build_critic("mlp", (2,), norm="batch")
    with pytest.raises(ValueError, match=r"conditional 'resnet' reads its labels by batch normalisation, use norm='batch'"):
        build_generator("resnet", LATENT, (1, 8, 8), num_classes=3)
