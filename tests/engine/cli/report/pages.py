"""Reading pages of reports as a browser does, without one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
from dataclasses import dataclass, field
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any


@lru_cache(maxsize=1)
def _parts(script: str) -> list[dict[str, Any]]:
    """Parse what a script draws, once for all that a test asks of it."""
    parts: list[dict[str, Any]] = json.loads(expand(script))
    return parts


@dataclass
class Parsed:
    """What a page consists of."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    """Every tag with its attributes."""
    text: str = ""
    """What a reader without pictures and tables reads."""
    scripts: list[str] = field(default_factory=list)
    """The contents of scripts."""

    def drawn(self) -> list[dict[str, Any]]:
        """Give what the page's script draws."""
        return _parts(self.scripts[0])

    def part(self, title: str) -> dict[str, Any]:
        """Give the one drawn part of a title."""
        (found,) = [part for part in self.drawn() if part["title"] == title]
        return found

    def column(self, title: str, name: str) -> list[Any]:
        """Give a column of a table."""
        (found,) = [column["values"] for column in self.part(title)["columns"] if column["name"] == name]
        values: list[Any] = found
        return values

    def policy(self) -> dict[str, str]:
        """Give the directives of the content security policy."""
        (policy,) = [
            attributes["content"] or ""
            for tag, attributes in self.tags
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        return {name: value for name, _, value in (part.strip().partition(" ") for part in policy.split(";"))}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found = Parsed()
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside = tag
            if tag == "script":
                self.found.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.found.scripts[-1] += data
        elif not self.inside:
            self.found.text += data


def parse(html: str) -> Parsed:
    """Take a page apart."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.found


def expand(text: str) -> str:
    """Expand what a page holds compressed."""
    return gzip.decompress(base64.b64decode(text)).decode()


def hash_source(script: str) -> str:
    """Give a script's name in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def grow_manifest(manifest: dict[str, Any], models: int, tensors: int) -> None:
    """Give a manifest many models and tensors, with figures that have nothing in common."""
    draw = random.Random(0).random
    manifest["models"] = [f"model-{place}" for place in range(models)]
    for key in ("density", "task_vector_norm", "kept_norm"):
        manifest["totals"][key] = [0.5] * models
    manifest["totals"]["overlap"] = [[0.5] * models] * models
    entry = next(iter(manifest["tensors"].values()))
    alike = {"models": list(range(models)), "kept": [9] * models, "overlap": [[0.5] * models] * models}

    def another() -> dict[str, Any]:
        figures = {key: [draw() for _ in range(models)] for key in ("density", "task_vector_norm", "kept_norm")}
        return entry | {"statistics": entry["statistics"] | alike | figures | {"merged_norm": draw()}}

    manifest["tensors"] = {
        f"model.layers.{i // 500}.mlp.experts.{i % 500 // 3}.w{i % 3}.weight": another() for i in range(tensors)
    }
