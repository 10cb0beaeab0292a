"""Tensors made of tensors, computed range by range while they are read."""
