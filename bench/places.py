"""Peak resident memory of one CABS merge, with the models in different places, and whether the output is the same.

    python bench/places.py                      # about 3 GB of disk
    python bench/places.py --size demo          # soon
    python bench/places.py --delay-ms 20        # a server that takes its time

The same base model and fine-tunes are merged as safetensors folders, as PyTorch files, and from an HTTP server on this
machine, which is a process of its own. Every merge has the same ``--memory``; its peak must stay below what its plan
foresees, and its shards must be those of the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import workplace
from measure import Run, run
from report import mebibytes, print_table, write_results

COLUMNS = ("models", "workers", "projected, MiB", "peak, MiB", "anonymous", "of files", "s", "same bytes")

TO_TORCH = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file
for folder in map(Path, sys.argv[1:]):
    made = folder.with_name(folder.name + "-torch")
    made.mkdir()
    shards = sorted(folder.glob("*.safetensors"))
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"pytorch_model-{number:05}-of-{len(shards):05}.bin"
        tensors = load_file(shard)
        torch.save(tensors, made / name)
        weight_map |= dict.fromkeys(tensors, name)
    (made / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (made / "config.json").write_bytes((folder / "config.json").read_bytes())
"""


@contextlib.contextmanager
def served(folder: Path, delay_ms: float, mib_per_s: float) -> Iterator[str]:
    """Serve a folder in a process of its own; give its address."""
    words = ["--delay-ms", str(delay_ms), "--mib-per-s", str(mib_per_s)]
    script = [sys.executable, str(workplace.HERE / "range_server.py"), str(folder), *words]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def merged(family: Sequence[Any], folder: Path, args: Any) -> tuple[Run, dict[str, Any], str]:
    """Merge; give what it took, what its plan foresaw, and the hash of its shards."""
    recipe = workplace.cabs_recipe(folder / "recipe.yml", family)
    started: list[dict[str, Any]] = []

    def note(line: str) -> None:
        if '"started"' in line:
            started.append(json.loads(line))

    command = workplace.dovetail(recipe, folder / "out", memory=args.memory, workers=args.workers)
    result = run(command, on_line=note)
    digest = hashlib.sha256()
    for path in sorted((folder / "out").glob("*.safetensors")):
        with path.open("rb") as file:
            while data := file.read(1 << 22):
                digest.update(data)
    return result, started[0], digest.hexdigest()


def main() -> None:
    parser = workplace.arguments(__doc__, size="0.2GB")
    parser.add_argument("--delay-ms", type=float, default=0, help="time that the server takes to answer [0]")
    parser.add_argument("--mib-per-s", type=float, default=float("inf"), help="speed of each connection [unlimited]")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    rows, hashes = [], []
    with workplace.workplace(args.work, 3 * 10**9) as folder:
        family = workplace.make_family(folder / "family", args.size)
        subprocess.run([sys.executable, "-c", TO_TORCH, *map(str, family)], check=True)
        with served(folder / "family", args.delay_ms, args.mib_per_s) as address:
            places: dict[str, list[Any]] = {
                "safetensors": list(family),
                "PyTorch": [path.with_name(path.name + "-torch") for path in family],
                "HTTP": [f"{address}/{path.name}" for path in family],
            }
            merged(family, folder, args)  # not counted: it may compile kernels
            for name, models in places.items():
                result, plan, digest = merged(models, folder, args)
                hashes.append(digest)
                results[name] = result.to_json() | {"projected_bytes": plan["projected_bytes"], "sha256": digest}
                rows.append(
                    (
                        name,
                        str(plan["workers"]),
                        mebibytes(plan["projected_bytes"]),
                        mebibytes(result.peak_rss_bytes),
                        mebibytes(result.peak_anonymous_bytes),
                        mebibytes(result.peak_file_bytes),
                        f"{result.wall_s:.2f}",
                        "yes" if digest == hashes[0] else "NO",
                    )
                )
    print_table(f"Size {args.size}, --memory {args.memory}", COLUMNS, rows)
    write_results("places", results)


if __name__ == "__main__":
    main()
