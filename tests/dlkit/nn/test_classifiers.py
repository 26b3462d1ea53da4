"""Classifier networks: shapes, features and head, gradients, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlkit.nn.classifiers import build_classifier

CASES = [
    *[(network, shape) for network in ("logistic", "mlp") for shape in [(1, 8, 8), (3, 32, 32), (2,), (1, 4, 6)]],
    *[("cnn", shape) for shape in [(1, 6, 6), (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)]],
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    network, shape = request.param
    return network, shape, build_classifier(network, shape, 7, hidden_dims=(16, 12), width=4)


def test_there_is_a_logit_for_every_class(case):
    network, shape, model = case
    features = {"logistic": torch.Size(shape).numel(), "mlp": 12, "cnn": 16}[network]
    x = torch.rand(6, *shape)
    assert model(x).shape == (6, 7)
    assert model.features(x).shape == (6, features)


def test_the_head_on_the_features_gives_the_logits(case):
    _, shape, model = case
    model.eval()
    x = torch.rand(6, *shape)
    assert torch.equal(model.head(model.features(x)), model(x))


def test_gradients_reach_every_parameter(case):
    _, shape, model = case
    model(torch.rand(8, *shape)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_examples_of_a_batch_do_not_see_each_other_in_evaluation(case):
    _, shape, model = case
    model.eval()
    x = torch.rand(6, *shape)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))


def test_logistic_regression_is_affine():
    model = build_classifier("logistic", (1, 8, 8), 3)
    x, y = torch.rand(2, 6, 1, 8, 8)
    torch.testing.assert_close(model(0.5 * (x + y)), 0.5 * (model(x) + model(y)))


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_dropout_acts_in_training_and_on_the_features_too(network):
    model = build_classifier(network, (1, 8, 8), 3, hidden_dims=(64,), width=16, dropout=0.5)
    dropped = (model.features(torch.rand(200, 1, 8, 8)) == 0).float().mean()
    model.eval()
    kept = (model.features(torch.rand(200, 1, 8, 8)) == 0).float().mean()
    assert dropped - kept > 0.15
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]


def test_no_bias_stands_before_a_normalisation():
    model = build_classifier("cnn", (1, 28, 28), 3)
    assert all(layer.bias is None for layer in model.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        ("cnn", (1, 28, 32), r"network='cnn' reads square images, and the data is 28x32: use network='mlp'"),
        ("cnn", (2,), r"the data has shape \(2,\): use network='mlp'"),
        ("cnn", (1, 4, 4), r"at least 6x6 pixels, got 4x4: use network='mlp'"),
        ("conv", (1, 8, 8), r"unknown network 'conv': use 'logistic', 'mlp' or 'cnn'"),
    ],
)
def test_a_network_that_cannot_read_the_data_says_why(network, shape, message):
    with pytest.raises(ValueError, match=message):
        build_classifier(network, shape, 7)


def test_an_mlp_without_hidden_layers_is_pointed_to_logistic_regression():
    with pytest.raises(ValueError, match=r"hidden_dims=\(\): use network='logistic'"):
        build_classifier("mlp", (1, 8, 8), 7, hidden_dims=())
