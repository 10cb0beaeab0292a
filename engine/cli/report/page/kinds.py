"""Finding out what a folder is, and making the page of its kind."""

from __future__ import annotations

from pathlib import Path

from dovetail.engine.actions.verify import DEFECTS, read_manifest
from dovetail.engine.cli.report.page.merge_page import merge_page
from dovetail.engine.cli.report.page.modular_page import modular_page
from dovetail.engine.cli.report.page.parts import Page
from dovetail.engine.cli.report.page.search_page import is_search, search_page
from dovetail.engine.errors import VerificationError
from dovetail.engine.events import Done
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.searching.history import HISTORY_NAME
from dovetail.io.errors import MissingFileError
from dovetail.io.files.smallfile import is_named


def page_of(folder: Path, done: Done | None = None) -> Page:
    """Make the page of a merge's output, of a search, or of a modular network.

    Parameters
    ----------
    folder
        The output or the network.
    done
        What a merge that has just been done took; an output itself does not tell.

    Raises
    ------
    MissingFileError
        The folder is none of these.
    VerificationError
        Its manifest or its history is damaged.
    CheckpointError
        The network or its counts are damaged.

    """
    from dovetail.engine.modular.network.parent import PARENT_NAME, read_parent

    if is_named(folder / PARENT_NAME):
        return modular_page(read_parent(folder))
    if is_search(folder):
        return search_page(folder)
    if not is_named(folder / MANIFEST_NAME):
        raise MissingFileError(
            f"{folder} has neither {MANIFEST_NAME} nor {HISTORY_NAME} nor {PARENT_NAME}",
            "an output of dovetail merge or search, or a modular network",
            "check the path",
        )
    try:
        return merge_page(read_manifest(folder), done)
    except DEFECTS as error:
        raise VerificationError(
            f"{folder / MANIFEST_NAME} is damaged ({type(error).__name__}: {error})",
            "the manifest of a merge",
            "merge again",
        ) from error
