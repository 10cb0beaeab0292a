"""The functions of the public API, each in its own file: merge, plan, convert, compare, verify, recompute."""
