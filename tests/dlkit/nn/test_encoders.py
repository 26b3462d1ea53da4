"""Encoders and decoders: shapes, mirrored architectures, the context, gradients, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlkit.nn.encoders import build_decoder, build_encoder, check_image_shape, strides

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 3, 3), (2, 5, 5), (1, 33, 33)]
CASES = [("linear", shape) for shape in [*IMAGES, (2,), (1, 4, 6)]]
CASES += [("mlp", shape) for shape in [*IMAGES, (2,), (1, 4, 6)]]
CASES += [("conv", shape) for shape in IMAGES]


def build(network, shape, context=0):
    encoder = build_encoder(network, shape, 10, hidden_dims=(32, 16), width=4, context_features=context)
    decoder = build_decoder(network, 5, shape, hidden_dims=(32, 16), width=4, context_features=context)
    return encoder, decoder


def affine(module, kinds):
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


@pytest.mark.parametrize(("network", "shape"), CASES, ids=str)
@pytest.mark.parametrize("context", [0, 3])
def test_the_encoder_gives_features_and_the_decoder_gives_the_shape_back(network, shape, context):
    encoder, decoder = build(network, shape, context)
    labels = torch.randn(6, context) if context else None
    assert encoder(torch.rand(6, *shape), labels).shape == (6, 10)
    assert decoder(torch.randn(6, 5), labels).shape == (6, *shape)


@pytest.mark.parametrize(("network", "shape"), CASES, ids=str)
@pytest.mark.parametrize("context", [0, 3])
def test_gradients_reach_every_parameter(network, shape, context):
    encoder, decoder = build(network, shape, context)
    labels = torch.randn(8, context) if context else None
    encoder(torch.rand(8, *shape), labels).square().sum().backward()
    decoder(torch.randn(8, 5), labels).square().sum().backward()
    for half in (encoder, decoder):
        for name, parameter in half.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("network", "shape"), CASES, ids=str)
def test_the_context_is_read_by_both(network, shape):
    encoder, decoder = build(network, shape, context=3)
    x, z = torch.rand(6, *shape), torch.randn(6, 5)
    first, second = torch.eye(3)[0].expand(6, 3), torch.eye(3)[1].expand(6, 3)
    assert ((encoder(x, first) - encoder(x, second)).abs().sum(1) > 0).all()
    assert ((decoder(z, first) - decoder(z, second)).flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize(("network", "shape"), CASES, ids=str)
def test_examples_of_a_batch_do_not_see_each_other(network, shape):
    encoder, decoder = build(network, shape)
    x, z = torch.rand(6, *shape), torch.randn(6, 5)
    torch.testing.assert_close(encoder(x)[2:3], encoder(x[2:3]))
    torch.testing.assert_close(decoder(z)[2:3], decoder(z[2:3]))


@pytest.mark.parametrize(("network", "shape"), CASES, ids=str)
def test_the_decoder_mirrors_the_encoder(network, shape):
    """Reversed, the decoder's weights have the encoder's shapes, when code and latent are of one width."""
    encoder = build_encoder(network, shape, 5, hidden_dims=(32, 16), width=4)
    decoder = build_decoder(network, 5, shape, hidden_dims=(32, 16), width=4)
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    forth = [layer.weight.shape for layer in affine(encoder, kinds)]
    back = [layer.weight.shape for layer in affine(decoder, kinds)][::-1]
    # Linear and Conv2d store (out, in), ConvTranspose2d (in, out); the decoder's last layer is a Conv2d.
    mirrored = [
        shape if isinstance(layer, nn.ConvTranspose2d) else torch.Size([shape[1], shape[0], *shape[2:]])
        for layer, shape in zip(affine(decoder, kinds)[::-1], back, strict=True)
    ]
    assert forth == mirrored


def test_linear_networks_are_affine_maps():
    encoder, decoder = build("linear", (1, 8, 8))
    x, y = torch.rand(2, 6, 1, 8, 8)
    torch.testing.assert_close(encoder(0.5 * (x + y)), 0.5 * (encoder(x) + encoder(y)))
    u, v = torch.randn(2, 6, 5)
    torch.testing.assert_close(decoder(0.5 * (u + v)), 0.5 * (decoder(u) + decoder(v)))


@pytest.mark.parametrize(
    ("size", "sides"),
    [(4, [4]), (3, [3]), (8, [8, 4]), (28, [28, 14, 7, 4]), (32, [32, 16, 8, 4]), (33, [33, 17, 9, 5, 3])],
)
def test_pictures_are_halved_until_they_are_four_pixels_wide(size, sides):
    assert strides(size) == sides


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_the_convolutions_pass_through_those_sides(shape):
    encoder, decoder = build("conv", shape)
    x, seen = torch.rand(1, *shape), []
    for layer in encoder.trunk:
        x = layer(x)
        seen.append(x.shape[-1])
    assert seen[::2] == strides(shape[1])
    x, seen = decoder.head(torch.randn(1, 5)).unflatten(1, decoder.seed_shape), []
    for layer in decoder.trunk:
        x = layer(x)
        seen.append(x.shape[-1])
    assert [decoder.seed_shape[-1], *seen[:-1:2]] == strides(shape[1])[::-1]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)], ids=str)
def test_every_pixel_is_seen_and_every_pixel_is_drawn(shape):
    """With positive weights a pixel that no kernel covered would have no influence at all."""
    encoder, decoder = build("conv", shape)
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *decoder.parameters()]:
            parameter.abs_().add_(1e-3)
    x = torch.rand(1, *shape, requires_grad=True)
    encoder(x).sum().backward()
    assert (x.grad > 0).all()
    z = torch.rand(1, 5)
    assert (decoder(2 * z) > decoder(z)).all()


@pytest.mark.parametrize("build_network", [build_encoder, build_decoder])
def test_wrong_shapes_and_names_are_refused(build_network):
    def call(network, shape):
        return build_network(network, shape, 4) if build_network is build_encoder else build_network(network, 4, shape)

    with pytest.raises(ValueError, match=r"reads square images, and the data is 28x32: use network='mlp'"):
        call("conv", (1, 28, 32))
    with pytest.raises(ValueError, match=r"the data has shape \(2,\): use network='mlp'"):
        call("conv", (2,))
    with pytest.raises(ValueError, match=r"unknown network 'transformer': use 'linear', 'mlp' or 'conv'"):
        call("transformer", (1, 28, 28))
    with pytest.raises(ValueError, match=r"all positive, got"):
        build_encoder("mlp", (2,), 4, hidden_dims=(16, 0))


def test_a_wrong_example_is_refused():
    encoder, decoder = build("mlp", (1, 8, 8))
    with pytest.raises(RuntimeError):
        encoder(torch.rand(2, 1, 9, 9))
    with pytest.raises(RuntimeError):
        decoder(torch.rand(2, 6))


def test_a_square_image_passes_the_check():
    assert check_image_shape("conv", [3, 8, 8]) == (3, 8, 8)
