"""The command ``dovetail``. Large modules are imported only by the commands that need them, so that help is quick."""

from __future__ import annotations

import copy
import difflib
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dovetail.engine.cli import modules as module_commands
from dovetail.engine.cli.analysis import analyze
from dovetail.engine.cli.merge import merge, plan, vectors
from dovetail.engine.cli.models import convert, extract_lora, moe
from dovetail.engine.cli.options import DebugOption, size_bytes
from dovetail.engine.cli.parser import Command, HelpCommand, MergingCommand, Program, UsageError
from dovetail.engine.cli.report.streams import (
    LostOutputError,
    end_without_output,
    finish_output,
    lasting_streams,
    outlast_reader,
)
from dovetail.engine.cli.reports import compare, inspect, methods, report, verify
from dovetail.engine.cli.search import search
from dovetail.engine.cli.status import status
from dovetail.engine.cli.stopping import EXIT_INTERRUPTED, INTERRUPTED, answer_interrupts
from dovetail.engine.cli.training import count, evaluate, train
from dovetail.io.files.interrupts import ignore_requests, is_main

app = typer.Typer(
    name="dovetail",
    cls=Program,
    help="Merge model checkpoints that are bigger than your memory: exact, bounded, resumable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        import importlib.metadata

        print(f"dovetail {importlib.metadata.version('dovetail')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Merge model checkpoints that are bigger than your memory: exact, bounded, resumable."""


_COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("merge", merge, "Merge checkpoints as a recipe says."),
    ("vectors", vectors, "Store what models keep, to merge it by any weights."),
    ("convert", convert, "Convert checkpoints to another format or dtype."),
    ("extract-lora", extract_lora, "Write what a fine-tune changed as an adapter."),
    ("moe", moe, "Make dense models the experts of one model."),
    ("plan", plan, "Say what a merge would read, write and hold."),
    ("search", search, "Search the values that make the best merge."),
    ("analyze", analyze, "Say how models changed, and conflict, before a merge."),
    ("inspect", inspect, "List a checkpoint's tensors."),
    ("status", status, "Say how far an output is, and who makes it."),
    ("verify", verify, "Check every byte of an output."),
    ("compare", compare, "Say how far two checkpoints lie apart."),
    ("report", report, "Show what a merge did, as a web page."),
    ("methods", methods, "Show the methods and their parameters."),
)
"""The commands in the order of the help, each with its line there."""

_OF_MERGEKIT = ("merge", "plan", "moe", "extract-lora")
"""Commands that read mergekit's flags."""

for _name, _command, _line in _COMMANDS:
    app.command(_name, cls=MergingCommand if _name in _OF_MERGEKIT else Command, short_help=_line)(_command)

modules = typer.Typer(
    help="Train networks to be modular, say how good they are, and take modules out of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MODULE_COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("train", train, "Train a network to be modular."),
    ("count", count, "Count anew what kernels classes use."),
    ("extract", module_commands.extract, "Take what some classes need out of a network."),
    ("compose", module_commands.compose, "Put modules together into one network."),
    ("inspect", module_commands.inspect, "Show what a module or a modular network is."),
    ("evaluate", evaluate, "Say how good a network and its modules are."),
)
"""The commands about modules in the order of the help, each with its line there."""

for _name, _command, _line in _MODULE_COMMANDS:
    modules.command(_name, cls=Command, short_help=_line)(_command)
app.add_typer(modules, name="modules", short_help="Train modular networks and take them apart.")


def _program_for(arguments: Sequence[str]) -> typer.Typer:
    """Give the program with the one command that is asked for, since making all of them takes a while; else all."""
    name = arguments[0] if arguments else ""
    if name == "help":  # shows any of them
        return app
    alone = copy.copy(app)
    alone.registered_commands = [each for each in app.registered_commands if each.name == name]
    alone.registered_groups = [each for each in app.registered_groups if each.name == name]
    return alone if alone.registered_commands or alone.registered_groups else app


def _command_names() -> list[str]:
    named = [command.name for command in app.registered_commands if command.name and not command.hidden]
    return [*named, "modules"]


@app.command("help", cls=HelpCommand, short_help="Show the help of a command.")
def show_help(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="One of the commands.", autocompletion=_command_names),
    ] = None,
) -> None:
    """Show the help of a command, or that of dovetail itself."""
    place: Any = context.find_root()
    names, said = _command_names(), ""
    for word in words or []:
        group = place.command
        found = group.get_command(place, word) if hasattr(group, "get_command") else None
        if found is None:
            from dovetail.engine.errors import RecipeError

            near = difflib.get_close_matches(word, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else ""
            expected = f"one of {', '.join(names)}" if names else f"{said.strip()!r} alone"
            raise RecipeError(f"there is no command {(said + word)!r}", expected, hint)
        place = found.make_context(word, [], place, resilient_parsing=True)
        names, said = list(getattr(found, "commands", {})), f"{said}{word} "
    print(place.get_help())


@app.command("demo", cls=Command, short_help="Merge small made-up checkpoints and explain.")
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put it.")] = Path("dovetail-demo"),
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Limit on the merging process.")] = "512MiB",
    debug: DebugOption = False,
) -> None:
    """Make small checkpoints, merge them by CABS, check the result and explain it."""
    from dovetail.engine.cli.demo import run_demo
    from dovetail.io.files.home import expand_home

    outlast_reader()
    run_demo(expand_home(folder), size_bytes("--memory", memory))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit; ``dovetail.io.errors`` and ``dovetail.engine.errors`` list the exit codes."""
    given = sys.argv[1:] if arguments is None else arguments
    answer_interrupts(given)
    with lasting_streams():
        try:
            _run(given)
        except LostOutputError as error:
            end_without_output(error.error)


def _run(arguments: list[str]) -> NoReturn:
    try:
        # Typer swallows Ctrl-C: some versions return this code, others raise Abort.
        interrupted = (
            _program_for(arguments)(arguments, prog_name="dovetail", standalone_mode=False) == EXIT_INTERRUPTED
        )
        finish_output()
    except (KeyboardInterrupt, typer.Abort):
        interrupted = True
    except LostOutputError:
        raise
    except UsageError as error:
        error.show()
        _fail(error.format_message(), error.exit_code, arguments, shown=True)
    except Exception as error:
        from dovetail.engine.errors import describe

        _fail(*describe(error), arguments)
    if interrupted:
        _fail(INTERRUPTED, EXIT_INTERRUPTED, arguments)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End the process; a request to stop that comes now has nothing left to stop."""
    if is_main():
        ignore_requests()
    sys.exit(code)


def _fail(text: str, code: int, arguments: Sequence[str], *, shown: bool = False) -> NoReturn:
    """Print an error to stderr for people, and with ``--json`` to stdout for programs, and exit with its code.

    The arguments are searched for ``--debug`` and ``--json`` as they stand, because parsing them may have failed.
    """
    outlast_reader()  # an error has its own exit code, whoever reads the text
    if code == EXIT_INTERRUPTED and is_main():  # the request to stop is followed: others must not disturb that
        ignore_requests()
    if "--debug" in arguments and sys.exc_info()[0]:
        traceback.print_exc()
    if not shown:
        print(f"error: {text}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"event": "error", "text": text, "exit_code": code}))
    finish_output()
    _leave(code)


if __name__ == "__main__":
    main()
