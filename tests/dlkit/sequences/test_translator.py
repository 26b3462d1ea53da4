"""A sequence from another: padding, teacher forcing and search agree, and a checkpoint translates by itself."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch

import dlkit
from datamodules import ParallelText
from dlkit.batches import SentencePairs
from dlkit.text import BOS, EOS, PAD

KINDS = ("additive", "general", "none")


@pytest.fixture(scope="module")
def data():
    return ParallelText(batch_size=8)


def translator(data, **more):
    settings = {"embedding_dim": 12, "hidden_size": 10, **more}
    return dlkit.Translator(
        data.source_vocab_size, data.target_vocab_size, data.source_vocabulary, data.target_vocabulary, **settings
    )


def kinds(data, **more):
    for kind in KINDS:
        yield translator(data, attention=kind, **more)


def trainer(**more):
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **more}
    return L.Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **settings)


def batch_of(data, rows=(0, 5, 900, 17)):
    data.setup()
    return data.collate(data.splits["train"], torch.tensor(rows))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_padded_batch_gives_the_losses_and_gradients_of_its_pairs(data, cell):
    for method in kinds(data, cell=cell, num_layers=2):
        method.double()
        batch = batch_of(data)
        gradients = torch.autograd.grad(method.loss(batch)[0], list(method.parameters()))
        total = [torch.zeros_like(gradient) for gradient in gradients]
        for row, length in enumerate(batch.source_lengths.tolist()):
            width = int((batch.target[row] != PAD).sum())
            alone = SentencePairs(
                batch.source[row : row + 1, :length], batch.source_lengths[row : row + 1], batch.target[row : row + 1, :width]
            )
            share = method.batch_size(alone) / method.batch_size(batch)
            found = torch.autograd.grad(share * method.loss(alone)[0], list(method.parameters()))
            total = [sum_so_far + part for sum_so_far, part in zip(total, found, strict=True)]
        for one, other in zip(gradients, total, strict=True):
            torch.testing.assert_close(one, other)


def test_words_one_at_a_time_are_the_whole_target_at_once(data):
    for method in kinds(data, num_layers=2):
        method.eval()
        batch = batch_of(data)
        start = method.encode(batch.source, batch.source_lengths)
        _, logits, weights = method.decode(start, batch.target[:, :-1])
        state = start
        for place in range(batch.target.shape[1] - 1):
            state, one, attention = method.decode(state, batch.target[:, place : place + 1])
            torch.testing.assert_close(one[:, 0], logits[:, place], atol=1e-5, rtol=1e-4)
            if weights is not None:
                torch.testing.assert_close(attention[:, 0], weights[:, place], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(state.attention, weights[:, place], atol=1e-5, rtol=1e-4)


def test_the_log_probability_of_a_translation_is_the_models(data):
    method = translator(data).eval()
    batch = batch_of(data)
    found = method.search(batch.source, batch.source_lengths, beam_size=3, max_length=6)
    for place in range(3):
        target = torch.cat([torch.full((4, 1), BOS), found.tokens[:, place]], 1)
        for row in range(4):
            real = int((target[row] != PAD).sum())
            pair = SentencePairs(batch.source[row : row + 1], batch.source_lengths[row : row + 1], target[row : row + 1, :real])
            nll = method.loss(pair)[0].item() * (real - 1)
            assert found.log_probabilities[row, place].item() == pytest.approx(-nll, abs=1e-3)


def test_label_smoothing_spreads_over_what_can_follow_and_only_in_training(data):
    method = translator(data, label_smoothing=0.2)
    batch = batch_of(data)
    _, logits, _ = method.decode(method.encode(batch.source, batch.source_lengths), batch.target[:, :-1])
    following = batch.target[:, 1:]
    real = following != PAD
    log_p = logits.log_softmax(2)[real]
    share = torch.zeros_like(log_p)
    share[:, EOS:] = 0.2 / (data.target_vocab_size - 2)
    share[torch.arange(len(log_p)), following[real]] += 0.8
    loss, terms = method.loss(batch)
    torch.testing.assert_close(loss, -(share * log_p).sum(1).mean())
    method.eval()
    torch.testing.assert_close(method.loss(batch)[0], terms["nll"])


def test_translations_are_in_the_order_asked_for_and_alone_what_they_are_together(data):
    method = translator(data).eval()
    sentences = [*data.pairs("val")[0][:100], "", "  ", "utterly unknown words"]
    together = method.translate(sentences, beam_size=2)
    assert len(together) == len(sentences)
    assert together[100] == together[101] == ""
    assert [method.translate([sentence], beam_size=2)[0] for sentence in sentences[:10]] == together[:10]
    best = method.translations(sentences[:3], beam_size=4)
    assert all(len(found) == 4 and [t.score for t in found] == sorted((t.score for t in found), reverse=True) for found in best)
    assert [found[0].text for found in best] == method.translate(sentences[:3], beam_size=4)


def test_bounds_of_length_are_kept(data):
    method = translator(data).eval()
    for text in method.translate(data.pairs("val")[0][:20], min_length=4, max_length=5):
        assert 4 <= len(text.split()) <= 5
    (few,) = method.translations(["may 7"], beam_size=20, max_length=1)
    assert 0 < len(few) <= 20 and all(math.isfinite(one.score) and len(one.text.split()) <= 1 for one in few)
    assert len({one.text for one in few}) == len(few)


def test_attention_is_over_the_words_of_the_sentence(data):
    method = translator(data).eval()
    source, target, weights = method.attend("may 7", "- 0 7")
    assert source == ["may", "7"]
    assert target == ["-", "0", "7", "<eos>"]
    assert weights.shape == (4, 2)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))


@pytest.mark.slow
def test_it_learns_dates_and_a_checkpoint_translates_by_itself(data, tmp_path):
    L.seed_everything(1, verbose=False)
    method = translator(ParallelText(), embedding_dim=32, hidden_size=64, learning_rate=5e-3)
    run = trainer(max_epochs=2, gradient_clip_val=1.0)
    run.fit(method, datamodule=ParallelText())
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    sources, references = data.pairs("test")
    found = dlkit.load(tmp_path / "a.ckpt").translate(sources[:200])
    assert sum(one == other for one, other in zip(found, references[:200], strict=True)) > 150


def test_perplexity_is_of_the_whole_parts_mean(data):
    method = translator(data)
    found = trainer().validate(method, datamodule=data, verbose=False)[0]
    assert found["val/perplexity"] == pytest.approx(math.exp(found["val/loss"]), rel=1e-5)
    method.eval()
    losses = [(method.loss(batch)[0].item(), method.batch_size(batch)) for batch in data.batches("val")]
    total = sum(words for _, words in losses)
    assert found["val/loss"] == pytest.approx(sum(loss * words for loss, words in losses) / total, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: translator(data, label_smoothing=1.0), r"label_smoothing=1\.0 is outside \[0, 1\)"),
        (lambda data: translator(data, attention="cosine"), r"unknown attention 'cosine'"),
        (lambda data: translator(data, attention="dot"), r"queries as wide as keys, got 10 and 20: use 'general'"),
        (lambda data: translator(data, attention="none").attend("one", "1"), r"this Translator has no attention"),
        (lambda data: dlkit.Translator(9, 9).translate(["one"]), r"has no vocabularies to read and write text with"),
        (lambda data: translator(data).translate(["one"], beam_size=0), r"beam_size=0: give 1 or more"),
        (lambda data: translator(data).translate(["one"], min_length=3, max_length=2), r"min_length=3 and max_length=2: give"),
        (lambda data: translator(data).translate(["one"], max_length=-3), r"min_length=0 and max_length=-3: give"),
        (lambda data: translator(data).attend(" ", "1"), r"the sentence ' ' has no tokens to look at"),
        (
            lambda data: dlkit.Translator(data.source_vocab_size, 9, data.source_vocabulary, data.target_vocabulary),
            r"target_vocab_size=9 and the vocabulary has \d+ tokens: give both from one data set",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(data, call, message):
    with pytest.raises(ValueError, match=message):
        call(data)
