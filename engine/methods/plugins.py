"""Methods of other installed distributions.

A distribution brings methods by entry points of the group ``dovetail.methods``. Each entry is a `Method`, and then has
the method's name, or a sequence of them under any name::

    [project.entry-points."dovetail.methods"]
    mean = "my_package.mean:MEAN"

An entry that cannot be used never stops anything but merges that name its method.
"""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dovetail.engine.methods.checking import defects
from dovetail.engine.methods.method import Method, PlugIn

GROUP: Final = "dovetail.methods"
"""Group of the entry points."""

UPDATE: Final = "update the plug-in, or uninstall it"
"""What can be done about an entry that cannot be used."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An entry, or one of its methods, that cannot be used."""

    plug_in: PlugIn
    """The distribution."""
    entry: str
    """Name of the entry point."""
    methods: tuple[str, ...]
    """Names of the methods that it would bring, as far as they are known."""
    reason: str
    """Why, as the end of a sentence."""

    def __str__(self) -> str:
        return f"entry {self.entry!r} of the plug-in {self.plug_in} cannot be used: {self.reason}"


@dataclass(frozen=True, slots=True)
class PlugIns:
    """What the installed distributions bring."""

    methods: Mapping[str, Method]
    """Their methods by name."""
    faults: tuple[Fault, ...]
    """What cannot be used."""


def load_plug_ins(taken: Collection[str]) -> PlugIns:
    """Load and check every entry of the group.

    Parameters
    ----------
    taken
        Names that no plug-in can have.

    Returns
    -------
    PlugIns
        The methods, ordered by distribution and entry, and what is wrong with the others.

    """
    faults: list[Fault] = []
    offers: defaultdict[str, list[tuple[Method, PlugIn, str]]] = defaultdict(list)
    for plug_in, entry in _entries(faults):
        try:
            checked = [(row, defects(row, taken)) for row in _rows(entry.load())]
        except (Exception, SystemExit) as error:  # a module of another distribution can fail in any way
            faults.append(Fault(plug_in, entry.name, (entry.name,), f"{type(error).__name__}: {error}"))
            continue
        for row, found in checked:
            if found:
                names = {entry.name, str(getattr(row, "name", entry.name))}
                faults.append(Fault(plug_in, entry.name, tuple(sorted(names)), "; ".join(found)))
            else:
                offers[row.name].append((row, plug_in, entry.name))
    methods = {}
    for name, offered in offers.items():
        if len(offered) == 1:
            row, plug_in, _ = offered[0]
            methods[name] = replace(row, plug_in=plug_in)
            continue
        everyone = " and ".join(f"entry {entry!r} of {plug_in}" for _, plug_in, entry in offered)
        reason = f"the method {name!r} is brought by {everyone}"
        faults += [Fault(plug_in, entry, (name,), reason) for _, plug_in, entry in offered]
    return PlugIns(methods, tuple(faults))


def _entries(faults: list[Fault]) -> list[tuple[PlugIn, importlib.metadata.EntryPoint]]:
    """List the entry points of the group with their distributions, ordered so that results never vary.

    Only distributions that name the group are looked at further: others may be damaged, and are none of our concern.
    """
    found: dict[str, list[tuple[PlugIn, importlib.metadata.EntryPoint]]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            listed = distribution.read_text("entry_points.txt") or ""
        except ValueError:  # it is no text
            continue
        if GROUP not in listed:
            continue
        plug_in = PlugIn(str(distribution.metadata["Name"]), str(distribution.metadata["Version"]))
        if plug_in.distribution in found:  # another, earlier on the path, is the one that Python imports
            continue
        found[plug_in.distribution] = []
        try:
            entries = distribution.entry_points.select(group=GROUP)
        except Exception as error:  # the list is a file of another distribution
            faults.append(Fault(plug_in, "entry_points.txt", (), f"{type(error).__name__}: {error}"))
            continue
        found[plug_in.distribution] = [(plug_in, entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    return [entry for name in sorted(found) for entry in found[name]]


def _rows(value: Any) -> Sequence[Any]:
    """Give an entry's methods.

    Raises
    ------
    TypeError
        It is neither a method nor a sequence.

    """
    if isinstance(value, Method):
        return (value,)
    if isinstance(value, list | tuple) and value:
        return value
    raise TypeError(f"it is a {type(value).__name__}, not a Method or a list of them")
