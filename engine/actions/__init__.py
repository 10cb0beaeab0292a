"""The verbs of the API, one a file: merge, convert, compare, verify, recompute."""
