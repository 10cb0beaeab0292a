"""The merges of `bounds.py`: which methods, how many models, stored how, and how these are combined."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workplace import ZARR_KINDS

KINDS = ("bf16", "f32", "torch", *ZARR_KINDS, "fp8", "lora", "http")
"""How models are stored; ``lora`` are adapters of the base model, and ``http`` are ``bf16`` on a server."""
SHAPES = ("usual", "rows")
"""Matrices, vectors and an embedding as models have them, or rows of a million elements and more."""
COUNTS = (1, 2, 3, 6, 12)
OUTPUTS = ("safetensors", "float32", "zarr", "zarr shards")
RUNS = ("1 worker", "4 workers", "processes")
LIMITS_MIB = (300, 384, 512)

OUTPUT_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "safetensors": (),
    "float32": ("--dtype", "float32"),
    "zarr": ("--format", "zarr"),
    "zarr shards": ("--format", "zarr", "--codec", "blosc", "--zarr-shards", "8MB"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A method as it is measured."""

    name: str
    """The method."""
    least: int = 1
    """Fewest fine-tunes."""
    most: int = 12
    """Most fine-tunes."""
    base: bool = True
    """Whether it has a base model."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the merge."""
    each: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of every model."""


PROGRAMS: Mapping[str, Sequence[Setting]] = {
    "blocks": (
        Setting("cabs", each={"weight": 1, "n": 16, "m": 256}),
        Setting("nm_pruning", each={"weight": 1, "n": 16, "m": 256}),
    ),
    "shared blocks": (
        Setting("cabs", parameters={"overlap": "minimize", "consensus": "ties"}, each={"weight": 1, "n": 64, "m": 256}),
    ),
    "unbalanced": (
        Setting("cabs", most=3, parameters={"balanced": False}, each={"weight": 1, "n": 16, "m": 256}),
        Setting("cabs", parameters={"balanced": False, "conflict_aware": False}, each={"weight": 1, "n": 16, "m": 256}),
    ),
    "strongest": (
        Setting("ties", each={"weight": 1, "density": 0.4}),
        Setting("magnitude", each={"weight": 1, "density": 0.4}),
        Setting("breadcrumbs", parameters={"rescale": True}, each={"weight": 1, "density": 0.4, "gamma": 0.01}),
        Setting("breadcrumbs_ties", each={"weight": 1, "density": 0.4, "gamma": 0.01}),
    ),
    "random": (
        Setting("dare_ties", each={"weight": 1, "density": 0.4}),
        Setting("dare_linear", each={"weight": 1, "density": 0.4}),
    ),
    "by rank": (
        Setting("della", each={"weight": 1, "density": 0.5, "epsilon": 0.2}),
        Setting("della_linear", each={"weight": 1, "density": 0.5, "epsilon": 0.2}),
    ),
    "one pass": (
        Setting("linear", base=False, each={"weight": 1}),
        Setting("task_arithmetic", each={"weight": 1}),
    ),
    "angle": (
        Setting("multislerp", least=2, each={"weight": 1}),
        Setting("karcher", least=2, base=False),
        Setting("model_stock", least=2),
        Setting("slerp", most=1, parameters={"t": 0.4}),
        Setting("nuslerp", least=2, most=2, each={"weight": 1}),
    ),
    "angle by row": (
        Setting("model_stock", least=2, parameters={"filter_wise": True}),
        Setting("nuslerp", least=2, most=2, parameters={"nuslerp_flatten": False}, each={"weight": 1}),
    ),
    "angle by column": (
        Setting(
            "nuslerp",
            least=2,
            most=2,
            parameters={"nuslerp_flatten": False, "nuslerp_row_wise": True},
            each={"weight": 1},
        ),
    ),
    "variance": (
        Setting("sce", parameters={"select_topk": 0.5}),
        Setting("sce"),
    ),
    "unique": (Setting("ram"), Setting("ramplus_tl")),
    "agreed": (Setting("consensus_ta", least=2),),
    "singular vectors": (Setting("tsv_m"), Setting("iso_c")),
    "near": (Setting("nearswap", most=1, parameters={"t": 1e-3}),),
    "important": (Setting("arcee_fusion", most=1),),
    "copied": (Setting("passthrough", most=1, base=False),),
}
"""Settings by the program that they run: methods of one program take the same memory, but for small sums."""

FACTORS: Mapping[str, Sequence[Any]] = {
    "program": tuple(PROGRAMS),
    "kind": KINDS,
    "shape": SHAPES,
    "count": COUNTS,
    "output": OUTPUTS,
    "run": RUNS,
    "limit_mib": LIMITS_MIB,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One merge to measure."""

    setting: Setting
    kind: str = "bf16"
    shape: str = "usual"
    count: int = 2
    """Fine-tunes."""
    output: str = "safetensors"
    run: str = "1 worker"
    limit_mib: int = 300

    @property
    def layers(self) -> int:
        """Layers of each model, so that all models together are clearly larger than the limit."""
        return 1 if self.count > 3 else 7

    @property
    def label(self) -> str:
        """What the table calls it."""
        chosen = [key if value is True else f"{key}={value}" for key, value in self.setting.parameters.items()]
        return " ".join([self.setting.name, *chosen])


