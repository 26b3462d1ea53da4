"""Translations: how well a model translates by itself, by the measures of the field, and what it writes."""

from __future__ import annotations

import functools
from typing import Any

import lightning as L

from dlkit.callbacks import drawing
from dlkit.callbacks.first_examples import in_training
from dlkit.callbacks.summary import steps_done, writer
from dlkit.protocols import Attends, ParallelTexts, Translates

SHOWN = 12
DRAWN = 3


class Translations(L.Callback):
    """Measures BLEU (Papineni et al. 2002) and chrF (Popovic 2015) of free translations, by the library sacrebleu.

    After each validation greedy translations of its first sentences, `val/bleu`; in the test those of a beam, `test/bleu` and
    `test/chrf`, and greedy ones, `test/greedy_bleu`. References are the data's texts as they are, in lower case where the data
    are. The signatures, which say how both were counted, are printed. TensorBoard gets a table of sentences, references and
    both translations, and where the model looked.

    Args:
        beam_size: of the test.
        alpha: strength of the length penalty: see `dlkit.nn.beam_search`.
        val_sentences: how many validation translates.

    Raises:
        ValueError: a method that does not translate, data that are no sentences, or a number below one.
    """

    def __init__(self, beam_size: int = 5, alpha: float = 1.0, val_sentences: int = 500) -> None:
        if min(beam_size, val_sentences) < 1:
            raise ValueError(f"beam_size={beam_size} and val_sentences={val_sentences}: give 1 or more")
        self.beam_size = beam_size
        self.alpha = alpha
        self.val_sentences = val_sentences

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(pl_module, Translates):
            raise ValueError(f"{type(pl_module).__name__} does not translate: leave dlkit.callbacks.Translations out")
        if not isinstance(data, ParallelTexts):
            raise ValueError(
                f"{type(data).__name__} has no translations to compare with: leave dlkit.callbacks.Translations out"
            )
        pl_module.translate([])  # refuses now what it would refuse after the first epoch
        sacrebleu()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        sources, references = (texts[: self.val_sentences] for texts in data.pairs("val"))
        greedy = pl_module.translate(sources, beam_size=1)
        pl_module.log("val/bleu", bleu(greedy, references, data.lowercase)[0], sync_dist=trainer.world_size > 1)
        board = writer(trainer)
        if board is None or not in_training(trainer):
            return
        beam = pl_module.translate(sources[:SHOWN], beam_size=self.beam_size, alpha=self.alpha)
        board.add_text("translations", table(sources, references, greedy, beam), steps_done(trainer))
        if isinstance(pl_module, Attends) and pl_module.attention is not None:
            for number, (source, text) in enumerate(zip(sources[:DRAWN], greedy, strict=False)):
                figure = drawing.attention(*pl_module.attend(source, text))
                board.add_figure(f"attention/{number}", figure, steps_done(trainer))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        sources, references = data.pairs("test")
        beam = pl_module.translate(sources, beam_size=self.beam_size, alpha=self.alpha)
        score, signature = bleu(beam, references, data.lowercase)
        greedy = bleu(pl_module.translate(sources, beam_size=1), references, data.lowercase)[0]
        chrf_score, chrf_signature = chrf(beam, references, data.lowercase)
        found = {"bleu": score, "greedy_bleu": greedy, "chrf": chrf_score}
        for name, value in found.items():
            pl_module.log(f"test/{name}", value, sync_dist=trainer.world_size > 1)
        if trainer.is_global_zero:
            print(f"BLEU with beam {self.beam_size}, alpha {self.alpha:g}: {signature}")
            print(f"chrF of the same: {chrf_signature}")


@functools.cache
def sacrebleu() -> Any:
    """The library, imported when it is needed.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import sacrebleu as library
    except ModuleNotFoundError as error:
        raise ValueError("BLEU needs the library sacrebleu: pip install 'dlkit[text]', or leave Translations out") from error
    return library


def bleu(translations: list[str], references: list[str], lowercase: bool) -> tuple[float, str]:
    """Corpus BLEU, from 0 to 100, and its signature."""
    metric = sacrebleu().metrics.BLEU(lowercase=lowercase)
    score = metric.corpus_score(translations, [references]).score
    return score, str(metric.get_signature())


def chrf(translations: list[str], references: list[str], lowercase: bool) -> tuple[float, str]:
    """chrF2, from 0 to 100, and its signature."""
    metric = sacrebleu().metrics.CHRF(lowercase=lowercase)
    score = metric.corpus_score(translations, [references]).score
    return score, str(metric.get_signature())


def table(sources: list[str], references: list[str], greedy: list[str], beam: list[str]) -> str:
    """The first sentences as a table in Markdown."""
    rows = ["| source | reference | greedy | beam |", "|---|---|---|---|"]
    for texts in zip(sources, references, greedy, beam, strict=False):
        rows.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
    return "\n".join(rows)
