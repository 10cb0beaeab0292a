"""Composing modules: the function behind ``dovetail modules compose``.

Modules of one parent become one network with the kernels of all: the union, which is cut out of the parent again, as
none of the modules has the weights between kernels of two. Modules of several parents become branches of one network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.given_manifest import gives_manifest
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.errors import DovetailError, RecipeError, VerificationError
from dovetail.engine.modular.extraction.branch import Branch, cut_branch, stored_branch, union
from dovetail.engine.modular.extraction.digest import digest_of
from dovetail.engine.modular.extraction.document import Module, ModuleDescription, Origin, Taken, read_module
from dovetail.engine.modular.extraction.extract import identity_of, wanted_branch
from dovetail.engine.modular.extraction.joining import BRANCH, Calibration, joined
from dovetail.engine.modular.extraction.writing import Wanted, write_module
from dovetail.engine.modular.network.counts import COUNTS_NAME, class_numbers, open_counts, read_counts
from dovetail.engine.modular.network.parent import Parent, read_parent
from dovetail.engine.output.inputs import read_record
from dovetail.engine.output.manifest import SELF_CHECKSUM
from dovetail.engine.progress import shows_progress
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import TensorMismatchError
from dovetail.io.files.home import expand_home


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """All modules of one parent."""

    digest: str
    """The parent's digest."""
    modules: tuple[Module, ...]
    """Its modules, in the order in which they were named."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their classes, each once."""
        return tuple(dict.fromkeys(name for module in self.modules for name in module.description.classes))

    @property
    def names(self) -> str:
        """Their folders, for people."""
        return ", ".join(str(module.folder) for module in self.modules)


@gives_manifest
@shows_progress("composing")
def compose_modules(
    modules: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    parents: Sequence[str | os.PathLike[str]] = (),
    calibrations: Sequence[Calibration] | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    progress: bool | events.Listener = False,
) -> dict[str, Any]:
    """Put modules together into one network that tells all their classes apart.

    Modules of one parent give, bit for bit, the module that `extract_module` makes of all their classes. Modules of
    different parents give a network of branches, one for each parent, in the order in which parents come first; it
    takes inputs as the first of them does, and the logits of each branch are calibrated and put side by side.

    Parameters
    ----------
    modules
        Folders that `extract_module` or this function has written, each of one parent.
    output
        Folder to make; it appears under its name only when it is complete.
    classes
        Which of their classes, in the order that their logits are to have; None for all, in the order of the modules.
        Modules that none of these classes is of are left out.
    parents
        Folders of parents, where they are not where modules were extracted from.
    calibrations
        For modules of different parents: one calibration for each parent; None for none.
    run, listen, progress
        As for `extract_module`.

    Returns
    -------
    Manifest
        A dict: the manifest but for its ``tensors``; ``module`` in it has classes, thresholds and kernels.

    Raises
    ------
    DovetailError
        One of the tree in `dovetail.engine.errors` and `dovetail.io.errors`.

    """
    opened = [read_module(os.fspath(folder)) for folder in modules]
    if not opened:
        raise RecipeError("no module is given", "at least one folder that dovetail modules extract has written")
    groups = _chosen(_groups(opened), classes)
    wanted = tuple(name for group in groups for name in group.classes) if classes is None else tuple(classes)
    _check_classes(groups, wanted)
    places = [Path(expand_home(folder)) for folder in parents]
    if len(groups) == 1:
        if calibrations is not None:
            raise RecipeError("all modules are of one parent", "no calibration, as their logits are comparable already")
        result = _of_one_parent(groups[0], wanted, places)
    else:
        result = _of_several(groups, wanted, places, calibrations)
    return write_module(result, expand_home(output), run or RunOptions(), listen)


def _groups(modules: Sequence[Module]) -> list[_Group]:
    """Sort modules by parent."""
    found: dict[str, list[Module]] = {}
    for module in modules:
        stored_branch(module)  # refuses what is composed of several already
        found.setdefault(module.description.parents[0].digest, []).append(module)
    return [_Group(digest, tuple(each)) for digest, each in found.items()]


def _chosen(groups: Sequence[_Group], classes: Sequence[str] | None) -> list[_Group]:
    """Leave modules out of which no class is wanted."""
    if classes is None:
        return list(groups)
    known = list(dict.fromkeys(name for group in groups for name in group.classes))
    class_numbers(known, tuple(classes))
    kept = [
        _Group(group.digest, tuple(each for each in group.modules if set(each.description.classes) & set(classes)))
        for group in groups
    ]
    return [group for group in kept if group.modules]


def _check_classes(groups: Sequence[_Group], wanted: Sequence[str]) -> None:
    """Refuse a class that modules of two parents have: two logits of one name would compete."""
    owners: dict[str, _Group] = {}
    for group in groups:
        for name in group.classes:
            other = owners.setdefault(name, group)
            if other is not group and name in wanted:
                raise RecipeError(
                    f"class {name!r} is in {other.names} and in {group.names}, which have different parents",
                    "each class from one parent",
                    "choose other classes, or leave one of these modules out",
                )


