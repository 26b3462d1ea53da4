"""Generators of latents: samples, labels and units, and input that they refuse."""

from __future__ import annotations

import pytest
import torch

import dlkit
from datamodules.loader import Loader
from dlkit.batches import Examples
from dlkit.callbacks import RandomState
from dlkit.nn.adversarial import build_critic
from dlkit.protocols import Decodes, Samples

from .players import METHODS, batch_for, every_method, fit, trainer


@every_method
def test_it_samples_decodes_and_discriminates_in_the_datas_units(name):
    method = METHODS[name]()
    assert isinstance(method, Samples) and isinstance(method, Decodes)
    labels = torch.arange(6) if method.num_classes else None
    x = method.sample(6)
    assert x.shape == (6, *method.data_shape)
    assert method.decode(torch.randn(6, method.latent_dim), labels).shape == x.shape
    if len(method.data_shape) == 3:
        assert x.min() >= 0 and x.max() <= 1
        assert torch.equal(method.standardize(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(method.restore(method.standardize(x)), x)
    assert method.discriminate(x, labels).shape == (6,)
    assert method.training and not x.requires_grad


@pytest.mark.parametrize("name", ["gan", "wgan-gp"])
def test_a_model_of_data_of_another_scale_is_the_same_model_in_other_units(name):
    """Of data s times as large, divided by s inside."""
    method, scaled = METHODS[name](), METHODS[name](data_scale=4.0)
    scaled.load_state_dict(method.state_dict())
    batch, z = batch_for(method), torch.randn(5, 2)
    for loss in ("critic_loss", "generator_loss"):
        torch.manual_seed(1)
        expected = getattr(method, loss)(batch)[0]
        torch.manual_seed(1)
        torch.testing.assert_close(getattr(scaled, loss)(batch._replace(x=4 * batch.x))[0], expected)
    torch.testing.assert_close(scaled.decode(z), 4 * method.decode(z))
    torch.testing.assert_close(scaled.discriminate(4 * batch.x), method.discriminate(batch.x))
    torch.testing.assert_close(scaled.pull(4 * batch.x, 4 * batch.x), method.pull(batch.x, batch.x) / 4)
    torch.manual_seed(1)
    expected = method.sample(5)
    torch.manual_seed(1)
    torch.testing.assert_close(scaled.sample(5), 4 * expected)
    if name == "wgan-gp":
        distances = []
        for model, x in ((method, batch.x), (scaled, 4 * batch.x)):
            run = trainer(limit_val_batches=1.0, callbacks=[RandomState()])
            distances.append(run.validate(model, Loader.of(Examples(x), len(x)), verbose=False)[0]["val/wasserstein"])
        assert distances[1] == pytest.approx(4 * distances[0], rel=1e-5)


@every_method
def test_each_generated_example_is_pulled_where_the_generators_loss_falls(name):
    method = METHODS[name]().eval()  # a spectral norm moves on with every use in training
    batch = batch_for(method)
    generated = batch.x.flip(0)
    labels = batch.y if method.num_classes else None
    x, real = method.standardize(generated).requires_grad_(), method.standardize(batch.x)
    (gradient,) = torch.autograd.grad(method.generator_objective(real, x, labels), x)
    found = method.pull(generated, batch.x, labels)
    assert found.shape == generated.shape and not found.requires_grad
    torch.testing.assert_close(found, -len(x) * gradient / method.unit)
    with pytest.raises(ValueError, match=r"11 real examples beside 12 generated ones: give as many"):
        method.pull(generated, batch.x[1:], labels)


@pytest.mark.parametrize("name", ["conditional", "wgan-spectral", "resnet"])
def test_labels_matter_to_both_players(name):
    method = METHODS[name](ema_decay=0.5)
    fit(method, 300)
    batch = batch_for(method)
    moved = Examples(batch.x, (batch.y + 1) % method.num_classes)
    for loss in (method.critic_loss, method.generator_loss):
        values = []
        for examples in (batch, batch, moved):
            torch.manual_seed(1)
            values.append(loss(examples)[0].item())
        assert values[2] != values[0]
    z = torch.randn(1, method.latent_dim).expand(2, -1)
    first, second = method.decode(z, torch.tensor([0, 1]))
    assert not torch.equal(first, second)
    assert not torch.equal(*method.discriminate(batch.x[:1].expand(2, *batch.x.shape[1:]), torch.tensor([0, 1])))
    assert method.critic.embedding.weight.shape[0] == method.num_classes
    assert method.sample(3, labels=torch.tensor([1, 1, 1])).shape == (3, *method.data_shape)
    torch.manual_seed(2)
    asked = method.sample(400, labels=torch.zeros(400, dtype=torch.int64))
    torch.manual_seed(2)
    assert not torch.equal(asked, method.sample(400))


def test_without_labels_a_conditional_model_samples_every_class_evenly():
    seen = []

    class Watching(dlkit.GAN):
        def build_generator(self):
            network = super().build_generator()
            network.register_forward_hook(lambda module, given, made: seen.append(given[1]))
            return network

    Watching((2,), 2, num_classes=4).sample(4000)
    assert (seen[0].bincount() - 1000).abs().max() < 150


class WithBatchNorm:
    def build_critic(self):
        return build_critic("dcgan", self.data_shape, width=4, norm="batch")


def test_a_batch_normalised_critic_never_sees_real_and_generated_examples_as_one():
    seen = []

    class Watching(WithBatchNorm, dlkit.GAN):
        def build_critic(self):
            network = super().build_critic()
            network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
            return network

    Watching((1, 16, 16), network="dcgan", width=4).critic_loss(Examples(torch.rand(12, 1, 16, 16)))
    assert seen == [12, 12]


def test_examples_of_another_shape_are_refused():
    for name in ("dcgan", "resnet"):
        method = METHODS[name]()
        batch = Examples(torch.rand(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64))
        for function, given in ((method.critic_loss, batch), (method.generator_loss, batch), (method.discriminate, batch.x)):
            with pytest.raises(ValueError, match=r"built for examples of shape \(1, 8, 8\) and was given \(1, 9, 9\)"):
                function(given)


@pytest.mark.parametrize("x", [torch.full((4, 1, 8, 8), 255.0), torch.full((4, 1, 8, 8), -1.0)], ids=["bytes", "centred"])
def test_pictures_of_another_range_are_refused(x):
    method = dlkit.GAN((1, 8, 8), 4, network="dcgan", width=4)
    with pytest.raises(ValueError, match=r"pictures with values from .* bring them into \[0, 1\]"):
        method.critic_loss(Examples(x))


def test_labels_that_a_model_cannot_use_are_refused():
    plain, conditional = METHODS["gan"](), METHODS["conditional"]()
    x, z = torch.randn(3, 2), torch.randn(3, 2)
    labels = torch.zeros(3, dtype=torch.int64)
    for call in (lambda: plain.sample(3, labels), lambda: plain.decode(z, labels), lambda: plain.discriminate(x, labels)):
        with pytest.raises(ValueError, match=r"this GAN is not conditional and takes no labels: leave them out"):
            call()
    for wrong, message in (
        (labels[:2], r"2 labels for 3 examples: give one for each"),
        (labels + 8, r"label 8 is outside 0\.\.7: set num_classes"),
        (labels - 1, r"label -1 is outside 0\.\.7"),
        (labels.float(), r"GAN was given labels of shape \(3,\), torch\.float32: give a vector of int64"),
    ):
        for function in (conditional.decode, conditional.discriminate):
            with pytest.raises(ValueError, match=message):
                function(x, wrong)
        with pytest.raises(ValueError, match=message):
            conditional.sample(3, wrong)
    for function in (conditional.decode, conditional.discriminate):
        with pytest.raises(ValueError, match=r"this GAN is conditional: give a label for each of the 3 examples"):
            function(x)


def test_data_without_the_labels_that_a_conditional_model_needs_is_refused():
    method, x = METHODS["conditional"](), torch.randn(3, 2)
    for loss in (method.critic_loss, method.generator_loss):
        with pytest.raises(ValueError, match=r"GAN needs labels and the data has none"):
            loss(Examples(x, None))
        with pytest.raises(ValueError, match=r"label 9 is outside 0\.\.7: set num_classes"):
            loss(Examples(x, torch.tensor([0, 1, 9])))


def test_more_classes_than_the_data_has_are_refused():
    with pytest.raises(ValueError, match="num_classes=9 and the data has 8"):
        fit(dlkit.GAN((2,), 2, hidden_dims=(8,), num_classes=9))


def test_no_sample_cannot_be_asked_for():
    with pytest.raises(ValueError, match="n=0: ask for at least one sample"):
        dlkit.GAN((2,), 2, hidden_dims=(8,)).sample(0)
