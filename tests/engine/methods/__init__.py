"""Tests of the merge methods."""
