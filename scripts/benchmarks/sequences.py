"""The section `sequences`: a language model against a bare loop over `nn.LSTM`, a translator against Joey NMT's, and beam
search for many sentences at once.

The language model runs through the Trainer with everything that the command line gives it; the bare loop has the same sizes,
windows, clipping and (default) Adam. Beam search is timed with the same translator and sentences, all of them together and one
after the other, and has to write the same translations. Joey NMT trains on the same pieces of words of Multi30k, in batches of
as many sentences, a network of the same cells, widths and attention; it feeds the attention's result to the next step, which is
its default, so that its time is a loop.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F

import dlkit
from datamodules import CharText, ParallelText
from datamodules.base import data_root
from dlkit.processes import keep_freed_memory
from dlkit.text import PAD

from .joeynmt_rival import INSTALL, joeynmt_fit
from .timing import Row, Stopwatch, absent, fit, ratio, row, seconds
from .turns import alone, take_turns

STEPS = 60
WARM_UP = 5
WINDOW, STREAMS = 64, 32
EMBEDDING, HIDDEN, LAYERS = 128, 256, 2
CLIP = 1.0
SENTENCES = 128
BEAM = 5
WIDTH, BATCH, PIECES = 256, 128, 8000
JOEYNMT = importlib.util.find_spec("joeynmt") is not None


def rows(repeats: int, steps: int | None) -> Iterator[Row]:
    """All rows of the section."""
    yield language_model(repeats, steps or STEPS)
    yield translator(repeats, steps or STEPS)
    yield beam_search(repeats)


def language_model(repeats: int, steps: int) -> Row:
    """What the Trainer costs."""
    data = CharText(window=WINDOW, batch_size=STREAMS)

    def ours() -> float:
        watch = Stopwatch(WARM_UP, WARM_UP + steps)
        fit(
            lambda: dlkit.LanguageModel(data.vocab_size, data.vocabulary, EMBEDDING, "lstm", HIDDEN, LAYERS),
            data, max_steps=watch.total, watch=watch, clip=CLIP,
        )  # fmt: skip
        return watch.milliseconds_a_step()

    def theirs() -> float:
        watch = Stopwatch(WARM_UP, WARM_UP + steps)
        bare_loop(data, watch)
        return watch.milliseconds_a_step()

    times = take_turns(repeats, {"ours": lambda: ours, "theirs": lambda: theirs})
    name = f"LSTM {LAYERS}x{HIDDEN}, {STREAMS} x {WINDOW} characters: Trainer, bare loop"
    note = f"{1e3 * STREAMS * WINDOW / statistics.median(times['ours']):,.0f} characters a second"
    return row(name, times, "ms", f"{1 / ratio(times['theirs'], times['ours']):.2f}x", "at most 1.1x", note)


def bare_loop(data: CharText, watch: Stopwatch) -> None:
    """A language model as a script writes it, in a process that keeps freed memory too."""
    keep_freed_memory()
    embedding = nn.Embedding(data.vocab_size, EMBEDDING)
    network = nn.LSTM(EMBEDDING, HIDDEN, LAYERS, batch_first=True)
    bridge, head = nn.Linear(HIDDEN, EMBEDDING), nn.Linear(EMBEDDING, data.vocab_size)
    head.weight = embedding.weight
    parameters = [*embedding.parameters(), *network.parameters(), *bridge.parameters(), head.bias]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    state = None
    while not watch.over:
        for batch in data.loader("train", shuffle=True):
            outputs, state = network(embedding(batch.x), state)
            state = tuple(part.detach() for part in state)
            loss = F.cross_entropy(head(bridge(outputs)).flatten(0, 1), batch.y.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            watch.lap()
            if watch.over:
                return


class TokenCounter(Stopwatch):
    """Counts the target tokens, the sentences' ends among them, of the steps that it times."""

    tokens = 0

    def count(self, tokens: int) -> None:
        """A step saw so many."""
        self.lap()
        self.tokens += tokens if self.steps > self.warm_up else 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.count(int((batch.target[:, 1:] != PAD).sum()))

    def milliseconds_a_thousand(self) -> float:
        """Of a thousand tokens."""
        return 1e6 * (self.stepped - self.warm) / self.tokens


