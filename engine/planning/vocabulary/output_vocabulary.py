"""What the output's vocabulary will be, fully decided before a byte of a tensor is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dovetail.engine.planning.vocabulary.alignment import Alignment
from dovetail.engine.planning.vocabulary.files import TokenizerFile, text_settings
from dovetail.engine.planning.vocabulary.token_ids import Path, set_values
from dovetail.engine.recipe import SourceTensor, TensorSpec
from dovetail.engine.text import counted
from dovetail.io.checkpoint import Checkpoint, TensorInfo

SideFiles = Mapping[str, bytes | None]
"""Content of side files of the output by name; None for those of the base model that are left out."""


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
