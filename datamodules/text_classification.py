"""TextClassification: texts and the classes they belong to."""

from __future__ import annotations

import random
from functools import cached_property
from pathlib import Path

import torch

from datamodules.base import data_root, hold_out
from datamodules.columns import Columns
from datamodules.ragged import Ragged
from datamodules.sequences import SequenceData
from datamodules.text_files import read_labelled
from dlkit.text import Codec, Units

TREC = {"train": "TREC.train.all", "test": "TREC.test.all"}
TREC_CLASSES = ("description", "entity", "abbreviation", "person", "place", "number")
NUM_GENERATED = {"train": 4000, "test": 1000}
# The generated questions: what is asked for follows from the wording.
SUBJECTS = ("the old bridge", "this song", "the first train", "that island", "the big telescope", "the red house", "my coat")
VERBS = ("built", "found", "sold", "painted", "moved", "lost", "repaired")
TEMPLATES = {
    "person": ("who {verb} {subject} ?", "by whom was {subject} {verb} ?", "what is the name of whoever {verb} {subject} ?"),
    "place": ("where was {subject} {verb} ?", "in what town was {subject} {verb} ?", "what place was {subject} {verb} at ?"),
    "time": ("when was {subject} {verb} ?", "in what year was {subject} {verb} ?", "how long ago was {subject} {verb} ?"),
    "number": (
        "how many of {subject} were {verb} ?",
        "how much was {subject} when {verb} ?",
        "what number had {subject} {verb} ?",
    ),
}


class TextClassification(SequenceData):
    """Texts cut into tokens, each with a class.

    The vocabulary is that of the training part alone; other tokens are `<unk>`. Texts longer than `max_length` tokens lose
    their ends.

    Args:
        source: "generated", simple questions by what they ask for, of which there are so few that every test question is in the
            training part too; "trec", the questions of Li and Roth 2002 in six coarse classes, from the files
            `trec/TREC.train.all` and `trec/TREC.test.all`; or the path of a file of your own, a `.csv` or `.tsv` with the
            columns `text` and `label`, or `label text` in each line. A `.tsv` has no quotes.
        test: the file of the test part, for a source of your own; a tenth of the source where it is not given.
        root: the folder that holds `trec`; DLKIT_DATA if None.
        units: "words" (what stands between blanks), "characters" or "bpe".
        bpe_size: of "bpe".
        lowercase: puts texts into lower case.
        min_count: tokens rarer than this in the training part are `<unk>`.
        max_length: of a text, in tokens.
        batch_size, batch_steps, val_size, split_seed: see `SequenceData`.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file that cannot be read, a label of the test part that the training part does not have.

    Attributes:
        class_names: the classes, in alphabetical order, or TREC's.
        vocab_size: how many tokens are known, the four special ones included.
    """

    def __init__(
        self,
        source: str = "generated",
        test: str | None = None,
        root: str | None = None,
        units: Units = "words",
        bpe_size: int = 8000,
        lowercase: bool = True,
        min_count: int = 1,
        max_length: int = 400,
        batch_size: int = 64,
        batch_steps: int = 0,
        val_size: int = 500,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batch_steps, val_size, split_seed)
        if max_length < 1:
            raise ValueError(f"max_length={max_length}: give 1 or more tokens")
        self.source = source
        self.test = test
        self.root = root
        self.units: Units = units
        self.bpe_size = bpe_size
        self.lowercase = lowercase
        self.min_count = min_count
        self.max_length = max_length

    @cached_property
    def texts(self) -> dict[str, tuple[list[str], list[str]]]:
        """Texts and labels, as they are read."""
        if self.source == "generated":
            return {part: generate(number, self.split_seed, part) for part, number in NUM_GENERATED.items()}
        if self.source == "trec":
            folder = data_root(self.root) / "trec"
            return {
                part: (texts, [TREC_CLASSES[int(label)] for label in labels])
                for part, name in TREC.items()
                for texts, labels in [read_labelled(folder / name)]
            }
        train = read_labelled(Path(self.source).expanduser())
        if self.test is not None:
            return {"train": train, "test": read_labelled(Path(self.test).expanduser())}
        order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(self.split_seed)).tolist()
        cut = max(1, len(order) // 10)
        return {
            part: ([train[0][row] for row in rows], [train[1][row] for row in rows])
            for part, rows in (("test", sorted(order[:cut])), ("train", sorted(order[cut:])))
        }

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the training part."""
        return TREC_CLASSES if self.source == "trec" else tuple(sorted(set(self.texts["train"][1])))

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @cached_property
    def codec(self) -> Codec:
        """The codec of the training part, without what is held out of it for validation."""
        texts, _ = self.texts["train"]
        kept, _ = hold_out(len(texts), self.val_size, self.split_seed)
        return Codec.fit((texts[row] for row in kept.tolist()), self.units, self.min_count, self.bpe_size, self.lowercase)

    @property
    def vocab_size(self) -> int:
        return len(self.codec)

    def load(self) -> dict[str, Columns]:
        number = {name: index for index, name in enumerate(self.class_names)}
        parts: dict[str, Columns] = {}
        for part, (texts, labels) in self.texts.items():
            unknown = set(labels) - set(number)
            if unknown:
                raise ValueError(
                    f"the test part has the label {min(unknown)!r}, which the training part has not: mend one of them"
                )
            x = Ragged.of(self.codec.encode(text)[: self.max_length] for text in texts)
            parts[part] = {"x": x, "y": torch.tensor([number[label] for label in labels])}
        return parts


def generate(number: int, seed: int, part: str) -> tuple[list[str], list[str]]:
    """Questions and what they ask for."""
    draw = random.Random(f"{part} {seed}")
    labels = [draw.choice(list(TEMPLATES)) for _ in range(number)]
    texts = [draw.choice(TEMPLATES[label]).format(subject=draw.choice(SUBJECTS), verb=draw.choice(VERBS)) for label in labels]
    return texts, labels
