"""Compiled kernels. They import nothing of Dovetail's from outside this folder."""

from __future__ import annotations

from dovetail.engine.kernels import array_types as array_types
from dovetail.engine.kernels.cache import settings as settings  # before any kernel is compiled
