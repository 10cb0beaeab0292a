"""Every method, and every way in which one takes another program: whoever makes it, it has the bytes of one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dovetail.engine import RunOptions, make_vectors, merge, read_manifest
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.checkpoints import llama_tensors, write_checkpoint, write_recipe
from tests.crash import tree_bytes

FORMATS = {"safetensors": PlanOptions(), "zarr": PlanOptions(ZarrFormat())}
"""Kinds of output."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A method as it is tried."""

    method: str
    """Its name."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the recipe."""
    store: str = ""
    """``make`` for a store of its task vectors, ``use`` for a merge from one; else empty."""

    @property
    def name(self) -> str:
        """What it is called."""
        words = [f"{key}={value}" for key, value in self.parameters.items() if key not in ("weight", "n", "m")]
        return " ".join([self.method, *words, *([f"({self.store} a store)"] if self.store else [])])


_SUM = {"weight": 0.7}
_KEPT = {"weight": 0.7, "density": 0.4}
_BLOCKS = {"weight": 0.7, "n": 2, "m": 8}
_LIGHT = {"weight": 0.5}

VARIANTS: Sequence[Variant] = (
    Variant("cabs", _BLOCKS),
    Variant("cabs", {**_BLOCKS, "granularity": "kernel"}),
    Variant("cabs", {**_BLOCKS, "balanced": False}),
    Variant("cabs", {**_BLOCKS, "balanced": False, "conflict_aware": False}),
    Variant("cabs", {**_BLOCKS, "n": 6, "overlap": "minimize", "consensus": "ties"}),
    Variant("cabs", _BLOCKS, "make"),
    Variant("cabs", {**_BLOCKS, "overlap": "minimize"}, "use"),
    Variant("nm_pruning", _BLOCKS),
    Variant("nm_pruning", {**_BLOCKS, "granularity": "kernel"}),
    Variant("nm_pruning", {**_BLOCKS, "consensus": "ties"}, "use"),
    Variant("magnitude", _KEPT),
    Variant("magnitude", _KEPT, "make"),
    Variant("task_arithmetic", _SUM),
    Variant("ties", _KEPT),
    Variant("ties", {**_KEPT, "rescale": True, "normalize": False}),
    Variant("ties", _KEPT, "make"),
    Variant("ties", _KEPT, "use"),
    Variant("dare_linear", _KEPT),
    Variant("dare_ties", _KEPT),
    Variant("dare_ties", _KEPT, "use"),
    Variant("breadcrumbs", {**_KEPT, "gamma": 0.1}),
    Variant("breadcrumbs_ties", {**_KEPT, "gamma": 0.1}),
    Variant("della", {**_KEPT, "epsilon": 0.1}),
    Variant("della", {**_KEPT, "epsilon": 0.1}, "use"),
    Variant("della_linear", {**_KEPT, "epsilon": 0.1}),
    Variant("linear", _LIGHT),
    Variant("slerp", {"t": 0.3}),
    Variant("nuslerp", _LIGHT),
    Variant("nuslerp", {**_LIGHT, "nuslerp_flatten": False}),
    Variant("nuslerp", {**_LIGHT, "nuslerp_flatten": False, "nuslerp_row_wise": True}),
    Variant("multislerp", _LIGHT),
    Variant("karcher"),
    Variant("model_stock"),
    Variant("model_stock", {"filter_wise": True}),
    Variant("tsv_m", _SUM),
    Variant("iso_c", _SUM),
    Variant("consensus_ta", _SUM),
    Variant("sce", {"select_topk": 0.3}),
    Variant("sce", {"select_topk": 1.0}),
    Variant("ram"),
    Variant("ramplus_tl"),
    Variant("nearswap", {"t": 0.001}),
    Variant("arcee_fusion"),
    Variant("passthrough"),
)
"""All of them."""


Maker = Callable[[Variant, Path, PlanOptions, Path], None]
"""Makes a variant by its recipe, with options, into a folder."""


def by_runs(*runs: RunOptions) -> Maker:
    """Make a variant by one call after another."""

    def make(variant: Variant, recipe: Path, options: PlanOptions, output: Path) -> None:
        for run in runs:
            if variant.store == "make":
                make_vectors(recipe, output, options, run)
            else:
                merge(recipe, output, options, run)

    return make


def by_parts(count: int, workers: int) -> Maker:
    """Make a variant in parts, one after another."""
    return by_runs(*(RunOptions(workers=workers, part=f"{number}/{count}") for number in range(1, count + 1)))


class Trial:
    """Models in a folder, merged by one variant after another.

    Parameters
    ----------
    folder
        An empty folder.
    layers
        How many layers the models have: with four tensors beside them, they have three times as many and four.

    """

    def __init__(self, folder: Path, layers: int) -> None:
        self.folder = folder
        base, settings = llama_tensors(0, layers=layers), {"num_hidden_layers": layers}
        write_checkpoint(folder / "base", base, config=settings)
        for number, name in enumerate(("math", "code"), 1):
            write_checkpoint(folder / name, llama_tensors(number, base, layers=layers), config=settings)
        self._made = 0

    def recipe(self, variant: Variant) -> Path:
        """Write the recipe of a variant, and the store that it merges from."""
        method, place = METHODS[variant.method], self._place()
        names = ["math"] if variant.method == "passthrough" else ["math", "code"]
        content: dict[str, Any] = {
            "merge_method": variant.method,
            "models": [{"model": str(self.folder / name)} for name in names],
            "parameters": dict(variant.parameters),
        }
        if method.base in ("origin", "pair") or "nuslerp_flatten" in variant.parameters:
            content["base_model"] = str(self.folder / ("math" if method.base == "pair" else "base"))
        path = write_recipe(place.with_suffix(".yml"), **content)
        if variant.store == "use":
            store = place.with_suffix(".store")
            make_vectors(path, store)
            path.write_text(f"{path.read_text()}vectors: {store}\n")
        return path

    def _place(self) -> Path:
        self._made += 1
        return self.folder / f"made-{self._made}"

    def make(self, variant: Variant, recipe: Path, options: PlanOptions, make: Maker) -> Path:
        """Make a variant; give the output."""
        output = self._place()
        make(variant, recipe, options, output)
        return output

    def differing(self, variant: Variant, form: str, makers: Mapping[str, Maker], workers: Sequence[int]) -> list[str]:
        """Make a variant by each of some makers, and by one process with each number of workers.

        Parameters
        ----------
        variant
            What is made.
        form
            The kind of output, one of `FORMATS`; anything else for stores, which have a kind of their own.
        makers
            What makes it, by name.
        workers
            Numbers of workers of one process.

        Returns
        -------
        list of str
            The files that differ, each after the name of its maker.

        """
        recipe, options, found = self.recipe(variant), FORMATS.get(form, PlanOptions()), []
        pieces: dict[int | None, list[dict[str, bytes]]] = {}
        for name, make in makers.items():
            made = self.make(variant, recipe, options, make)
            limit, alike = None, options
            if form == "safetensors" and variant.store != "make":
                limit = read_manifest(made)["options"]["shard_size_bytes"]
                alike = PlanOptions(SafetensorsFormat(limit))
            if limit not in pieces:
                alone = [self.make(variant, recipe, alike, by_runs(RunOptions(workers=number))) for number in workers]
                pieces[limit] = [tree_bytes(output) for output in alone]
            theirs = tree_bytes(made)
            for ours in pieces[limit]:
                files = sorted(ours.keys() | theirs.keys())
                found += [f"{name}: {file}" for file in files if ours.get(file) != theirs.get(file)]
        return found
