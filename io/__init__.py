"""Dovetail: checkpoints in and out, as chunked Zarr arrays."""
