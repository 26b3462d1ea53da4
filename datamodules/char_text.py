"""CharText: one long text, cut into streams that a language model reads from beginning to end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from datamodules import loader as loaders
from datamodules.base import SplitData, data_root
from datamodules.loader import EpochLoader
from datamodules.text_files import read_text
from dlkit.batches import TextWindows
from dlkit.text import Codec

NUM_GENERATED = 200_000
# The generated text: sums, whose right sides follow from their left.


class CharText(SplitData):
    """A text as characters: the first part of it trains, the next validates and, where there is one, the last is the test part.

    A part is cut into `batch_size` streams of equal length, one a row, and a batch is the next `window` characters of each:
    what a network knows at the end of a batch is what it has to know at the beginning of the next. What is left over at the
    end of a part is dropped, less than a character of each row for validation and test, whose last window is shorter.

    Args:
        source: "generated", sums written out; "tinyshakespeare", the file `tinyshakespeare/input.txt` (Karpathy 2015); or the
            path of a text file of your own, in UTF-8.
        root: the folder that holds `tinyshakespeare`; DLKIT_DATA if None.
        window: characters of a stream that a batch holds: how far gradients reach back.
        batch_size: streams a batch and device.
        val_share, test_share: of the text, from its end; nanoGPT's split of tinyshakespeare is .1 and 0. Without a test part
            the validation part is tested.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: shares outside [0, 1), a text too short for the streams.

    Attributes:
        vocabulary: the codec of the training part's characters, as a string: see `dlkit.text.Codec`.
        vocab_size: how many there are, the four special tokens included.
    """

    makes_validation = "val_share"

    def __init__(
        self,
        source: str = "generated",
        root: str | None = None,
        window: int = 64,
        batch_size: int = 32,
        val_share: float = 0.1,
        test_share: float = 0.0,
    ) -> None:
        super().__init__(batch_size)
        if window < 1 or batch_size < 1:
            raise ValueError(f"window={window} and batch_size={batch_size}: give 1 or more")
        if not (0 <= val_share < 1 and 0 <= test_share < 1 and val_share + test_share < 1):
            raise ValueError(f"val_share={val_share} and test_share={test_share}: give shares that leave something to train on")
        self.source = source
        self.root = root
        self.window = window
        self.val_share = val_share
        self.test_share = test_share

    @cached_property
    def text(self) -> str:
        """The whole text."""
        if self.source == "generated":
            return generate(NUM_GENERATED)
        if self.source == "tinyshakespeare":
            return read_text(data_root(self.root) / "tinyshakespeare" / "input.txt")
        return read_text(Path(self.source).expanduser())

    @cached_property
    def parts(self) -> dict[str, str]:
        """The parts of the text, by name.

        Raises:
            ValueError: the text is empty.
        """
        if not self.text:
            raise ValueError(f"the text of {self.source} is empty: give one with something in it")
        test = len(self.text) - int(self.test_share * len(self.text))
        train = test - int(self.val_share * len(self.text))
        found = {"train": self.text[:train], "val": self.text[train:test], "test": self.text[test:]}
        found = {part: text for part, text in found.items() if text}
        return {"test": found["val"], **found} if "val" in found else found

    @cached_property
    def codec(self) -> Codec:
        """The codec of the training part."""
        return Codec.fit([self.parts["train"]], "characters")

    @property
    def vocabulary(self) -> str:
        return self.codec.to_json()

    @property
    def vocab_size(self) -> int:
        return len(self.codec)

    def load(self) -> dict[str, Tensor]:
        """The parts as tokens: (characters,), int32."""
        return {part: torch.tensor(self.codec.encode(text), dtype=torch.int32) for part, text in self.parts.items()}

    def serve(self, part: Tensor, shuffle: bool, seed: int) -> StreamLoader:
        return StreamLoader(part, self.batch_size, self.window, shuffle, seed)


class StreamLoader(EpochLoader):
    """Iterates over a long sequence, cut into rows that are read side by side, a window at a time.

    Args:
        tokens: (n,), the whole sequence.
        batch_size: rows a process.
        window: tokens of a row in a batch.
        shuffle: each epoch begins a little later in the text, up to a window, so that windows are cut elsewhere; and has whole
            windows only.
        seed: of that.

    Raises:
        ValueError: the sequence is too short for one whole window of each row.
    """

    def __init__(self, tokens: Tensor, batch_size: int, window: int, shuffle: bool = False, seed: int = 0) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.tokens = tokens
        self.window = window

    @property
    def row(self) -> int:
        """How many tokens of a row are predicted."""
        rows = self.batch_size * loaders.world()[1]
        spare = self.window - 1 if self.shuffle else 0
        length = (len(self.tokens) - 1 - spare) // rows
        length -= length % self.window if self.shuffle else 0
        if length < 1:
            raise ValueError(
                f"{len(self.tokens)} tokens are too few for {rows} streams with windows of {self.window}: "
                f"lower batch_size or window"
            )
        return length

    def __len__(self) -> int:
        return -(-self.row // self.window)

    def rest(self) -> Iterator[TextWindows]:
        rank, world_size = loaders.world()
        start = int(torch.randint(self.window, (), generator=self.generator())) if self.shuffle else 0
        length, rows = self.row, self.batch_size * world_size
        inputs, targets = (
            self.tokens[start + shift :][: rows * length].view(rows, length)[rank::world_size] for shift in (0, 1)
        )
        while self.position < len(self):
            window = slice(self.position * self.window, (self.position + 1) * self.window)
            first = torch.tensor(self.position == 0)
            self.position += 1
            yield TextWindows(inputs[:, window].long(), targets[:, window].long(), first)


def generate(length: int) -> str:
    """Sums of numbers below a hundred, a line each."""
    draw = random.Random(0)
    lines: list[str] = []
    while sum(map(len, lines)) < length:
        lines += [f"{a}+{b}={a + b}\n" for a, b in ((draw.randrange(100), draw.randrange(100)) for _ in range(1000))]
    return "".join(lines)[:length]
