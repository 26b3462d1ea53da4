"""The formulas: likelihoods, divergences, bounds. Pure functions of tensors."""
