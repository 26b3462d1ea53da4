"""Text to numbers and back: how a text is cut into tokens, and which number each token has.

A `Codec` is the contract between text data and the methods trained on it, as `dlkit.batches` is for tensors: the datamodule
builds one from the training texts, and the method keeps it in its checkpoint, as one string, so that a checkpoint reads and
writes text by itself.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

PAD, BOS, EOS, UNK = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
Units = Literal["words", "characters", "bpe"]


class Codec:
    """Turns text into tokens' numbers and back.

    The first four numbers are 0 padding, 1 the beginning, 2 the end, and 3 a token that is not in the vocabulary.

    Args:
        units: "words": what stands between blanks, for text that is in tokens already; "characters"; or "bpe": byte-pair
            encoding (Sennrich et al. 2016, arXiv:1508.07909), by the library `tokenizers`.
        tokens: the vocabulary, without the four, for words and characters; the library's JSON for "bpe".
        lowercase: the text is put into lower case first.
    """

    def __init__(self, units: Units, tokens: Sequence[str] | str, lowercase: bool = False) -> None:
        self.units: Units = units
        self.lowercase = lowercase
        self.bpe: Any = None
        if units == "bpe":
            assert isinstance(tokens, str)
            self.bpe = tokenizers().Tokenizer.from_str(tokens)
            vocabulary = self.bpe.get_vocab()
            self.tokens = tuple(sorted(vocabulary, key=vocabulary.__getitem__))
        else:
            self.tokens = (*SPECIAL, *tokens)
        # A text cannot write the special tokens: a word that reads like one is unknown.
        self.number = {token: index for index, token in enumerate(self.tokens) if index >= len(SPECIAL)}

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def fit(
        cls, texts: Iterable[str], units: Units = "words", min_count: int = 1, vocab_size: int = 0, lowercase: bool = False
    ) -> Codec:
        """The codec of some training texts.

        Args:
            texts: what the vocabulary is taken from.
            units: see the class.
            min_count: words and characters that are rarer are left out.
            vocab_size: of "bpe", the four special tokens included.
            lowercase: see the class.

        Raises:
            ValueError: an unknown kind of units, no vocab_size for "bpe", or no text at all.
        """
        texts = [text.lower() if lowercase else text for text in texts]
        if not any(map(str.strip, texts)):
            raise ValueError("there is no text to take a vocabulary from: look at the files")
        if units == "bpe":
            if vocab_size <= len(SPECIAL):
                raise ValueError(f"vocab_size={vocab_size}: byte-pair encoding needs a size, such as 8000")
            library = tokenizers()
            bpe = library.Tokenizer(library.models.BPE(unk_token=SPECIAL[UNK]))
            bpe.pre_tokenizer = library.pre_tokenizers.Metaspace()
            bpe.decoder = library.decoders.Metaspace()
            trainer = library.trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False)
            bpe.train_from_iterator(texts, trainer)
            return cls("bpe", bpe.to_str(), lowercase)
        if units not in ("words", "characters"):
            raise ValueError(f"unknown units {units!r}: use 'words', 'characters' or 'bpe'")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.split() if units == "words" else text)
        # The most frequent first, and the same order on every machine.
        kept = sorted(
            (token for token, count in counts.items() if count >= min_count and token not in SPECIAL),
            key=lambda token: (-counts[token], token),
        )
        return cls(units, kept, lowercase)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's tokens, without beginning and end."""
        text = text.lower() if self.lowercase else text
        if self.bpe is not None:
            return [number if number > UNK else UNK for number in self.bpe.encode(text).ids]
        return [self.number.get(token, UNK) for token in (text.split() if self.units == "words" else text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of numbers, up to the first end; padding and the beginning are left out."""
        kept: list[int] = []
        for number in numbers:
            if number == EOS:
                break
            if number not in (PAD, BOS):
                kept.append(int(number))
        if self.bpe is not None:
            return self.bpe.decode(kept)
        return (" " if self.units == "words" else "").join(self.tokens[number] for number in kept)

    def to_json(self) -> str:
        """Everything, as one string."""
        tokens = self.bpe.to_str() if self.bpe is not None else list(self.tokens[len(SPECIAL) :])
        return json.dumps({"units": self.units, "lowercase": self.lowercase, "tokens": tokens}, ensure_ascii=False)

    @classmethod
    def from_json(cls, content: str) -> Codec:
        """The codec that `to_json` wrote.

        Raises:
            ValueError: the string is something else.
        """
        try:
            found = json.loads(content)
            if found["units"] not in get_args(Units) or isinstance(found["tokens"], str) != (found["units"] == "bpe"):
                raise ValueError(f"{found['units']!r} with such tokens")
            return cls(found["units"], found["tokens"], found["lowercase"])
        except ModuleNotFoundError:
            raise
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"this is no vocabulary of dlkit ({error}): take it from the data or a checkpoint") from error


def codec_of(vocabulary: str | None, vocab_size: int, name: str = "vocab_size") -> Codec | None:
    """The codec that a method was given as a string, None for a method without.

    Raises:
        ValueError: it has another number of tokens than the argument `name` says.
    """
    codec = Codec.from_json(vocabulary) if vocabulary else None
    if codec is not None and len(codec) != vocab_size:
        raise ValueError(f"{name}={vocab_size} and the vocabulary has {len(codec)} tokens: give both from one data set")
    return codec


def lines_of(text: str) -> list[str]:
    """The lines of a text, without their ends, cut where line-aligned files are: at no other mark than a new line."""
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def tokenizers() -> Any:
    """The library, imported when it is needed.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        library = importlib.import_module("tokenizers")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "byte-pair encoding needs the library tokenizers: pip install 'dlkit[text]', or take words with units='words'"
        ) from error
    return library
