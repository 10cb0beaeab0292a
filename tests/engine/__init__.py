"""Tests of the engine, from the parts to whole merges."""
