"""Showing the result of a comparison, as a table for people or as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from dovetail.engine.actions.comparison import Comparison, Difference, Limits
from dovetail.engine.cli.report.console import new_table, show
from dovetail.engine.errors import DifferenceError
from dovetail.engine.text import counted, format_size
from dovetail.io.dtypes import DTYPES


def comparison_json(found: Comparison, limits: Limits) -> Iterator[dict[str, Any]]:
    """Give a comparison as JSON objects: first one for each tensor, and then one for the whole comparison.

    Its key ``within`` says whether every tensor is within the limits.
    """
    for difference in found.differences:
        yield {"event": "difference", **difference.to_json()}
    beyond = found.beyond(limits)
    yield {
        "event": "comparison",
        "within": not beyond,
        "beyond": list(beyond),
        "limits": {"max_abs": limits.max_abs, "max_rel": limits.max_rel, "max_ulp": limits.max_ulp},
        "tensors": len(found.differences),
        "only_first": list(found.only_first),
        "only_second": list(found.only_second),
        "unlike": [{"name": name, "first": one, "second": other} for name, one, other in found.unlike],
        "read_bytes": found.read_bytes,
        "seconds": found.seconds,
        "projected_bytes": found.budget.projected_bytes,
        "allowed_bytes": found.budget.allowed_bytes,
        "workers": found.budget.workers,
    }


def print_comparison(found: Comparison, top: int | None) -> None:
    """Print the tensors that differ, those that lie farthest apart first, and then totals.

    Parameters
    ----------
    found
        The comparison.
    top
        Most tensors in the table; None to list every tensor, equal ones too.

    """
    listed = sorted(found.differences, key=_distance, reverse=True)
    if top is not None:
        listed = [each for each in listed if each.changed or each.dtypes[0] != each.dtypes[1]]
    if listed:
        show(_table(listed if top is None else listed[:top]))
    if top is not None and len(listed) > top:
        show(f"... and {counted(len(listed) - top, 'more tensor')}: --all lists every one")
    for line in _remarks(found):
        show(line)


def conclude_comparison(names: tuple[str, str], found: Comparison, limits: Limits) -> None:
    """Raise an error if the checkpoints lie farther apart than is allowed, so that the exit code tells scripts.

    Raises
    ------
    DifferenceError
        A tensor exceeds the limits, cannot be compared, or is in one checkpoint only.

    """
    beyond = found.beyond(limits)
    if not beyond:
        return
    allowed = [
        f"at most {limit:g} {unit}"
        for limit, unit in ((limits.max_abs, "absolute"), (limits.max_rel, "relative"), (limits.max_ulp, "ulp"))
        if limit is not None
    ]
    some = ", ".join(beyond[:3]) + (", ..." if len(beyond) > 3 else "")
    raise DifferenceError(
        f"{names[0]} and {names[1]} differ in {counted(len(beyond), 'tensor')}: {some}",
        f"differences of {' and '.join(allowed)}" if allowed else "no difference",
    )


def _distance(difference: Difference) -> tuple[bool, float, float]:
    return difference.unmatched > 0, difference.max_abs, difference.max_rel


def _table(differences: list[Difference]) -> Table:
    unmatched = any(each.unmatched for each in differences)
    titles = ("Tensor", "dtype", "changed", "max abs", "max rel", "max ulp")
    table = new_table(*titles, *(["not finite in one"] if unmatched else []), texts=2)
    for each in differences:
        names = list(dict.fromkeys(DTYPES[name].torch_name for name in each.dtypes))
        cells = [each.name, " / ".join(names), _share(each.changed, each.elements)]
        cells += [f"{each.max_abs:.3g}", f"{each.max_rel:.3g}", f"{each.max_ulp:,}"]
        table.add_row(*cells, *([f"{each.unmatched:,}"] if unmatched else []))
    return table


def _share(part: int, whole: int) -> str:
    """Write a share in percent; no rounding turns a share that is not exactly 0 or 1 into 0% or 100%."""
    if part in (0, whole):
        return "0%" if part == 0 else "100%"
    return f"{min(max(part / whole, 1e-6), 1 - 1e-6):.4%}"


def _remarks(found: Comparison) -> Iterator[str]:
    lists: Mapping[str, tuple[str, ...]] = {
        "only in the first": found.only_first,
        "only in the second": found.only_second,
        "cannot be compared": tuple(f"{name} ({one} and {other})" for name, one, other in found.unlike),
    }
    for title, names in lists.items():
        if names:
            some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            yield f"{title}: {counted(len(names), 'tensor')}: {some}"
    same = sum(each.same_bits for each in found.differences)
    changed = [each for each in found.differences if each.changed]
    equal = len(found.differences) - same - len(changed)
    parts = [f"{same:,} the same bit for bit", f"{equal:,} equal in value" if equal else ""]
    if changed:
        part, whole = sum(each.changed for each in changed), sum(each.elements for each in changed)
        parts.append(
            f"{len(changed):,} with {_share(part, whole)} of {whole:,} elements changed, by at most "
            f"{max(each.max_abs for each in changed):.3g} absolute, "
            f"{max(each.max_rel for each in changed):.3g} relative, "
            f"{max(each.max_ulp for each in changed):,} ulp"
        )
    speed = found.read_bytes / max(found.seconds, 1e-9) / 1e9
    yield (
        f"{counted(len(found.differences), 'tensor')} compared ({format_size(found.read_bytes)} at {speed:.2f} GB/s): "
        + ", ".join(filter(None, parts))
    )
