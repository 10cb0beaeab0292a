"""Tests of `dovetail.engine.planning.vocabulary`."""