def translator(repeats: int, steps: int) -> Row:
    """Training on Multi30k, here and by Joey NMT."""
    name, target = f"LSTM translator {WIDTH}, {BATCH} sentences: here, Joey NMT", "at least 2x"
    if not (data_root(None) / "multi30k").is_dir():
        return absent(name, target, "Multi30k", "set DLKIT_DATA to a folder that holds multi30k")
    if not JOEYNMT:
        return absent(name, target, "Joey NMT", INSTALL)
    data = ParallelText("multi30k", units="bpe", bpe_size=PIECES, lowercase=True, batch_size=BATCH)
    vocabularies = (data.source_vocab_size, data.target_vocab_size, data.source_vocabulary, data.target_vocabulary)

    def build() -> dlkit.Translator:
        return dlkit.Translator(*vocabularies, embedding_dim=WIDTH, hidden_size=WIDTH, dropout=0.3, label_smoothing=0.1)

    def ours() -> tuple[float, int]:
        watch, method = TokenCounter(WARM_UP, WARM_UP + steps), build()
        fit(lambda: method, data, max_steps=watch.total, watch=watch, clip=CLIP)
        return watch.milliseconds_a_thousand(), sum(parameter.numel() for parameter in method.parameters())

    def theirs() -> tuple[float, int]:
        watch = TokenCounter(WARM_UP, WARM_UP + steps)
        with tempfile.TemporaryDirectory() as folder:
            size = joeynmt_fit(pieces(data, Path(folder)), WIDTH, BATCH, CLIP, watch.total, watch.count)
        return watch.milliseconds_a_thousand(), size

    turns = take_turns(repeats, {"ours": lambda: ours, "theirs": lambda: theirs})
    times = {who: [time for time, _ in found] for who, found in turns.items()}
    sizes = {who: found[0][1] for who, found in turns.items()}
    speeds = " and ".join(f"{1e6 / statistics.median(times[who]):,.0f}" for who in ("ours", "theirs"))
    note = f"{speeds} target tokens a second; {sizes['ours'] / 1e6:.2f} and {sizes['theirs'] / 1e6:.2f} M parameters"
    return row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.2f}x", target, note)


def pieces(data: ParallelText, folder: Path) -> Path:
    """Writes the parts as tokens between blanks, `train.de` and so on: where they are."""
    for part in ("train", "val", "test"):
        for codec, language, texts in zip(data.codecs, data.languages, data.pairs(part), strict=True):
            lines = (" ".join(codec.tokens[token] for token in codec.encode(text)) for text in texts)
            (folder / f"{part}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def beam_search(repeats: int) -> Row:
    """What it is worth to search for many sentences at once."""
    data = ParallelText()
    sentences = data.pairs("test")[0][:SENTENCES]

    def build() -> dlkit.Translator:
        torch.manual_seed(0)  # the same in both processes
        return dlkit.Translator(
            data.source_vocab_size, data.target_vocab_size, data.source_vocabulary, data.target_vocabulary, hidden_size=HIDDEN
        ).eval()

    def together(method: dlkit.Translator) -> list[str]:
        return method.translate(sentences, BEAM)

    def one_by_one(method: dlkit.Translator) -> list[str]:
        return [method.translate([sentence], BEAM)[0] for sentence in sentences]

    def timed(way: Callable[[dlkit.Translator], list[str]]) -> Callable[[], float]:
        keep_freed_memory()
        method = build()
        return lambda: seconds(lambda: way(method))

    assert alone(lambda: one_by_one(build()) == together(build())), "the translations differ"
    times = take_turns(repeats, {"ours": lambda: timed(together), "theirs": lambda: timed(one_by_one)})
    name = f"beam {BEAM}, {SENTENCES} sentences: together, one by one"
    return row(name, times, "s", f"{ratio(times['theirs'], times['ours']):.1f}x", "at least 10x", "the same translations")
