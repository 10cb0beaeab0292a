"""Tests of searching the best values of a recipe."""
