"""The section `sequences`: a language model against a bare loop over `nn.LSTM`, and beam search for many sentences at once.

The language model runs through the Trainer with everything that the command line gives it; the bare loop has the same sizes,
windows, clipping and (default) Adam. Beam search is timed with the same translator and sentences, all of them together and one
after the other, and has to write the same translations.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

import dlkit
from datamodules import CharText, ParallelText

from .timing import Row, Stopwatch, fit, quiet, ratio, row, seconds, take_turns

STEPS = 60
WARM_UP = 5
WINDOW, STREAMS = 64, 32
EMBEDDING, HIDDEN, LAYERS = 128, 256, 2
CLIP = 1.0
SENTENCES = 128
BEAM = 5


def rows(repeats: int, steps: int | None) -> Iterator[Row]:
    """All rows of the section."""
    yield language_model(repeats, steps or STEPS)
    yield beam_search(repeats)


def language_model(repeats: int, steps: int) -> Row:
    """What the Trainer costs."""
    data = CharText(window=WINDOW, batch_size=STREAMS)

    def ours() -> float:
        watch = Stopwatch(WARM_UP, WARM_UP + steps)
        with tempfile.TemporaryDirectory() as folder:
            fit(
                lambda: dlkit.LanguageModel(data.vocab_size, data.vocabulary, EMBEDDING, "lstm", HIDDEN, LAYERS),
                data, folder, max_steps=watch.total, watch=watch, clip=CLIP,
            )  # fmt: skip
        return watch.milliseconds_a_step()

    def theirs() -> float:
        watch = Stopwatch(WARM_UP, WARM_UP + steps)
        bare_loop(data, watch)
        return watch.milliseconds_a_step()

    with quiet():
        times = take_turns(repeats, {"ours": ours, "theirs": theirs})
    name = f"LSTM {LAYERS}x{HIDDEN}, {STREAMS} x {WINDOW} characters: Trainer, bare loop"
    note = f"{1e3 * STREAMS * WINDOW / statistics.median(times['ours']):,.0f} characters a second"
    return row(name, times, "ms", f"{1 / ratio(times['theirs'], times['ours']):.2f}x", "at most 1.1x", note)


def bare_loop(data: CharText, watch: Stopwatch) -> None:
    """A language model as a script writes it."""
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


def beam_search(repeats: int) -> Row:
    """What it is worth to search for many sentences at once."""
    data = ParallelText()
    method = dlkit.Translator(
        data.source_vocab_size, data.target_vocab_size, data.source_vocabulary, data.target_vocabulary, hidden_size=HIDDEN
    ).eval()
    sentences = data.pairs("test")[0][:SENTENCES]
    together = method.translate(sentences, BEAM)
    assert [method.translate([sentence], BEAM)[0] for sentence in sentences] == together, "the translations differ"
    times = take_turns(
        repeats,
        {
            "ours": lambda: seconds(lambda: method.translate(sentences, BEAM)),
            "theirs": lambda: seconds(lambda: [method.translate([sentence], BEAM) for sentence in sentences]),
        },
    )
    name = f"beam {BEAM}, {SENTENCES} sentences: together, one by one"
    return row(name, times, "s", f"{ratio(times['theirs'], times['ours']):.1f}x", "at least 10x", "the same translations")
