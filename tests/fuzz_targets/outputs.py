"""What a command finds of an earlier run: manifests, journals, and stores of factors."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import xxhash

from dovetail.engine import merge, verify
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.output.manifest import MANIFEST_NAME, SELF_CHECKSUM, build_manifest, manifest_parts
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.factor_store import FactorStore
from dovetail.engine.run.journal import Journal, identity
from dovetail.engine.run.records import RecordTable
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.output import ZarrFormat
from tests.checkpoints import cabs_recipe, llama_tensors, write_checkpoint
from tests.fuzz import Target
from tests.fuzz_targets.documents import dumped


def _recipe(home: Path) -> Path:
    base = llama_tensors(0, layers=1)
    write_checkpoint(home / "base", base)
    write_checkpoint(home / "math", llama_tensors(1, base, layers=1))
    return cabs_recipe(home / "recipe.yml", home / "base", [home / "math"])


def manifest_target(home: Path) -> Target:
    """Manifests of outputs in both formats, mostly with a checksum that is right, as an attacker would have."""
    recipe, made = _recipe(home), {}
    for name, options in (("safe", PlanOptions()), ("zarr", PlanOptions(ZarrFormat()))):
        merge(recipe, home / name, options)
        text = (home / name / MANIFEST_NAME).read_bytes()
        made[name] = text.rpartition(f',\n "{SELF_CHECKSUM}"'.encode())[0] + b"}"

    def use(data: bytes, chance: random.Random) -> None:
        folder = home / ("zarr" if b'"output_format": "zarr"' in data else "safe")
        body = data.rstrip()[:-1]
        sealed = body + f',\n "{SELF_CHECKSUM}": "{hex_checksum(body)}"\n}}\n'.encode()
        (folder / MANIFEST_NAME).write_bytes(sealed if chance.random() < 0.95 else data)
        kind = chance.randrange(8)
        if kind == 0:
            recompute(folder, 0.01)
        elif kind == 1:
            merge(recipe, folder, PlanOptions(ZarrFormat()) if folder.name == "zarr" else PlanOptions())
        else:
            verify(folder)

    return Target("manifest", tuple(made.values()), use)


def journal_target(home: Path) -> Target:
    """Journals of a merge, mostly with entries whose checksums are right, and the manifests that come of them."""
    plan = make_plan(_recipe(home))
    path, table = home / "dovetail_journal", RecordTable(plan)
    width = 8 + table.rows.dtype.itemsize + 8
    line = json.dumps(identity(plan)).encode()
    rows = b"".join(_sealed(number.to_bytes(8, "little") + bytes([1]) + bytes(width - 17)) for number in range(3))

    def use(data: bytes, chance: random.Random) -> None:
        head, newline, body = data.partition(b"\n")
        if chance.random() < 0.8:
            entries = [body[begin : begin + width - 8] for begin in range(0, len(body) - width + 1, width)]
            body = b"".join(map(_sealed, entries))
        path.write_bytes(head + newline + body)
        found = RecordTable(plan)
        Journal(path, plan, found).close()
        b"".join(manifest_parts(build_manifest(plan, found, {}), plan, found))

    return Target("journal", (line + b"\n" + rows, line + b"\n", line), use)


def _sealed(body: bytes) -> bytes:
    return body + xxhash.xxh3_64_digest(body)


def factors_target(home: Path) -> Target:
    """The identity and the factors that an earlier extraction has left."""
    folder = home / "factors"
    report = {"name": "w", "shape": [2, 2], "rank": 1, "norm": 1.0, "kept": 1.0, "error": 0.0}
    header = {
        "__metadata__": {"dovetail": json.dumps({"hash": "x", "report": report})},
        "w.lora_A.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "w.lora_B.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]},
    }

    def use(data: bytes, chance: random.Random) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if b'"dtype"' in data:
            (folder / "000000.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(16))
            FactorStore(folder, "x").find(0)
        else:
            for name in ("dovetail_extraction.json", "identity.json"):
                (folder / name).write_bytes(data)
            FactorStore(folder, "x")

    return Target("factors", dumped(header, {"hash": "x"}), use)
