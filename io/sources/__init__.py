"""Sources that compute a tensor from other tensors, range by range, while it is read."""
