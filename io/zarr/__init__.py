"""Reading and writing checkpoints as Zarr, and a read-only Zarr store that presents any checkpoint."""
