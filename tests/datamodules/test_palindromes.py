"""Palindromes: labels that are right, and lengths and classes that tell nothing."""

from __future__ import annotations

import pytest
import torch

from datamodules import Palindromes
from datamodules.palindromes import is_palindrome


def examples(split="train", **settings):
    batches = list(Palindromes(num_examples=8000, val_size=1000, **settings).batches(split))
    return [
        (x[:length].tolist(), int(y)) for batch in batches for x, length, y in zip(batch.x, batch.lengths, batch.y, strict=True)
    ]


@pytest.mark.parametrize("negatives", ["hard", "random"])
@pytest.mark.parametrize("num_symbols", [2, 10])
def test_labels_are_right_and_every_length_is_balanced(negatives, num_symbols):
    found = examples(negatives=negatives, num_symbols=num_symbols)
    assert len(found) == 7000
    for length in range(1, 11):
        here = [(x, y) for x, y in found if len(x) == length]
        assert len(here) == pytest.approx(700, abs=100)
        assert all((x == x[::-1]) == bool(y) for x, y in here)
        share = sum(y for _, y in here) / len(here)
        assert share == 1 if length == 1 else share == pytest.approx(0.5, abs=0.08)
    symbols = {symbol for x, _ in found for symbol in x}
    assert symbols == set(range(1, num_symbols + 1))


def test_a_hard_negative_is_one_symbol_away_from_a_palindrome_at_any_place_but_the_middle():
    places = torch.zeros(5)
    for x, y in examples():
        if not y:
            wrong = [place for place in range(len(x) // 2) if x[place] != x[-1 - place]]
            assert len(wrong) == 1
            if len(x) >= 9:
                places[wrong[0]] += 1
    assert places[:4].min() > 0.7 * places[:4].max()


def test_the_parts_are_different_draws_and_the_same_each_time():
    assert examples("test") == examples("test")
    assert examples("val") == examples("val")
    assert examples("test")[:100] != examples("val")[:100]
    assert examples("test", split_seed=1) != examples("test")


def test_padding_is_zero_and_tells_nothing():
    batch = next(iter(Palindromes(num_examples=2000, val_size=0).batches("train")))
    real = torch.arange(batch.x.shape[1]) < batch.lengths.unsqueeze(1)
    assert (batch.x[real] > 0).all()
    assert (batch.x[~real] == 0).all()
    assert torch.equal(is_palindrome(batch.x, batch.lengths), batch.y == 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"negatives": "soft"}, "unknown negatives 'soft': use 'hard' or 'random'"),
        ({"num_symbols": 1}, "num_symbols=1 .* give 2 or more"),
        ({"max_length": 1}, "max_length=1: give 2 or more"),
        ({"num_examples": 0}, "num_examples=0: give at least 1"),
        ({"val_size": -1}, "val_size=-1: give 0 or more"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Palindromes(**arguments)


def test_a_validation_part_as_large_as_the_training_part_is_refused():
    with pytest.raises(ValueError, match=r"val_size=100 leaves nothing of the 100 training examples: lower it"):
        Palindromes(num_examples=100, val_size=100).setup()
    with pytest.raises(ValueError, match=r"there is no split 'val', only test, train: name one of them"):
        Palindromes(num_examples=100, val_size=0).loader("val")
