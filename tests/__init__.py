"""Tests of Dovetail; the folders mirror the packages under test."""
