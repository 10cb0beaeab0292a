"""Tests of the recipe layer."""
