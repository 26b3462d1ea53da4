"""MPNN: the order of nodes, edges and graphs changes nothing, rounds see as far as they should, and it learns."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch_geometric.data import Batch, Data

import dlkit
from datamodules import Rings
from dlkit.batches import Graphs

READOUTS = ("sum", "mean", "max", "attention", "set2set")
MESSAGES = ("edge_network", "sigmoid")
SIZES = (5, 1, 3, 4, 0)  # a node alone, nodes without edges, and an empty graph at the end


def mpnn(**more):
    settings = {"edge_features": 3, "num_targets": 2, "num_classes": None, "hidden_size": 6, "edge_hidden_size": 5, **more}
    return dlkit.MPNN(4, **settings).double()


def one(nodes, number=0):
    """A ring with a chord, from one node on; of 3 nodes, none is tied to the last."""
    steps = torch.arange(max(nodes - (nodes == 3), 0))
    ends = torch.stack([steps, steps.roll(-1)]) if len(steps) > 1 else torch.zeros(2, 0, dtype=torch.int64)
    ends = torch.cat([ends, ends.flip(0)], 1)
    ends = ends[:, torch.argsort(ends[1], stable=True)]
    attr = torch.randn(ends.shape[1], 3, dtype=torch.float64)
    y = torch.tensor([[0.5, torch.nan if number == 1 else -1.0]], dtype=torch.float64)
    x, u = torch.randn(nodes, 4, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    return Graphs(x, ends, attr, torch.tensor([0, nodes]), y, u)


def together(graphs):
    """One batch of several graphs."""
    sizes = torch.tensor([len(graph.x) for graph in graphs])
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    ends = torch.cat([graph.edge_index + first for graph, first in zip(graphs, ptr[:-1], strict=True)], 1)
    x, attr, y, u = (torch.cat([getattr(graph, name) for graph in graphs]) for name in ("x", "edge_attr", "y", "u"))
    return Graphs(x, ends, attr, ptr, y, u)


def single(batch):
    """In single precision."""
    return Graphs(*(part.float() if part.is_floating_point() else part for part in batch))


def graphs():
    return [one(nodes, number) for number, nodes in enumerate(SIZES)]


# Laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("more", [{}, {"tied": False, "virtual_node": True, "graph_features": 2}], ids=["plain", "more"])
def test_a_batch_gives_the_outputs_and_gradients_of_its_graphs(readout, message, more):
    method, alone = mpnn(readout=readout, message=message, **more), graphs()
    outputs = method(together(alone))
    for number, graph in enumerate(alone):
        torch.testing.assert_close(method(graph), outputs[number : number + 1])
    parameters = list(method.parameters())
    both = torch.autograd.grad(outputs.square().sum(), parameters, materialize_grads=True)
    apart = torch.autograd.grad(sum(method(graph).square().sum() for graph in alone), parameters, materialize_grads=True)
    for one_of, other in zip(both, apart, strict=True):
        torch.testing.assert_close(one_of, other)


@pytest.mark.parametrize("message", MESSAGES)
def test_padded_graphs_give_the_outputs_of_flat_ones_whatever_the_padding_holds(message):
    method, batch = mpnn(message=message, graph_features=2), together([one(nodes) for nodes in (5, 1, 0, 7)])
    sizes = batch.ptr.diff()
    real = torch.zeros(len(sizes), int(sizes.max()) + 2, dtype=torch.bool)
    for row, size in zip(real, sizes.tolist(), strict=True):
        row[torch.randperm(len(row))[:size]] = True  # with gaps
    x = torch.full((*real.shape, 4), torch.nan, dtype=torch.float64)
    x[real] = batch.x
    graph, place = real.nonzero(as_tuple=True)
    source, target = batch.edge_index
    at = (graph[target], place[target], place[source])
    adjacent = ~(real.unsqueeze(1) & real.unsqueeze(2))  # True wherever there is padding
    adjacent[at] = True
    attr = torch.full((*adjacent.shape, 3), torch.nan, dtype=torch.float64)
    attr[at] = batch.edge_attr
    torch.testing.assert_close(method.forward_padded(x, real, adjacent, attr, batch.u), method(batch))


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("message", MESSAGES)
def test_the_order_of_nodes_and_of_edges_does_not_matter(readout, message):
    method, graph = mpnn(readout=readout, message=message), one(7)
    order = torch.randperm(7)
    place = torch.empty(7, dtype=torch.int64)
    place[order] = torch.arange(7)
    edges = torch.randperm(graph.edge_index.shape[1])
    other = graph._replace(x=graph.x[order], edge_index=place[graph.edge_index[:, edges]], edge_attr=graph.edge_attr[edges])
    torch.testing.assert_close(method(graph), method(other))
    nodes = mpnn(level="node", message=message)
    torch.testing.assert_close(nodes(graph)[order], nodes(other))


def test_edges_matter():
    method, graph = mpnn(), one(5)
    method(graph).sum().backward()
    network = method.rounds.networks[0]
    assert network.hidden.weight.grad.abs().max() > 0
    assert network.weight.grad.abs().amin((1, 2)).max() > 0
    assert not torch.allclose(method(graph), method(graph._replace(edge_attr=graph.edge_attr + 1)))
    fewer = graph._replace(edge_index=graph.edge_index[:, 1:], edge_attr=graph.edge_attr[1:])
    assert not torch.allclose(method(graph), method(fewer))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_node_hears_of_what_is_as_many_edges_away_as_there_are_rounds(rounds):
    graph, method = one(12), mpnn(level="node", rounds=rounds)
    x = graph.x.clone()
    x[0] += 1
    changed = (method(graph) != method(graph._replace(x=x))).any(1)
    away = torch.arange(12).minimum(12 - torch.arange(12))
    assert torch.equal(changed, away <= rounds)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_marks_further_apart_than_the_rounds_can_tell_are_not_told(rounds):
    """As Rings says, t rounds tell the classes below t, and none of the others from each other."""
    data = Rings(rounds=3, num_examples=2000, batch_size=2000, val_size=0)
    batch = next(data.batches("train"))
    batch = batch._replace(x=batch.x.double(), edge_attr=batch.edge_attr.double())
    method = dlkit.MPNN(1, 0, 0, 4, "classification", rounds=rounds, hidden_size=6, readout="sum").double()
    with torch.no_grad():  # at first, what comes from far away is faint
        for parameter in method.rounds.parameters():
            parameter.mul_(2)
    outputs, sizes = method(batch)[:, 0], batch.ptr.diff()
    for size in sizes.unique().tolist():
        told, others = (outputs[(sizes == size) & which] for which in (batch.y < rounds, batch.y >= rounds))
        torch.testing.assert_close(others, others[:1].expand_as(others))
        assert (told - others[0]).abs().min() > 1e-5


def test_features_of_the_whole_graph_and_the_virtual_node_are_used():
    graph = one(5)
    for level in ("graph", "node"):
        method = mpnn(graph_features=2, level=level)
        assert not torch.allclose(method(graph), method(graph._replace(u=graph.u + 1)))
    method = mpnn(virtual_node=True, level="node", rounds=2)
    x = graph.x.clone()
    x[0] += 1
    assert (method(graph) != method(graph._replace(x=x))).all()


# torch-geometric -----------------------------------------------------------------------------------------------------


def data_of(graph, **more):
    """torch-geometric's, its edges in another order."""
    order = torch.randperm(graph.edge_index.shape[1])
    fields = {"x": graph.x, "edge_index": graph.edge_index[:, order], "edge_attr": graph.edge_attr[order], "y": graph.y}
    return Data(**{**fields, **more})


