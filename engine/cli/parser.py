"""Reading command lines as people type them: those of mergekit too, and hints where a word is not ours."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from dovetail.engine.cli import options as cli_options
from dovetail.engine.cli.flags import BY_NAME, PROGRAMS, Fate, Flag
from dovetail.engine.cli.loading import load_numpy
from dovetail.engine.errors import InterruptedMergeError
from dovetail.engine.events import Listener, Notice
from dovetail.engine.text import counted
from dovetail.io.errors import DovetailError
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.home import expand_home

# Some versions of Typer contain a copy of click, and others use the installed click: each has another class.
UsageError: Any = typer.BadParameter.__base__
"""The class of all errors in a command line."""

WHOLE = 2**60
"""Bytes of a shard that every model fits into."""

_LIKENESS = 0.7
"""Least likeness, of 0 to 1, of a suggestion's letters to those of an unknown option."""
_COUNT = re.compile(r"(\d+)([kmb]?)", re.IGNORECASE)
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(slots=True)
class Translation:
    """A command line in which no flag of mergekit's is left."""

    arguments: list[str] = field(default_factory=list)
    """The arguments."""
    noted: dict[str, list[str]] = field(default_factory=dict)
    """The flags that have no effect, as they were given, by what happens instead."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the environment that flags stand for."""

    @property
    def note(self) -> str:
        """One line about the flags that have no effect; empty if there are none."""
        parts = [f"{', '.join(names)} ({text})" for text, names in self.noted.items()]
        return f"No effect here: {'; '.join(parts)}." if parts else ""


def translate(arguments: Collection[str], options: Mapping[str, bool]) -> Translation:
    """Take mergekit's flags out of a command line, or put our options in their place.

    Parameters
    ----------
    arguments
        What follows the command's name.
    options
        The spellings of the command's own options, and whether each takes a value. They come before mergekit's.

    Raises
    ------
    click.UsageError
        A flag is refused, or its value is missing or wrong.

    """
    found, rest = Translation(), list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            found.arguments += [word, *rest]
            break
        name, value = _cut(word)
        if name in options or name not in BY_NAME:
            found.arguments.append(word)
            if options.get(name) and value is None and rest:
                found.arguments.append(rest.pop(0))
            continue
        flag = BY_NAME[name]
        if flag.fate is Fate.refused:
            raise UsageError(f"{name}, a flag of {flag.program}, is not accepted; {flag.text}.")
        if not flag.value and value is not None and not name.startswith("--"):
            rest.insert(0, f"-{value}")  # several flags of one letter, as in -vv
            value = None
        if bool(flag.value) != (value is not None):
            if not flag.value:
                raise UsageError(f"Option {name!r} does not take a value.")
            if not rest:
                raise UsageError(f"Option {name!r} requires an argument.")
            value = rest.pop(0)
        _apply(flag, name, value, options, found)
    return found


def _apply(flag: Flag, name: str, value: str | None, options: Mapping[str, bool], found: Translation) -> None:
    """Do what becomes of one flag that is not refused."""
    if flag.fate is Fate.noted and not (name == "--device" and str(value).startswith("cpu")):
        found.noted.setdefault(flag.text, []).append(name if value is None else f"{name} {value}")
    elif flag.fate is Fate.same and flag.option in options:
        found.arguments += [flag.option, _shard_size(value or "") if name == "--out-shard-size" else value or ""]
    elif flag.fate is Fate.same and flag.option.isupper():
        if value:  # scripts pass an empty one for the default
            found.environment[flag.option] = str(expand_home(value))
    elif flag.fate is Fate.same:
        raise UsageError(f"{name} is not for this command, which has no {flag.option}; leave it out.")


def _cut(word: str) -> tuple[str, str | None]:
    """Cut an argument into an option's name and the value that is attached to it."""
    if word.startswith("--"):
        name, sign, value = word.partition("=")
        return name, value if sign else None
    if word in BY_NAME or not word.startswith("-"):
        return word, None
    return word[:2], word[2:] or None


def _shard_size(text: str) -> str:
    """Read a size as mergekit does, which has K, M and B for powers of 1000, and 0 for a single file."""
    match = _COUNT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--out-shard-size {text!r} is not understood; expected a number with K, M or B, where 5B is 5GB; "
            "for other units pass --shard-size."
        )
    size = int(match[1]) * _THOUSANDS[match[2].lower()]
    if 0 < size < cli_options.LEAST_BYTES:
        raise UsageError(
            f"--out-shard-size {text} is {counted(size, 'byte')}; expected at least 1 MiB, or 0 for a single file; "
            "write the unit, as in 5B, which is 5GB."
        )
    return str(size or WHOLE)


class _StoppedError(DovetailError):
    """The command was interrupted."""

    exit_code = 130


class Command(TyperCommand):
    """A command that suggests only options that look like what was typed."""

    computes = True
    """Whether it needs numpy."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; see `closest`."""
        try:
            with collector_paused():  # some versions of Typer import pydantic for this
                return super().parse_args(ctx, args)
        except UsageError as error:
            if getattr(error, "possibilities", None):
                error.possibilities = closest(error.option_name, self.spellings())
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command; that it was interrupted stays an error of ours, of which Typer would drop the text."""
        if self.computes:
            load_numpy()
        try:
            return super().invoke(ctx)
        except InterruptedMergeError as error:
            raise _StoppedError(error.what, error.expected, error.action) from None

    def spellings(self) -> dict[str, bool]:
        """Give the spellings of the command's options, and whether each takes a value."""
        return {
            name: not getattr(each, "is_flag", False)
            for each in self.params
            for name in (*each.opts, *each.secondary_opts)
            if name.startswith("-")
        }


class HelpCommand(Command):
    """A command that only shows text."""

    computes = False


def closest(option: str, options: Collection[str]) -> list[str]:
    """Give the options whose letters are much like those of an unknown one; hyphens in front do not count."""
    names = {name.lstrip("-"): name for name in options}
    return [names[name] for name in get_close_matches(option.lstrip("-"), names, cutoff=_LIKENESS)]


class MergingCommand(Command):
    """A command that mergekit has too, and that reads mergekit's flags: those of `flags`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments without mergekit's flags, and keep for `invoke` and `tell` what these say."""
        ctx.obj = Translation(list(args))
        try:
            ctx.obj = translate(args, self.spellings())
        except UsageError as error:
            if not ctx.resilient_parsing:  # else a shell asks how a line could go on that is not complete yet
                error.ctx, error.cmd = ctx, self
                raise
        return super().parse_args(ctx, ctx.obj.arguments)

    def invoke(self, ctx: Any) -> Any:
        """Run the command in the environment that flags of mergekit ask for."""
        with _environment(ctx.obj.environment):
            return super().invoke(ctx)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def tell(ctx: typer.Context, listen: Listener) -> None:
    """Say in one line which flags of mergekit have no effect."""
    if ctx.obj.note:
        listen(Notice("info", ctx.obj.note))


class Program(TyperGroup):
    """The program, which knows what to use instead of mergekit's programs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, or say what to use instead of a program of mergekit's."""
        hint = PROGRAMS.get(args[0]) or PROGRAMS.get(f"mergekit-{args[0]}")
        if hint and args[0] not in self.commands and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}; {hint}.")
        return super().resolve_command(ctx, args)
