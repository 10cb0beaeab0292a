"""The table of output formats, and the choice of one by a command line or a manifest.

To add a format, write a subclass of `dovetail.io.output_format.OutputFormat` in a new file, and add it to `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.io.errors import OutputFormatError
from dovetail.io.formats.safetensors_format import SafetensorsFormat
from dovetail.io.output_format import OutputFormat
from dovetail.io.zarr.format import ZarrFormat
from dovetail.io.zarr.vectors import VectorsFormat

__all__ = ["FORMATS", "SafetensorsFormat", "ZarrFormat", "choose_format", "find_format", "format_of", "written_format"]

FORMATS: dict[str, type[OutputFormat[Any]]] = {each.name: each for each in (SafetensorsFormat, ZarrFormat)}
"""Every format that a user can choose for a model, by its name; the first is the default."""


def find_format(name: str) -> type[OutputFormat[Any]]:
    """Find the output format with a name.

    Raises
    ------
    OutputFormatError
        If no format has this name.

    """
    if name not in FORMATS:
        raise OutputFormatError(f"output format is {name!r}", "one of " + ", ".join(FORMATS), "choose one of these")
    return FORMATS[name]


def choose_format(name: str, given: Mapping[str, Any]) -> OutputFormat[Any]:
    """Make an output format, with its options, from the options of a command line.

    Parameters
    ----------
    name
        Name of the format.
    given
        Values of the command line's options about output, such as ``--codec``; None for an option that is not given.

    Raises
    ------
    OutputFormatError
        If no format has this name, if an option belongs to another format, or if its value is wrong.

    """
    chosen, fields = find_format(name), {}
    for option, value in given.items():
        if value is None:
            continue
        if option not in chosen.command_options:
            owner = next(each.name for each in FORMATS.values() if option in each.command_options)
            raise chosen.refuse_option(option, owner)
        fields[chosen.command_options[option]] = value
    return chosen(**fields)


def format_of(manifest: Mapping[str, Any]) -> type[OutputFormat[Any]]:
    """Find the format of a finished output by its manifest.

    The first version of the manifest, when all outputs were safetensors, does not name a format.

    Raises
    ------
    OutputFormatError
        If no format has the name that the manifest gives.

    """
    name = manifest.get("output_format", SafetensorsFormat.name)
    # A store of task vectors has a format that no option names. The table is made anew, as others may add to FORMATS.
    written: dict[str, type[OutputFormat[Any]]] = {**FORMATS, VectorsFormat.name: VectorsFormat}
    if name not in written:
        raise OutputFormatError(
            f"the output is in the format {name!r}", "one of " + ", ".join(written), "use the version that wrote it"
        )
    return written[name]


def written_format(manifest: Mapping[str, Any]) -> OutputFormat[Any]:
    """Make the format of a finished output, with the options with which it was written, from its manifest.

    Raises
    ------
    OutputFormatError
        If no format has the name that the manifest gives, or if its options are wrong.
    KeyError, TypeError
        If the manifest lacks the options, or has others than `OutputFormat.to_json` writes.

    """
    return format_of(manifest).from_json(manifest["options"])