def possible(row: Mapping[str, Any]) -> bool:
    """Whether a combination of some of the factors exists."""
    kind, shape = row.get("kind"), row.get("shape")
    if kind == "lora" and shape == "rows":
        return False  # factors of such rows would be larger than the rows
    settings = PROGRAMS[row["program"]] if "program" in row else [each for all in PROGRAMS.values() for each in all]
    count = row.get("count")
    if count in (1, 6) and row.get("limit_mib") in LIMITS_MIB[1:]:
        return False  # the models would not be larger than the group
    return count is None or any(each.least <= count <= each.most for each in settings)


def covering(seed: int = 0, tries: int = 60) -> Iterator[Case]:
    """Choose merges such that every two values of two factors meet in one of them.

    Greedy: of some random rows that hold a pair not met yet, the one that holds most such pairs comes next.
    """
    chance, names = random.Random(seed), list(FACTORS)
    left = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in FACTORS[a]
        for y in FACTORS[b]
        if possible({a: x, b: y})
    }
    turn = dict.fromkeys(PROGRAMS, 0)
    while left:
        first = min(left, key=str)
        best: dict[str, Any] = {}
        most: set[Any] = set()
        for _ in range(tries):
            row = dict(first)
            for name in chance.sample(names, len(names)):
                values = [value for value in FACTORS[name] if possible({**row, name: value})]
                if name not in row and values:
                    row[name] = chance.choice(values)
            if len(row) < len(names):
                continue
            met = set(itertools.combinations([(name, row[name]) for name in names], 2)) & left
            if len(met) > len(most):
                best, most = row, met
        if not best:
            left.discard(first)
            continue
        left -= most
        fitting = [each for each in PROGRAMS[best["program"]] if each.least <= best["count"] <= each.most]
        turn[best["program"]] += 1
        chosen = fitting[turn[best["program"]] % len(fitting)]
        yield Case(chosen, *(best[name] for name in names[1:]))


def extremes() -> Iterator[Case]:
    """Give every method with as many models as it takes, on matrices and on long rows."""
    for setting in itertools.chain.from_iterable(PROGRAMS.values()):
        yield Case(setting, count=setting.most)
        yield Case(setting, shape="rows", count=setting.most)


def all_cases() -> list[Case]:
    """List all merges, those that read the same models next to each other, and none twice."""
    cases = {repr(case): case for case in (*covering(), *extremes())}
    order = {kind: place for place, kind in enumerate(reversed(KINDS))}
    return sorted(cases.values(), key=lambda case: (order[case.kind], case.shape, case.layers, case.label, case.count))


def names_of(folder: Path, kind: str, models: int) -> Sequence[Path]:
    """Give the folders of a base model and so many fine-tunes."""
    ending = ".zarr" if kind in ZARR_KINDS else ""
    return [folder / f"{name}{ending}" for name in ("base", *(f"tune{index}" for index in range(1, models + 1)))]
