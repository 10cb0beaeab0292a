"""A small family of models that most tests merge."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import cabs_recipe, llama_tensors, write_checkpoint


@dataclass(frozen=True)
class Family:
    """A base model and two fine-tunes in one folder, and a recipe that merges them by CABS."""

    home: Path
    """The folder of everything."""

    @property
    def base(self) -> Path:
        return self.home / "base"

    @property
    def math(self) -> Path:
        return self.home / "math"

    @property
    def code(self) -> Path:
        return self.home / "code"

    @property
    def recipe_path(self) -> Path:
        return self.home / "recipe.yml"

    @property
    def out(self) -> Path:
        """Path of the output, which does not exist yet."""
        return self.home / "out"

    @property
    def staging(self) -> Path:
        """Path of the unfinished output."""
        return self.home / ".out.dovetail-partial"

    def recipe(self, **changes: Any) -> Path:
        """Write the recipe, with some keys changed or added."""
        return cabs_recipe(self.recipe_path, self.base, [self.math, self.code], **changes)


@functools.cache
def _models() -> dict[str, bytes]:
    """Make the models of `family` once: drawing them takes four times as long as writing their files."""
    with tempfile.TemporaryDirectory() as folder:
        made, base = Family(Path(folder)), llama_tensors(0)
        write_checkpoint(made.base, base, shards=2)
        write_checkpoint(made.math, llama_tensors(1, base))
        write_checkpoint(made.code, llama_tensors(2, base), shards=3)
        return {str(path.relative_to(folder)): path.read_bytes() for path in made.home.glob("*/*")}


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """Make a sharded base model and two fine-tunes, one sharded, in bfloat16, 75 KB each."""
    made = Family(tmp_path)
    for folder in (made.base, made.math, made.code):
        folder.mkdir()
    for name, content in _models().items():
        (made.home / name).write_bytes(content)
    made.recipe()
    return made
