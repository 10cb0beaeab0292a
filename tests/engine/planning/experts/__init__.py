"""Tests of planning mixtures of experts."""
