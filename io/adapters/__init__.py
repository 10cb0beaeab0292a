"""Adapters of peft: read, checked, and applied to a checkpoint's tensors while these are read."""

from dovetail.io.adapters.reading import Adapter, apply_adapter, read_adapter

__all__ = ["Adapter", "apply_adapter", "read_adapter"]
