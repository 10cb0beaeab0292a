"""Checkpoints as Zarr: reading, writing, and the read-only store over any checkpoint."""
