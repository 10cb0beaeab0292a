"""The output formats that there are, and how a command line or a manifest chooses among them.

A further format is a subclass of `dovetail.io.output_format.OutputFormat` in a file of its own, and a row of `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.io.errors import OutputFormatError
from dovetail.io.formats.safetensors_format import SafetensorsFormat
from dovetail.io.output_format import OutputFormat
from dovetail.io.zarr.format import ZarrFormat

__all__ = ["FORMATS", "SafetensorsFormat", "ZarrFormat", "choose_format", "find_format", "format_of", "written_format"]

FORMATS: dict[str, type[OutputFormat[Any]]] = {each.name: each for each in (SafetensorsFormat, ZarrFormat)}
"""Every output format by its name, the default first."""


def find_format(name: str) -> type[OutputFormat[Any]]:
    """Find the format of a name.

    Raises
    ------
    OutputFormatError
        If there is none.

    """
    if name not in FORMATS:
        raise OutputFormatError(f"output format is {name!r}", "one of " + ", ".join(FORMATS), "choose one of these")
    return FORMATS[name]


def choose_format(name: str, given: Mapping[str, Any]) -> OutputFormat[Any]:
    """Turn what a user asks of the output into a format with its options.

    Parameters
    ----------
    name
        Name of the format.
    given
        The command line's options about output, such as ``--codec``, with their values; None for one not given.

    Raises
    ------
    OutputFormatError
        If there is no such format, an option is for another, or a value is wrong.

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
    """Find the format of a finished output by its manifest; the first manifests, of safetensors alone, name none.

    Raises
    ------
    OutputFormatError
        If there is no format of the name that the manifest gives.

    """
    name = manifest.get("output_format", SafetensorsFormat.name)
    if name not in FORMATS:
        raise OutputFormatError(
            f"the output is in the format {name!r}", "one of " + ", ".join(FORMATS), "use the version that wrote it"
        )
    return FORMATS[name]


def written_format(manifest: Mapping[str, Any]) -> OutputFormat[Any]:
    """Give the format of a finished output with the options that it was written with.

    Raises
    ------
    OutputFormatError
        If there is no format of the name that the manifest gives, or its options are wrong.
    KeyError, TypeError
        If the manifest does not have the options as `OutputFormat.to_json` makes them.

    """
    return format_of(manifest).from_json(manifest["options"])
