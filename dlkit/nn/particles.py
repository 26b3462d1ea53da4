"""Networks that tell where the particles of a system will be: positions, velocities and charges -> positions later.

Every particle of a system is joined to every other, and a_ij holds the product of their charges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlkit.nn.equivariant import EquivariantLayer
from dlkit.nn.interaction import InteractionLayer, SortedEdges


class PlainDynamics(nn.Module):
    """A message-passing network that takes positions and velocities for features like any others ("GNN" of Satorras et al.
    2021, arXiv:2102.09844, section 5.1): it has to learn from examples that physics is the same in every direction.

    h_i = W [x_i, v_i] + b, layers with a_ij = q_i q_j, and two linear layers with SiLU between them that give the position.

    Args:
        dimensions: of space.
        hidden_size: features of a particle and of a message.
        num_layers: how many.
    """

    def __init__(self, dimensions: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(2 * dimensions, hidden_size)
        self.layers = nn.ModuleList(InteractionLayer(hidden_size, edge_features=1) for _ in range(num_layers))
        self.head = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, dimensions))

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """positions, velocities: (batch, particles, dimensions); charges: (batch, particles) -> positions later."""
        edges = SortedEdges.complete(*charges.shape, device=charges.device)
        h = self.embedding(torch.cat([positions, velocities], 2).flatten(0, 1))
        products = charge_products(charges, edges)
        for layer in self.layers:
            h = layer(h, products, edges)
        return self.head(h).view_as(positions)


class EquivariantDynamics(nn.Module):
    """An E(n)-equivariant network (Satorras et al. 2021, arXiv:2102.09844, section 5.1): turned, mirrored and shifted systems
    have turned, mirrored and shifted futures, whatever its weights.

    h_i = w |v_i| + b and, as in the authors' code, a_ij = (q_i q_j, |x_i - x_j|^2 at the beginning).

    Args:
        hidden_size: features of a particle and of a message.
        num_layers: how many.
    """

    def __init__(self, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(1, hidden_size)
        self.layers = nn.ModuleList(
            EquivariantLayer(hidden_size, edge_features=2, update_features=number + 1 < num_layers)
            for number in range(num_layers)
        )

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """positions, velocities: (batch, particles, dimensions); charges: (batch, particles) -> positions later."""
        edges = SortedEdges.complete(*charges.shape, device=charges.device)
        x, v = positions.flatten(0, 1), velocities.flatten(0, 1)
        h = self.embedding(v.norm(dim=1, keepdim=True))
        difference = edges.plus_target(-edges.at_source(x), x)
        edge_attr = torch.cat([charge_products(charges, edges), difference.square().sum(1, keepdim=True)], 1)
        for layer in self.layers:
            h, x, _ = layer(h, x, v, edges, edge_attr)
        return x.view_as(positions)


def charge_products(charges: Tensor, edges: SortedEdges) -> Tensor:
    """q_i q_j of each edge: (batch, particles) -> (edges, 1)."""
    flat = charges.flatten()
    return (flat[edges.source] * flat[edges.target]).unsqueeze(1)
