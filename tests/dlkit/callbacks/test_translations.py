"""Translations: BLEU is sacrebleu's, of free translations, with its signature; and TensorBoard shows what was written."""

from __future__ import annotations

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from datamodules import Digits, ParallelText
from dlkit.callbacks import Translations
from dlkit.callbacks.translations import bleu, table


class Oracle(dlkit.Translator):
    """Knows the answers to some sentences; a beam of one forgets the last word."""

    answers: dict = {}

    def translate(self, sentences, beam_size=5, alpha=1.0):
        found = [self.answers.get(sentence, "?") for sentence in sentences]
        return [text.rsplit(" ", 1)[0] if beam_size == 1 else text for text in found]


def oracle(data, share=1.0):
    method = Oracle(
        data.source_vocab_size, data.target_vocab_size, data.source_vocabulary, data.target_vocabulary, embedding_dim=8,
        hidden_size=8,
    )  # fmt: skip
    method.answers = {}
    for part in ("val", "test"):
        sources, references = data.pairs(part)
        method.answers |= dict(list(zip(sources, references, strict=True))[: int(share * len(sources))])
    return method


def trainer(**more):
    settings = {"logger": False, "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, **more}
    return L.Trainer(
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, log_every_n_steps=1, **settings,
    )  # fmt: skip


def test_the_truth_scores_a_hundred_and_less_scores_less(capsys):
    data = ParallelText()
    found = trainer(callbacks=[Translations()]).test(oracle(data), datamodule=data, verbose=False)[0]
    assert found["test/bleu"] == pytest.approx(100)
    assert found["test/chrf"] == pytest.approx(100)
    assert 5 < found["test/greedy_bleu"] < 95
    assert "BLEU with beam 5, alpha 1: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in capsys.readouterr().out
    half = trainer(callbacks=[Translations()]).test(oracle(data, 0.5), datamodule=data, verbose=False)[0]
    assert half["test/bleu"] < 90


def test_bleu_is_the_papers_on_an_example_by_hand():
    # 4 of 5 words, 2 of 4 pairs, 1 of 3 triples, none of 2 fours (smoothed to 1/4), and as long as the reference.
    score, signature = bleu(["the cat sat there now"], ["the cat sat here now"], lowercase=False)
    assert score == pytest.approx(100 * (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25, rel=1e-4)
    assert "case:mixed" in signature
    assert bleu(["THE CAT SAT HERE NOW"], ["the cat sat here now"], lowercase=True)[0] == pytest.approx(100)


def test_tensorboard_shows_a_table_of_translations_and_where_the_model_looked(tmp_path):
    data = ParallelText()
    method = dlkit.Translator(
        data.source_vocab_size, data.target_vocab_size, data.source_vocabulary, data.target_vocabulary, embedding_dim=8,
        hidden_size=8,
    )  # fmt: skip
    run = trainer(logger=TensorBoardLogger(tmp_path, name="", version=""), callbacks=[Translations(val_sentences=20)])
    run.fit(method, datamodule=data)
    assert 0 <= float(run.callback_metrics["val/bleu"]) <= 100
    board = EventAccumulator(str(tmp_path)).Reload()
    (text,) = board.Tensors("translations/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert "| source | reference | greedy | beam |" in shown
    assert data.pairs("val")[0][0] in shown
    assert {f"attention/{number}" for number in range(3)} <= set(board.Tags()["images"])


def test_bars_in_a_text_do_not_break_the_table():
    assert table(["a|b"], ["c"], ["d"], ["e"]).splitlines()[2] == "| a\\|b | c | d | e |"


def test_what_does_not_translate_is_refused():
    data = ParallelText()
    with pytest.raises(ValueError, match="Classifier does not translate: leave"):
        trainer(callbacks=[Translations()]).fit(dlkit.Classifier((1, 8, 8), 10), datamodule=Digits())
    with pytest.raises(ValueError, match="Digits has no translations to compare with"):
        trainer(callbacks=[Translations()]).fit(oracle(data), datamodule=Digits())
    with pytest.raises(ValueError, match="beam_size=0 and val_sentences=500: give 1 or more"):
        Translations(beam_size=0)
