"""The pages of the site that are in no file: the parts of README.md, and the API as its docstrings say it.

MkDocs calls the functions ``on_...``, see ``mkdocs.yml``. Nothing is written into ``docs/``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TOP = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages made of other files beside README.md, where these are there."""
API = {"api.md": "api", "api-methods.md": "engine/methods", "api-io.md": "io"}
"""Pages of the API, and the folders of their packages. A name that the first of them has stands there alone."""

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_COMMENT = re.compile(r"^<!-- (not run: .*|run) -->\n", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Make the navigation."""
    parts = [{title: name} for name, (title, _) in _readme().items()]
    pages = [{_title(path): path.name} for path in sorted(DOCS.glob("*.md"))]
    more = [{_title(ROOT / source): name} for source, name in TOP.items() if (ROOT / source).exists()]
    api = [{_package(folder): name} for name, folder in API.items()]
    config.nav = [*parts, {"Guides": pages}, {"API": api}, *([{"Project": more}] if more else [])]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    made = {name: text for name, (_, text) in _readme().items()}
    top = {name: ROOT / source for source, name in TOP.items() if (ROOT / source).exists()}
    made |= {name: _linked(path.read_text(), ROOT) for name, path in top.items()}
    made |= {name: _api(folder) for name, folder in API.items()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Take out what is for the tests alone, and mend the links of pages in ``docs/``."""
    if (DOCS / page.file.src_uri).exists():
        markdown = _linked(markdown, DOCS)
    return _COMMENT.sub("", markdown)


def _readme() -> dict[str, tuple[str, str]]:
    """Cut README.md at its second headings; give title and text of each page by its name."""
    first, *parts = re.split(r"^## ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    titles = [part.partition("\n")[0] for part in parts]
    names = {f"#{_slug(title)}": f"readme-{_slug(title)}.md" for title in titles}
    found = {"index.md": ("Dovetail", _linked(first, ROOT, names))}
    for title, part in zip(titles, parts, strict=True):
        found[f"readme-{_slug(title)}.md"] = (title, _linked(f"# {part}", ROOT, names))
    return found


def _linked(markdown: str, folder: Path, parts: dict[str, str] | None = None) -> str:
    """Let links lead to pages of the site; what is in the source tree alone is named and not linked.

    Parameters
    ----------
    markdown
        The text, of a file in `folder`.
    folder
        Where its relative links start.
    parts
        Pages by the anchors that the text has for them.

    """

    def replace(found: re.Match[str]) -> str:
        text, target, anchor = found["text"], found["target"], found["anchor"] or ""
        if not target:
            return f"[{text}]({(parts or {}).get(anchor, anchor)})"
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = (folder / target).resolve()
        if path.parent == DOCS and path.suffix == ".md":
            return f"[{text}]({path.name}{anchor})"
        top = {"README.md": "index.md", **TOP}.get(path.name) if path.parent == ROOT else None
        if top is not None:
            return f"[{text}]({top})"
        return text if path.exists() else found[0]

    return _LINK.sub(replace, markdown)


def _api(folder: str) -> str:
    """Write the page of a package: its own docstring, then every public name, functions first."""
    tree = ast.parse((ROOT / folder / "__init__.py").read_text())
    there = set() if folder == "api" else _public(ast.parse((ROOT / "api" / "__init__.py").read_text()))
    names = sorted(_public(tree) - there, key=lambda name: (name[0].isupper(), name in ("errors", "events"), name))
    package = _package(folder)
    intro = f"# {package}\n\n{ast.get_docstring(tree)}\n"
    return "\n".join([intro, *(f"::: {package}.{name}\n" for name in names)])


def _package(folder: str) -> str:
    return "dovetail" if folder == "api" else f"dovetail.{folder.replace('/', '.')}"


def _public(tree: ast.Module) -> set[str]:
    lists = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return {name for names in lists for name in ast.literal_eval(names) if not name.startswith("_")}


def _title(path: Path) -> str:
    return next(line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# "))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
