"""Whether the memory limit holds in control groups for everything that is not one merge of plain models.

    python bench/bounds_others.py               # about 4 GB of disk, a few minutes

Conversions, comparisons, verification, computing again, adapters extracted, mixtures made, recipes of several
documents, experts stored fused and one by one, and experts in MXFP4: each as `bounds.py` runs its merges.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import workplace
import yaml
from bounds import in_group
from cgroup import GroupError, memory_group
from report import mebibytes, print_table, write_results

MIB = 2**20
COLUMNS = ("", "limit", "projected", "peak", "anonymous", "charged", "s", "end")
EXPERTS = ("fused", "split", "columns", "mxfp4", "mxfp4-2")
"""How `bounds_models.py` stores experts."""


@dataclass(frozen=True, slots=True)
class Work:
    """One command to measure."""

    label: str
    words: Callable[[Path], Sequence[str | Path]]
    """Gives its arguments, but for the memory limit, from the folder that holds the models."""
    limit_mib: int = 300
    gives: str | None = "out"
    """Name of the output folder that is hashed; None where the command gives none, and its last line is compared."""
    projects: bool = True
    """Whether it says what all of it is projected to take."""


def recipe(place: Path, name: str, *stages: dict[str, Any]) -> Path:
    """Write a recipe of one or more documents."""
    path = place / f"{name}.yml"
    path.write_text(yaml.safe_dump_all(stages, sort_keys=False))
    return path


def merged(place: Path, name: str, *stages: dict[str, Any]) -> list[str | Path]:
    """Give the arguments of a merge."""
    return ["merge", recipe(place, name, *stages), place / "out", "--overwrite", "--restart"]


def average(place: Path, *names: str) -> dict[str, Any]:
    """Give a recipe that averages models."""
    models = [{"model": str(place / name), "parameters": {"weight": 1}} for name in names]
    return {"merge_method": "linear", "models": models, "dtype": "bfloat16"}


def staged(place: Path) -> list[str | Path]:
    """Give the arguments of a merge of three documents."""
    base, *tunes = (str(place / "bf16" / name) for name in ("base", "tune1", "tune2"))
    each = [{"model": name, "parameters": {"weight": 1, "density": 0.5}} for name in tunes]
    ties = {"name": "ties", "merge_method": "ties", "base_model": base, "models": each, "dtype": "bfloat16"}
    both = [{"model": name, "parameters": {"weight": 1}} for name in ("ties", "della")]
    final = {"merge_method": "linear", "models": both, "dtype": "bfloat16"}
    return merged(place, "staged", ties, {**ties, "name": "della", "merge_method": "della"}, final)


def mixture(place: Path) -> list[str | Path]:
    """Give the arguments of a mixture of four experts."""
    models = [str(place / "llama" / name) for name in ("base", "tune1", "tune2", "tune3")]
    experts = [{"source_model": name} for name in models]
    content = {"base_model": models[0], "gate_mode": "random", "experts": experts, "dtype": "bfloat16"}
    return ["moe", recipe(place, "moe", content), place / "out", "--overwrite", "--restart"]


def convert(model: str, *options: str) -> Callable[[Path], Sequence[str | Path]]:
    """Give what makes the arguments of a conversion."""
    return lambda place: ["convert", place / model, place / "out", "--overwrite", "--restart", *options]


def compare(one: str, other: str) -> Callable[[Path], Sequence[str | Path]]:
    """Give what makes the arguments of a comparison that allows any difference."""
    return lambda place: ["compare", place / one, place / other, "--max-ulp", str(2**62)]


def extract(kind: str, ending: str = "") -> Callable[[Path], Sequence[str | Path]]:
    """Give what makes the arguments of an extraction."""
    models = [f"{kind}/{name}{ending}" for name in ("tune1", "base")]
    return lambda place: ["extract-lora", *(place / name for name in models), place / "out", "--overwrite", "--restart"]


WORKS = (
    Work("convert safetensors to Zarr shards", convert("bf16/base", "--format", "zarr", "--zarr-shards", "8MB")),
    Work("convert T5X to float16", convert("t5x/base.zarr", "--dtype", "float16")),
    Work("convert float8 to bfloat16", convert("fp8/base")),
    Work("compare safetensors and T5X", compare("bf16/tune1", "t5x/base.zarr"), gives=None),
    Work("compare float8 and safetensors", compare("fp8/base", "bf16/base"), gives=None),
    Work("verify safetensors", lambda place: ["verify", place / "plain"], gives=None),
    Work("verify Zarr", lambda place: ["verify", place / "shards"], gives=None),
    Work("verify --recompute 0.5", lambda place: ["verify", place / "shards", "--recompute", "0.5"], gives=None),
    Work("extract-lora of safetensors", extract("bf16"), projects=False),
    Work("extract-lora of T5X", extract("t5x", ".zarr"), projects=False),
    Work("moe of four experts", mixture),
    Work("three documents", staged),
    Work("experts fused and one by one", lambda place: merged(place, "experts", average(place, "fused", "split"))),
    Work(
        "experts one by one and by columns", lambda place: merged(place, "across", average(place, "split", "columns"))
    ),
    Work("experts in MXFP4", lambda place: merged(place, "mxfp4", average(place, "mxfp4", "mxfp4-2"))),
)


def make_models(place: Path) -> None:
    """Write all models, and the outputs that are verified."""
    script = [sys.executable, str(workplace.HERE / "bounds_models.py")]
    for kind, count in (("bf16", 2), ("t5x", 1), ("fp8", 1)):
        words = ["--kind", kind, "--models", str(count), "--layers", "7"]
        subprocess.run([*script, str(place / kind), *words], check=True, stdout=subprocess.DEVNULL)
    for layout in EXPERTS:
        subprocess.run([*script, str(place / layout), "--experts", layout], check=True, stdout=subprocess.DEVNULL)
    workplace.make_family(place / "llama", "demo", 3)
    for name, options in (("plain", ()), ("shards", ("--format", "zarr", "--zarr-shards", "8MB"))):
        subprocess.run([dovetail(), *map(str, convert("bf16/base", "--quiet", *options)(place))], check=True)
        (place / "out").rename(place / name)


def dovetail() -> str:
    """Give the path of the command."""
    return str(Path(sys.executable).with_name("dovetail"))


def measure(work: Work, place: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Run a command without a group, and then in one; give a row of the table, and the record."""
    out, words = place / (work.gives or "nothing"), [dovetail(), *map(str, work.words(place)), "--json"]
    done = subprocess.run([*words, "--memory", "4GiB"], check=True, stdout=subprocess.PIPE, text=True)
    expected = result_of(out, done.stdout.splitlines()[-1])
    shutil.rmtree(out, ignore_errors=True)
    sources = [path for path in place.rglob("*") if path.is_file()]
    found = in_group(lambda limit: [*words, "--memory", f"{limit}MiB"], work.limit_mib, sources, projects=work.projects)
    faults = list(found.faults)
    if not faults and result_of(out, found.run.tail) != expected:
        faults.append("another result")
    shutil.rmtree(out, ignore_errors=True)
    taken = found.run
    limit = str(work.limit_mib) if found.limit_mib == work.limit_mib else f"{work.limit_mib} -> {found.limit_mib}"
    sizes = (found.projected_bytes, taken.peak_rss_bytes, taken.peak_anonymous_bytes, taken.group_peak_bytes)
    row = (work.label, limit, *map(mebibytes, sizes), f"{taken.wall_s:.1f}", "; ".join(faults) or "same result")
    return row, {"work": work.label, "limit_mib": found.limit_mib, "faults": faults, **taken.to_json()}


