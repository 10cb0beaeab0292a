"""A manifest as callers from Python get it: a dict, shown in a few lines, with its statistics as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.engine.errors import VerificationError
from dovetail.engine.facts import cut, facts_html, facts_text, listed
from dovetail.engine.output.manifest import has_task_vectors
from dovetail.engine.output.tensor_table import data_frame, tensor_table
from dovetail.engine.text import counted, format_size, short_name


class Manifest(dict[str, Any]):
    """A manifest: a dict like any other, which knows its output.

    Parameters
    ----------
    content
        The manifest; its ``tensors`` may be missing.
    folder
        The output.
    read
        Reads the whole manifest of an output.

    """

    def __init__(self, content: Mapping[str, Any], folder: Path, read: Callable[[Path], Mapping[str, Any]]) -> None:
        super().__init__(content)
        self.folder = folder
        self._read = read

    def table(self) -> np.recarray[Any, Any]:
        """Give the statistics of every tensor as numpy records.

        Returns
        -------
        recarray
            One record a tensor: ``name``, ``file``, ``dtype``, ``shape``, ``elements``; whether it was ``copied``, and
            then whether models were ``differing``; for each model of the manifest's ``models`` how many elements were
            ``kept``, their fraction (``density``), ``task_vector_norm`` and ``kept_norm``; for each two of them their
            ``overlap``; ``merged_norm``, ``overflowed`` and ``nonfinite``. What a tensor has none of is NaN.

        Raises
        ------
        VerificationError
            The manifest in the output is gone, damaged, or that of another output.

        """
        return tensor_table(len(self["models"]), self._tensors())

    def to_pandas(self) -> Any:
        """Give the statistics of every tensor as a data frame of pandas, by name: ``density[math]`` and so on.

        Raises
        ------
        UnsupportedError
            pandas is not installed; the message says how to install it.
        VerificationError
            As for `table`.

        """
        return data_frame(self.table(), self["models"])

    def _tensors(self) -> Mapping[str, Any]:
        if "tensors" in self:
            tensors: Mapping[str, Any] = self["tensors"]
            return tensors
        whole = self._read(self.folder)
        if any(whole[key] != self[key] for key in ("plan_hash", "totals")):
            raise VerificationError(
                f"{self.folder} is another output by now", "the output of this manifest", "read its manifest again"
            )
        found: Mapping[str, Any] = whole["tensors"]
        return found

    def _facts(self) -> dict[str, str]:
        totals, names = self["totals"], [short_name(name) for name in self["models"]]
        rows = {
            "method": str(self["recipe"]["merge_method"]),
            "models": listed(names),
            "output": f"{cut(str(self.folder))}, {self._parts()}",
        }
        if has_task_vectors(totals):
            rows["density"] = listed([f"{share:.4%}" for share in totals["density"]])
        return rows | {"plan": str(self["plan_hash"])[:16]}

    def _parts(self) -> str:
        shards = self["shards"]
        if not shards:  # in formats of which each tensor is one
            return str(self["output_format"])
        return f"{format_size(sum(shard['size_bytes'] for shard in shards))} in {counted(len(shards), 'file')}"

    def __repr__(self) -> str:
        return facts_text("Manifest", self._facts())

    def _repr_html_(self) -> str:
        """Show it as a table in notebooks."""
        return facts_html("Manifest", self._facts())
