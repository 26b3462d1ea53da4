"""TUDataset: the text format, its folds, and lines that are not as said."""

from __future__ import annotations

import os

import pytest
import torch

from datamodules import TUDataset
from datamodules.folds import stratified_parts

# A path of three nodes with tags 5 9 5, of class -1; a single node, of class 4.
PATH, POINT = "3 -1\n5 1 1\n9 2 0 2\n5 1 1\n", "1 4\n9 0\n"


def file(tmp_path, text):
    (tmp_path / "graphs.txt").write_text(text)
    return TUDataset(str(tmp_path / "graphs.txt"), num_folds=3)


def test_generated_trees_have_the_class_that_neighbours_of_tag_0_give_them():
    data = TUDataset()
    data.setup()
    assert [len(data.splits[name]["y"]) for name in ("train", "val", "test")] == [320, 40, 40]
    for name in ("train", "val", "test"):
        for graph in range(40):
            batch = data.collate(data.splits[name], torch.tensor([graph]))
            nodes = len(batch.x)
            assert 8 <= nodes <= 16 and batch.edge_index.shape[1] == 2 * (nodes - 1)
            reached = torch.eye(nodes).index_put(tuple(batch.edge_index), torch.ones(2 * nodes - 2)).matrix_power(nodes)
            assert (reached > 0).all(), "a tree is in one piece"
            tags = batch.x.argmax(1)
            assert batch.y.item() == int((tags[batch.edge_index] == 0).all(0).any())
    assert 0.3 < data.splits["train"]["y"].float().mean() < 0.7


def test_graphs_are_read_as_they_stand(tmp_path):
    data = file(tmp_path, "12\n" + (PATH + POINT) * 6)
    data.setup()
    assert data.class_names == ("-1", "4")
    assert data.node_features == 2
    for part in data.splits.values():
        batch = data.collate(part, torch.arange(len(part["y"])))
        assert batch.y.bincount().tolist() == [2, 2]
        for graph, y in enumerate(batch.y.tolist()):
            nodes = batch.index == graph
            mine = batch.edge_index[:, nodes[batch.edge_index[1]]] - batch.ptr[graph]
            assert batch.x[nodes].argmax(1).tolist() == ([1] if y else [0, 1, 0])
            assert mine.T.tolist() == ([] if y else [[1, 0], [0, 1], [2, 1], [1, 2]])


@pytest.mark.parametrize("counts", [(10, 20), (9, 4, 7)])
def test_folds_cover_each_example_once_with_every_class_shared_out(counts):
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    num_folds = 4
    tested = []
    for fold in range(num_folds):
        parts = stratified_parts(y, fold, num_folds, seed=3)
        assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(len(y)))
        assert torch.equal(parts["val"], stratified_parts(y, (fold + 1) % num_folds, num_folds, seed=3)["test"])
        for label, count in enumerate(counts):
            assert abs(int((y[parts["test"]] == label).sum()) - count / num_folds) < 1
        assert abs(len(parts["test"]) - len(y) / num_folds) < 1
        tested.append(parts["test"])
    assert torch.cat(tested).sort().values.tolist() == list(range(len(y)))
    assert not torch.equal(tested[0], stratified_parts(y, 0, num_folds, seed=4)["test"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"graphs.txt ends before its last graph: get the file again"),
        ("2 3\n" + PATH + POINT, r"line 1 is not the number of graphs: mend the line"),
        ("-1\n", r"line 1 is not the number of graphs"),
        ("0\n", r"holds no graphs"),
        ("1\n3\n" + PATH, r"line 2 is not the line `nodes class` of a graph"),
        ("1\n" + PATH.replace("9 2 0 2", "9 3 0 2"), r"line 4 is not `tag m neighbours` with m neighbours"),
        ("1\n" + PATH.replace("9 2 0 2", "9"), r"line 4 is not `tag m neighbours`"),
        ("1\n" + PATH.replace("9 2 0 2", "9 2 0 3"), r"line 4 names a neighbour outside 0 to 2"),
        ("1\n" + PATH.replace("9 2 0 2", "9 2 0 2.5"), r"line 4 holds '9 2 0 2.5' and not whole numbers alone"),
        ("1\n3 0\n5 1 1\n", r"ends before the last node of graph 0: get the file again"),
        ("2\n" + PATH, r"ends before its last graph"),
        ("1\n" + PATH + POINT, r"goes on in line 6 behind the 1 graphs that line 1 announces"),
        (
            "9\n" + PATH * 9,
            r"fold 0 of 3 of .*graphs.txt gives a train part with class 0 alone: give more data, or fewer folds",
        ),
        ("11\n" + PATH * 10 + POINT, r"part with class 0 alone"),
        ("9\n" + (PATH + POINT + PATH.replace("9 2 0 2", "9 1 0")) * 3, r"has an edge from 1 to 2 and none from 2 to 1"),
    ],
)
def test_a_file_that_is_not_as_said_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        file(tmp_path, text).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_folds": 2}, "num_folds=2: give 3 or more"),
        ({"fold": 10}, "fold=10: there are 10 folds, 0 to 9"),
        ({"fold": -1}, "fold=-1: there are 10 folds"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TUDataset(**arguments)


def test_a_missing_file_says_where_it_is_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*tu_graphs/MUTAG.txt: put it there, or name another place"):
        TUDataset("MUTAG", root=str(tmp_path)).setup()


@pytest.mark.skipif(not os.environ.get("DLKIT_DATA"), reason="DLKIT_DATA names no folder with the real files")
def test_mutag_has_188_graphs_of_seven_tags_and_two_classes():
    data = TUDataset("MUTAG", fold=9)
    data.setup()
    assert {name: len(part["y"]) for name, part in data.splits.items()} == {"train": 151, "val": 19, "test": 18}
    assert data.node_features == 7
    assert data.trivial_baselines()["majority"] == pytest.approx(0.665, abs=0.05)
