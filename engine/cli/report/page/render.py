"""Pages as HTML: one file without references, in which whatever comes from checkpoints and recipes is text.

The page may run its own script and Plotly's, which its content security policy knows by their hashes, and may ask for
nothing. Numbers and names reach the script as compressed JSON, which the browser expands; Plotly is compressed too.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from dovetail.engine.cli.report.console import show
from dovetail.engine.cli.report.page.parts import Curves, HeatMap, Page, Table
from dovetail.engine.output.single_file import check_file
from dovetail.engine.text import format_size
from dovetail.io.extras import require
from dovetail.io.files.durable import replace_durably

_PACKAGES: Final = ("jinja2", "plotly")

_TEMPLATE: Final = "page.html.jinja"

_GENERATOR: Final = b'<meta name="generator" content="Dovetail report">'
"""What tells a page of ours from other files, near its beginning."""


def render(page: Page) -> str:
    """Write a page as HTML.

    Raises
    ------
    UnsupportedError
        Jinja2 or Plotly is not installed.

    """
    _require()
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    script, library = _resource("page.js"), get_plotlyjs().strip()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)} {_hash(library)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    drawn = [part.to_json() for part in _drawn(page)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_resource(_TEMPLATE)).render(
        page=page,
        policy=policy,
        style=Markup(_resource("page.css")),
        script=Markup(script),
        data=_compressed(json.dumps(_finite(drawn), separators=(",", ":"))),
        library=_compressed(library),
    )


def write_page(page: Page, path: Path) -> int:
    """Write a page durably, in one step, and give its size in bytes.

    Raises
    ------
    UnsupportedError
        Jinja2 or Plotly is not installed.
    OSError
        The disk is full or fails.

    """
    data = render(page).encode()
    replace_durably(path, data)
    return len(data)


def check_place(path: Path, option: str, *, overwrite: bool) -> Path:
    """Refuse to write a page where something else lies, as `check_file` does; `option` has named the place.

    Raises
    ------
    UnsupportedError
        Jinja2 or Plotly is not installed.
    OutputError
        Something else lies there, or the folder is missing.

    """
    _require()
    return check_file(path, "report", option, _is_page, overwrite=overwrite)


def tell_page(path: Path, size: int, *, quiet: bool, as_json: bool) -> None:
    """Say where a page is."""
    if as_json:
        print(json.dumps({"event": "report", "path": str(path), "nbytes": size}))
    elif not quiet:
        show(f"{path}: {format_size(size)}; open it in any browser")


def is_ready() -> bool:
    """Tell whether what pages need is installed."""
    return all(find_spec(package) is not None for package in _PACKAGES)


def _require() -> None:
    for package in _PACKAGES:
        require(package, "report", "reports as web pages")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return _GENERATOR in file.read(4096)


def _drawn(page: Page) -> Iterator[HeatMap | Curves | Table]:
    """Give the parts that the script draws, in the order of the page."""
    for section in page.sections:
        for part in section.parts:
            if isinstance(part, HeatMap | Curves | Table):
                yield part


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _compressed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _finite(value: Any) -> Any:
    """Replace what JSON has no number for by nothing, and shorten numbers to what a reader can see."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value
