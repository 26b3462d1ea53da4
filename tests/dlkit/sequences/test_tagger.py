"""A tag for each word: padding changes nothing, letters are read, and the accuracies count words."""

from __future__ import annotations

import lightning as L
import pytest
import torch

import dlkit
from datamodules import CoNLLU
from dlkit.batches import TaggedWords


@pytest.fixture(scope="module")
def data():
    return CoNLLU(batch_size=8)


def tagger(data, **more):
    settings = {"embedding_dim": 8, "char_embedding_dim": 6, "char_hidden_size": 5, "hidden_size": 7, **more}
    return dlkit.SequenceTagger(data.vocab_size, data.num_tags, **{"char_vocab_size": data.char_vocab_size, **settings})


def alone(batch, row):
    """One sentence of a batch, with the letters of all."""
    length = int(batch.lengths[row])
    return TaggedWords(
        batch.x[row : row + 1, :length], batch.lengths[row : row + 1], batch.y[row : row + 1, :length],
        batch.forms[row : row + 1, :length], batch.letters, batch.letter_lengths,
    )  # fmt: skip


def test_a_padded_batch_gives_the_losses_and_gradients_of_its_words(data):
    method = tagger(data, num_layers=2).double()
    batch = next(iter(data.batches("train")))
    batch = batch._replace(lengths=batch.lengths.clone())
    batch.lengths[0] = 3  # the rest of the first sentence becomes padding
    batch.y[0, 3:] = -1
    loss, _ = method.loss(batch)
    gradients = torch.autograd.grad(loss, list(method.parameters()))
    total = [torch.zeros_like(gradient) for gradient in gradients]
    for row, length in enumerate(batch.lengths.tolist()):
        one = alone(batch, row)
        torch.testing.assert_close(method(one)[0], method(batch)[row, :length])
        share = length / method.batch_size(batch)
        found = torch.autograd.grad(share * method.loss(one)[0], list(method.parameters()))
        total = [sum_so_far + part for sum_so_far, part in zip(total, found, strict=True)]
    for one, other in zip(gradients, total, strict=True):
        torch.testing.assert_close(one, other)
    found = method.tag(batch._replace(y=None))
    assert (found[0, 3:] == -1).all() and torch.equal(found == -1, batch.y == -1)


def test_letters_are_read_and_not_those_of_other_words(data):
    method = tagger(data).eval()
    batch = next(iter(data.batches("val")))
    logits = method(batch)
    changed = batch._replace(letters=batch.letters.clone())
    form = int(batch.forms[0, 0])
    changed.letters[form, 0] = 4 + (int(changed.letters[form, 0]) - 3) % (data.char_vocab_size - 4)
    moved = (method(changed) != logits).flatten(1).any(1)
    uses = ((batch.forms == form) & (batch.y != -1)).any(1)
    assert uses[0] and torch.equal(moved, uses)
    plain = tagger(data, char_vocab_size=0).eval()
    assert torch.equal(plain(changed), plain(batch))


def test_accuracies_count_words_of_all_batches_and_unknown_ones_apart(data):
    method = tagger(data)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    found = trainer.test(method, datamodule=data, verbose=False)[0]
    method.eval()
    right, unknown, losses, words = [], [], 0.0, 0
    for batch in data.batches("test"):
        real = batch.y != -1
        right.append((method.tag(batch) == batch.y)[real])
        unknown.append((batch.x == 3)[real])
        losses += method.loss(batch)[0].item() * int(real.sum())
        words += int(real.sum())
    right, unknown = torch.cat(right).float(), torch.cat(unknown)
    assert found["test/accuracy"] == pytest.approx(right.mean().item(), abs=1e-6)
    assert found["test/unknown_accuracy"] == pytest.approx(right[unknown].mean().item(), abs=1e-6)
    assert found["test/loss"] == pytest.approx(losses / words, rel=1e-5)


@pytest.mark.slow
def test_letters_and_context_tell_what_words_alone_do_not(data):
    L.seed_everything(1, verbose=False)

    def accuracies(method):
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(method, datamodule=data)
        return trainer.test(method, datamodule=data, verbose=False)[0]

    found = accuracies(tagger(data, hidden_size=32, token_dropout=0.3, learning_rate=5e-3))
    assert found["test/accuracy"] > 0.99
    assert found["test/unknown_accuracy"] > 0.98
    assert data.trivial_baselines()["most_frequent_tag"] < 0.93


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_tags": 0}, "num_tags=0: give 1 or more"),
        ({"char_vocab_size": -1}, "char_vocab_size=-1: give a number of letters, or 0"),
        ({"dropout": 1.0}, r"dropout=1\.0 is outside"),
        ({"token_dropout": 2.0}, r"token_dropout=2\.0 is outside"),
        ({"vocab_size": 0}, r"vocab_size=0 and a vector of width 100: give 1 or more"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dlkit.SequenceTagger(**{"vocab_size": 10, "num_tags": 4, **arguments})


def test_words_and_tags_outside_their_vocabularies_are_refused(data):
    batch = next(iter(data.batches("train")))
    for tags, message in (
        (None, "learns from tags and the data has none"),
        (batch.y.float(), r"was given tags of torch\.float32: give int64"),
        (torch.full_like(batch.y, -5), r"tag -5 is outside 0\.\.3"),
    ):
        with pytest.raises(ValueError, match=message):
            tagger(data).loss(batch._replace(y=tags))
    with pytest.raises(ValueError, match=r"tag 4 is outside 0\.\.3: set num_tags"):
        tagger(data).loss(batch._replace(y=batch.y.masked_fill(batch.y == 3, 4)))
    with pytest.raises(ValueError, match=r"token \d+ is outside"):
        tagger(data).loss(batch._replace(x=batch.x + data.vocab_size))
