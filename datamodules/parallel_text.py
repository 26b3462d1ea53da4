"""ParallelText: sentences and their translations."""

from __future__ import annotations

import datetime
import random
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from datamodules.base import data_root
from datamodules.columns import Columns
from datamodules.ragged import Ragged
from datamodules.sequences import SequenceData
from datamodules.text_files import read_lines
from dlkit.batches import SentencePairs
from dlkit.text import BOS, EOS, Codec, Units

MULTI30K = {"train": "train", "val": "val", "test": "test_2016_flickr"}
NUM_GENERATED = {"train": 20_000, "val": 1000, "test": 1000}
NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen",
    "twenty thirty forty fifty sixty seventy eighty ninety",
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth",
    "january february march april may june july august september october november december",
    "monday tuesday wednesday thursday friday saturday sunday",
)
ONES, TENS, ORDINALS, MONTHS, DAYS = (names.split() for names in NAMES)


class ParallelText(SequenceData):
    """Sentences of one language and, line by line, their translations into another.

    Both vocabularies are of the training part alone. Pairs of which one side is empty are refused, and those with more than
    `max_length` tokens on a side are left out of training; validation and test keep all.

    Args:
        source: "generated", dates as people write them and as ISO 8601 does; "multi30k", the captions
            `multi30k/{train,val,test_2016_flickr}.*` (Elliott et al. 2016, arXiv:1605.00459); or the beginning of the paths of
            files of your own, `<source>train.de` and so on for `val` and `test`, plain or gzipped.
        languages: what the files of the two languages end in: from, to.
        root: the folder that holds `multi30k`; DLKIT_DATA if None.
        units: "words" (what stands between blanks), "characters" or "bpe", of both languages.
        bpe_size: of each vocabulary of "bpe".
        lowercase: puts both languages into lower case; references stay as they are.
        min_count: words and characters rarer than this are `<unk>`.
        max_length: of a training sentence, in tokens.
        batch_size, batch_steps, split_seed: see `SequenceData`; a step is a source and a target token.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: files of different length, an empty line, or another language than two.

    Attributes:
        source_vocabulary, target_vocabulary: the codecs, as strings: see `dlkit.text.Codec`.
        source_vocab_size, target_vocab_size: how many tokens they have.
    """

    def __init__(
        self,
        source: str = "generated",
        languages: tuple[str, str] = ("de", "en"),
        root: str | None = None,
        units: Units = "words",
        bpe_size: int = 8000,
        lowercase: bool = False,
        min_count: int = 1,
        max_length: int = 100,
        batch_size: int = 64,
        batch_steps: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batch_steps, 0, split_seed)
        if len(languages) != 2:
            raise ValueError(f"languages={tuple(languages)}: give two, from and to")
        if max_length < 1:
            raise ValueError(f"max_length={max_length}: give 1 or more tokens")
        self.source = source
        self.languages = (languages[0], languages[1])
        self.root = root
        self.units: Units = units
        self.bpe_size = bpe_size
        self.lowercase = lowercase
        self.min_count = min_count
        self.max_length = max_length

    @cached_property
    def texts(self) -> dict[str, tuple[list[str], list[str]]]:
        """The parts as they are read: sentences and translations, in the files' order."""
        if self.source == "generated":
            return {part: generate(number, f"{part} {self.split_seed}") for part, number in NUM_GENERATED.items()}
        names = {part: part for part in MULTI30K}
        start = str(Path(self.source).expanduser())
        if self.source == "multi30k":
            names, start = MULTI30K, f"{data_root(self.root) / 'multi30k'}/"
        elif self.source.endswith("/"):
            start += "/"
        return {part: read_pair(start + name, self.languages) for part, name in names.items()}

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        """Sentences and their reference translations."""
        return self.texts[split]

    @cached_property
    def codecs(self) -> tuple[Codec, Codec]:
        """The codecs of both languages."""
        first, second = (
            Codec.fit(texts, self.units, self.min_count, self.bpe_size, self.lowercase) for texts in self.texts["train"]
        )
        return first, second

    @property
    def source_vocabulary(self) -> str:
        return self.codecs[0].to_json()

    @property
    def target_vocabulary(self) -> str:
        return self.codecs[1].to_json()

    @property
    def source_vocab_size(self) -> int:
        return len(self.codecs[0])

    @property
    def target_vocab_size(self) -> int:
        return len(self.codecs[1])

    def load(self) -> dict[str, Columns]:
        parts: dict[str, Columns] = {}
        for part, (sources, targets) in self.texts.items():
            encoded = [
                (source, target)
                for source, target in zip(map(self.codecs[0].encode, sources), map(self.codecs[1].encode, targets), strict=True)
                if part != "train" or max(len(source), len(target)) <= self.max_length
            ]
            if not encoded:
                raise ValueError(f"max_length={self.max_length} leaves no training sentence: raise it")
            parts[part] = {
                "source": Ragged.of(source for source, _ in encoded),
                "target": Ragged.of([BOS, *target, EOS] for _, target in encoded),
            }
        return parts

    def lengths(self, part: Columns) -> Tensor:
        return torch.stack([part["target"].lengths, part["source"].lengths], 1)

    def collate(self, part: Columns, rows: Tensor) -> SentencePairs:
        source, lengths = part["source"].padded(rows)
        return SentencePairs(source, lengths, part["target"].padded(rows)[0])

    def trivial_baselines(self) -> dict[str, float]:
        return {}  # there is no most frequent translation


