"""Quantised checkpoints: weights that are stored as codes and scales are read as weights, or refused; never merged."""

from dovetail.io.formats.quantised.dequantise import dequantise
from dovetail.io.formats.quantised.settings import SETTINGS_FILES, drop_settings

__all__ = ["SETTINGS_FILES", "dequantise", "drop_settings"]
