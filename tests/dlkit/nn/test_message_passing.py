"""Message passing: every form of the edge network gives NNConv's messages, and rounds are what they say."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.nn import NNConv

from dlkit.functional.segments import segment_sum
from dlkit.nn.message_passing import EdgeNetwork, Edges, MessagePassing

FORMS = ("kinds", "factors", "matrices")
every_form = pytest.mark.parametrize("form", FORMS)


def complete(nodes):
    """Each node to each other."""
    source, target = torch.cartesian_prod(torch.arange(nodes), torch.arange(nodes)).T
    return torch.stack([source, target])[:, source != target]


def path(nodes):
    """0 - 1 - 2 - ..., in both directions."""
    steps = torch.arange(nodes - 1)
    return torch.cat([torch.stack([steps, steps + 1]), torch.stack([steps + 1, steps])], 1)


def uneven():
    """10 nodes: a hub with 12 edges, two of which are the same, nodes with few, and 7 to 9 with none that leave them."""
    hub = torch.stack([torch.zeros(12, dtype=torch.int64), torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0, 2])])
    few = torch.tensor([[1, 2, 3, 4, 5, 6, 6, 6], [0, 0, 0, 1, 1, 1, 2, 0]])
    return torch.cat([hub, few], 1)


def bonds(edges, kinds=3):
    """One-hot features."""
    return torch.eye(kinds, dtype=torch.float64)[torch.randint(kinds, (edges.shape[1],))]


def run(network, edge_index, attr, h, form, rounds=3):
    """What comes out after some rounds of adding up messages, and the gradients of everything."""
    inputs = [h.clone().requires_grad_(), *network.parameters()]
    edges = Edges(edge_index, attr, len(h))
    messages, state = network.prepare(edges, rounds, form), inputs[0]
    for _ in range(rounds):
        state = (state + segment_sum(messages(state), edges.target, len(h))).tanh()
    return [state, *torch.autograd.grad(state.square().sum(), inputs)]


# The edge network ----------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("edge_index", [uneven(), complete(5), path(6)], ids=["uneven", "complete", "path"])
def test_messages_and_gradients_are_those_of_nnconv(form, edge_index):
    attr, h = bonds(edge_index), torch.randn(int(edge_index.max()) + 1, 6, dtype=torch.float64, requires_grad=True)
    network = EdgeNetwork(3, 5, 6, 4).double()
    linear = torch.nn.Linear(5, 6 * 4).double()
    theirs = NNConv(
        6, 4, torch.nn.Sequential(network.hidden, torch.nn.ReLU(), linear), root_weight=False, bias=False
    )  # draws weights anew
    with torch.no_grad():  # NNConv has drawn weights anew
        linear.weight.copy_(network.weight[1:].flatten(1).T)
        linear.bias.copy_(network.weight[0].flatten())
    edges = Edges(edge_index, attr, len(h))
    ours = segment_sum(network.prepare(edges, form=form)(h), edges.target, len(h))
    expected = theirs(h, edge_index, attr)
    torch.testing.assert_close(ours, expected)
    mine = torch.autograd.grad(ours.square().sum(), [h, network.weight, *network.hidden.parameters()])
    other = torch.autograd.grad(expected.square().sum(), [h, linear.weight, linear.bias, *network.hidden.parameters()])
    weight = torch.cat([other[2].unsqueeze(0), other[1].T]).view_as(network.weight)
    for one, two in zip(mine, [other[0], weight, *other[3:]], strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("edge_index", [uneven(), complete(5), path(6)], ids=["uneven", "complete", "path"])
@pytest.mark.parametrize("features", [0, 3])
def test_all_forms_give_the_same_over_rounds(edge_index, features):
    attr, h = bonds(edge_index)[:, :features], torch.randn(int(edge_index.max()) + 1, 6, dtype=torch.float64)
    network = EdgeNetwork(features, 5, 6, 6).double()
    found = [run(network, edge_index, attr, h, form) for form in FORMS]
    for others in found[1:]:
        for one, two in zip(found[0], others, strict=True):
            torch.testing.assert_close(one, two)


@every_form
def test_the_order_of_edges_does_not_matter(form):
    edge_index, h = uneven(), torch.randn(10, 6, dtype=torch.float64)
    attr, network = bonds(edge_index), EdgeNetwork(3, 5, 6, 6).double()
    order = torch.randperm(edge_index.shape[1])
    found = run(network, edge_index, attr, h, form), run(network, edge_index[:, order], attr[order], h, form)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_the_cheapest_form_is_taken():
    network = EdgeNetwork(5, 128, 64, 64)
    whole, chain = complete(18), path(18)

    def form(edge_index, attr, rounds=3):
        return network.form(Edges(edge_index, attr, 18), rounds)

    assert form(whole, torch.randn(306, 5)) == "factors"
    assert form(chain, torch.randn(34, 5)) == "matrices"
    assert form(chain, torch.randn(34, 5), rounds=1) == "factors"  # a matrix for each edge pays by its use over rounds
    assert form(chain, bonds(chain, 5)) == "kinds"
    assert form(whole, bonds(whole, 5)) == "kinds"


def test_matrices_are_built_only_where_they_are_no_larger_than_what_the_factors_keep():
    network = EdgeNetwork(5, 2, 64, 64)
    chain = path(18)
    by_factors = 10 * (18 * 3 * 64 * 64 + 34 * 3 * 64)
    assert by_factors > 34 * (3 + 10) * 64 * 64  # the fewest multiplications, and yet
    assert 34 * 64 * 64 > 10 * 18 * 3 * 64
    assert network.form(Edges(chain, torch.randn(34, 5), 18), rounds=10) == "factors"


@pytest.mark.parametrize("form", ["factors", "kinds"])
def test_no_tensor_has_a_matrix_for_each_edge(form):
    edge_index = complete(20)
    attr = bonds(edge_index).float() if form == "kinds" else torch.randn(380, 3)
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    network = EdgeNetwork(3, 8, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.prepare(Edges(edge_index, attr, 20), form=form)(torch.randn(20, 16)).sum().backward()
    assert max(sizes) < 380 * 16 * 16 / 10


def test_kinds_are_told_where_they_are_few_and_never_by_chance():
    edge_index = complete(30)
    attr = bonds(edge_index)
    first, kind = Edges(edge_index, attr, 30).kinds
    assert len(first) == 3
    assert torch.equal(attr[first][kind], attr)
    assert Edges(edge_index, torch.randn(870, 3), 30).kinds is None
    assert Edges(edge_index, attr.requires_grad_(), 30).kinds is None
    # Two rows that have the same number, sqrt(3) sqrt(2) + 0 and 0 + sqrt(2) sqrt(3), by roots of PyTorch's own rounding.
    two, three = torch.arange(2, 4, dtype=torch.float64).sqrt()
    alike = torch.stack([three, two]).diag()[torch.arange(870) % 2]
    assert Edges(edge_index, alike, 30).kinds is None


def test_features_of_edges_get_gradients():
    edge_index = complete(4)
    attr = bonds(edge_index).requires_grad_()
    messages = EdgeNetwork(3, 5, 6, 6).double().prepare(Edges(edge_index, attr, 4))(torch.randn(4, 6, dtype=torch.float64))
    assert torch.autograd.grad(messages.sum(), attr)[0].abs().min() > 0


def test_tables_of_edges_hold_each_once_and_are_at_most_half_filling():
    edge_index = torch.cat([uneven(), torch.stack([torch.full((100,), 3), torch.randint(10, (100,))])], 1)
    edges = Edges(edge_index, torch.zeros(120, 0), 10)
    tables, place = edges.by_source
    laid = torch.cat([table.flatten() for _, table in tables])
    assert torch.equal(laid[place], torch.arange(120))
    assert len(laid) <= 240
    for nodes, table in tables:
        senders = nodes.unsqueeze(1).expand_as(table)[table < 120]
        assert torch.equal(edges.source[table[table < 120]], senders)


# Rounds --------------------------------------------------------------------------------------------------------------


def by_hand(model, h, edge_index, attr, index, graphs):
    """The formulas, an edge at a time."""
    virtual = torch.zeros(graphs, h.shape[1], dtype=h.dtype)
    for number in range(model.rounds):
        t = number % len(model.networks)
        received = torch.zeros_like(h)
        for (source, target), e in zip(edge_index.T.tolist(), attr, strict=True):
            network = model.networks[t]
            z = torch.cat([e.new_ones(1), network.hidden(e).relu()])
            matrix = torch.einsum("k,kio->oi", z, network.weight)
            if model.message == "sigmoid":
                received[target] = received[target] + (matrix @ model.projections[t](h[source]).relu()).sigmoid()
            else:
                received[target] = received[target] + matrix @ h[source]
        if model.hear is not None:
            if number:
                received = received + model.speak[(number - 1) % len(model.speak)](virtual)[index]
            v = number % len(model.hear)
            heard = torch.stack([model.hear[v](h[index == graph]).sum(0) for graph in range(graphs)])
            virtual = model.virtual_updates[v](heard, virtual)
        h = model.updates[t](received, h)
    return h


@pytest.mark.parametrize("message", ["edge_network", "sigmoid"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("virtual_node", [False, True], ids=["plain", "virtual"])
def test_rounds_are_the_formulas(message, tied, virtual_node):
    model = MessagePassing(6, 3, 3, 5, message, tied, virtual_node).double()
    assert len(model.networks) == (1 if tied else 3)
    edge_index = torch.cat([uneven(), complete(3) + 10], 1)
    attr, h = bonds(edge_index), torch.randn(14, 6, dtype=torch.float64)
    index = torch.tensor([0] * 10 + [1] * 3 + [3])  # the third graph is empty, and the last one a node alone
    found = model(h, Edges(edge_index, attr, 14), index, 5)
    torch.testing.assert_close(found, by_hand(model, h, edge_index, attr, index, 5))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_every_parameter_is_used(rounds, tied):
    """Two processes would refuse others."""
    model = MessagePassing(6, 3, rounds, 5, "sigmoid", tied, virtual_node=True)
    edge_index = complete(3)
    edges, index = Edges(edge_index, torch.randn(6, 3), 3), torch.zeros(3, dtype=torch.int64)
    model(torch.randn(3, 6), edges, index, 1).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("message", ["edge_network", "sigmoid"])
def test_so_many_rounds_see_so_many_steps_and_no_further(rounds, message):
    model = MessagePassing(4, 0, rounds, 3, message).double()
    edge_index, h = path(9), torch.randn(9, 4, dtype=torch.float64)
    edges, index = Edges(edge_index, torch.zeros(16, 0, dtype=torch.float64), 9), torch.zeros(9, dtype=torch.int64)
    other = h.clone()
    other[0] += 1
    changed = (model(h, edges, index, 1) != model(other, edges, index, 1)).any(1)
    assert changed.tolist() == [node <= rounds for node in range(9)]


def test_a_virtual_node_lets_every_node_hear_of_every_other_of_its_graph_in_two_rounds():
    index = torch.tensor([0] * 9 + [1] * 9)
    edge_index, h = torch.cat([path(9), path(9) + 9], 1), torch.randn(18, 4, dtype=torch.float64)
    edges = Edges(edge_index, torch.zeros(32, 0, dtype=torch.float64), 18)
    other = h.clone()
    other[0] += 1
    for virtual_node, heard in ((True, 9), (False, 3)):
        model = MessagePassing(4, 0, 2, 3, virtual_node=virtual_node).double()
        changed = (model(h, edges, index, 2) != model(other, edges, index, 2)).any(1)
        assert changed.tolist() == [node < heard for node in range(18)]


def test_nodes_without_edges_keep_being_updated_and_a_batch_without_edges_has_gradients():
    model = MessagePassing(4, 2, 2, 3)
    h = torch.randn(3, 4)
    none = Edges(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 2), 3)
    found = model(h, none, torch.tensor([0, 0, 2]), 3)
    still = h
    for _ in range(2):
        still = model.updates[0](torch.zeros(3, 4), still)
    torch.testing.assert_close(found, still)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("attr", ["bonds", "reals"])
def test_half_precision_comes_near(attr):
    edge_index = complete(12)
    features = bonds(edge_index).float() if attr == "bonds" else torch.randn(132, 3)
    model, h, index = MessagePassing(8, 3, 3, 8), torch.randn(12, 8), torch.zeros(12, dtype=torch.int64)
    full = model(h, Edges(edge_index, features, 12), index, 1)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(h, Edges(edge_index, features, 12), index, 1)
    half.float().sum().backward()
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"message": "pair"}, "unknown message 'pair': use 'edge_network' or 'sigmoid'"),
        ({"rounds": 0}, "rounds=0 and hidden_size=128: give at least 1 of each"),
        ({"size": 0}, "size=0, rounds=2 and hidden_size=128: give at least 1"),
        ({"hidden_size": 0}, "hidden_size=0: give at least 1"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MessagePassing(**{"size": 4, "edge_features": 2, "rounds": 2, **arguments})
