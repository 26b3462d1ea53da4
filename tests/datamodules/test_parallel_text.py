"""Sentences and their translations: what goes together, and files that do not."""

from __future__ import annotations

import datetime
import os

import pytest

from datamodules import ParallelText
from datamodules.parallel_text import ordinal_in_words, year_in_words
from dlkit.text import BOS, EOS, PAD


def write(folder, **parts):
    for part in ("train", "val", "test"):
        for language, text in zip(("de", "en"), parts.get(part, ("eins zwei\ndrei\n", "one two\nthree\n")), strict=True):
            (folder / f"my.{part}.{language}").write_text(text)
    return ParallelText(f"{folder}/my.", batch_size=4)


def test_dates_are_written_out_and_in_digits():
    assert [year_in_words(year) for year in (1900, 1906, 1985, 2000, 2003, 2014)] == [
        "nineteen hundred", "nineteen oh six", "nineteen eighty five", "two thousand", "two thousand three", "twenty fourteen",
    ]  # fmt: skip
    assert [ordinal_in_words(day) for day in (1, 12, 20, 22, 30, 31)] == [
        "first", "twelfth", "twentieth", "twenty second", "thirtieth", "thirty first",
    ]  # fmt: skip
    sources, targets = ParallelText().pairs("train")
    assert all(datetime.date.fromisoformat(target.replace(" ", "")) for target in targets)
    assert len(set(zip(sources, targets, strict=True))) > 15_000
    known = dict(zip(sources, targets, strict=True))
    for source, target in known.items():
        if source.endswith(" of march nineteen eighty five"):
            assert target.startswith("1 9 8 5 - 0 3 - ")


def test_pairs_go_together_through_buckets_and_targets_have_a_beginning_and_an_end():
    data, seen = ParallelText(batch_size=32), 0
    truth = dict(zip(*data.pairs("train"), strict=True))
    for batch in data.batches("train"):
        for source, length, target in zip(batch.source, batch.source_lengths, batch.target, strict=True):
            real = target[target != PAD]
            assert real[0] == BOS and real[-1] == EOS and (real[1:-1] > EOS).all()
            words = data.codecs[0].decode(source[:length].tolist())
            assert truth[words] == data.codecs[1].decode(real.tolist())
            assert (source[length:] == PAD).all()
            seen += 1
    assert seen == 20_000


def test_a_batch_ends_at_its_bound_of_steps():
    data = ParallelText(batch_size=1000, batch_steps=400)
    sizes = [batch.target.numel() + batch.source.numel() for batch in data.batches("train")]
    assert 350 < sum(sizes) / len(sizes) < max(sizes) <= 400


def test_files_of_ones_own_are_read_line_by_line(tmp_path):
    data = write(tmp_path)
    assert data.pairs("val") == (["eins zwei", "drei"], ["one two", "three"])
    (batch,) = data.batches("test")
    assert batch.source_lengths.tolist() == [1, 2]
    assert [data.codecs[0].decode(row.tolist()) for row in batch.source] == ["drei", "eins zwei"]
    long = write(tmp_path, train=("eins zwei drei\ndrei\n", "one\nthree\n"))
    long.max_length = 2
    assert len(next(iter(long.batches("train"))).source) == 1


def test_lines_are_parted_by_new_lines_alone(tmp_path):
    data = write(tmp_path, val=("eins\u2028zwei\r\ndrei", "one two\nthree\n"))
    assert data.pairs("val") == (["eins\u2028zwei", "drei"], ["one two", "three"])


def test_multi30k_has_its_published_sizes():
    if "DLKIT_DATA" not in os.environ:
        pytest.skip("DLKIT_DATA is unset: it names a folder with multi30k/*.gz")
    data = ParallelText("multi30k")
    assert [len(data.pairs(part)[0]) for part in ("train", "val", "test")] == [29_000, 1014, 1000]


def test_files_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"my\.val\.de has 2 lines and .*my\.val\.en has 1: a line and its translation"):
        write(tmp_path, val=("eins\nzwei\n", "one\n")).setup()
    with pytest.raises(ValueError, match=r"my\.train\.en line 2 is empty: fill it, or remove it from both files"):
        write(tmp_path, train=("eins\nzwei\n", "one\n\n")).setup()
    with pytest.raises(ValueError, match=r"my\.val\.de and .*my\.val\.en hold no sentences: give at least one line"):
        write(tmp_path, val=("", "")).setup()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*train\.de"):
        ParallelText(f"{tmp_path}/none.").setup()
    with pytest.raises(ValueError, match=r"languages=\('de',\): give two"):
        ParallelText(languages=("de",))
    with pytest.raises(ValueError, match=r"max_length=1 leaves no training sentence: raise it"):
        data = write(tmp_path, train=("eins zwei\n", "one two\n"))
        data.max_length = 1
        data.setup()
