"""A module that cannot be imported."""

raise RuntimeError("something is missing here")
