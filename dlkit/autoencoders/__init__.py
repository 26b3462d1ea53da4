"""Autoencoders: deterministic, denoising, variational."""