def _of_one_parent(group: _Group, classes: tuple[str, ...], places: Sequence[Path]) -> Wanted:
    """Cut the union of modules out of their parent."""
    parent = _find_parent(group, places)
    stored = open_counts(parent)
    branch = cut_branch(parent, read_counts(parent, stored), _united(group, classes))
    return wanted_branch(branch, parent, stored, group.digest)


def _united(group: _Group, classes: Sequence[str]) -> Origin:
    """Unite what modules have of one parent."""
    origins = [module.description.parents[0] for module in group.modules]
    first = origins[0]
    for origin, module in zip(origins, group.modules, strict=True):
        if origin.masks != first.masks:
            raise RecipeError(
                f"{module.folder} has masks {origin.masks!r} and {group.modules[0].folder} {first.masks!r}",
                "modules of one parent with masks of one kind",
                "extract one of them again with --masks",
            )
        if {layer: len(mask) for layer, mask in origin.kept.items()} != {
            layer: len(mask) for layer, mask in first.kept.items()
        }:
            raise TensorMismatchError(
                f"{module.folder} and {group.modules[0].folder} name one parent, and other layers of it",
                "the same layers, each with as many kernels",
                "extract one of them again",
            )
    shares = {name: share for origin in origins for name, share in origin.classes.items()}
    return replace(
        first,
        threshold=min(origin.threshold for origin in origins),
        classes={name: shares[name] for name in classes},
        kept=union(origin.kept for origin in origins),
    )


def _find_parent(group: _Group, places: Sequence[Path]) -> Parent:
    """Find the parent of modules: among the folders that were given, or where they were extracted from."""
    known = list(places)
    for module in group.modules:
        try:
            record = read_record(module.folder, read_manifest(module.folder)[SELF_CHECKSUM])
            known += [Path(str(entry["checkpoint"])) for entry in (record.inputs[:1] if record else ())]
        except (VerificationError, KeyError, TypeError):
            continue  # a module can do without its manifest
    seen = []
    for place in dict.fromkeys(known):
        try:
            parent = read_parent(place)
            if digest_of(parent.checkpoint, parent.whole.tensor_shapes()) == group.digest:
                return parent
            seen.append(f"{place} is another network")
        except DovetailError as error:
            if place in places:
                raise
            seen.append(error.what)
    name = group.modules[0].description.parents[0].name
    raise RecipeError(
        f"the parent {name!r} of {group.names} is not found ({'; '.join(seen) or 'no manifest says where it is'})",
        f"a folder with the weights {group.digest}",
        "say where it is with --parent",
    )


def _of_several(
    groups: Sequence[_Group],
    classes: tuple[str, ...],
    places: Sequence[Path],
    calibrations: Sequence[Calibration] | None,
) -> Wanted:
    """Make branches of modules of several parents."""
    branches: list[Branch] = []
    inputs: list[str] = []
    labels: list[str] = []
    checkpoints: list[Checkpoint] = []
    for group in groups:
        own = [name for name in group.classes if name in classes]
        if len(group.modules) == 1:
            module = group.modules[0]
            branches.append(stored_branch(module))
            labels.append(str(module.folder))
            inputs.append(labels[-1])
            checkpoints.append(module.checkpoint)
        else:
            parent = _find_parent(group, places)
            counts = open_counts(parent)
            branches.append(cut_branch(parent, read_counts(parent, counts), _united(group, own)))
            labels.append(str(parent.folder))
            inputs += [labels[-1], f"{labels[-1]}/{COUNTS_NAME}"]
            checkpoints += [parent.checkpoint, counts]
    chosen = list(calibrations or [Calibration()] * len(branches))
    logits = [(index, name) for index, branch in enumerate(branches) for name in branch.classes]
    owner = {name: index for index, group in enumerate(groups) for name in group.classes if name in classes}
    order = [logits.index((owner[name], name)) for name in classes]
    scales = [branch.origin.inputs for branch in branches]
    architecture = joined([branch.architecture for branch in branches], chosen, order, scales)
    origins = tuple(
        replace(
            branch.origin, classes={name: branch.origin.classes[name] for name in branch.classes if name in classes}
        )
        for branch in branches
    )
    description = ModuleDescription(architecture, classes, origins, _taken(branches))
    tensors = {f"{BRANCH.format(index)}{name}": info for index, name, info in _tensors(branches)}
    return Wanted(
        describe=lambda: description,
        identity={
            "classes": list(classes),
            "branches": [identity_of(branch) for branch in branches],
            "calibrations": [[each.temperature, each.bias] for each in chosen],
        },
        tensors=tensors,
        labels={f"{BRANCH.format(index)}{name}": labels[index] for index, name, _ in _tensors(branches)},
        inputs=tuple(inputs),
        checkpoints=tuple(checkpoints),
    )


def _tensors(branches: Sequence[Branch]) -> list[tuple[int, str, Any]]:
    return [(index, name, info) for index, branch in enumerate(branches) for name, info in branch.tensors.items()]


def _taken(branches: Sequence[Branch]) -> Mapping[str, Taken]:
    """Say what the tensors of all branches are of their parents."""
    return {
        f"{BRANCH.format(index)}{name}": Taken(index, taken.part)
        for index, branch in enumerate(branches)
        for name, taken in branch.taken.items()
    }