def result_of(out: Path, line: str) -> Any:
    """Give what must be the same: the hash of the output or, where there is none, what the command said of itself."""
    if out.exists():
        return workplace.digest(out)
    said = json.loads(line)
    return {key: value for key, value in said.items() if "second" not in key and "memory" not in key and key not in OWN}


OWN = (
    "reserved_bytes",
    "projected_bytes",
    "allowed_bytes",
    "workers",
    "task_bytes",
    "shared_bytes",
    "peak_resident_bytes",
)
"""What a command says that depends on its limit."""


def main() -> None:
    parser = workplace.work_argument(__doc__)
    parser.add_argument("--only", default="", help="works with this in their name")
    args = parser.parse_args()
    try:
        with memory_group(512 * MIB):  # before anything is written
            pass
    except GroupError as error:
        sys.exit(f"nothing is measured: {error}")
    rows, records = [], []
    with workplace.workplace(args.work, 4 * 10**9) as place:
        make_models(place)
        for work in WORKS:
            if args.only in work.label:
                row, record = measure(work, place)
                print(" | ".join(row), flush=True)
                rows.append(row)
                records.append(record)
    print_table("Other work in control groups", COLUMNS, rows)
    write_results("bounds_others", records)
    sys.exit(any(record["faults"] for record in records))


if __name__ == "__main__":
    main()
