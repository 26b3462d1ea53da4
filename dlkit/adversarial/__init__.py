"""Adversarial models: a generator and a critic that train each other."""