def test_batches_of_torch_geometric_give_the_same():
    method, alone = mpnn(), graphs()
    batch = Batch.from_data_list([data_of(graph) for graph in alone])
    torch.testing.assert_close(method(batch), method(together(alone)))
    torch.testing.assert_close(method.loss(batch)[0], method.loss(together(alone))[0])
    torch.testing.assert_close(method(data_of(alone[0])), method(alone[0]))
    torch.testing.assert_close(method.predict(data_of(alone[0], y=None)), method.predict(alone[0]))
    assert method.batch_size(batch) == 5
    with_u = mpnn(graph_features=2)
    torch.testing.assert_close(with_u(data_of(alone[0], u=alone[0].u)), with_u(alone[0]))


def test_whole_numbers_and_graphs_told_apart_by_an_index_alone_are_read():
    """As of torch_geometric.utils.from_smiles, and of a Data put together by hand."""
    method = mpnn().float()
    x, attr, ends = torch.randint(0, 3, (5, 4)), torch.randint(0, 3, (2, 3)), torch.tensor([[0, 1], [1, 0]])
    one, other = Data(x=x[:3], edge_index=ends, edge_attr=attr), Data(x=x[3:], edge_index=ends, edge_attr=attr)
    both = Data(
        x=x, edge_index=torch.cat([ends, ends + 3], 1), edge_attr=attr.repeat(2, 1), batch=torch.tensor([0, 0, 0, 1, 1])
    )
    torch.testing.assert_close(method(both), torch.cat([method(one), method(other)]))
    with pytest.raises(ValueError, match=r"edge_index is \(3, 2\), torch.int64: give \(2, edges\), int64"):
        method(Data(x=x, edge_index=torch.zeros(3, 2, dtype=torch.int64), edge_attr=attr))


