"""The fenced blocks of the documentation, and functions to try them."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.main import get_command

from dovetail.engine.cli.main import app
from dovetail.engine.recipe.stages import load_stages
from dovetail.engine.synthetic import SIZES, make_checkpoint

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.*\w.*) -->")
_RUN = "<!-- run -->"
_NAMED = re.compile(r"# (?P<name>[\w./-]+\.\w+)\s*")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    place: str
    """File and line, for messages."""
    language: str
    """What stands behind the backticks."""
    text: str
    """What stands between them."""
    mark: str
    """The HTML comment on the line before, or nothing."""

    @property
    def reason(self) -> str:
        """The reason in the block's mark why it is not run; empty if it is run."""
        found = _NOT_RUN.fullmatch(self.mark)
        return found["reason"] if found else ""

    @property
    def runs(self) -> bool:
        """Whether the commands of a shell block are run; all are parsed."""
        return self.mark == _RUN

    @property
    def file_name(self) -> str:
        """Name of the file that the block is, if its first line is a comment with just that name."""
        first, _, _ = self.text.partition("\n")
        found = _NAMED.fullmatch(first)
        return found["name"] if found else ""

    def commands(self) -> list[list[str]]:
        """Give the arguments of every ``dovetail`` command."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
        return [found[1:] for found in words if found and Path(found[0]).name == "dovetail"]


def documents() -> list[Path]:
    """List the files that are documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("CONTRIBUTING.md"))]


def blocks(path: Path) -> Iterator[Block]:
    """Give the fenced blocks of a file, in order."""
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    before, opened, inside = "", None, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, inside = (number, fence["language"], len(fence["indent"]), before), []
        elif opened is not None and fence:
            start, language, indent, mark = opened
            yield Block(f"{name}:{start}", language, "".join(f"{each[indent:]}\n" for each in inside), mark)
            opened, before = None, ""
        elif opened is not None:
            inside.append(line)
        elif line.strip():
            before = line.strip()
    assert opened is None, f"{name}:{opened and opened[0]} is not closed"


def check_command(arguments: list[str]) -> None:
    """Parse a command as the program does, without running it.

    Raises
    ------
    AssertionError, click.UsageError
        The command or an option does not exist, or a value is not permitted.
    """
    program = get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    name, *rest = arguments
    if name in ("-h", "--help", "--version"):
        return
    assert name in program.commands, f"there is no command {name!r}"
    command = program.commands[name]
    if isinstance(command, typer.core.TyperGroup) and rest and rest[0] in command.commands:
        name, *rest = rest
        command = command.commands[name]
    with contextlib.suppress(typer.Exit):  # of --help
        command.make_context(name, rest)


def make_models(recipe: Path, templates: Path) -> None:
    """Make the checkpoints that a recipe names in the current folder, unless they exist.

    Parameters
    ----------
    recipe
        The recipe's file.
    templates
        Folder with the checkpoints ``base``, ``math`` and ``code``, which are copied.
    """
    stages = load_stages(recipe, strict=True)
    bases = {ref.path for stage in stages for ref in stage.recipe.base_models()}
    fine_tunes = 0
    for stage in stages:
        for ref in stage.recipe.references():
            if ref.path in stage.needs or Path(ref.path).exists():
                continue
            if ref.path not in bases:
                fine_tunes += 1
            name = "base" if ref.path in bases else ("math", "code")[fine_tunes % 2]
            shutil.copytree(templates / name, ref.path)


def make_templates(folder: Path) -> Path:
    """Write the demonstration's checkpoints, in their smallest size."""
    for index, name in enumerate(("base", "math", "code")):
        make_checkpoint(folder / name, SIZES["tiny"], index, pool_elements=1 << 16)
    return folder
