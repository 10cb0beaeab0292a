"""Finding out what a folder is, and making the page of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dovetail.engine.actions.conflicts import Conflicts
from dovetail.engine.actions.saved_analysis import is_analysis
from dovetail.engine.actions.verify import DEFECTS, read_manifest
from dovetail.engine.cli.report.page.analysis_page import saved_analysis_page
from dovetail.engine.cli.report.page.merge_page import merge_page
from dovetail.engine.cli.report.page.modular_page import modular_page
from dovetail.engine.cli.report.page.pair_page import pair_page
from dovetail.engine.cli.report.page.parts import Page
from dovetail.engine.cli.report.page.search_page import is_search, search_page
from dovetail.engine.errors import VerificationError
from dovetail.engine.events import Done
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.searching.history import HISTORY_NAME
from dovetail.io.errors import MissingFileError
from dovetail.io.files.smallfile import is_named


def page_of(folder: Path, done: Done | None = None, conflicts: Conflicts | None = None) -> Page:
    """Make the page of a merge's output, of a search, of a modular network, or of an analysis in a file.

    Parameters
    ----------
    folder
        The output, the network or the file; an output's manifest stands for it.
    done
        What a merge that has just been done took; an output itself does not tell.
    conflicts
        Who overrode whom in a merge, if that was found out; the same.

    Raises
    ------
    MissingFileError
        The folder is none of these.
    VerificationError
        Its manifest or its history is damaged, or the file.
    CheckpointError
        The network or its counts are damaged.

    """
    from dovetail.engine.modular.network.parent import PARENT_NAME, read_parent

    if is_analysis(folder):
        return saved_analysis_page(folder)
    folder = output_folder(folder)
    if is_named(folder / PARENT_NAME):
        return modular_page(read_parent(folder))
    if is_search(folder):
        return search_page(folder)
    if not is_named(folder / MANIFEST_NAME):
        raise MissingFileError(
            f"{folder} has neither {MANIFEST_NAME} nor {HISTORY_NAME} nor {PARENT_NAME}",
            "an output of dovetail merge or search, a modular network, or a file of dovetail analyze --save",
            "check the path",
        )
    with _reading(folder):
        return merge_page(read_manifest(folder), done, conflicts)


def page_of_two(first: Path, second: Path) -> Page:
    """Make the page of two merges' outputs, side by side.

    Parameters
    ----------
    first, second
        The outputs; an output's manifest stands for it.

    Raises
    ------
    MissingFileError
        One of them is no output of a merge.
    VerificationError
        A manifest is damaged, or the merges have no tensor in common.

    """
    folders = (output_folder(first), output_folder(second))
    for folder in folders:
        if not is_named(folder / MANIFEST_NAME):
            raise MissingFileError(
                f"{folder} has no {MANIFEST_NAME}",
                "two outputs of dovetail merge",
                "name one folder for another report",
            )
    labels = _labels(*folders)
    manifests = []
    for folder in folders:
        manifests.append(read_manifest(folder))
        with _reading(folder):
            manifests[-1].table()
    with _reading(*folders):
        return pair_page(labels, (manifests[0], manifests[1]))


@contextmanager
def _reading(*folders: Path) -> Iterator[None]:
    """Say whose manifest lacks something, or has a value of another type."""
    try:
        yield
    except DEFECTS as error:
        raise VerificationError(
            f"{' or '.join(str(folder / MANIFEST_NAME) for folder in folders)} is damaged "
            f"({type(error).__name__}: {error})",
            "the manifest of a merge",
            "merge again",
        ) from error


def output_folder(place: Path) -> Path:
    """Give the folder of an output, for which its manifest can stand."""
    return place.parent if place.name == MANIFEST_NAME else place


def _labels(first: Path, second: Path) -> tuple[str, str]:
    """Name two folders by as many of the last parts of their paths as tell them apart."""
    paths = [each.resolve().parts[1:] for each in (first, second)]
    for count in range(1, max(map(len, paths)) + 1):
        labels = ["/".join(parts[-count:]) for parts in paths]
        if labels[0] != labels[1]:
            return labels[0], labels[1]
    return f"{first.resolve().name} (1)", f"{second.resolve().name} (2)"
