"""The statistics of every tensor of a finished merge as a table: numpy records, or a data frame of pandas."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from dovetail.engine.text import short_name
from dovetail.io.extras import require

_JOINED: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "kept": sum,
    "density": statistics.fmean,
    "task_vector_norm": lambda norms: math.hypot(*norms),
    "kept_norm": lambda norms: math.hypot(*norms),
}
"""Columns with a value for each model, and how those of one that is named several times are joined."""

_EACH = tuple(_JOINED)


def tensor_table(models: int, tensors: Mapping[str, Mapping[str, Any]]) -> np.recarray[Any, Any]:
    """Make a record of every tensor.

    Parameters
    ----------
    models
        Number of models.
    tensors
        Entries of a manifest by name.

    Returns
    -------
    recarray
        One record a tensor, in the order of the output; see `dovetail.engine.output.document.Manifest.table`.

    """
    kind = np.dtype(
        [
            *(("name", object), ("file", object), ("dtype", object), ("shape", object), ("elements", np.int64)),
            *(("copied", np.bool_), ("differing", np.bool_)),
            *(("kept", np.int64, (models,)), ("density", np.float64, (models,))),
            *(("task_vector_norm", np.float64, (models,)), ("kept_norm", np.float64, (models,))),
            *(("overlap", np.float64, (models, models)), ("merged_norm", np.float64)),
            *(("overflowed", np.int64), ("nonfinite", np.int64)),
        ]
    )
    table = np.zeros(len(tensors), kind)
    for name in ("density", "task_vector_norm", "kept_norm", "overlap", "merged_norm"):
        table[name] = np.nan
    for place, (name, entry) in enumerate(tensors.items()):
        row, found = table[place], entry["statistics"]
        row["name"], row["file"], row["dtype"] = name, entry["file"], entry["dtype"]
        row["shape"], row["elements"] = tuple(entry["shape"]), math.prod(entry["shape"])
        row["copied"], row["differing"] = found.get("copied", False), found.get("differing", False)
        if "models" in found:
            _add_statistics(row, found)
    return table.view(np.recarray)


def _add_statistics(row: Any, found: Mapping[str, Any]) -> None:
    """Put the statistics of a merged tensor into its record; a model that stands there twice counts where it is first.

    A norm that is not finite is None in JSON.
    """
    order: dict[int, list[int]] = {}
    for place, model in enumerate(found["models"]):
        order.setdefault(model, []).append(place)
    for model, places in order.items():  # a model that is named twice gives twice, as in the totals
        for key in _EACH:
            values = [math.inf if found[key][place] is None else found[key][place] for place in places]
            row[key][model] = _JOINED[key](values)
        for other, others in order.items():
            row["overlap"][model, other] = found["overlap"][places[0]][others[0]]
    norm = found["merged_norm"]
    row["merged_norm"] = math.inf if norm is None else norm
    row["overflowed"], row["nonfinite"] = found["overflowed"], sum(found["nonfinite"])


def data_frame(table: np.recarray[Any, Any], models: Sequence[str] = ()) -> Any:
    """Make a data frame of records, with a column for each model where a field has a value for each.

    Parameters
    ----------
    table
        The records, each with a ``name``.
    models
        The models, in the order of such fields.

    Raises
    ------
    UnsupportedError
        pandas is not installed; the message says how to install it.

    """
    require("pandas", "pandas", "data frames")
    import pandas

    names = labels(models)
    columns: dict[str, Any] = {}
    for key in table.dtype.names or ():
        values = table[key]
        if values.ndim == 3:
            pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
            columns |= {f"{key}[{names[i]}, {names[j]}]": values[:, i, j] for i, j in pairs}
        elif values.ndim == 2:
            columns |= {f"{key}[{label}]": values[:, place] for place, label in enumerate(names)}
        else:
            columns[key] = list(values) if values.dtype == object else values
    return pandas.DataFrame(columns).set_index("name")


def labels(models: Sequence[str]) -> list[str]:
    """Give each model a short name where all of these differ, else its own, numbered where it comes again."""
    short = [short_name(name) for name in models]
    names = short if len(set(short)) == len(short) else list(models)
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
