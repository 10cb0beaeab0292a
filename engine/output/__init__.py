"""What a finished output folder holds besides tensors, and how it comes into place."""
