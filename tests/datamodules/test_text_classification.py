"""Texts and classes: formats, vocabularies of the training part alone, and files that cannot be read."""

from __future__ import annotations

import gzip
import os

import pytest

from datamodules import TextClassification
from datamodules.text_files import read_labelled

ROWS = [("good", "a fine, fine film"), ("bad", "a dull film"), ("good", "lovely")]


def write(path, rows=ROWS):
    if path.suffix == ".csv":
        path.write_text("label,text\n" + "".join(f'{label},"{text}"\n' for label, text in rows))
    elif path.suffix == ".tsv":
        path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for label, text in rows))
    else:
        path.write_text("".join(f"{label} {text}\n\n" for label, text in rows))
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_three_formats_say_the_same(tmp_path, name):
    texts, labels = read_labelled(write(tmp_path / name))
    assert (texts, labels) == ([text for _, text in ROWS], [label for label, _ in ROWS])
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert read_labelled(packed) == (texts, labels)


def test_the_vocabulary_is_of_what_is_trained_on_and_classes_are_named(tmp_path):
    train = write(tmp_path / "train.tsv", [("good", "fine film"), ("bad", "dull film")] * 50)
    test = write(tmp_path / "test.tsv", [("bad", "Dull opera")])
    data = TextClassification(str(train), test=str(test), val_size=10)
    assert data.class_names == ("bad", "good")
    assert data.vocab_size == 4 + 3
    (batch,) = data.batches("test")
    assert data.codec.decode(batch.x[0].tolist()) == "dull <unk>"
    assert batch.y.tolist() == [0]
    alone = TextClassification(str(train), val_size=0)
    assert sum(len(batch.y) for batch in alone.batches("test")) == 10
    assert sum(len(batch.y) for batch in alone.batches("train")) == 90


def test_long_texts_lose_their_ends(tmp_path):
    data = TextClassification(str(write(tmp_path / "a.txt", ROWS * 10)), max_length=2, val_size=0)
    assert max(int(batch.lengths.max()) for batch in data.batches("train")) == 2


def test_generated_questions_are_even_and_the_same_each_time():
    data = TextClassification()
    assert data.num_classes == 4
    data.setup()
    assert 0.2 < data.trivial_baselines()["majority"] < 0.3
    assert data.texts["train"] == TextClassification().texts["train"] != TextClassification(split_seed=1).texts["train"]


def test_trec_has_its_published_sizes():
    if "DLKIT_DATA" not in os.environ:
        pytest.skip("DLKIT_DATA is unset: it names a folder with trec/TREC.train.all")
    data = TextClassification("trec")
    assert [len(data.texts[part][0]) for part in ("train", "test")] == [5452, 500]
    assert data.num_classes == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "class,text\n1,x\n", r"a\.csv has no column label: its first line names the columns"),
        ("a.csv", "label,text\n1,\n", r"a\.csv line 2 has no text: give it one, or remove the line"),
        (
            "a.csv",
            "text,label\ngood, very good,1\n",
            r"a\.csv line 2 has more cells than its head: put text with commas in quotes",
        ),
        ("a.txt", "1 x\n2\n", r"a\.txt line 2 has no text"),
        ("a.txt", "\n\n", r"a\.txt holds no texts"),
        ("a.txt.gz", "not zipped", r"a\.txt\.gz is damaged or cut short"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_labelled(tmp_path / name)


def test_quotes_are_marks_in_tsv_and_blanks_of_any_kind_part_a_label_from_its_text(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"bad\tneg\nfine\tpos\n"so" so\tneg\n')
    assert read_labelled(tmp_path / "a.tsv") == (['"bad', "fine", '"so" so'], ["neg", "pos", "neg"])
    (tmp_path / "a.txt").write_text("pos\tgood  film\nneg bad\u2028film\n")
    assert read_labelled(tmp_path / "a.txt") == (["good  film", "bad\u2028film"], ["pos", "neg"])
    (tmp_path / "a.csv").write_text("text,label\n" + "a" * 200_000 + ",pos\n")
    with pytest.raises(ValueError, match=r"a\.csv line \d cannot be read \(field larger than field limit"):
        read_labelled(tmp_path / "a.csv")


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.csv: put it there"):
        TextClassification(str(tmp_path / "none.csv")).setup()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*trec/TREC\.train\.all"):
        TextClassification("trec", root=str(tmp_path)).setup()
    train, test = write(tmp_path / "a.txt", ROWS * 5), write(tmp_path / "b.txt", [("ugly", "film")])
    with pytest.raises(ValueError, match=r"the test part has the label 'ugly', which the training part has not"):
        TextClassification(str(train), test=str(test), val_size=0).setup()
    with pytest.raises(ValueError, match="max_length=0: give 1 or more tokens"):
        TextClassification(max_length=0)
