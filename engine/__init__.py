"""Dovetail: the merge, from recipe to report."""
