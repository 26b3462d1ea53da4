"""MPNN: message passing neural networks on graphs.

The course's Algorithm 1:

    h = Embed(x);    for t = 1 .. T: m = Message(A, h), h = VertexUpdate(h, m);    r = Readout(h);    Classify(r)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from dlkit.ability import ability
from dlkit.batches import Graphs, flat
from dlkit.graphs.inputs import as_graphs, check_graphs
from dlkit.method import Schedule, Terms
from dlkit.nn.message_passing import Edges, Message, MessagePassing
from dlkit.nn.mlp import mlp
from dlkit.nn.readout import Readout, ReadoutKind
from dlkit.supervised import Objective, Supervised, Task

Level = Literal["graph", "node"]


class MPNN(Supervised):
    """Targets or classes of graphs, or of their nodes (Gilmer et al. 2017, arXiv:1704.01212).

        h_i = relu(V (x_i, u));    T rounds of m_i = sum_j M(h_j, e_ij), h_i = GRU(m_i, h_i);    y = MLP(readout(h), u)

    Batches are `Graphs`, or torch-geometric's `Data` and `Batch`. Targets may be missing, classes not. Messages: see
    `dlkit.nn.message_passing`. Of nodes, y_i = MLP(h_i). With "edge_network", "set2set" and a complete graph whose edges know
    distances it is the paper's enn-s2s; different from it, the states begin as a linear layer of x with ReLU, as in
    torch_geometric's examples/qm9_nn_conv.py, and set2set reads them as they are, without x.

    Args:
        node_features, edge_features: of a node and of an edge; 0 edge features for none.
        num_targets: see `Supervised`; of "regression".
        num_classes: of "classification".
        task: "regression" or "classification".
        level: what has a target or a class, "graph" or "node".
        rounds: T.
        hidden_size: of the states.
        edge_hidden_size: of the network that makes matrices of edges' features.
        message: "edge_network", A(e_ij) h_j, or "sigmoid", sigmoid(A(e_ij) f(h_j)), the course's.
        tied: whether all rounds have the same weights.
        virtual_node: whether each graph has a node more that all its nodes speak to.
        readout: "sum", "mean", "max", "attention" or "set2set": see `dlkit.nn.readout.Readout`.
        readout_steps: of "set2set".
        graph_features: of a whole graph, u; 0 for none.
        dropout: probability of zeroing a feature of the embedding, of what is read out, and of the head's hidden layer.
        objective: of "regression", "mse" or "mae".
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.
        weight_decay: Adam's.
        target_mean, target_std, target_names: see `Supervised`.

    Raises:
        ValueError: a setting outside its range; in use, graphs that `dlkit.graphs.inputs.check_graphs` refuses.
    """

    def __init__(
        self,
        node_features: int,
        edge_features: int,
        num_targets: int = 0,
        num_classes: int | None = None,
        task: Task = "regression",
        level: Level = "graph",
        rounds: int = 3,
        hidden_size: int = 64,
        edge_hidden_size: int = 128,
        message: Message = "edge_network",
        tied: bool = True,
        virtual_node: bool = False,
        readout: ReadoutKind = "set2set",
        readout_steps: int = 3,
        graph_features: int = 0,
        dropout: float = 0.0,
        objective: Objective = "mse",
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
        weight_decay: float = 0.0,
        target_mean: tuple[float, ...] = (),
        target_std: tuple[float, ...] = (),
        target_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__(task, num_targets, num_classes, target_mean, target_std, target_names, objective)
        self.save_hyperparameters()
        if level not in ("graph", "node"):
            raise ValueError(f"unknown level {level!r}: use 'graph' or 'node'")
        if node_features < 1 or min(edge_features, graph_features) < 0:
            raise ValueError(
                f"node_features={node_features}, edge_features={edge_features} and graph_features={graph_features}: give at "
                f"least 1, 0 and 0"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is outside [0, 1)")
        self.level: Level = level
        self.node_features = node_features
        self.edge_features = edge_features
        self.graph_features = graph_features
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.embed = nn.Linear(node_features + graph_features, hidden_size)
        self.rounds = MessagePassing(hidden_size, edge_features, rounds, edge_hidden_size, message, tied, virtual_node)
        self.readout = Readout(readout, hidden_size, readout_steps) if level == "graph" else None
        width = hidden_size if self.readout is None else self.readout.output_size + graph_features
        self.dropout = nn.Dropout(dropout)
        self.head = mlp([width, hidden_size, self.num_outputs], dropout)

    def forward(self, batch: Any) -> Tensor:
        """Graphs -> (graphs, num_outputs); or (nodes, num_outputs) where nodes are told apart."""
        batch = as_graphs(batch)
        check_graphs(batch, self.node_features, self.edge_features, self.graph_features, type(self).__name__)
        index, graphs = batch.index, len(batch.ptr) - 1
        whole = [batch.u] if self.graph_features and batch.u is not None else []
        h = self.embed(torch.cat([batch.x, *(u.index_select(0, index) for u in whole)], 1)).relu()
        h = self.rounds(self.dropout(h), Edges(batch.edge_index, batch.edge_attr, len(batch.x)), index, graphs)
        if self.readout is None:
            return self.head(self.dropout(h))
        return self.head(self.dropout(torch.cat([self.readout(h, index, graphs), *whole], 1)))

    def forward_padded(self, x: Tensor, real: Tensor, adjacent: Tensor, edge_attr: Tensor, u: Tensor | None = None) -> Tensor:
        """The same of graphs that are padded to one size: the padding is taken out, and changes nothing, whatever it holds.

        Args:
            x: (graphs, width, node_features).
            real: (graphs, width), bool, True at nodes.
            adjacent: (graphs, width, width), bool, at [i, j] whether an edge leads from node j to node i: the course's A_ij.
            edge_attr: (graphs, width, width, edge_features), in the same order.
            u: (graphs, graph_features), or None.
        """
        nodes, ptr = flat(x, real)
        number = (real.flatten().cumsum(0) - 1).view_as(real)
        edges = adjacent & real.unsqueeze(1) & real.unsqueeze(2)
        graph, target, source = edges.nonzero(as_tuple=True)
        edge_index = torch.stack([number[graph, source], number[graph, target]])
        return self(Graphs(nodes, edge_index, edge_attr[edges], ptr, x.new_full((0,), torch.nan), u))

    def loss(self, batch: Graphs) -> tuple[Tensor, Terms]:
        return super().loss(as_graphs(batch))

    def evaluation_step(self, stage: str, batch: Graphs) -> None:
        super().evaluation_step(stage, as_graphs(batch))

    @ability
    def predict(self, batch: Graphs) -> Tensor:
        """Graphs -> targets in their units, (graphs, num_targets), or probabilities, (graphs, num_classes); or of nodes."""
        return self.predictions(self(batch))
