"""A class for a whole sequence: padding changes nothing, every pooling reads the real steps alone, and it learns."""

from __future__ import annotations

import lightning as L
import pytest
import torch

import dlkit
from datamodules import Palindromes
from dlkit.batches import Sequences
from dlkit.nn.pooling import Pooling
from dlkit.nn.recurrent import Encoded, RecurrentEncoder, real_steps

POOLINGS = ("last", "mean", "max", "attention")
LENGTHS = torch.tensor([3, 6, 1])


def classifier(**more):
    return dlkit.SequenceClassifier(11, 2, **{"embedding_dim": 8, "hidden_size": 12, **more})


def batch():
    x = torch.randint(1, 11, (3, 6))
    return Sequences(x.masked_fill(~real_steps(LENGTHS, 6), 0), LENGTHS, torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_padded_batch_gives_the_losses_and_gradients_of_its_sequences(pooling, bidirectional, cell):
    method = classifier(pooling=pooling, bidirectional=bidirectional, cell=cell, num_layers=2).double()
    x, lengths, y = batch()
    method.loss(Sequences(x, lengths, y))[0].backward()
    together = [parameter.grad.clone() for parameter in method.parameters()]
    method.zero_grad()
    for row, length in enumerate(lengths.tolist()):
        alone = Sequences(x[row : row + 1, :length], lengths[row : row + 1], y[row : row + 1])
        torch.testing.assert_close(method(alone.x, alone.lengths), method(x, lengths)[row : row + 1])
        (method.loss(alone)[0] / 3).backward()
    for gradient, parameter in zip(together, method.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_poolings_are_what_they_say():
    encoder = RecurrentEncoder(4, 5, bidirectional=True)
    encoded = encoder(torch.randn(3, 6, 4), LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        steps = encoded.outputs[row, :length]
        found = {kind: Pooling(kind, 10)(encoded, LENGTHS)[row] for kind in ("last", "mean", "max")}
        torch.testing.assert_close(found["last"], torch.cat([steps[-1, :5], steps[0, 5:]]))
        torch.testing.assert_close(found["mean"], steps.mean(0))
        torch.testing.assert_close(found["max"], steps.amax(0))
        pooling = Pooling("attention", 10)
        weights = pooling.score(steps).squeeze(1).softmax(0)
        torch.testing.assert_close(pooling(encoded, LENGTHS)[row], weights @ steps)


def test_the_largest_feature_may_be_negative():
    outputs = torch.tensor([[[-2.0], [-3.0], [0.0]]])  # the last is padding
    assert Pooling("max", 1)(Encoded(outputs, None), torch.tensor([2])).item() == -2


def test_sequences_of_real_vectors_are_classified_too():
    method = dlkit.SequenceClassifier(None, 3, num_features=4, hidden_size=6)
    x = torch.randn(2, 5, 4)
    assert method.classify(x, torch.tensor([5, 2])).sum(1).tolist() == pytest.approx([1, 1])
    loss, terms = method.loss(Sequences(x, torch.tensor([5, 2]), torch.tensor([2, 0])))
    assert loss.isfinite() and 0 <= terms["accuracy"] <= 1


def test_tokens_are_dropped_in_training_alone_and_padding_never():
    seen = []
    method = classifier(token_dropout=0.5)
    method.embedding.table.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x, lengths, _ = batch()
    for _ in range(20):
        method(x, lengths)
    changed = torch.stack(seen) != x
    assert 0.3 < changed[:, x != 0].float().mean() < 0.6
    assert not changed[:, x == 0].any()
    assert (torch.stack(seen)[changed] == 3).all()
    method.eval()
    method(x, lengths)
    assert torch.equal(seen[-1], x)


@pytest.mark.slow
def test_it_learns_short_palindromes():
    L.seed_everything(1, verbose=False)
    data = Palindromes(num_symbols=4, max_length=4, num_examples=20_000, val_size=0)
    method = classifier(hidden_size=32, learning_rate=5e-3)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=6, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    assert trainer.test(method, datamodule=data, verbose=False)[0]["test/accuracy"] > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes=0: a classifier needs data with labels"),
        ({"vocab_size": None}, "vocab_size=None and num_features=0: give the one for tokens"),
        ({"num_features": 3}, "vocab_size=11 and num_features=3: give the one for tokens"),
        ({"pooling": "sum"}, "unknown pooling 'sum': use 'last', 'mean', 'max', 'attention'"),
        ({"cell": "lmu"}, "unknown cell 'lmu'"),
        ({"dropout": 1.0}, r"dropout=1\.0 is outside \[0, 1\)"),
        ({"token_dropout": -0.1}, r"token_dropout=-0\.1 is outside \[0, 1\)"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dlkit.SequenceClassifier(**{"vocab_size": 11, "num_classes": 2, **arguments})


def test_a_token_outside_the_vocabulary_and_missing_labels_are_refused():
    x, lengths, _ = batch()
    with pytest.raises(ValueError, match=r"token 11 is outside 0\.\.10: set vocab_size"):
        classifier()(x.masked_fill(x == x.max(), 11), lengths)
    with pytest.raises(ValueError, match="needs labels and the data has none"):
        classifier().loss(Sequences(x, lengths, None))
    with pytest.raises(ValueError, match="sequence 1 of the batch has the length 0"):
        classifier()(x, torch.tensor([3, 0, 1]))
