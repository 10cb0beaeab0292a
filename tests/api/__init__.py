"""Tests of the package `dovetail` itself."""
