"""Normalizing flows: of examples, and of lattice fields."""
