"""Graphs: message passing, and what is simulated with it."""
