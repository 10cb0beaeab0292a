"""Where a recipe came from, so that every error can name its file, line and key path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe.places import Where
from dovetail.engine.recipe.reader import find_lines


@dataclass(frozen=True, slots=True)
class Origin:
    """The text of a recipe and the file that it was read from."""

    name: str = "recipe"
    """File name for people; "recipe" for text that came from no file."""
    text: str = field(default="", repr=False)
    """The text as it was read."""
    path: Path | None = None
    """The file; None for text that came from no file."""
    document: int = 0
    """Which document of the text it is."""
    own_text: str | None = field(default=None, repr=False)
    """The part of the text that is this recipe alone; None where it is all of it."""
    has_lines: bool = True
    """Whether errors name lines of the text: nobody has seen the text of a recipe that was given as a dict."""

    @property
    def folder(self) -> Path | None:
        """Folder of the file; None for text that came from no file."""
        return None if self.path is None else self.path.parent

    def error(self, where: Where, problem: str, expected: str = "", action: str = "") -> RecipeError:
        """Make the error that says what is wrong at `where`; `problem` names the key path itself."""
        return RecipeError(f"{self.place(*self.lines([where]))}: {problem}", expected, action)

    def lines(self, places: Sequence[Where]) -> list[int]:
        """Find the lines, counted from 1, of places in the recipe; 0 where a line is unknown or unseen."""
        return find_lines(self.text, places, self.document) if self.has_lines else [0] * len(places)

    def place(self, line: int) -> str:
        """Name a line, counted from 1, for people; the recipe alone where the line is unknown (0) or unseen."""
        return f"{self.name}, line {line}" if line and self.has_lines else self.name
