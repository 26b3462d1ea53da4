"""CoNLLU: sentences with a tag for each word, in the format of Universal Dependencies."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.base import data_root
from datamodules.columns import Columns
from datamodules.ragged import Ragged
from datamodules.sequences import SequenceData
from datamodules.text_files import read_lines
from dlkit.batches import TaggedWords
from dlkit.text import Codec

COLUMNS = 10
TAG_COLUMN = {"upos": 3, "xpos": 4}
EWT = {"train": "en_ewt-train.conllu.gz", "val": "en_ewt-dev.conllu.gz", "test": "en_ewt-test.conllu.gz"}
NUM_GENERATED = {"train": 3000, "val": 300, "test": 1000}
# The generated language: the ending says the part of speech, but "-or" is a noun or a verb by what stands before it.
ONSETS = ("bl", "d", "f", "gr", "k", "l", "m", "p", "st", "t", "v")
ENDINGS = {"NOUN": ("um", "or"), "VERB": ("at", "or"), "ADJ": ("ish",), "DET": ("e",)}


class Sentence(NamedTuple):
    """The words of a sentence and their tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


class CoNLLU(SequenceData):
    """Tagged sentences. The vocabularies of words and of letters are those of the training part alone.

    Words are looked up in lower case; their letters are not changed. A word that is not in the training part is `<unk>`,
    and so are its unknown letters. Tokens that stand for several words (ids such as 1-2) and words that are not written
    (8.1) are passed over, as the tasks of Universal Dependencies do.

    Args:
        source: "generated", a small language whose endings tell most of the tags; "ewt", English Web Treebank's
            `ud_ewt/en_ewt-{train,dev,test}.conllu.gz`; or a folder of your own with files `*train.conllu`, `*dev.conllu` and
            `*test.conllu`, gzipped or not.
        column: "upos" or "xpos".
        root: the folder that holds `ud_ewt`; DLKIT_DATA if None.
        batch_size, batch_steps, split_seed: see `SequenceData`.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a line that is not CoNLL-U (file and line are named), or a tag that the training part does not have.

    Attributes:
        class_names: the tags, in alphabetical order.
        vocab_size, char_vocab_size: how many words and letters are known, the four special tokens included.
    """

    def __init__(
        self,
        source: str = "generated",
        column: Literal["upos", "xpos"] = "upos",
        root: str | None = None,
        batch_size: int = 32,
        batch_steps: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batch_steps, 0, split_seed)
        if column not in TAG_COLUMN:
            raise ValueError(f"unknown column {column!r}: use 'upos' or 'xpos'")
        self.source = source
        self.column: Literal["upos", "xpos"] = column
        self.root = root

    def paths(self) -> dict[str, Path]:
        """The files of the three parts."""
        if self.source == "ewt":
            return {part: data_root(self.root) / "ud_ewt" / name for part, name in EWT.items()}
        folder = Path(self.source).expanduser()
        found: dict[str, Path] = {}
        for part, name in (("train", "train"), ("val", "dev"), ("test", "test")):
            here = sorted([*folder.glob(f"*{name}.conllu"), *folder.glob(f"*{name}.conllu.gz")])
            if len(here) != 1:
                raise FileNotFoundError(f"{folder} holds {len(here)} files *{name}.conllu: give exactly one")
            found[part] = here[0]
        return found

    @cached_property
    def sentences(self) -> dict[str, list[Sentence]]:
        """The three parts, as they are read."""
        if self.source == "generated":
            return {part: generate(number, f"{part} {self.split_seed}") for part, number in NUM_GENERATED.items()}
        return {part: read_conllu(path, TAG_COLUMN[self.column]) for part, path in self.paths().items()}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted({tag for sentence in self.sentences["train"] for tag in sentence.tags}))

    @property
    def num_tags(self) -> int:
        """How many tags there are."""
        return len(self.class_names)

    @cached_property
    def words(self) -> Codec:
        """The codec of words: a sentence is its words with blanks between them."""
        return Codec.fit((" ".join(map(unbroken, s.words)) for s in self.sentences["train"]), "words", lowercase=True)

    @cached_property
    def letters(self) -> Codec:
        """The codec of letters."""
        return Codec.fit((word for sentence in self.sentences["train"] for word in sentence.words), "characters")

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    @property
    def char_vocab_size(self) -> int:
        return len(self.letters)

    @cached_property
    def forms(self) -> dict[str, int]:
        """Every written form in any part, numbered: what the letters are kept of."""
        found: dict[str, int] = {}
        for part in self.sentences.values():
            for sentence in part:
                for word in sentence.words:
                    found.setdefault(word, len(found))
        return found

    def load(self) -> dict[str, Columns]:
        number = {tag: index for index, tag in enumerate(self.class_names)}
        self.spelling = Ragged.of(self.letters.encode(form) for form in self.forms)
        parts: dict[str, Columns] = {}
        for part, sentences in self.sentences.items():
            unknown = {tag for sentence in sentences for tag in sentence.tags} - set(number)
            if unknown:
                raise ValueError(
                    f"the part {part!r} has the tag {min(unknown)!r}, which the training part has not: mend one of them"
                )
            parts[part] = {
                "x": Ragged.of(self.words.encode(" ".join(map(unbroken, s.words))) for s in sentences),
                "y": Ragged.of([number[tag] for tag in s.tags] for s in sentences),
                "forms": Ragged.of([self.forms[word] for word in s.words] for s in sentences),
            }
        return parts

    def collate(self, part: Columns, rows: Tensor) -> TaggedWords:
        x, lengths = part["x"].padded(rows)
        y, _ = part["y"].padded(rows)
        forms, _ = part["forms"].padded(rows)
        real = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
        distinct, places = forms[real].unique(return_inverse=True)
        letters, letter_lengths = self.spelling.padded(distinct)
        form_of = torch.zeros_like(forms)
        form_of[real] = places
        return TaggedWords(x, lengths, y.masked_fill(~real, -1), form_of, letters, letter_lengths)

    def trivial_baselines(self) -> dict[str, float]:
        """The accuracy on the test part of each word's most frequent tag, and for unknown words of the most frequent tag among
        words seen once."""
        by_word: dict[str, Counter[str]] = {}
        for sentence in self.sentences["train"]:
            for word, tag in zip(sentence.words, sentence.tags, strict=True):
                by_word.setdefault(word.lower(), Counter())[tag] += 1
        once = Counter(next(iter(tags)) for tags in by_word.values() if tags.total() == 1)
        fallback = (once or Counter(tag for tags in by_word.values() for tag in tags)).most_common(1)[0][0]
        best = {word: tags.most_common(1)[0][0] for word, tags in by_word.items()}
        pairs = [pair for sentence in self.sentences["test"] for pair in zip(sentence.words, sentence.tags, strict=True)]
        return {"most_frequent_tag": sum(best.get(word.lower(), fallback) == tag for word, tag in pairs) / len(pairs)}


