"""Every kind of input that comes from outside, each through the function by which it reaches the program.

A target is made in an empty folder, and every input of it is written there and read as a user's files are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import Target
from tests.fuzz_targets import adapters, documents, outputs, quantised, recipes, torch_files, zarr_files

Make = Callable[[Path], Target]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of input."""

    make: Make
    """Makes the target in an empty folder."""
    cases: int
    """Twice the inputs that the short campaign tries, in tests/test_fuzz.py."""
    outcomes: int
    """Least number of different outcomes that these must have, so that the campaign reaches many rules."""


KINDS = {
    "header": Kind(documents.header_target, 3000, 25),
    "index": Kind(documents.index_target, 1500, 10),
    "config": Kind(documents.config_target, 400, 5),
    "quantised header": Kind(quantised.header_target, 600, 10),
    "quantised config": Kind(quantised.config_target, 300, 5),
    "unlike": Kind(documents.unlike_target, 500, 15),
    "side files": Kind(recipes.side_target, 120, 3),
    "tokenizer": Kind(recipes.vocabulary_target, 200, 8),
    "recipe": Kind(recipes.recipe_target, 1000, 40),
    "plan": Kind(recipes.plan_target, 400, 35),
    "mixture": Kind(recipes.mixture_target, 500, 15),
    "adapter config": Kind(adapters.config_target, 800, 15),
    "adapter header": Kind(adapters.header_target, 500, 10),
    "zarr": Kind(zarr_files.document_target, 700, 25),
    "zarr group": Kind(zarr_files.group_target, 300, 10),
    "zarr zip": Kind(zarr_files.zip_target, 300, 4),
    "zarr chunk": Kind(zarr_files.chunk_target, 300, 3),
    "torch archive": Kind(torch_files.archive_target, 500, 3),
    "torch pickle": Kind(torch_files.pickle_target, 100, 2),
    "manifest": Kind(outputs.manifest_target, 250, 4),
    "journal": Kind(outputs.journal_target, 400, 4),
    "factors": Kind(outputs.factors_target, 200, 1),
}
"""The kinds of inputs, by name."""