def read_pair(start: str, languages: tuple[str, str]) -> tuple[list[str], list[str]]:
    """The lines of two files that belong together.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: they differ in length, they are empty, or a line is.
    """
    paths = [Path(f"{start}.{language}") for language in languages]
    paths = [path if path.is_file() else path.with_name(f"{path.name}.gz") for path in paths]
    first, second = (read_lines(path) for path in paths)
    if len(first) != len(second):
        raise ValueError(
            f"{paths[0]} has {len(first)} lines and {paths[1]} has {len(second)}: a line and its translation go together"
        )
    if not first:
        raise ValueError(f"{paths[0]} and {paths[1]} hold no sentences: give at least one line")
    for path, lines in zip(paths, (first, second), strict=True):
        empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
        if empty is not None:
            raise ValueError(f"{path} line {empty} is empty: fill it, or remove it from both files")
    return first, second


def in_words(number: int) -> str:
    """0 .. 99 in English: 42 -> "forty two"."""
    if number < len(ONES):
        return ONES[number]
    return " ".join([TENS[number // 10 - 2], *([ONES[number % 10]] if number % 10 else [])])


def year_in_words(year: int) -> str:
    """1900 .. 2099 as it is said: 1985 -> "nineteen eighty five", 2003 -> "two thousand three"."""
    century, rest = divmod(year, 100)
    if year // 10 == 200:
        return " ".join(["two thousand", *([ONES[rest]] if rest else [])])
    if rest == 0:
        return f"{in_words(century)} hundred"
    return f"{in_words(century)} {f'oh {ONES[rest]}' if rest < 10 else in_words(rest)}"


def ordinal_in_words(day: int) -> str:
    """1 .. 31: 22 -> "twenty second"."""
    if day < len(ORDINALS):
        return ORDINALS[day]
    return {20: "twentieth", 30: "thirtieth"}.get(day) or f"{TENS[day // 10 - 2]} {ORDINALS[day % 10]}"


def generate(number: int, seed: str) -> tuple[list[str], list[str]]:
    """Dates as people write and say them, and as ISO 8601 does, digit by digit."""
    draw = random.Random(seed)
    sources: list[str] = []
    targets: list[str] = []
    for _ in range(number):
        date = datetime.date(1900, 1, 1) + datetime.timedelta(draw.randrange(200 * 365))
        month = MONTHS[date.month - 1]
        sources.append(
            draw.choice(
                (
                    f"{date.day} {month} {date.year}",
                    f"{month} {date.day} , {date.year}",
                    f"the {ordinal_in_words(date.day)} of {month} {year_in_words(date.year)}",
                    f"{month} the {ordinal_in_words(date.day)} , {year_in_words(date.year)}",
                    f"{DAYS[date.weekday()]} , {date.day} {month[:3]} {date.year}",
                )
            )
        )
        targets.append(" ".join(date.isoformat()))
    return sources, targets
