"""Graphs that no method could use are refused at setup; torch-geometric's graphs become columns."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data

from datamodules.columns import select
from datamodules.graph_checks import check_graphs
from datamodules.pyg import from_pyg
from datamodules.ragged import Ragged
from datamodules.sets import GraphData


def random_graphs(number=6, seed=0, targets=None, u=False):
    """torch-geometric's graphs of 1 to 6 nodes, their edges in both directions and in no order."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for graph in range(number):
        nodes = 1 + (graph % 6)
        pairs = torch.triu_indices(nodes, nodes, 1)
        pairs = pairs[:, torch.rand(pairs.shape[1], generator=generator) < 0.7]
        features = torch.rand(pairs.shape[1], 2, generator=generator)
        order = torch.randperm(2 * pairs.shape[1], generator=generator)
        found.append(
            Data(
                x=torch.rand(nodes, 3, generator=generator),
                edge_index=torch.cat([pairs, pairs.flip(0)], 1)[:, order],
                edge_attr=torch.cat([features, features])[order],
                y=torch.tensor(graph % 2) if targets is None else torch.rand(targets, generator=generator),
            )
        )
        if u:
            found[-1].u = torch.rand(1, 2, generator=generator)
    return found


class Given(GraphData):
    """The columns it is given."""

    node_features, edge_features, num_classes = 3, 2, 2

    def __init__(self, train, test, **attributes):
        super().__init__(batch_size=4)
        self.parts = {"train": train, "test": test}
        for name, value in attributes.items():
            setattr(self, name, value)

    def load(self):
        return dict(self.parts)


def edges_of(edge_index, edge_attr):
    return sorted((*ends, *features) for ends, features in zip(edge_index.T.tolist(), edge_attr.tolist(), strict=True))


@pytest.mark.parametrize(("targets", "u"), [(None, False), (2, True)])
def test_batches_are_those_of_torch_geometric_but_for_the_order_of_edges(targets, u):
    graphs = random_graphs(targets=targets, u=u)
    columns = from_pyg(graphs)
    data = Given(columns, columns, num_targets=targets or 0, num_classes=None if targets else 2, graph_features=2 if u else 0)
    data.setup()
    rows = torch.tensor([4, 0, 5])
    batch, expected = data.collate(data.splits["train"], rows), Batch.from_data_list([graphs[row] for row in rows.tolist()])
    assert torch.equal(batch.x, expected.x)
    assert torch.equal(batch.ptr, expected.ptr)
    assert torch.equal(batch.index, expected.batch)
    assert torch.equal(batch.y, expected.y if targets is None else expected.y.view(3, targets))
    assert (batch.edge_index[1].diff() >= 0).all()
    assert edges_of(batch.edge_index, batch.edge_attr) == edges_of(expected.edge_index, expected.edge_attr)
    assert (batch.u is None) == (not u)
    if u:
        assert torch.equal(batch.u, expected.u)


@pytest.mark.parametrize("targets", [0, 1, 3])
def test_targets_of_nodes_go_with_their_nodes(targets):
    graphs = random_graphs()
    for graph in graphs:
        graph.y = torch.rand(graph.num_nodes, targets) if targets else torch.arange(graph.num_nodes)
    columns = from_pyg(graphs, node_level=True)
    for row, graph in enumerate(graphs):
        assert torch.equal(select(columns, torch.tensor([row]))["y"].values, graph.y)


def test_graphs_without_edge_features_have_none():
    graphs = random_graphs()
    for graph in graphs:
        graph.edge_attr = None
    columns = from_pyg(graphs)
    assert columns["edge_attr"].values.shape == (int(columns["edges"].lengths.sum()), 0)


def spoil(number, **fields):
    """Graphs of which one has other fields."""
    graphs = random_graphs()
    for name, value in fields.items():
        graphs[number][name] = value(graphs[number]) if callable(value) else value
    return graphs


