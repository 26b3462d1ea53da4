"""Edges and the layers upon them: equal to what the formulas say edge by edge, and equivariant."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dlkit.nn.equivariant import EquivariantLayer
from dlkit.nn.interaction import EdgeMessages, InteractionLayer, SortedEdges

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def graph(kind):
    """Edges of 9 nodes: of three complete graphs of 3; or of degrees 0 to 3, nodes 4 and 8 without any edge."""
    if kind == "complete":
        return SortedEdges.complete(3, 3)
    pairs = [(1, 0), (2, 0), (3, 1), (0, 2), (1, 2), (7, 2), (2, 3), (6, 5), (5, 6), (0, 7), (6, 7)]
    return SortedEdges(torch.tensor(pairs).T, 9)


every_graph = pytest.mark.parametrize("kind", ["complete", "irregular"])


def shaken(layer, dtype=torch.float32):
    """The layer with weights of which none is small, so that every part of it matters."""
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer.to(dtype)


def inputs(edges, size, dtype=torch.float32, edge_features=2):
    h, x, v = (torch.randn(edges.num_nodes, width, dtype=dtype) for width in (size, 3, 3))
    return h, x, v, torch.randn(len(edges), edge_features, dtype=dtype)


def test_complete_graphs_join_every_node_to_every_other_of_its_graph():
    edges = SortedEdges.complete(2, 4)
    found = set(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    assert found == {(i, j) for i in range(8) for j in range(8) if i != j and i // 4 == j // 4}
    assert len(edges) == len(found) and edges.degree == 3
    assert (edges.target.diff() >= 0).all()
    checked = SortedEdges(torch.stack([edges.source, edges.target]), 8)
    assert checked.degree == 3 and torch.equal(checked.sizes, edges.sizes)


@every_graph
def test_sums_and_means_are_those_edge_by_edge(kind):
    edges = graph(kind)
    values, nodes = torch.randn(len(edges), 2), torch.randn(9, 2)
    mine = [values[edges.target == node] for node in range(9)]
    torch.testing.assert_close(edges.sum(values), torch.stack([part.sum(0) for part in mine]))
    torch.testing.assert_close(edges.mean(values), torch.stack([part.sum(0) / max(len(part), 1) for part in mine]))
    torch.testing.assert_close(edges.plus_target(values, nodes), values + nodes[edges.target])
    assert torch.equal(edges.at_source(nodes), nodes[edges.source])


@every_graph
def test_the_view_by_degree_and_the_index_give_the_same_with_the_same_gradients(kind):
    edges = graph(kind)
    by_index = SortedEdges(torch.stack([edges.source, edges.target]), 9)
    by_index.degree = None
    layer = shaken(EquivariantLayer(4, 2), torch.float64)
    h, x, v, edge_attr = inputs(edges, 4, torch.float64)
    results = []
    for those in (edges, by_index):
        outputs = layer(h.requires_grad_(), x.requires_grad_(), v, those, edge_attr)
        gradients = torch.autograd.grad(torch.cat(outputs, 1).square().sum(), [h, x, *layer.parameters()])
        results.append([*outputs, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@every_graph
def test_messages_are_those_of_the_concatenated_features(kind):
    edges, messages = graph(kind), shaken(EdgeMessages(4, 2, 6))
    h, _, _, edge_attr = inputs(edges, 4)
    together = torch.cat([h[edges.target], h[edges.source], edge_attr], 1)
    wanted = F.silu(messages.second(F.silu(messages.first(together))))
    torch.testing.assert_close(messages(h, edge_attr, edges), wanted)


@every_graph
def test_the_layers_are_those_of_their_formulas(kind):
    edges = graph(kind)
    h, x, v, edge_attr = inputs(edges, 4)
    layer, plain = shaken(EquivariantLayer(4, 2)), shaken(InteractionLayer(4, 2))
    new_h, new_x, new_v = layer(h, x, v, edges, edge_attr)
    plain_h = plain(h, edge_attr, edges)
    for i in range(9):
        mean, received, plainly = torch.zeros(3), torch.zeros(4), torch.zeros(4)
        mine = (edges.target == i).nonzero().flatten().tolist()
        for edge in mine:
            j = int(edges.source[edge])
            distance = (x[i] - x[j]).square().sum().view(1)
            first = layer.messages.first(torch.cat([h[i], h[j], distance, edge_attr[edge]]))
            message = F.silu(layer.messages.second(F.silu(first)))
            mean, received = mean + (x[i] - x[j]) * layer.pull(message) / len(mine), received + message
            first = plain.messages.first(torch.cat([h[i], h[j], edge_attr[edge]]))
            plainly = plainly + F.silu(plain.messages.second(F.silu(first)))
        velocity = layer.drift(h[i]) * v[i] + mean
        torch.testing.assert_close(new_v[i], velocity)
        torch.testing.assert_close(new_x[i], x[i] + velocity)
        assert layer.update is not None
        torch.testing.assert_close(new_h[i], h[i] + layer.update(torch.cat([h[i], received])))
        torch.testing.assert_close(plain_h[i], h[i] + plain.update(torch.cat([h[i], plainly])))


@every_graph
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mirrored", [False, True])
def test_what_is_said_of_points_turns_moves_and_is_mirrored_with_them(kind, dtype, mirrored):
    edges, layer = graph(kind), shaken(EquivariantLayer(8, 2), dtype)
    h, x, v, edge_attr = inputs(edges, 8, dtype)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turn = turn * torch.sign(torch.det(turn)) * (-1 if mirrored else 1)
    assert torch.det(turn).item() == pytest.approx(-1 if mirrored else 1)
    turn, shift = turn.to(dtype), torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    new_h, new_x, new_v = layer(h, x, v, edges, edge_attr)
    turned_h, turned_x, turned_v = layer(h, x @ turn.T + shift, v @ turn.T, edges, edge_attr)
    assert (new_x - x).abs().max() > 0.1
    for found, wanted in ((turned_h, new_h), (turned_x, new_x @ turn.T + shift), (turned_v, new_v @ turn.T)):
        assert ((found - wanted).abs() / wanted.abs().clamp(min=1)).max() < TOLERANCE[dtype]


@every_graph
def test_renumbered_nodes_give_renumbered_ones(kind):
    edges, layer = graph(kind), shaken(EquivariantLayer(4, 2), torch.float64)
    h, x, v, edge_attr = inputs(edges, 4, torch.float64)
    place = torch.randperm(9)  # where each node goes
    source, target = place[edges.source], place[edges.target]
    order = target.argsort(stable=True)
    renumbered = SortedEdges(torch.stack([source, target])[:, order], 9)
    back = place.argsort()
    found = layer(h[back], x[back], v[back], renumbered, edge_attr[order])
    for one, other in zip(layer(h, x, v, edges, edge_attr), found, strict=True):
        torch.testing.assert_close(one, other[place], atol=1e-10, rtol=1e-10)


def test_a_node_that_no_edge_leads_to_hears_nothing_and_goes_on_by_itself():
    layer = shaken(EquivariantLayer(4), torch.float64)
    edges = graph("irregular")
    h, x, v, _ = inputs(edges, 4, torch.float64)
    new_h, new_x, _ = layer(h, x, v, edges)
    alone = SortedEdges(torch.zeros(2, 0, dtype=torch.int64), 1)
    for node in (4, 8):
        one_h, one_x, _ = layer(*(part[node : node + 1] for part in (h, x, v)), alone)
        torch.testing.assert_close(new_x[node], (x + layer.drift(h) * v)[node])
        torch.testing.assert_close(new_x[node], one_x[0])
        torch.testing.assert_close(new_h[node], one_h[0])


def test_a_fresh_layer_moves_points_by_hardly_more_than_their_velocities():
    edges, layer = SortedEdges.complete(10, 5), EquivariantLayer(64)
    h, x, v, _ = inputs(edges, 64)
    _, new_x, _ = layer(h, x, v, edges)
    assert (new_x - x - layer.drift(h) * v).abs().max() < 1e-2


def test_the_last_layer_of_a_network_can_do_without_new_features():
    edges, layer = SortedEdges.complete(2, 3), EquivariantLayer(4, update_features=False)
    h, x, v, _ = inputs(edges, 4)
    new_h, new_x, new_v = layer(h, x, v, edges)
    assert new_h is h
    gradients = torch.autograd.grad((new_x + new_v).sum(), list(layer.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("edge_index", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), r"edge_index is \(3, 2\), torch.int64: give \(2, edges\), int64"),
        (torch.zeros(2, 2), r"edge_index is \(2, 2\), torch.float32"),
        (torch.tensor([[0, 1], [1, 4]]), "edge_index names node 4, and there are 4 nodes"),
        (torch.tensor([[-1, 1], [0, 0]]), "edge_index names node -1"),
        (torch.tensor([[0, 1], [1, 0]]), "not sorted by the node that edges lead to: sort its columns"),
    ],
    ids=["rows", "type", "too large", "negative", "order"],
)
def test_edges_that_are_none_are_refused(edge_index, message):
    with pytest.raises(ValueError, match=message):
        SortedEdges(edge_index, 4)


def test_features_of_another_width_and_layers_of_no_size_are_refused():
    edges = SortedEdges.complete(1, 3)
    h, x, v, edge_attr = inputs(edges, 4)
    with pytest.raises(ValueError, match=r"are \(3, 4\) and \(6, 3\): give \(3, 4\) and \(6, 1\)"):
        EquivariantLayer(4)(h, x, v, edges, edge_attr)
    with pytest.raises(ValueError, match=r"are \(3, 4\) and \(6, 2\): give \(3, 5\) and \(6, 2\)"):
        InteractionLayer(5, 2)(h, edge_attr, edges)
    with pytest.raises(ValueError, match="size=0 and edge_features=0: give at least 1"):
        EquivariantLayer(0)
