"""A third output format: the one that docs/add-a-format.md shows, defined here by the page's own text."""

from __future__ import annotations

import sys

from tests.doc_blocks import ROOT, Block, blocks

PAGE = ROOT / "docs" / "add-a-format.md"


def shown(file_name: str) -> Block:
    """Give the block of the page that is the file of a name."""
    return next(block for block in blocks(PAGE) if block.file_name == file_name)


exec(compile(shown("npy_format.py").text, str(PAGE), "exec"))

NpyFormat = globals()["NpyFormat"]
DOCUMENT: str = globals()["DOCUMENT"]
sys.modules.setdefault("npy_format", sys.modules[__name__])  # by this name the page's tests import it
