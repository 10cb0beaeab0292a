"""The tables of `quality.py`, from its results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from quality_methods import EXPLORED, PRUNERS, SETTINGS, families
from quality_statistics import Bootstrap, Correct, Interval, rank_correlation, unpack
from report import print_table

REFERENCE = "task arithmetic"
Seeds = Mapping[str, Mapping[str, Any]]
"""What was found, by seed and stage."""


def bootstrap(seeds: Sequence[Mapping[str, Mapping[str, Any]]], tasks: Sequence[str]) -> Bootstrap:
    """Make replicates; for every seed it is given results on test texts by method."""
    return Bootstrap([[_answers(seed, task) for task in tasks] for seed in seeds])


def _answers(results: Mapping[str, Mapping[str, Any]], task: str) -> dict[str, Correct]:
    return {name: unpack(result[task]) for name, result in results.items()}


def report(results: Mapping[str, Any]) -> None:
    """Print all tables for which something has been found."""
    tasks, seeds = results["tasks"], results["seeds"]
    compared = {seed: found for seed, found in seeds.items() if "compare" in found}
    if not compared:
        return
    print(f"\nTasks: {', '.join(tasks)}. Seeds: {len(compared)}.")
    methods(compared, tasks)
    by_task(compared, tasks)
    pruners(compared, tasks)
    for stage, show in (("orders", orders), ("weights", weights), ("explore", explored), ("grid", grids)):
        if found := {seed: each for seed, each in compared.items() if stage in each}:
            show(found, tasks)


def _tests(found: Mapping[str, Any]) -> dict[str, Any]:
    """Give the results of one seed on test texts: the base, the experts, and every method as it has chosen."""
    compare = found["compare"]
    chosen = {family: compare["settings"][name]["test"] for family, name in compare["chosen"].items()}
    own = {f"{name}, own weights": each["test"] for name, each in found.get("weights", {}).items()}
    return {"experts": compare["experts"], "base": compare["base"], **chosen, **own}


def methods(seeds: Seeds, tasks: Sequence[str]) -> None:
    """Show every method beside task arithmetic."""
    if not all("weights" in each for each in seeds.values()):
        seeds = {seed: {**each, "weights": {}} for seed, each in seeds.items()}
    tests = [_tests(each) for each in seeds.values()]
    found = bootstrap(tests, tasks)
    base, experts = found.accuracy("base").mean, found.accuracy("experts").mean
    rows = []
    for name in sorted(found.names, key=lambda name: -found.accuracy(name).mean):
        accuracy = found.accuracy(name)
        chosen = Counter(each["compare"]["chosen"].get(name, "").removeprefix(name).strip() for each in seeds.values())
        rows.append(
            (
                name,
                ", ".join(f"{label} ({count})" for label, count in chosen.most_common() if label) or "-",
                _percent(accuracy),
                "" if name == REFERENCE else _points(found.difference(name, REFERENCE)),
                "" if name == REFERENCE else f"{100 * found.wins(name, REFERENCE):.0f}%",
                f"{100 * (accuracy.mean - base) / (experts - base):.0f}%",
                *_losses(tests, name, tasks),
            )
        )
    print_table(
        "Accuracy on test texts in percent, mean over tasks, with 95% intervals",
        ("method", "chosen (seeds)", "accuracy", f"less {REFERENCE}", "wins", "of the experts' gain", "loss", "wins"),
        rows,
    )
    names = [name for name in families() if name in found.names]
    print_table(
        "Wins of the row against the column, percent of seeds and tasks",
        ("", *names),
        [(one, *("" if one == two else f"{100 * found.wins(one, two):.0f}" for two in names)) for one in names],
    )


def by_task(seeds: Seeds, tasks: Sequence[str]) -> None:
    """Show accuracies by task."""
    found = bootstrap([_tests({**each, "weights": {}}) for each in seeds.values()], tasks)
    means = found.cells.mean(0)
    rows = [(name, *(f"{100 * each:.1f}" for each in means[:, place])) for place, name in enumerate(found.names)]
    print_table("Accuracy by task, mean over seeds", ("method", *tasks), rows)


def pruners(seeds: Seeds, tasks: Sequence[str]) -> None:
    """Show what pruning keeps, beside how good the merge is, and what each half of CABS adds."""
    names = [setting.name for setting in SETTINGS if setting.family in (*PRUNERS, REFERENCE)]
    tests = [{name: each["compare"]["settings"][name]["test"] for name in names} for each in seeds.values()]
    found = bootstrap(tests, tasks)
    rows, table = [], []
    for name in names:
        settings = [each["compare"]["settings"][name] for each in seeds.values()]
        kept = [each["pruning"][name] for each in seeds.values() if name in each.get("pruning", {})]
        known = {
            "overlap": _mean(each["overlap"] for each in kept),
            "imbalance": _mean(each["imbalance"] for each in kept),
            "first": _mean(each["kept_length"][0] for each in kept),
            "last": _mean(each["kept_length"][-1] for each in kept),
        }
        table.append((known, found.accuracy(name).mean))
        figures = [f"{each:.2f}" for each in known.values()]
        factor = _mean(each["factor"] for each in settings)
        difference = "" if name == REFERENCE else _points(found.difference(name, REFERENCE))
        rows.append((name, *figures, f"{factor:.2f}", _percent(found.accuracy(name)), difference))
    print_table(
        "Settings that prune, each with its own best factor: what is kept, and accuracy",
        ("", "overlap", "imbalance", "length kept, first", "last", "factor", "accuracy", f"less {REFERENCE}"),
        rows,
    )
    pruned = table[1:]
    facts = {"overlap": "overlap", "imbalance": "imbalance", "last": "the length kept of the last model"}
    for fact, what in facts.items() if not np.isnan(pruned[0][0]["overlap"]) else ():
        ranks = rank_correlation([kept[fact] for kept, _ in pruned], [accuracy for _, accuracy in pruned])
        print(f"Rank correlation of accuracy with {what}: {ranks:.2f}")
    halves = []
    for label, blocks in (("9%", "3:32"), ("25%", "64:256")):
        for what, one, two in (
            ("balance, without conflict awareness", f"n:m {blocks}", f"magnitude {label}"),
            ("balance, with it", f"CABS {blocks}", f"CABS, not balanced {blocks}"),
            ("conflict awareness, without balance", f"CABS, not balanced {blocks}", f"magnitude {label}"),
            ("conflict awareness, with it", f"CABS {blocks}", f"n:m {blocks}"),
        ):
            halves.append((what, label, _points(found.difference(one, two)), f"{100 * found.wins(one, two):.0f}%"))
    print_table("What each half of CABS adds", ("half", "density", "points", "wins"), halves)


def orders(seeds: Seeds, tasks: Sequence[str]) -> None:
    """Show what the order of pruning does: to the mean, and to the task that is first or last."""
    rows = []
    for setting in next(iter(seeds.values()))["orders"]:
        found = [each["orders"][setting] for each in seeds.values()]
        accuracies = [{order: _by_task(result, tasks) for order, result in one.items()} for one in found]
        means = np.array([[np.mean(list(each.values())) for each in one.values()] for one in accuracies])
        first, last = (
            np.mean([[each[order.split()[place]] for order, each in one.items()] for one in accuracies])
            for place in (0, -1)
        )
        rows.append(
            (
                setting,
                f"{100 * means.mean():.2f}",
                f"{100 * np.ptp(means, axis=1).mean():.2f}",
                f"{100 * np.ptp(means.mean(0)):.2f}",
                f"{100 * first:.2f}",
                f"{100 * last:.2f}",
            )
        )
    print_table(
        f"Orders of pruning, {len(seeds)} seeds, every task first once",
        ("", "mean", "range in a seed", "range of means over seeds", "tasks pruned first", "tasks pruned last"),
        rows,
    )


def weights(seeds: Seeds, tasks: Sequence[str]) -> None:
    """Show what a weight for each model adds to the best common factor."""
    rows = []
    for name in next(iter(seeds.values()))["weights"]:
        tests = [
            {"common": each["compare"]["settings"][name]["test"], "own": each["weights"][name]["test"]}
            for each in seeds.values()
        ]
        found = bootstrap(tests, tasks)
        common, own = _percent(found.accuracy("common")), _percent(found.accuracy("own"))
        rows.append((name, common, own, _points(found.difference("own", "common"))))
    print_table(
        f"A weight for each model by CMA-ES with awa, {len(seeds)} seeds, accuracy on test texts",
        ("", "best common factor", "own weights", "gain"),
        rows,
    )


def grids(seeds: Seeds, tasks: Sequence[str]) -> None:
    """Show what CMA-ES with awa finds beside a grid, by the cost that both make small and on test texts."""
    rows = []
    for seed, each in seeds.items():
        for name, grid in each["grid"].items():
            for what, found in (("CMA-ES", each["weights"][name]), ("grid", grid)):
                test = np.mean(list(_by_task(found["test"], tasks).values()))
                figures = (f"{found['cost']:.4f}", f"{100 * found['search']:.2f}", f"{100 * test:.2f}")
                rows.append((f"{name}, seed {seed}, {what}", str(found["evaluations"]), *figures))
    print_table(
        "CMA-ES with awa and a grid: evaluations, cost by awa (the lower the better), accuracy",
        ("", "evaluations", "cost", "search texts", "test texts"),
        rows,
    )


def _by_task(result: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, float]:
    return {task: float(unpack(result[task]).mean()) for task in tasks}


def explored(seeds: Seeds, tasks: Sequence[str]) -> None:
    """Show further densities beside those that are compared."""
    names = [setting.name for setting in EXPLORED]
    pruning = [setting.name for setting in SETTINGS if setting.family in (REFERENCE, *PRUNERS)]
    tests = [
        {name: each["compare"]["settings"][name]["test"] for name in pruning}
        | {name: each["explore"][name]["test"] for name in names}
        for each in seeds.values()
    ]
    found = bootstrap(tests, tasks)
    rows = [(name, _percent(found.accuracy(name)), _points(found.difference(name, REFERENCE))) for name in names]
    print_table(f"Further densities, {len(seeds)} seeds", ("", "accuracy", f"less {REFERENCE}"), rows)


def _losses(seeds: Sequence[Mapping[str, Any]], name: str, tasks: Sequence[str]) -> tuple[str, str]:
    """Give the mean loss of a method, and in how many seeds and tasks it is less than that of task arithmetic."""
    own, other = (
        np.array([[seed[each][task]["loss"] for task in tasks] for seed in seeds]) for each in (name, REFERENCE)
    )
    return f"{own.mean():.4f}", "" if name == REFERENCE else f"{100 * (own < other).mean():.0f}%"


def _mean(values: Any) -> float:
    found = list(values)
    return float(np.mean(found)) if found else float("nan")


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.2f} ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:+.2f} ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
