"""Classifier: its loss, its records, its abilities and what it refuses."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch.nn import functional as F

import dlkit
from datamodules import Digits
from dlkit.batches import Examples

NETWORKS = ["logistic", "mlp", "cnn"]


def build(network="mlp", **arguments):
    return dlkit.Classifier((1, 8, 8), 10, network, hidden_dims=(64,), width=8, **arguments)


@pytest.fixture
def batch():
    return Examples(torch.rand(40, 1, 8, 8), torch.arange(40) % 10)


@pytest.fixture(scope="module")
def fitted():
    """A classifier after five epochs on Digits, its data, and its metrics in validation and in the test."""
    torch.manual_seed(0)
    data, classifier = Digits(batch_size=50), build(dropout=0.2, label_smoothing=0.1, learning_rate=5e-3)
    trainer = L.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, datamodule=data)
    validated = dict(trainer.callback_metrics)
    trainer.test(classifier, datamodule=data, verbose=False)
    return classifier, data, {**validated, **trainer.callback_metrics}


# The loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_is_the_cross_entropy(network, batch):
    classifier = build(network)
    loss, terms = classifier.loss(batch)
    logits = classifier(batch.x)
    assert logits.shape == (40, 10)
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch.y))
    torch.testing.assert_close(loss, -logits.log_softmax(1)[torch.arange(40), batch.y].mean())
    assert terms["accuracy"].item() == pytest.approx((logits.argmax(1) == batch.y).float().mean().item())


def test_labels_are_smoothed_in_training_only(batch):
    classifier = build(label_smoothing=0.3)
    log_p = classifier(batch.x).log_softmax(1)
    sharp, even = -log_p[torch.arange(40), batch.y].mean(), -log_p.mean()
    torch.testing.assert_close(classifier.loss(batch)[0], 0.7 * sharp + 0.3 * even)
    classifier.eval()
    torch.testing.assert_close(classifier.loss(batch)[0], sharp)


@pytest.mark.parametrize("network", NETWORKS)
def test_it_overfits_one_batch(network, batch):
    classifier = build(network, learning_rate=1e-2)
    optimizer = classifier.configure_optimizers()
    for _ in range(400):
        optimizer.zero_grad()
        loss, terms = classifier.loss(batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    assert terms["accuracy"].item() == 1
    assert torch.equal(classifier.train().network(batch.x).argmax(1), batch.y)


def test_an_untrained_classifier_knows_nothing_and_a_trained_one_reads_digits(fitted):
    _, data, metrics = fitted
    assert metrics["test/accuracy"].item() > 0.93
    batch = next(data.batches("test"))
    torch.manual_seed(1)
    assert build().loss(batch)[0].item() == pytest.approx(torch.tensor(10.0).log().item(), abs=0.2)


# What is recorded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_evaluation_records_is_what_all_examples_together_give(fitted, split):
    """Not the mean of the batches' numbers: the calibration error of a mean is not the mean of the errors."""
    classifier, data, metrics = fitted
    x = torch.cat([batch.x for batch in data.batches(split)])
    y = data.splits[split].y
    with torch.no_grad():
        logits = classifier.eval()(x)
    confidence, predicted = logits.softmax(1).max(1)
    correct = (predicted == y).float()
    assert metrics[f"{split}/loss"].item() == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-4)
    assert metrics[f"{split}/accuracy"].item() == pytest.approx(correct.mean().item(), abs=1e-6)
    error = 0.0
    for index in range(15):  # Guo et al. 2017, equation 3
        chosen = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if chosen.any():
            gap = correct[chosen].mean() - confidence[chosen].mean()
            error += (chosen.float().mean() * gap.abs()).item()
    assert metrics[f"{split}/calibration_error"].item() == pytest.approx(error, abs=1e-5)
    assert error > 0.01


# Abilities -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_the_head_on_the_features_gives_the_logits(network, batch):
    classifier = build(network, dropout=0.5)
    features = classifier.features(batch.x)
    assert not features.requires_grad
    torch.testing.assert_close(classifier.network.head(features), classifier.eval()(batch.x))


@pytest.mark.parametrize("network", NETWORKS)
def test_probabilities_sum_to_one_and_the_largest_is_predicted(network, batch):
    classifier = build(network)
    probabilities = classifier.classify(batch.x)
    assert probabilities.shape == (40, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(40))
    torch.testing.assert_close(probabilities, classifier.eval()(batch.x).softmax(1))
    predicted = classifier.predict(batch.x)
    assert predicted.dtype == torch.int64
    assert torch.equal(predicted, probabilities.argmax(1))


@pytest.mark.parametrize("ability", ["classify", "features", "predict"])
@pytest.mark.parametrize("training", [True, False])
def test_abilities_run_in_evaluation_and_leave_the_mode_as_it_was(ability, training, batch):
    classifier = build("cnn", dropout=0.5).train(training)
    statistics = [buffer.clone() for buffer in classifier.network.buffers()]
    first, second = (getattr(classifier, ability)(batch.x) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert all(torch.equal(a, b) for a, b in zip(statistics, classifier.network.buffers(), strict=True))
    assert all(module.training is training for module in classifier.network.modules())
    assert not first.requires_grad


def test_the_mode_is_restored_after_an_error():
    classifier = build()
    with pytest.raises(ValueError, match="shape"):
        classifier.predict(torch.rand(2, 1, 9, 9))
    assert classifier.training


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [10, -1, 255])
def test_a_label_out_of_range_is_named(label, batch):
    batch.y[3] = label
    message = rf"^label {label} is outside 0..9: set num_classes to the number of classes$"
    with pytest.raises(ValueError, match=message):
        build().loss(batch)


def test_missing_labels_are_refused(batch):
    with pytest.raises(ValueError, match=r"^Classifier needs labels and the data has none: use a datamodule with classes$"):
        build().loss(Examples(batch.x))


@pytest.mark.parametrize("call", ["loss", "classify", "features", "predict"])
def test_examples_of_another_shape_are_refused(call, batch):
    classifier, x = build(), torch.rand(40, 3, 8, 8)
    message = r"^Classifier was built for .* \(1, 8, 8\) and was given \(3, 8, 8\): set data_shape to the data's shape$"
    with pytest.raises(ValueError, match=message):
        getattr(classifier, call)(Examples(x, batch.y) if call == "loss" else x)


def test_a_network_that_cannot_read_the_data_is_refused():
    with pytest.raises(ValueError, match=r"reads square images, and the data is 28x32: use network='mlp'"):
        dlkit.Classifier((1, 28, 32), 10, "cnn")
    with pytest.raises(ValueError, match=r"unknown network 'conv'"):
        dlkit.Classifier((1, 28, 28), 10, "conv")
