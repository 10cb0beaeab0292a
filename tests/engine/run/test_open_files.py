"""Files that were read are closed when the work on them ends."""

from __future__ import annotations

import pytest

from dovetail.engine import compare, merge, verify
from dovetail.io.files import mapping
from tests.engine.conftest import Family


@pytest.mark.parametrize("action", ["merge", "verify", "compare"])
def test_no_file_stays_open(family: Family, action: str) -> None:
    """What was read is not mapped any more afterwards, so that a removed model gives its room on the disk back."""
    merge(family.recipe_path, family.out)
    if action == "verify":
        assert not verify(family.out).damage
    elif action == "compare":
        compare(family.out, family.base)
    assert {} == mapping._open_files
