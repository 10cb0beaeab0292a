"""Reading and writing the file formats of checkpoints, and reading the small files beside the weights."""
