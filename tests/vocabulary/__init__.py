"""Tests of `dovetail.engine.vocabulary`."""
