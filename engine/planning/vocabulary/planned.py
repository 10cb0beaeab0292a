"""What the output's vocabulary will be, fully decided before a byte of a tensor is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.vocabulary.files import TokenizerFile, text_settings
from dovetail.engine.planning.vocabulary.rows import OutputRows, make_row_maps
from dovetail.engine.planning.vocabulary.token_ids import Path, set_values
from dovetail.engine.recipe import SourceTensor, TensorSpec
from dovetail.engine.text import counted
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.sources.gathered import GatheredSource, gathered_dtype
from dovetail.io.sources.row_map import RowMap

SideFiles = Mapping[str, bytes | None]
"""Content of side files of the output by name; None for those of the base model that are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """How the models' embeddings are aligned to the output's vocabulary."""

    rows: OutputRows
    """Which rows are whose."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The output's tokenizer and what follows from it."""

    source: str | None
    """Where the vocabulary comes from, in the recipe's words; None if only the chat template is set."""
    token_count: int | None
    """Number of tokens; None like `source`."""
    alignment: Alignment | None
    """How embeddings are aligned; None like `source`."""
    side_files: SideFiles
    """Side files that differ from the base model's."""
    config_changes: Mapping[Path, Any]
    """Settings of the output's config.json that hold token numbers and change, by the keys that lead to them."""
    files: tuple[tuple[str, tuple[TokenizerFile, ...]], ...]
    """Tokenizer files of every model, by the model's name."""
    sizes: tuple[int | None, ...]
    """The ``vocab_size`` of every model; None where its config.json does not say it."""
    planning_bytes: int
    """Most memory that this process held while tokenizers were read; 0 if none was."""
    warnings: tuple[str, ...]
    """What a person should know before tensors are planned; see `findings`."""

    @property
    def row_count(self) -> int | None:
        """Rows of the output's embeddings."""
        return None if self.alignment is None else self.alignment.rows.padded_size

    def reshaped(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Give a model's tensors as they will be presented: those with a row for every token in the output's shape."""
        if self.alignment is None:
            return dict(shapes)
        size, names = self.alignment.rows.padded_size, self.alignment.tensors
        return {name: (size, *shape[1:]) if name in names else shape for name, shape in shapes.items()}

    def gather(self, spec: TensorSpec, checkpoints: Sequence[Checkpoint]) -> dict[SourceTensor, TensorInfo]:
        """Present a tensor of several models with the output's rows; see `Alignment.gather`."""
        return {} if self.alignment is None else self.alignment.gather(spec, checkpoints)

    def update_config(self, config: dict[str, Any]) -> None:
        """Set the size of the vocabulary and the numbers of tokens in the base model's config.json."""
        set_values(config, self.config_changes)
        if self.row_count is None:
            return
        places = [part for part in (config, *text_settings(config)) if "vocab_size" in part]
        for part in places or text_settings(config) or [config]:
            part["vocab_size"] = self.row_count

    def inputs(self) -> list[dict[str, Any]]:
        """Give what must be the same for the vocabulary to be the same, as JSON has it."""
        return [
            {"checkpoint": label, "vocab_size": size, "files": [asdict(file) for file in files]}
            for (label, files), size in zip(self.files, self.sizes, strict=True)
        ]

    def findings(self) -> list[str]:
        """Say what a person should know, gathered tensors included: ask when all tensors are planned."""
        found = list(self.warnings)
        if self.alignment is not None and self.alignment.gathered:
            names = list(self.alignment.gathered)
            found.append(
                f"rows of {', '.join(names[:6])}{', ...' if names[6:] else ''} are gathered anew for the vocabulary "
                f"{self.source}: {counted(self.token_count or 0, 'token')} in {counted(self.row_count or 0, 'row')}"
            )
        if self.alignment is not None and self.alignment.absent:
            some = ", ".join(map(str, list(self.alignment.absent)[:3]))
            found.append(
                f"{counted(len(self.alignment.absent), 'token')} with an embedding in no model have rows of zeros: "
                f"number {some}"
            )
        return found


def _gathered(info: TensorInfo, place: int, row_map: RowMap, everything: Sequence[TensorInfo]) -> TensorInfo:
    """Present one model's tensor by its row map; the tensor itself if that changes nothing."""
    if row_map.is_head_of(place) and row_map.size == info.shape[0]:
        return info
    dtypes = tuple(item.dtype for item in everything)
    dtype = gathered_dtype(row_map, dtypes)
    width = info.length // info.shape[0]
    source = GatheredSource(tuple(item.source for item in everything), dtypes, width, row_map, dtype)
    return replace(
        info,
        dtype=dtype,
        shape=(row_map.size, *info.shape[1:]),
        source=source,
        own_dtype=info.output_dtype,
    )
