"""Reading and checking adapters of peft, and applying them to the tensors of a checkpoint as these are read."""

from dovetail.io.adapters.reading import Adapter, apply_adapter, read_adapter

__all__ = ["Adapter", "apply_adapter", "read_adapter"]
