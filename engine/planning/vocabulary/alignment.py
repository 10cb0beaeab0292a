"""Presenting every model's embeddings with the rows of the output's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.vocabulary.rows import OutputRows, make_row_maps
from dovetail.engine.recipe import SourceTensor, TensorSpec
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.sources.gathered import GatheredSource, gathered_dtype
from dovetail.io.sources.row_map import RowMap


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """How the models' embeddings are aligned to the output's vocabulary."""

    rows: OutputRows
    """Which row of which model each row of the output comes from."""
    tensors: frozenset[str]
    """The tensors with a row for every token."""
    bases: frozenset[int]
    """The models that the recipe calls base models."""
    texts: Mapping[int, str]
    """The tokens that the recipe names, by their number."""
    _maps: dict[tuple[Any, ...], dict[int, RowMap]] = field(default_factory=dict)
    """Row maps made so far: tensors of the same models share them."""
    gathered: dict[str, None] = field(default_factory=dict)
    """Tensors whose rows are not as they are stored in some model, found so far."""
    absent: dict[int, None] = field(default_factory=dict)
    """Tokens without a row in any model, found so far."""

    def gather(self, spec: TensorSpec, checkpoints: Sequence[Checkpoint]) -> dict[SourceTensor, TensorInfo]:
        """Present a tensor of several models with the output's rows.

        Parameters
        ----------
        spec
            The output's tensor and what it is merged from.
        checkpoints
            Every model.

        Returns
        -------
        dict
            The tensor of every model; empty if it has no rows for tokens.

        Raises
        ------
        RecipeError
            The recipe takes a row from a model that does not have the tensor or the row.

        """
        name = spec.reference.name
        if name not in self.tensors:
            return {}
        items = dict.fromkeys((spec.reference, *([spec.base] if spec.base else []), *spec.inputs))
        infos = {
            item.checkpoint: info for item in items if (info := checkpoints[item.checkpoint].tensors.get(item.name))
        }
        base = spec.reference.checkpoint if spec.reference.checkpoint in self.bases else None
        others = self._further(name, infos, checkpoints)
        key = (tuple(infos), base, tuple(others))
        if key not in self._maps:
            self._maps[key], absent = make_row_maps(self.rows, list(infos), base, list(others))
            self.absent.update(dict.fromkeys(absent.tolist()))
        everything = [*infos.values(), *others.values()]
        made = {
            model: _gathered(info, place, self._maps[key][model], everything)
            for place, (model, info) in enumerate(infos.items())
        }
        if any(made[model] is not info for model, info in infos.items()):
            self.gathered[name] = None
        return {item: made[item.checkpoint] for item in items if item.checkpoint in made}

    def _further(
        self, name: str, infos: Mapping[int, TensorInfo], checkpoints: Sequence[Checkpoint]
    ) -> dict[int, TensorInfo]:
        """Find the tensor in models that only single tokens take their row from."""
        found: dict[int, TensorInfo] = {}
        for number, row in self.rows.given.items():
            if row.model is None:
                continue
            info = infos.get(row.model) or checkpoints[row.model].tensors.get(name)
            if info is None or row.row >= info.shape[0]:
                rows = "no such tensor" if info is None else f"only {info.shape[0]} rows"
                raise RecipeError(
                    f"token {self.texts[number]!r} takes its row of {name} from {checkpoints[row.model].path}, "
                    f"which has {rows}",
                    "a model with a row to take",
                    "correct tokenizer.tokens in the recipe",
                )
            if row.model not in infos:
                found[row.model] = info
        return found


def _gathered(info: TensorInfo, place: int, row_map: RowMap, everything: Sequence[TensorInfo]) -> TensorInfo:
    """Present one model's tensor by its row map; the tensor itself if that changes nothing."""
    if row_map.is_head_of(place) and row_map.size == info.shape[0]:
        return info
    dtypes = tuple(item.dtype for item in everything)
    dtype = gathered_dtype(row_map, dtypes)
    width = info.length // info.shape[0]
    source = GatheredSource(tuple(item.source for item in everything), dtypes, width, row_map, dtype)
    return info._replace(
        dtype=dtype,
        shape=(row_map.size, *info.shape[1:]),
        source=source,
        own_dtype=info.output_dtype,
    )
