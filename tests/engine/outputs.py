"""Ways to make an output, and tensors that nobody can read, for tests of outputs that are there already."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dovetail.engine import ExtractionOptions, convert, events, extract_lora, make_moe, merge
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.files.mapping import MappedSource
from dovetail.io.output import ZarrFormat
from dovetail.io.remote.source import RemoteSource
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import llama_tensors
from tests.engine.command import snapshot
from tests.engine.conftest import Family

AVERAGE = {"merge_method": "linear", "parameters": {"weight": 1}, "dtype": "float32"}
"""A recipe without its models."""

Make = Callable[..., dict[str, Any]]
"""Makes the family's output: takes options of the run and a listener, and gives the manifest."""


class Killed(BaseException):
    """Ends a run at once, as a kill does."""


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every access to the elements of a tensor an error, be it in a file here or on a server."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor is read")

    for kind, name in itertools.product((MappedSource, RemoteSource), ("read", "populate", "prefetch")):
        monkeypatch.setattr(kind, name, refuse)


def empty(folder: Path) -> None:
    """Put a hole in the place of all tensors of a folder's files; headers, sizes and times stay."""
    for path in folder.glob("*.safetensors"):
        status, raw = path.stat(), path.read_bytes()
        header = raw[: 8 + int.from_bytes(raw[:8], "little")]
        path.write_bytes(header)
        os.truncate(path, len(raw))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Read every file below a folder."""
    return {name: found and found[0] for name, found in snapshot(folder).items()}


@dataclass(frozen=True)
class Kind:
    """One way to make an output."""

    id: str
    """Its name."""
    make: Callable[[Family], Make]
    """Writes what is needed, and gives the function that makes the output."""
    noun: str = "merge"
    """What the output is called."""


def merged(family: Family, options: PlanOptions | None = None) -> Make:
    return lambda run=None, listen=events.ignore: merge(family.recipe_path, family.out, options, run, listen)


def staged(family: Family) -> Make:
    models = [{"model": str(path)} for path in (family.math, family.code)]
    documents = [
        {"name": "mean", **AVERAGE, "models": models},
        {"name": "again", **AVERAGE, "models": [{"model": "mean"}, models[0]]},
        {**AVERAGE, "models": [{"model": "again"}, {"model": str(family.base)}]},
    ]
    family.recipe_path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return merged(family)


def adapted(family: Family) -> Make:
    write_adapter(family.home / "lora", lora_tensors(1, llama_tensors(0), ("model.layers.1.mlp.up_proj",)))
    models = [{"model": f"{family.math}+{family.home}/lora"}, {"model": str(family.code)}]
    family.recipe_path.write_text(yaml.safe_dump({**AVERAGE, "models": models}))
    return merged(family)


def converted(family: Family) -> Make:
    return lambda run=None, listen=events.ignore: convert(
        family.math, family.out, PlanOptions(dtype="float32"), run, listen
    )


def extracted(family: Family) -> Make:
    asked = ExtractionOptions(rank=2, dtype="float32")
    return lambda run=None, listen=events.ignore: extract_lora(family.math, family.base, family.out, asked, run, listen)


def mixed(family: Family) -> Make:
    config = json.loads((family.base / "config.json").read_text())
    for folder in (family.base, family.math, family.code):
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    experts = [{"source_model": str(each)} for each in (family.math, family.code)]
    asked = {"base_model": str(family.base), "gate_mode": "random", "experts": experts}
    return lambda run=None, listen=events.ignore: make_moe(asked, family.out, None, run, listen)


KINDS = (
    Kind("safetensors", merged),
    Kind("zarr", lambda family: merged(family, PlanOptions(ZarrFormat()))),
    Kind("stages", staged),
    Kind("adapter in a recipe", adapted),
    Kind("conversion", converted, "conversion"),
    Kind("extraction", extracted, "adapter"),
    Kind("mixture", mixed, "mixture"),
)
