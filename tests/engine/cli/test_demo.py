"""What the demonstration says at its end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dovetail.engine import merge
from dovetail.engine.cli import demo
from dovetail.engine.cli.report.page import render
from dovetail.engine.events import Done
from tests.engine.conftest import Family


@pytest.mark.parametrize("ready", [True, False])
def test_where_to_look(
    family: Family, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ready: bool
) -> None:
    """Places stand in one column, what they are in another; where the report needs its extra, that is said."""
    seen: list[Done] = []
    merge(family.recipe_path, family.out, listen=lambda event: seen.append(event) if isinstance(event, Done) else None)
    if not ready:
        monkeypatch.setattr(render, "_PACKAGES", ("no_such_package",))
    demo._explain(Path("out"), Path("recipe.yml"), demo._report(family.out, seen[-1]))
    _, _, listed = capsys.readouterr().out.partition("5. Where to look next\n")
    lines = listed.splitlines()
    columns = [re.search(r"(?<=  )\S", line.lstrip()) for line in lines]
    assert 6 == len(lines)
    assert 1 == len({found.start() for found in columns if found is not None})
    assert None not in columns
    assert ready == (family.home / "out-report.html").exists()
    assert ready == ("pip install 'dovetail[report]'" not in lines[0])
