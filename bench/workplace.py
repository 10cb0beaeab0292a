"""What the benchmark scripts share: options, a folder for big data, checkpoints, recipes, the dovetail command."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
import yaml

HERE = Path(__file__).parent
ZARR_KINDS = ("v3", "shards", "t5x")
"""What ``zarr_family.py`` can store checkpoints as."""
MARGIN_BYTES = 2 * 10**9
"""Disk space that is left free."""


def arguments(description: str | None, *, size: str = "0.85B", repeats: int = 3) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark has."""
    parser = work_argument(description)
    parser.add_argument("--size", default=size, help=f"size of the checkpoints, see checkpoints.py [{size}]")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"runs of each contestant [{repeats}]")
    parser.add_argument("--memory", default="512MiB", help="memory limit of the merge [512MiB]")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="[one a core]")
    return parser


def work_argument(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the option that says where big data goes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("TMPDIR", "/var/tmp")) / "dovetail-bench"
    parser.add_argument("--work", type=Path, default=default, help=f"folder for big data [{default}]")
    return parser


@contextlib.contextmanager
def workplace(folder: Path, needed_bytes: int) -> Iterator[Path]:
    """Make an empty folder inside ``folder`` for big data, and remove it at the end whatever happens.

    Raises
    ------
    SystemExit
        The disk has less than ``needed_bytes`` free.

    """
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + MARGIN_BYTES:
        sys.exit(
            f"disk space free at {folder} is {free_bytes / 1e9:.1f} GB; expected "
            f"{(needed_bytes + MARGIN_BYTES) / 1e9:.1f} GB; choose another folder with --work or a smaller --size"
        )
    place = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def make_family(folder: Path, size: str, fine_tunes: int = 2, **options: Any) -> list[Path]:
    """Write a base model and fine-tunes in a process of their own; give their folders, the base first.

    Parameters
    ----------
    folder
        Where.
    size
        Named size.
    fine_tunes
        How many.
    **options
        Further options of ``checkpoints.py``, such as ``dtype="float32"`` or ``vocabulary=128_256``.

    """
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    script = [sys.executable, HERE / "checkpoints.py", folder, "--size", size, "--fine-tunes", str(fine_tunes)]
    subprocess.run([*map(str, script), *words], check=True, stdout=subprocess.DEVNULL)
    return [folder / "base", *(folder / f"tune{index}" for index in range(1, fine_tunes + 1))]


def make_zarr(family: Sequence[Path], kind: str) -> list[Path]:
    """Store checkpoints as Zarr in a process of their own; give the new folders."""
    script = [sys.executable, HERE / "zarr_family.py", *family, "--kind", kind]
    subprocess.run([*map(str, script)], check=True, stdout=subprocess.DEVNULL)
    for folder in family:
        shutil.rmtree(folder)
    return [folder.with_name(f"{folder.name}.zarr") for folder in family]


def write_recipe(
    path: Path,
    method: str,
    base: Path | str | None,
    models: Sequence[Path | str],
    *,
    parameters: Mapping[str, Any] | None = None,
    model_parameters: Sequence[Mapping[str, Any]] = (),
    dtype: str = "bfloat16",
) -> Path:
    """Write a recipe that both Dovetail and mergekit read."""
    recipe: dict[str, Any] = {"merge_method": method}
    if base is not None:
        recipe["base_model"] = str(base)
    recipe["models"] = []
    for index, model in enumerate(models):
        entry: dict[str, Any] = {"model": str(model)}
        if model_parameters and model_parameters[index]:
            entry["parameters"] = dict(model_parameters[index])
        recipe["models"].append(entry)
    if parameters:
        recipe["parameters"] = dict(parameters)
    recipe["dtype"] = dtype
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def cabs_recipe(path: Path, family: Sequence[Path], n: int = 64, m: int = 256, weight: float = 1.0) -> Path:
    """Write a recipe that merges all fine-tunes of a family by CABS."""
    each = {"weight": weight, "n_val": n, "m_val": m}
    models = family[1:]
    return write_recipe(path, "cabs", family[0], models, model_parameters=[each] * len(models))


def dovetail(recipe: Path, out: Path, *, memory: str | None = "512MiB", workers: int | None = None) -> list[str]:
    """Give the command line of a merge by the installed ``dovetail``."""
    command = [str(Path(sys.executable).with_name("dovetail")), "merge", str(recipe), str(out)]
    command += ["--json", "--overwrite", "--restart"]
    command += ["--memory", memory] if memory else []
    command += ["--workers", str(workers)] if workers else []
    return command


def family_bytes(family: Sequence[Path]) -> int:
    """Give the bytes of all shards of some checkpoints."""
    return sum(path.stat().st_size for folder in family for path in folder.glob("*.safetensors"))


def digest(out: Path) -> str:
    """Hash the tensors of an output: its shards, or the files of its arrays."""
    found = xxhash.xxh3_64()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        if path.parent == out and path.suffix != ".safetensors":
            continue
        found.update(str(path.relative_to(out)))
        with path.open("rb") as file:
            while data := file.read(1 << 22):
                found.update(data)
    return found.hexdigest()
