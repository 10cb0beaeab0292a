"""Every example in the documentation is right: Python runs, recipes can be planned, commands and their options exist.

A block is run unless the line before it is ``<!-- not run: REASON -->``. Blocks for the shell are parsed, and those
after ``<!-- run -->`` are run too. A block with a file name as a comment in its first line is written to that file.
What a block called ``pyproject.toml`` describes is installed before the next block that is no file.
"""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from dovetail.engine.actions.forecasts import plan_stages
from dovetail.engine.methods.registry import plug_ins
from dovetail.engine.recipe import load_recipe
from dovetail.engine.recipe.load import read_origin
from dovetail.engine.recipe.unused import refuse_unused
from dovetail.engine.run import prepare
from dovetail.engine.searching.reading import read_template
from dovetail.engine.searching.starting import plain_start
from tests.doc_blocks import ROOT, Block, blocks, check_command, documents, make_models, make_templates
from tests.engine.command import dovetail

ALIKE = {"py": "python", "bash": "sh", "shell": "sh", "console": "sh", "yml": "yaml"}
TRIED = ("python", "sh", "yaml")
PLAIN = ("", "text", "toml", "json", "diff")
"""Languages of blocks of which nothing is tried."""


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the checkpoints that recipes find under the names that they use."""
    return make_templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, from which modules can be imported that are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "resident_bytes", lambda: 200 * 2**20)  # a test's process holds other libraries too
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    before = set(sys.modules)
    plug_ins.cache_clear()
    yield tmp_path
    plug_ins.cache_clear()
    for name, module in list(sys.modules.items()):
        if name not in before and str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def try_all(found: Sequence[Block], templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try blocks one after another, as a reader would who follows them in the current folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    project: Path | None = None  # to be installed when all its files are written
    for block in found:
        language = ALIKE.get(block.language, block.language)
        assert language in (*TRIED, *PLAIN), f"{block.place}: nobody knows how to try {block.language!r}"
        if block.reason:
            continue
        if block.file_name:
            Path(block.file_name).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file_name).write_text(block.text)
            if Path(block.file_name).name == "pyproject.toml":
                project = Path(block.file_name).parent
        elif project is not None:
            install(project, monkeypatch)
            project = None
        if language == "python" and not block.file_name:
            run_python(block, names)
        if language == "yaml":
            try_recipe(block, templates)
        if language == "sh":
            for command in block.commands():
                check_command(command)
                if block.runs:
                    outcome = dovetail(*command)
                    assert 0 == outcome.code, f"{block.place}: dovetail {' '.join(command)}: {outcome.err}"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the package of a folder where this process finds it."""
    target = Path("site-packages").absolute()
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(folder)], check=True, timeout=120)
    monkeypatch.syspath_prepend(target)
    plug_ins.cache_clear()


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block, with the names of those before it; a session with ``>>>`` must print what it shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries
        if ">>> " not in block.text:
            exec(compile(block.text, block.place, "exec"), names)
            return
        session = doctest.DocTestParser().get_doctest(block.text, names, block.place, block.place, 0)
        said: list[str] = []
        outcome = doctest.DocTestRunner(verbose=False).run(session, out=said.append, clear_globs=False)
        assert 0 == outcome.failed, "".join(said)
        names |= session.globs


def try_recipe(block: Block, templates: Path) -> None:
    """Plan a recipe, or read what is part of one as if it stood in a small one."""
    if "merge_method" not in block.text:
        models = [{"model": name, "parameters": {"weight": 1}} for name in ("math", "code")]
        refuse_unused([load_recipe({"merge_method": "linear", "models": models} | yaml.safe_load(block.text))])
        return
    path = Path(block.file_name or "recipe.yml")
    path.write_text(block.text)
    if "{search: " in block.text:  # marks stay in the file; what they stand for is tried with the values of the start
        template = read_template(read_origin(path))
        path = Path(f"filled-{path.name}")
        path.write_text(template.text(plain_start(template)))
    make_models(path, templates)
    assert all(forecast.plan is not None for forecast in plan_stages(path)), block.place


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_examples(path: Path, place: Path, templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a file, in their order, all work."""
    try_all(list(blocks(path)), templates, monkeypatch)


SOUND = """
```python
# mean.py
value = 7
```

```yaml
merge_method: linear
models: [{model: models/one, parameters: {weight: 1}}, {model: org/two@main, parameters: {weight: 1}}]
```

<!-- run -->
```sh
$ dovetail merge recipe.yml out \\
    --quiet   # and so on
ls out
```

```python
>>> import mean
>>> mean.value
7
```

<!-- not run: there is no such server -->
```sh
dovetail inspect --nonsense https://example.com/model
```
"""


def test_sound_blocks(place: Path, templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written, models made, commands run, sessions compared, and what is marked is left alone."""
    (place / "sound.md").write_text(SOUND)
    try_all(list(blocks(place / "sound.md")), templates, monkeypatch)
    assert {"mean.py", "recipe.yml", "out", "models", "org"} <= {path.name for path in place.iterdir()}


@pytest.mark.parametrize(
    "text",
    [
        "```python\nimport nothing_of_this_name\n```",
        "```python\n>>> 1 + 1\n3\n```",
        "```sh\ndovetail merge recipe.yml out --memroy 1GiB\n```",
        "```sh\ndovetail mrege recipe.yml out\n```",
        "```sh\ndovetail merge recipe.yml out --format zip\n```",
        "<!-- run -->\n```sh\ndovetail inspect nowhere\n```",
        "```yaml\nmerge_method: linaer\nmodels: [{model: a, parameters: {weight: 1}}]\n```",
        "```yaml\ntokenizer: {sauce: union}\n```",
        "```yaml\nmerge_method: linear\nmodels: [{model: a}]\n```",
        "```pyhton\n1\n```",
        "<!-- not run: -->\n```python\nimport nothing_of_this_name\n```",
        "```python\nnever = 'closed'\n",
    ],
)
def test_flawed_blocks(text: str, place: Path, templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with a block is found."""
    (place / "flawed.md").write_text(text)
    with pytest.raises(Exception, match=r"."):
        try_all(list(blocks(place / "flawed.md")), templates, monkeypatch)


def test_all_files_are_found() -> None:
    """The front page and every page in ``docs`` are among those that are tried."""
    assert {"README.md", *(path.name for path in (ROOT / "docs").glob("*.md"))} <= {path.name for path in documents()}
