"""Tests of planning an extraction."""
