"""File formats of checkpoints, and the files beside them."""
