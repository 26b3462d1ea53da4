"""Text to numbers and back."""

from __future__ import annotations

import importlib

import pytest

from dlkit import text
from dlkit.text import BOS, EOS, PAD, SPECIAL, UNK, Codec

TEXTS = ["the cat sat", "the cat ran", "a dog ran"]


def codecs():
    return {
        "words": Codec.fit(TEXTS),
        "characters": Codec.fit(TEXTS, "characters"),
        "bpe": Codec.fit(TEXTS * 20, "bpe", vocab_size=30),
    }


@pytest.mark.parametrize("units", ["words", "characters", "bpe"])
def test_a_text_comes_back_from_its_numbers_and_through_json(units):
    codec = codecs()[units]
    again = Codec.from_json(codec.to_json())
    for sentence in [*TEXTS, "a cat ran"]:
        numbers = codec.encode(sentence)
        assert again.encode(sentence) == numbers
        assert min(numbers) > UNK
        assert codec.decode([BOS, *numbers, EOS, 7, PAD]) == again.decode(numbers) == sentence
    assert len(codec) == len(again)
    assert codec.tokens[:4] == SPECIAL


def test_numbers_are_by_frequency_and_then_by_the_alphabet():
    assert Codec.fit(TEXTS).tokens[4:] == ("cat", "ran", "the", "a", "dog", "sat")
    assert Codec.fit(TEXTS, min_count=2).tokens[4:] == ("cat", "ran", "the")


def test_what_is_not_in_the_vocabulary_is_unknown():
    codec = Codec.fit(TEXTS)
    assert codec.encode("the bird ran") == [codec.number["the"], UNK, codec.number["ran"]]
    assert codec.decode(codec.encode("the bird ran")) == "the <unk> ran"
    assert codec.encode("") == codec.encode("  ") == []


@pytest.mark.parametrize("units", ["words", "bpe"])
def test_a_text_cannot_write_the_special_tokens(units):
    codec = Codec.fit(["the <unk> cat <unk> <eos> sat"] * 3, units, vocab_size=40)
    assert len(set(codec.tokens)) == len(codec)
    assert codec.tokens[:4] == text.SPECIAL
    numbers = codec.encode("the <pad> cat <eos> sat <bos> <unk>")
    assert not {text.PAD, text.BOS, text.EOS} & set(numbers)


def test_lower_case_is_part_of_the_codec():
    codec = Codec.from_json(Codec.fit(["The Cat"], lowercase=True).to_json())
    assert codec.decode(codec.encode("THE CAT")) == "the cat"


def test_byte_pairs_cut_words_into_known_pieces():
    codec = codecs()["bpe"]
    pieces = [codec.tokens[number] for number in codec.encode("the thecat")]
    assert len(pieces) > 2 and "".join(pieces).replace("\u2581", " ").strip() == "the thecat"
    assert len(codec) <= 30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Codec.fit(["", " "]), "there is no text to take a vocabulary from"),
        (lambda: Codec.fit(TEXTS, "syllables"), "unknown units 'syllables': use 'words', 'characters' or 'bpe'"),
        (lambda: Codec.fit(TEXTS, "bpe"), "vocab_size=0: byte-pair encoding needs a size"),
        (lambda: Codec.from_json("{}"), "this is no vocabulary of dlkit"),
        (lambda: Codec.from_json("[1"), "this is no vocabulary of dlkit"),
        (lambda: Codec.from_json('{"units": "foo", "tokens": [], "lowercase": false}'), "this is no vocabulary of dlkit"),
        (lambda: Codec.from_json('{"units": "bpe", "tokens": ["a"], "lowercase": false}'), "this is no vocabulary of dlkit"),
        (lambda: Codec.from_json('{"units": "bpe", "tokens": "{}", "lowercase": false}'), "this is no vocabulary of dlkit"),
    ],
)
def test_what_is_no_vocabulary_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_the_library_byte_pairs_say_how_to_get_it(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ModuleNotFoundError, match=r"needs the library tokenizers: pip install 'dlkit\[text\]'"):
        text.tokenizers()
