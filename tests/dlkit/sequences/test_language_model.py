"""The next token: the state is carried and cut, passes begin anew, and what is generated can be asked for."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from torch.nn import functional as F

import dlkit
from datamodules import CharText
from dlkit.batches import TextWindows
from dlkit.text import Codec

CODEC = Codec.fit(["abcdefgh\n"], "characters")


def model(**more):
    settings = {"vocabulary": CODEC.to_json(), "embedding_dim": 8, "hidden_size": 12, **more}
    return dlkit.LanguageModel(len(CODEC), **settings)


def windows(rows=2, length=12, window=4):
    stream = torch.randint(4, len(CODEC), (rows, length + 1))
    return [
        TextWindows(stream[:, at : at + window], stream[:, at + 1 : at + window + 1], torch.tensor(at == 0))
        for at in range(0, length, window)
    ]


def trainer(**more):
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **more}
    return L.Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **settings)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_windows_with_a_carried_state_have_the_loss_of_the_whole_text(cell):
    method, parts = model(cell=cell).double(), windows()
    whole = TextWindows(*(torch.cat([part[i] for part in parts], 1) for i in (0, 1)), parts[0].first)
    carried = torch.stack([method.carry("val", part) for part in parts])
    torch.testing.assert_close(carried.mean(), method.loss(whole)[0])
    # A new pass begins from nothing.
    torch.testing.assert_close(method.carry("val", parts[0]), carried[0])
    torch.testing.assert_close(method.carry("train", parts[1]), method.loss(parts[1])[0])


def test_no_gradient_reaches_back_across_a_window():
    method, parts = model(), windows()
    method.carry("train", parts[0])
    assert not any(part.requires_grad for part in method.states["train"])
    method.carry("train", parts[1]).backward()


def test_the_loss_is_the_mean_negative_log_probability_of_the_next_token():
    method, (batch, *_) = model(), windows()
    logits, _ = method(batch.x)
    expected = -logits.log_softmax(2).gather(2, batch.y.unsqueeze(2)).mean()
    torch.testing.assert_close(method.loss(batch)[0], expected)


@pytest.mark.parametrize(("embedding_dim", "hidden_size"), [(8, 12), (12, 12)])
def test_tied_weights_are_one_table(embedding_dim, hidden_size):
    method = model(embedding_dim=embedding_dim, hidden_size=hidden_size)
    assert method.head.weight is method.embedding.table.weight
    method.loss(windows()[0])[0].backward()
    assert (method.embedding.table.weight.grad != 0).any(1)[4:].all()  # every token is a candidate
    assert model(tied=False).head.weight.shape == (len(CODEC), 12)


def test_dropout_has_one_mask_a_window_and_evaluation_none():
    method, (batch, *_) = model(dropout=0.5), windows()
    assert method.loss(batch)[0] != method.loss(batch)[0]
    method.eval()
    assert method.loss(batch)[0] == method.loss(batch)[0]


def test_perplexity_and_bits_are_of_the_whole_parts_mean_however_it_is_cut():
    data, found = CharText(window=50, batch_size=8), []
    torch.manual_seed(1)
    method = dlkit.LanguageModel(data.vocab_size, data.vocabulary, embedding_dim=8, hidden_size=12)
    for window in (50, 20):
        data.window = window
        found.append(trainer().validate(method, datamodule=data, verbose=False)[0])
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=1e-5)
    assert found[0]["val/perplexity"] == pytest.approx(math.exp(found[0]["val/loss"]), rel=1e-5)
    assert found[0]["val/bits_per_token"] == pytest.approx(found[0]["val/loss"] / math.log(2), rel=1e-5)


def test_a_checkpoint_reads_and_writes_text_and_keeps_its_place(tmp_path):
    data = CharText(window=50, batch_size=8)
    method = dlkit.LanguageModel(data.vocab_size, data.vocabulary, embedding_dim=8, hidden_size=12)
    run = trainer(max_steps=5, limit_val_batches=0)
    run.fit(method, datamodule=data)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    found = dlkit.load(tmp_path / "a.ckpt")
    texts = []
    for one in (method, found):
        torch.manual_seed(2)
        texts.append(one.generate("1+1=", 20))
    assert texts[0] == texts[1]
    assert texts[0].startswith("1+1=") and len(texts[0]) == 24
    for one, other in zip(method.states["train"], found.states["train"], strict=True):
        assert torch.equal(one, other)


def test_what_is_generated_can_be_asked_for():
    method = model().eval()
    assert method.generate("ab", 10, temperature=0) == method.generate("ab", 10, temperature=0)
    assert method.generate("ab", 10, top_k=1) == method.generate("ab", 10, temperature=0)
    logits = method(torch.tensor([CODEC.encode("ab")]))[0][0, -1]
    likely = {CODEC.decode([int(token)]) for token in (logits[4:].topk(3).indices + 4)}
    torch.manual_seed(3)
    drawn = [method.generate("ab", 1, top_k=3)[2:] for _ in range(300)]
    assert set(drawn) == likely
    probabilities = F.softmax(logits[4:] / 0.5, 0)
    torch.manual_seed(3)
    drawn = [method.generate("ab", 1, temperature=0.5)[2:] for _ in range(2000)]
    for token, probability in enumerate(probabilities.tolist()):
        assert drawn.count(CODEC.decode([token + 4])) / 2000 == pytest.approx(probability, abs=0.04)


def words():
    codec = Codec.fit(["the cat sat on the mat"], "words")
    return dlkit.LanguageModel(len(codec), codec.to_json(), embedding_dim=8, hidden_size=8).eval()


def test_words_are_generated_with_blanks_between_them():
    found = words().generate("the cat", 3)
    assert found.startswith("the cat ") and len(found.split()) == 5
    assert len(words().generate("", 3).split()) == 3


@pytest.mark.slow
def test_it_learns_a_text_that_can_be_known():
    L.seed_everything(1, verbose=False)
    data = CharText(window=32, batch_size=32)
    method = dlkit.LanguageModel(data.vocab_size, data.vocabulary, 32, "gru", 64, 1, learning_rate=1e-2)
    trainer(max_epochs=2, limit_val_batches=0).fit(method, datamodule=data)
    # Two free numbers, of 6.4 characters of a line of about 7.9: no model can be below 2 log 100 / 7.9 = 1.17.
    assert 1.17 < trainer().test(method, datamodule=data, verbose=False)[0]["test/loss"] < 1.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dlkit.LanguageModel(5, CODEC.to_json()), r"vocab_size=5 and the vocabulary has 13 tokens: give both"),
        (lambda: dlkit.LanguageModel(5, "abc"), r"this is no vocabulary of dlkit .*: take it from the data"),
        (lambda: dlkit.LanguageModel(13).generate("a"), r"has no vocabulary to read and write text with"),
        (lambda: model().generate("a", 0), r"num_tokens=0, .*: give 1 or more tokens"),
        (lambda: model().generate("a", temperature=-1), r"temperature=-1"),
        (lambda: words().generate("  ", 3), r"the prompt '  ' has no tokens to go on from"),
        (lambda: model(dropout=1.0), r"dropout=1\.0 is outside"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
