"""Searching the values of a recipe that make the best merge: from a recipe with marks to one with values."""
