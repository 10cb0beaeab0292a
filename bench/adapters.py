"""Merging a model's adapters without merging them into it first: time and peak memory.

    python bench/adapters.py                    # 0.85B, rank 16 and 64: about 9 GB of disk
    python bench/adapters.py --size demo        # small

CABS of a base model and two of its LoRA adapters, every linear module changed, beside the same merge of two whole
fine-tunes of the same size; LoRA and DoRA. The figures of a merge with adapters need none of the disk space that the
merged models would take: that is in the table too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import workplace
from measure import Run, run, warm
from report import mebibytes, print_table, write_results
from safetensors.numpy import save_file

from dovetail.engine.synthetic import SIZES

COLUMNS = ("models", "wall, s", "processor, s", "peak, MiB", "projected, MiB", "limit", "workers", "input, GB")


def write_adapter(folder: Path, size: str, rank: int, seed: int, *, dora: bool) -> Path:
    """Write an adapter of every linear module of a synthetic Llama, in float16."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}
    for name, shape in SIZES[size].tensors().items():
        if len(shape) == 2 and "layers" in name:
            module = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = random.standard_normal((rank, shape[1])).astype(np.float16)
            tensors[f"{module}.lora_B.weight"] = (random.standard_normal((shape[0], rank)) * 1e-4).astype(np.float16)
            if dora:
                tensors[f"{module}.lora_magnitude_vector"] = np.full(shape[0], 0.02 * shape[1] ** 0.5, np.float16)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "use_dora": dora}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def main() -> None:
    parser = workplace.arguments(__doc__)
    args = parser.parse_args()
    runs: dict[str, Run] = {}
    sizes: dict[str, float] = {}
    projected: dict[str, int] = {}
    with workplace.workplace(args.work, (1 if args.size == "demo" else 10) * 10**9) as place:
        family = workplace.make_family(place / "family", args.size)
        contestants: dict[str, list[Path]] = {"two fine-tunes": family[1:]}
        for rank, dora in ((16, False), (64, False), (64, True)):
            label = f"two {'DoRA' if dora else 'LoRA'} of rank {rank}"
            contestants[label] = [
                write_adapter(place / f"{rank}{dora}{seed}", args.size, rank, seed, dora=dora) for seed in (1, 2)
            ]
        for label, folders in contestants.items():
            models = folders if folders[0] in family else [Path(f"{family[0]}+{folder}") for folder in folders]
            recipe = workplace.cabs_recipe(place / "recipe.yml", [family[0], *models])
            command = workplace.dovetail(recipe, place / "out", memory=args.memory, workers=args.workers)
            run(command)  # Not counted: it may compile kernels.
            warm([family[0], *folders])
            begun: list[dict[str, Any]] = []
            runs[label] = run(command, on_line=lambda line, begun=begun: begun.append(json.loads(line)))
            projected[label] = next(event["projected_bytes"] for event in begun if event["event"] == "started")
            sizes[label] = workplace.family_bytes([family[0], *folders]) / 1e9
    rows = []
    for label, result in runs.items():
        done = json.loads(result.tail)
        rows.append(
            (
                label,
                f"{result.wall_s:.2f}",
                f"{result.cpu_s:.2f}",
                mebibytes(result.peak_rss_bytes),
                mebibytes(projected[label]),
                args.memory,
                str(done["workers"]),
                f"{sizes[label]:.2f}",
            )
        )
    print_table(f"CABS of a base model and two others, size {args.size}", COLUMNS, rows)
    write_results("adapters", {label: result.to_json() for label, result in runs.items()})


if __name__ == "__main__":
    main()