def test_a_vector_of_reals_is_one_target_and_missing_features_of_edges_are_none():
    graph = one(5)
    method = mpnn(edge_features=0, num_targets=1)
    data = data_of(graph, edge_attr=None, y=torch.tensor([0.5], dtype=torch.float64))
    expected = graph._replace(edge_attr=graph.edge_attr[:, :0], y=graph.y[:, :1])
    torch.testing.assert_close(method.loss(Batch.from_data_list([data]))[0], method.loss(expected)[0])


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_a_loader_of_torch_geometric_trains():
    from torch_geometric.loader import DataLoader

    method, alone = mpnn().float(), [one(5, number) for number in range(6)]
    loader = DataLoader([data_of(single(graph)) for graph in alone], 3)
    run = trainer(max_epochs=1)
    run.fit(method, loader, loader)
    assert run.callback_metrics["val/rmse"].isfinite()


# Learning ------------------------------------------------------------------------------------------------------------


def trainer(**more):
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **more,
    )  # fmt: skip


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("level", ["graph", "node"])
def test_it_learns_a_batch_by_heart(task, level):
    batch = together([one(5, number) for number in range(3)])
    number = 3 if level == "graph" else 15
    y = torch.randn(number, 2) if task == "regression" else torch.arange(number) % 2
    batch = Graphs(batch.x.float(), batch.edge_index, batch.edge_attr.float(), batch.ptr, y)
    method = mpnn(task=task, level=level, num_classes=2, hidden_size=16).float()
    optimizer = torch.optim.Adam(method.parameters(), 0.02)
    for _ in range(80):
        loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    predicted = method.predict(batch)
    assert predicted.shape == (number, 2)
    if task == "classification":
        assert torch.equal(predicted.argmax(1), y)
        torch.testing.assert_close(predicted.sum(1), torch.ones(number))


def test_predictions_are_in_units_and_not_dropped_out():
    method = mpnn(target_mean=(100.0, -3.0), target_std=(10.0, 0.5), dropout=0.5)
    batch = together(graphs())
    expected = method.eval()(batch) * torch.tensor([10.0, 0.5]) + torch.tensor([100.0, -3.0])
    method.train()
    torch.testing.assert_close(method.predict(batch), expected.float(), check_dtype=False)
    assert not torch.allclose(method(batch), method(batch))


