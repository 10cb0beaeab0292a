"""Peak resident memory of merges that gather the rows of large vocabularies, under a memory limit.

    python bench/vocabulary.py                   # two vocabularies of 128,000 tokens, 1,024 wide: 3 GB of disk
    python bench/vocabulary.py --tokens 32000 --width 256

Two models of one size have byte-pair vocabularies that share half of their tokens, under numbers that have nothing to
do with each other: the worst case, in which every row is a run of its own. They are merged under the union of both,
under one of them, and under the union padded to a multiple of 64, whose last rows are means of all others.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import workplace
import yaml
from measure import run, warm
from report import mebibytes, print_table, write_results

CASES: dict[str, dict[str, Any]] = {
    "union": {"tokenizer_source": "union"},
    "the base model's": {"tokenizer_source": "base"},
    "union, padded": {"tokenizer": {"source": "union", "pad_to_multiple_of": 64}},
}


def make_models(home: Path, tokens: int, width: int) -> list[Path]:
    """Write two models; run in a process of its own, as it takes memory."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    numbers, shared = np.random.default_rng(0), _words(random.Random(0), letters, tokens // 2)
    folders = []
    for seed, name in enumerate(("base", "other"), 1):
        words = shared | _words(random.Random(seed), letters, tokens - len(shared) - len(letters), shared)
        order = [*letters, *sorted(words, key=lambda word, seed=seed: hash((seed, len(word), *map(ord, word))))]
        content = {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "vocab": {token: number for number, token in enumerate(order)},
                "merges": [list(words[word]) for word in order if word in words],
            },
        }
        folder = home / name
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))
        config = {"model_type": "llama", "vocab_size": tokens, "hidden_size": width, "torch_dtype": "bfloat16"}
        (folder / "config.json").write_text(json.dumps(config))
        pool = (numbers.standard_normal((tokens, width), np.float32) * 0.02).astype(ml_dtypes.bfloat16)
        save_file(
            {"model.embed_tokens.weight": pool, "lm_head.weight": pool[::-1].copy()}, folder / "model.safetensors"
        )
        folders.append(folder)
    return folders


def _words(
    source: random.Random, letters: list[str], count: int, without: dict[str, tuple[str, str]] | None = None
) -> dict[str, tuple[str, str]]:
    """Make tokens, each with the two that merge into it."""
    found: dict[str, tuple[str, str]] = {}
    parts = list(letters)
    while len(found) < count:
        left, right = source.choice(parts), source.choice(parts)
        word = left + right
        if len(word) < 12 and word not in found and word not in (without or {}):
            found[word] = left, right
            parts.append(word)
    return found


def main() -> None:
    parser: argparse.ArgumentParser = workplace.arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=128_000)
    parser.add_argument("--width", type=int, default=1_024)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_models(args.make, args.tokens, args.width)
        return
    rows, results = [], {}
    with workplace.workplace(args.work, 14 * args.tokens * args.width * 2) as place:
        words = ["--tokens", str(args.tokens), "--width", str(args.width), "--make", str(place)]
        subprocess.run([sys.executable, __file__, *words], check=True)
        for label, settings in CASES.items():
            recipe = {
                "merge_method": "linear",
                "base_model": str(place / "base"),
                "models": [{"model": str(place / name), "parameters": {"weight": 1}} for name in ("base", "other")],
                "dtype": "bfloat16",
            }
            (place / "recipe.yml").write_text(yaml.safe_dump(recipe | settings))
            warm([place / "base", place / "other"])
            command = workplace.dovetail(place / "recipe.yml", place / "out", memory=args.memory, workers=args.workers)
            seen: list[str] = []
            result = run(command, on_line=seen.append)
            begun = next(event for event in map(json.loads, seen) if event["event"] == "started")
            sizes = (result.peak_rss_bytes, begun["projected_bytes"], begun["reserved_bytes"])
            rows.append((label, args.memory, *map(mebibytes, sizes), f"{result.wall_s:.1f}"))
            results[label] = result.to_json() | begun
    title = f"Two vocabularies of {args.tokens:,} tokens, half of them shared, rows of {args.width}"
    print_table(title, ("vocabulary", "limit", "peak, MiB", "projected", "reserved", "s"), rows)
    write_results("vocabulary", results)


if __name__ == "__main__":
    main()