def with_nan(graph):
    x = graph.x.clone()
    x[1, 2] = float("nan")
    return x


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        ([], "there are no graphs: give at least one"),
        (spoil(0, x=None), "graph 0 has no x: give each graph x, edge_index and y"),
        (spoil(3, edge_attr=None), "graph 3 has no edge_attr and graph 0 has: give it to all graphs or to none"),
        (spoil(3, edge_index=torch.zeros(4, 2).long()), r"graph 3 has an edge_index of shape \(4, 2\): give \(2, edges\)"),
        (
            spoil(3, x=torch.zeros(4, 5)),
            r"graph 3 has x of shape \(4, 5\) and graph 0 of \(1, 3\): give all graphs features of",
        ),
        (spoil(2, y=torch.zeros(2)), r"graph 2 has y of shape \(1, 2\) and graph 0 of \(1,\)"),
        (spoil(5, x=with_nan), "graph 5 node 1 has nan as feature 2: fill it in, or drop the graph"),
        (
            spoil(3, edge_index=lambda graph: graph.edge_index + 1),
            r"graph 3 has an edge from (4 to \d|\d to 4) and 4 nodes, counted from 0: number the nodes of each graph anew",
        ),
        (spoil(3, edge_index=lambda graph: graph.edge_index - 1), r"graph 3 has an edge from (-1 to \d|\d to -1) and 4 nodes"),
        (
            spoil(5, edge_index=torch.tensor([[0, 1, 3], [1, 0, 2]]), edge_attr=torch.zeros(3, 2)),
            "graph 5 has an edge from 3 to 2 and none from 2 to 3: give each edge in both directions",
        ),
        (spoil(4, edge_attr=torch.zeros(1, 2)), r"graph 4 has \d+ edges and 1 entries of 'edge_attr': give one for each"),
    ],
)
def test_graphs_of_torch_geometric_that_are_wrong_are_refused_by_number(graphs, message):
    with pytest.raises(ValueError, match=message):
        from_pyg(graphs)


def test_graphs_with_targets_for_another_number_of_nodes_are_refused():
    graphs = random_graphs()
    for graph in graphs:
        graph.y = torch.zeros(graph.num_nodes).long()
    graphs[2].y = torch.zeros(1).long()
    with pytest.raises(ValueError, match="graph 2 has 3 nodes and 1 entries of 'y': give one for each"):
        from_pyg(graphs, node_level=True)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"node_features": 4},
            "^train part: each node has 3 features and 4 are expected: set node_features to what the data has",
        ),
        ({"edge_features": 0}, "^train part: each edge has 2 features and 0 are expected: set edge_features"),
    ],
    ids=str,
)
def test_a_datamodule_refuses_features_of_another_width(attributes, message):
    columns = from_pyg(random_graphs())
    with pytest.raises(ValueError, match=message):
        Given(columns, columns, **attributes).setup()


def test_a_datamodule_names_the_part_that_is_wrong_and_stays_refusing():
    right = from_pyg(random_graphs())
    wrong = {**right, "edges": Ragged(right["edges"].values.flip(0), right["edges"].lengths)}
    data = Given(right, wrong)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^test part: "):
            data.setup()
    with pytest.raises(ValueError, match=r"^test part: there are 6 graphs and 5 entries of 'y': give one for each graph"):
        Given(right, {**right, "y": right["y"][:5]}).setup()


def test_edges_that_are_not_sorted_by_their_target_are_refused():
    columns = from_pyg(random_graphs())
    last = columns["edges"].values.clone()
    last[-2:] = last[-2:].flip(0)
    last[-int(columns["edges"].lengths[5]) :] = last[-int(columns["edges"].lengths[5]) :].flip(0)
    with pytest.raises(ValueError, match="the edges of graph 5 are not sorted by the node that they lead to"):
        check_graphs({**columns, "edges": Ragged(last, columns["edges"].lengths)}, 3, 2)


def test_features_of_whole_graphs_are_checked():
    columns = from_pyg(random_graphs(u=True))
    columns["u"][3, 1] = float("inf")
    with pytest.raises(ValueError, match="graph 3 has inf as feature 1: fill it in"):
        check_graphs(columns, 3, 2, 2)
    with pytest.raises(ValueError, match="each graph has 2 features and 0 are expected: set graph_features"):
        check_graphs(columns, 3, 2)


def test_a_target_that_the_training_part_lacks_is_refused_at_setup():
    columns = from_pyg(random_graphs(targets=2))
    nothing = {**columns, "y": torch.stack([columns["y"][:, 0], torch.full((6,), float("nan"))], 1)}
    settings = {"num_targets": 2, "num_classes": None, "target_names": ("mass", "charge")}
    with pytest.raises(
        ValueError, match="the training part has no value of target charge: drop the target, or look at the data"
    ):
        Given(nothing, columns, **settings).setup()
    Given(columns, nothing, **settings).setup()