def unbroken(word: str) -> str:
    """A word without blanks within, which the format allows."""
    return "_".join(word.split())


def read_conllu(path: Path, column: int) -> list[Sentence]:
    """The sentences of a file.

    Args:
        path: of the file.
        column: which of the ten columns, counted from 0, has the tag.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: naming file and line.
    """
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*read_lines(path), ""], 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            if words:
                sentences.append(Sentence(tuple(words), tuple(tags)))
                words, tags = [], []
            continue
        fields = line.split("\t")
        if len(fields) != COLUMNS:
            raise ValueError(
                f"{path} line {number} has {len(fields)} columns and CoNLL-U has {COLUMNS}, parted by tabs: mend it"
            )
        if re.fullmatch(r"\d+[-.]\d+", fields[0]):
            continue
        if fields[0] != str(len(words) + 1):
            raise ValueError(
                f"{path} line {number} begins with {fields[0]!r} and the sentence goes on with word {len(words) + 1}: mend it, "
                f"or part the sentences by an empty line"
            )
        if not fields[1].strip() or fields[column] in ("", "_"):
            raise ValueError(f"{path} line {number} has no {'tag' if fields[1].strip() else 'word'}: mend it")
        words.append(fields[1])
        tags.append(fields[column])
    if not sentences:
        raise ValueError(f"{path} holds no sentences: give at least one")
    return sentences


def generate(number: int, seed: str) -> list[Sentence]:
    """Sentences of the small language: a determiner, adjectives, a noun, a verb, and the same again without the verb."""
    draw = random.Random(seed)

    def word(tag: str) -> tuple[str, str]:
        stem = draw.choice(ONSETS) + draw.choice("aeiou") + draw.choice(ONSETS)
        return stem + draw.choice(ENDINGS[tag]), tag

    def phrase() -> list[tuple[str, str]]:
        return [word("DET"), *(word("ADJ") for _ in range(draw.randrange(3))), word("NOUN")]

    found: list[Any] = [[*phrase(), word("VERB"), *phrase()] for _ in range(number)]
    return [Sentence(tuple(w for w, _ in pairs), tuple(t for _, t in pairs)) for pairs in found]
