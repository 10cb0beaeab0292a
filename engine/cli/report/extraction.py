"""What an extraction has found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.engine import events
from dovetail.engine.cli.report.console import new_table, show
from dovetail.engine.text import counted, format_size


def print_extraction(manifest: Mapping[str, Any], done: events.Done | None, top: int = 10) -> None:
    """Say what became of the matrices, those of which least is kept first.

    Parameters
    ----------
    manifest
        From `extract_lora`.
    done
        How it ended; None if the adapter was there already.
    top
        Most matrices in the table.

    """
    found = manifest["extraction"]
    totals = found["totals"]
    changed = {name: each for name, each in found["matrices"].items() if each["rank"]}
    if changed:
        table = new_table("Least is kept of", "shape", "rank", "energy kept", "relative error")
        for name, each in sorted(changed.items(), key=lambda item: item[1]["kept"])[:top]:
            shape = " x ".join(map(str, each["shape"]))
            table.add_row(name, shape, str(each["rank"]), f"{each['kept']:.4%}", f"{each['error']:.3g}")
        show(table)
    ranks = f"ranks {totals['least_rank']} to {totals['greatest_rank']}"
    show(
        f"{totals['factored']} matrices are low-rank ({ranks}) with {totals['energy_kept']:.4%} of the energy of "
        f"their changes, {totals['unchanged']} did not change; {counted(totals['whole'], 'tensor')} kept whole, "
        f"{len(found['left_out'])} left out"
    )
    if done is not None:
        show(
            f"{done.output}: {format_size(done.output_bytes)} in {done.seconds:.1f} s, peak memory "
            f"{format_size(done.peak_resident_bytes)} of {format_size(done.allowed_bytes)} allowed"
        )
