"""CoNLL-U: what is read, what is passed over, and lines that are not CoNLL-U."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from datamodules import CoNLLU
from datamodules.conllu import read_conllu

GOOD = """# sent_id = 1
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVBP\t_\t_\t_\t_\t_
2\tn't\tnot\tPART\tRB\t_\t_\t_\t_\t_
2.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_

1\tStop\tstop\tVERB\tVB\t_\t_\t_\t_\t_
"""


def write(folder: Path, text=GOOD, **parts):
    for part in ("train", "dev", "test"):
        (folder / f"my-{part}.conllu").write_text(parts.get(part, text))
    return folder


def test_words_and_tags_are_read_and_tokens_that_are_no_words_passed_over(tmp_path):
    found = read_conllu(write(tmp_path) / "my-train.conllu", 3)
    assert [sentence.words for sentence in found] == [("Do", "n't", "go"), ("Stop",)]
    assert [sentence.tags for sentence in found] == [("AUX", "PART", "VERB"), ("VERB",)]
    assert read_conllu(tmp_path / "my-train.conllu", 4)[0].tags == ("VBP", "RB", "VB")


def test_vocabularies_are_of_the_training_part_and_words_are_looked_up_in_lower_case(tmp_path):
    other = "1\tGO\t_\tVERB\t_\t_\t_\t_\t_\t_\n2\tZeus\t_\tAUX\t_\t_\t_\t_\t_\t_\n"
    data = CoNLLU(str(write(tmp_path, test=other)))
    (batch,) = data.batches("test")
    assert data.class_names == ("AUX", "PART", "VERB")
    assert data.words.decode(batch.x[0].tolist()) == "go <unk>"
    assert batch.y.tolist() == [[2, 0]]
    spelled = [data.letters.decode(batch.letters[form, : batch.letter_lengths[form]].tolist()) for form in batch.forms[0]]
    assert spelled == ["<unk><unk>", "<unk><unk><unk><unk>"]  # neither letter is in the training part
    assert (data.vocab_size, data.char_vocab_size, data.num_tags) == (8, 12, 3)


def test_a_batch_is_padded_and_its_forms_spell_its_words():
    data = CoNLLU(batch_size=16)
    for batch in data.batches("train"):
        real = torch.arange(batch.x.shape[1]) < batch.lengths.unsqueeze(1)
        assert (batch.x[~real] == 0).all() and (batch.y[~real] == -1).all() and (batch.y[real] >= 0).all()
        break
    for row in range(4):
        for word, form in zip(batch.x[row], batch.forms[row], strict=True):
            letters = data.letters.decode(batch.letters[form, : batch.letter_lengths[form]].tolist())
            if word:
                assert letters == data.words.decode([int(word)])


def test_the_real_treebank_has_its_published_sizes_and_the_usual_baseline():
    if "DLKIT_DATA" not in os.environ:
        pytest.skip("DLKIT_DATA is unset: it names a folder with ud_ewt/*.conllu.gz")
    data = CoNLLU("ewt")
    sizes = {part: (len(found), sum(len(s.words) for s in found)) for part, found in data.sentences.items()}
    assert sizes == {"train": (12_544, 204_577), "val": (2001, 25_147), "test": (2077, 25_094)}
    assert data.num_tags == 17
    assert 0.83 < data.trivial_baselines()["most_frequent_tag"] < 0.88


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\tgo\tgo\tVERB", r"my-train\.conllu line 3 has 4 columns and CoNLL-U has 10"),
        ("one\tgo\t_\tVERB\t_\t_\t_\t_\t_\t_", r"line 3 begins with 'one'"),
        ("1\tgo\t_\t_\t_\t_\t_\t_\t_\t_", r"line 3 has no tag"),
        ("1\t\t_\tVERB\t_\t_\t_\t_\t_\t_", r"line 3 has no word"),
        ("x-y\tgo\t_\tVERB\t_\t_\t_\t_\t_\t_", r"line 3 begins with 'x-y' and the sentence goes on with word 1"),
        ("2\tgo\t_\tVERB\t_\t_\t_\t_\t_\t_", r"line 3 begins with '2' and the sentence goes on with word 1: mend it, or part"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    text = f"# one\n# two\n{line}\n"
    with pytest.raises(ValueError, match=message):
        CoNLLU(str(write(tmp_path, train=text))).setup()


def test_files_that_are_absent_empty_or_not_utf8_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds 0 files \*train\.conllu: give exactly one"):
        CoNLLU(str(tmp_path)).setup()
    write(tmp_path, test="# nothing\n")
    with pytest.raises(ValueError, match=r"my-test\.conllu holds no sentences"):
        CoNLLU(str(tmp_path)).setup()
    (tmp_path / "my-test.conllu").write_bytes(GOOD.encode() + "é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"my-test\.conllu line 9 is not UTF-8 \(byte 0xe9\): convert the file"):
        CoNLLU(str(tmp_path)).setup()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*ud_ewt/en_ewt-train\.conllu\.gz: put it there"):
        CoNLLU("ewt", root=str(tmp_path)).setup()


def test_a_tag_that_the_training_part_has_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the part 'test' has the tag 'X', which the training part has not"):
        CoNLLU(str(write(tmp_path, test="1\tgo\t_\tX\t_\t_\t_\t_\t_\t_\n"))).setup()
    with pytest.raises(ValueError, match="unknown column 'deps'"):
        CoNLLU(column="deps")