def test_dropout_and_graph_features_are_kept_in_a_checkpoint(tmp_path):
    method = mpnn(graph_features=2, target_mean=(1.0, 2.0), target_std=(3.0, 4.0), target_names=("a", "b")).float()
    run = trainer(max_epochs=1)
    batch = single(together(graphs()))
    loader = torch.utils.data.DataLoader([batch], batch_size=None)
    run.fit(method, loader, loader)
    run.save_checkpoint(tmp_path / "a.ckpt")
    found = dlkit.load(tmp_path / "a.ckpt")
    torch.testing.assert_close(found.predict(batch), method.predict(batch))
    assert found.target_names == ("a", "b")


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(5, 3)}, r"MPNN was built for nodes of 4 features and was given \(3,\): set node_features"),
        ({"edge_attr": torch.randn(10, 2)}, r"built for edges of 3 features and was given \(2,\): set edge_features"),
        ({"edge_attr": torch.randn(9, 3)}, "the batch has 10 edges and features of 9: give a row for each"),
        ({"u": torch.randn(1, 3)}, r"built for graphs of 2 features and was given \(3,\): set graph_features"),
        ({"u": torch.randn(2, 2)}, "the batch has 1 graphs and features of 2: give a row for each"),
        ({"u": None}, "built for graphs of 2 features and the batch has no u: give it"),
        ({"x": torch.full((5, 4), torch.nan)}, "node 0 of the batch has nan as feature 0: fill it in, or drop the graph"),
        ({"edge_attr": torch.full((10, 3), torch.inf)}, "edge 0 of the batch has inf as feature 0"),
        ({"edge_index": torch.arange(10).expand(2, 10)}, "edge 5 of the batch leads from node 5 to node 5 and there are 5"),
        ({"edge_index": torch.full((2, 10), -1)}, "edge 0 of the batch leads from node -1 to node -1"),
        (
            {"edge_index": torch.zeros(10, 2, dtype=torch.int64)},
            r"edge_index is \(10, 2\), torch.int64: give \(2, edges\), int64",
        ),
        ({"edge_index": torch.zeros(2, 10, dtype=torch.int32)}, r"edge_index is \(2, 10\), torch.int32: give \(2, edges\)"),
        ({"ptr": torch.tensor([0, 4])}, r"the bounds of the graphs are \[0, 4\] and there are 5 nodes: give ptr from 0"),
        ({"x": torch.zeros(5, 4, dtype=torch.int64)}, "the features of nodes are torch.int64: give real numbers, float32"),
        ({"y": torch.zeros(2, 2)}, r"predicts targets of shape \(1, 2\) and the batch has \(2, 2\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_graphs_that_it_was_not_built_for_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mpnn(graph_features=2).loss(one(5)._replace(**change))


@pytest.mark.parametrize("batch", [torch.zeros(3), Data(x=torch.zeros(3, 4)), Data(edge_index=torch.zeros(2, 0))], ids=str)
def test_what_is_no_graph_is_refused(batch):
    with pytest.raises(
        ValueError, match=r"is no batch of graphs: give dlkit.Graphs, or torch-geometric's Data or Batch with x"
    ):
        mpnn()(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "edge"}, "unknown level 'edge': use 'graph' or 'node'"),
        ({"readout": "min"}, "unknown readout 'min': use 'sum', 'mean'"),
        ({"task": "ranking"}, "unknown task 'ranking'"),
        ({"message": "pair"}, "unknown message 'pair'"),
        ({"rounds": 0}, "rounds=0"),
        ({"readout_steps": 0}, "num_steps=0: give at least 1"),
        ({"dropout": 1.0}, r"dropout=1\.0 is outside \[0, 1\)"),
        ({"edge_features": -1}, "node_features=4, edge_features=-1 and graph_features=0: give at least 1, 0 and 0"),
        ({"num_targets": 0}, "num_targets=0: a regression needs data with at least 1 target"),
        ({"task": "classification"}, "num_classes=None: a classifier needs data with at least 2 classes"),
        ({"target_std": (1.0, 0.0)}, "a target that is the same everywhere cannot be learned: drop it"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mpnn(**arguments)
