"""Zarr cubes of dated remote-sensing observations: format, reading, folds, samples. No JAX."""
