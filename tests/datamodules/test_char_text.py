"""A long text in streams: every character is predicted once, in order, and nothing is forgotten between windows."""

from __future__ import annotations

import os

import pytest
import torch

import datamodules.loader
from datamodules import CharText
from datamodules.char_text import StreamLoader


def loader(n=100, batch_size=3, window=4, shuffle=False, seed=0):
    return StreamLoader(torch.arange(n, dtype=torch.int32), batch_size, window, shuffle, seed)


def joined(batches):
    """The rows of all windows put together: inputs, targets."""
    return tuple(torch.cat([batch[i] for batch in batches], 1) for i in (0, 1))


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_row_goes_on_from_window_to_window_and_is_followed_by_its_targets(shuffle):
    batches = list(loader(shuffle=shuffle))
    inputs, targets = joined(batches)
    assert len(batches) == len(loader(shuffle=shuffle))
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs[:, 1:], inputs[:, :-1] + 1)
    assert torch.equal(inputs[1:, 0], inputs[:-1, -1] + 1)
    assert [bool(batch.first) for batch in batches] == [True] + [False] * (len(batches) - 1)
    # Less than a character of each row is dropped where nothing is shuffled, and less than two windows otherwise.
    assert inputs.numel() > 100 - 1 - (2 * 3 * 4 if shuffle else 3)
    assert {batch.x.shape[1] for batch in batches[:-1]} == {4}
    assert not shuffle or batches[-1].x.shape[1] == 4


def test_each_epoch_begins_elsewhere_and_is_a_function_of_seed_and_epoch():
    first = loader(shuffle=True)
    starts = [int(next(iter(batches)).x[0, 0]) for batches in [list(first) for _ in range(20)]]
    assert set(starts) == {0, 1, 2, 3}
    again = loader(shuffle=True)
    again.set_epoch(7)
    assert int(next(iter(again)).x[0, 0]) == starts[7]


def test_a_loader_goes_on_where_another_was():
    first, second = loader(shuffle=True), loader(shuffle=True)
    passed = iter(first)
    begun = [next(passed) for _ in range(3)]
    second.load_state_dict(first.state_dict())
    second.set_epoch(0)
    rest = list(second)
    assert not bool(rest[0].first)
    assert torch.equal(joined([*begun, *rest])[0], joined(list(loader(shuffle=True)))[0])


def test_processes_read_streams_of_their_own(monkeypatch):
    rows = []
    for rank in range(2):
        monkeypatch.setattr(datamodules.loader, "world", lambda rank=rank: (rank, 2))
        rows.append(joined(list(loader()))[0])
    monkeypatch.setattr(datamodules.loader, "world", lambda: (0, 1))
    together = joined(list(loader(batch_size=6)))[0]
    assert torch.equal(torch.stack(rows, 1).flatten(0, 1), together)


def test_the_text_is_split_by_position_and_the_vocabulary_is_of_the_training_part(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc" * 60 + "xyz" * 20)
    data = CharText(str(path), val_share=0.2, test_share=0.1, window=4, batch_size=2)
    assert {part: len(text) for part, text in data.parts.items()} == {"train": 168, "val": 48, "test": 24}
    assert data.vocab_size == 4 + 3
    data.setup()
    assert set(data.splits["test"].tolist()) == {3}
    assert CharText(str(path), window=4, batch_size=2).parts["test"] == CharText(str(path)).parts["val"]


def test_tinyshakespeare_has_its_published_split():
    if "DLKIT_DATA" not in os.environ:
        pytest.skip("DLKIT_DATA is unset: it names a folder with tinyshakespeare/input.txt")
    data = CharText("tinyshakespeare")
    assert (len(data.parts["train"]), len(data.parts["val"])) == (1_003_855, 111_539)
    assert data.vocab_size == 65 + 4


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"100 tokens are too few for 60 streams with windows of 40: lower"):
        list(loader(batch_size=60, window=40, shuffle=True))
    with pytest.raises(ValueError, match=r"window=0 .* give 1 or more"):
        CharText(window=0)
    with pytest.raises(ValueError, match=r"val_share=0\.5 and test_share=0\.5: give shares that leave"):
        CharText(val_share=0.5, test_share=0.5)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"the text of .*empty\.txt is empty"):
        CharText(str(tmp_path / "empty.txt")).setup()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.txt"):
        CharText(str(tmp_path / "none.txt")).vocab_size  # noqa: B018
    with pytest.raises(
        ValueError, match=r"there is no split 'val', only train: name one of them, or make a validation split with val_share"
    ):
        CharText(val_share=0.0).loader("val")
