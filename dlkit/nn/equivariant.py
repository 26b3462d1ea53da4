"""The E(n)-equivariant layer: what it says of points turns, moves and is mirrored with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlkit.nn.interaction import EdgeMessages, SortedEdges

GAIN = 1e-3  # of phi_x's last layer at the start, as in the authors' code: a fresh layer hardly moves anything


class EquivariantLayer(nn.Module):
    """E(n) equivariant graph convolution with velocities (Satorras et al. 2021, arXiv:2102.09844, equations 3 and 5 to 7).

        m_ij = phi_e(h_i, h_j, |x_i - x_j|^2, a_ij)
        v_i' = phi_v(h_i) v_i + mean_j (x_i - x_j) phi_x(m_ij)
        x_i' = x_i + v_i'
        h_i' = h_i + phi_h(h_i, sum_j m_ij)

    For any rotation or reflection Q and any shift t, (h, Q x + t, Q v) gives (h', Q x' + t, Q v'); renumbered nodes give
    renumbered ones. The equations' v_i is that of the beginning at every layer: whoever stacks layers gives each the same v.
    The paper writes h_i' = phi_h(...); its code adds h_i, as here. Some of that code also
    confines (x_i - x_j) phi_x(m_ij) to [-100, 100], which is not equivariant, and is left out. A node that no edge leads to has
    means and sums 0.

    Args:
        size: features of a node, of a message, and hidden units.
        edge_features: of an edge, a_ij.
        update_features: False leaves out phi_h, for the last layer of a network that nobody asks for h'.

    Raises:
        ValueError: a size below 1, or features below 0.
    """

    def __init__(self, size: int, edge_features: int = 0, update_features: bool = True) -> None:
        super().__init__()
        if size < 1 or edge_features < 0:
            raise ValueError(f"size={size} and edge_features={edge_features}: give at least 1, and at least 0")
        self.messages = EdgeMessages(size, 1 + edge_features, size)
        self.pull = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 1, bias=False))
        self.drift = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 1))
        self.update = nn.Sequential(nn.Linear(2 * size, size), nn.SiLU(), nn.Linear(size, size)) if update_features else None
        last = self.pull[-1]
        assert isinstance(last, nn.Linear)
        nn.init.xavier_uniform_(last.weight, GAIN)

    def forward(
        self, h: Tensor, x: Tensor, v: Tensor, edges: SortedEdges, edge_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h: (nodes, size); x, v: (nodes, dimensions); edge_attr: (edges, edge_features), None without -> h', x', v'."""
        difference = edges.plus_target(-edges.at_source(x), x)
        invariants = difference.square().sum(1, keepdim=True)
        if edge_attr is not None:
            invariants = torch.cat([invariants, edge_attr], 1)
        messages = self.messages(h, invariants, edges)
        velocity = self.drift(h) * v + edges.mean(difference * self.pull(messages))
        if self.update is not None:
            h = h + self.update(torch.cat([h, edges.sum(messages)], 1))
        return h, x + velocity, velocity
