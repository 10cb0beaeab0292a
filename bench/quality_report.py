"""The tables of `quality.py`, from its results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from quality_methods import EXPLORED, PRUNERS, SETTINGS, families
from quality_statistics import Bootstrap, Correct, Interval, rank_correlation, unpack
from report import print_table

REFERENCE = "task arithmetic"
Seeds = Mapping[str, Mapping[str, Any]]
"""What was found, by seed and stage."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def show(self, markdown: bool) -> None:
        """Print it, to be read or to be put into a document."""
        if not markdown:
            print_table(self.title, self.columns, self.rows)
            return
        print(f"\n{self.title}:\n")
        for row in (self.columns, ("---",) * len(self.columns), *self.rows):
            print(f"| {' | '.join(row)} |")


def report(results: Mapping[str, Any], markdown: bool = False) -> None:
    """Print all tables for which something has been found."""
    tasks = results["tasks"]
    shows = {
        "compare": (methods, wins, by_task, pruners, halves),
        "orders": (orders,),
        "weights": (weights,),
        "explore": (explored,),
        "grid": (grids,),
    }
    for stage, functions in shows.items():
        needed = ("weights", "grid") if stage == "grid" else ("compare", stage)
        seeds = {seed: each for seed, each in results["seeds"].items() if set(needed) <= set(each)}
        if seeds:
            for function in functions:
                for table in function(seeds, tasks):
                    table.show(markdown)


def bootstrap(seeds: Sequence[Mapping[str, Mapping[str, Any]]], tasks: Sequence[str]) -> Bootstrap:
    """Make replicates; for every seed it is given results on test texts by method."""
    return Bootstrap([[_answers(seed, task) for task in tasks] for seed in seeds])


def _answers(results: Mapping[str, Mapping[str, Any]], task: str) -> dict[str, Correct]:
    return {name: unpack(result[task]) for name, result in results.items()}


def _tests(found: Mapping[str, Any]) -> dict[str, Any]:
    """Give the results of one seed on test texts: the base, the experts, and every method as it has chosen."""
    compare = found["compare"]
    chosen = {family: compare["settings"][name]["test"] for family, name in compare["chosen"].items()}
    return {"experts": compare["experts"], "base": compare["base"], **chosen}


def methods(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
    """Show every method beside task arithmetic."""
    tests = [_tests(each) for each in seeds.values()]
    if all("weights" in each for each in seeds.values()):
        for test, each in zip(tests, seeds.values(), strict=True):
            test |= {f"{name}, own weights": found["test"] for name, found in each["weights"].items()}
    found = bootstrap(tests, tasks)
    base, experts = found.accuracy("base").mean, found.accuracy("experts").mean
    rows = []
    for name in sorted(found.names, key=lambda name: -found.accuracy(name).mean):
        accuracy = found.accuracy(name)
        chosen = Counter(each["compare"]["chosen"].get(name, "").removeprefix(name).strip() for each in seeds.values())
        rows.append(
            (
                name,
                ", ".join(f"{label} ({count})" for label, count in chosen.most_common() if label),
                _percent(accuracy),
                *_against(found, name, REFERENCE),
                f"{100 * (accuracy.mean - base) / (experts - base):.0f}%",
                *_losses(tests, name, tasks),
            )
        )
    yield Table(
        f"Accuracy on test texts in percent ({', '.join(tasks)}; seeds: {len(seeds)}), with 95% intervals",
        ("method", "chosen (seeds)", "accuracy", f"less {REFERENCE}", "wins", "of the gain", "loss", "wins"),
        rows,
    )


def wins(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
    """Show every method beside every other."""
    found = bootstrap([_tests(each) for each in seeds.values()], tasks)
    names = list(families())
    yield Table(
        "Points by which the row is more accurate than the column, with 95% intervals",
        ("", *names),
        [(one, *("" if one == two else _points(found.difference(one, two)) for two in names)) for one in names],
    )
    yield Table(
        "Wins of the row against the column, in percent of seeds and tasks; a draw is half a win",
        ("", *names),
        [(one, *("" if one == two else f"{100 * found.wins(one, two):.0f}" for two in names)) for one in names],
    )


def by_task(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
    """Show accuracies by task."""
    found = bootstrap([_tests(each) for each in seeds.values()], tasks)
    means = found.cells.mean(0)
    rows = [(name, *(f"{100 * each:.1f}" for each in means[:, place])) for place, name in enumerate(found.names)]
    yield Table("Accuracy by task, mean over seeds", ("method", *tasks), rows)


def pruners(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
    """Show what pruning keeps, beside how good the merge is."""
    names = [setting.name for setting in SETTINGS if setting.family in PRUNERS]
    found, rows, facts = _settings(seeds, tasks), [], []
    for name in names:
        kept = [each["pruning"][name] for each in seeds.values() if "pruning" in each]
        facts.append(
            (
                _mean(each["overlap"] for each in kept),
                _mean(each["imbalance"] for each in kept),
                _mean(each["kept_length"][0] for each in kept),
                _mean(each["kept_length"][-1] for each in kept),
                _mean(each["compare"]["settings"][name]["factor"] for each in seeds.values()),
            )
        )
        figures = ("-" if np.isnan(each) else f"{each:.2f}" for each in facts[-1])
        rows.append((name, *figures, _percent(found.accuracy(name)), *_against(found, name, REFERENCE)))
    accuracies = [found.accuracy(name).mean for name in names]
    if any("pruning" in each for each in seeds.values()):
        ranks = (rank_correlation([each[place] for each in facts], accuracies) for place in range(5))
        rows.append(("rank correlation with accuracy", *(f"{each:+.2f}" for each in ranks), "", "", ""))
    kept_length = ("kept length, first", "last")
    yield Table(
        "What settings keep that prune, and accuracy, each with its own best factor",
        ("", "overlap", "imbalance", *kept_length, "factor", "accuracy", f"less {REFERENCE}", "wins"),
        rows,
    )


def halves(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
    """Show what each half of CABS adds."""
    found, rows = _settings(seeds, tasks), []
    for label, blocks in (("9%", "3:32"), ("25%", "64:256")):
        for what, one, two in (
            ("balance alone", f"n:m {blocks}", f"magnitude {label}"),
            ("balance, given conflict awareness", f"CABS {blocks}", f"CABS, not balanced {blocks}"),
            ("conflict awareness alone", f"CABS, not balanced {blocks}", f"magnitude {label}"),
            ("conflict awareness, given balance", f"CABS {blocks}", f"n:m {blocks}"),
            ("both", f"CABS {blocks}", f"magnitude {label}"),
        ):
            rows.append((what, label, *_against(found, one, two)))
    yield Table("What each half of CABS adds, in points", ("half", "density", "points", "wins"), rows)


def orders(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
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
        figures = (means.mean(), np.ptp(means, axis=1).mean(), np.ptp(means.mean(0)), first, last)
        places = bootstrap([_by_place(one, tasks) for one in found], tasks)
        difference = _points(places.difference("first", "last"))
        rows.append((setting, *(f"{100 * each:.2f}" for each in figures), difference))
    places_columns = ("tasks when first", "tasks when last", "first less last")
    yield Table(
        f"Orders of pruning (seeds: {len(seeds)}), every task being first once",
        (*("", "mean", "range within a seed", "range of the orders' means"), *places_columns),
        rows,
    )


def _by_place(orders: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give every task's result of the order in which it was first, and of that in which it was last."""
    return {
        what: {order.split()[place]: result[order.split()[place]] for order, result in orders.items()}
        for what, place in (("first", 0), ("last", -1))
    }


def weights(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
    """Show what a weight for each model adds to the best common factor."""
    rows = []
    for name in next(iter(seeds.values()))["weights"]:
        tests = [
            {"common": each["compare"]["settings"][name]["test"], "own": each["weights"][name]["test"]}
            for each in seeds.values()
        ]
        found = bootstrap(tests, tasks)
        rows.append(
            (
                name,
                *(_percent(found.accuracy(each)) for each in ("common", "own")),
                *_against(found, "own", "common"),
                *(_losses(tests, each, tasks, "common")[0] for each in ("common", "own")),
            )
        )
    yield Table(
        f"A weight for each model by CMA-ES with awa (seeds: {len(seeds)}), on test texts",
        ("", "common factor", "own weights", "gain", "wins", "loss, common", "own"),
        rows,
    )


def grids(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
    """Show what CMA-ES with awa finds beside a grid, by the cost that both make small and on test texts."""
    rows = []
    for seed, each in seeds.items():
        for name, grid in each["grid"].items():
            for what, found in (("CMA-ES", each["weights"][name]), ("grid", grid)):
                test = np.mean(list(_by_task(found["test"], tasks).values()))
                figures = (f"{found['cost']:.4f}", f"{100 * found['search']:.2f}", f"{100 * test:.2f}")
                rows.append((f"{name}, seed {seed}, {what}", str(found["evaluations"]), *figures))
    yield Table(
        f"CMA-ES with awa and a grid ({', '.join(tasks)}): cost by awa, the lower the better, and accuracy",
        ("", "evaluations", "cost", "search texts", "test texts"),
        rows,
    )


def explored(seeds: Seeds, tasks: Sequence[str]) -> Iterator[Table]:
    """Show further densities beside those that are compared."""
    names = [setting.name for setting in EXPLORED]
    tests = [
        {REFERENCE: each["compare"]["settings"][REFERENCE]["test"]}
        | {name: each["explore"][name]["test"] for name in names}
        for each in seeds.values()
    ]
    found = bootstrap(tests, tasks)
    rows = [(name, _percent(found.accuracy(name)), *_against(found, name, REFERENCE)) for name in names]
    yield Table(f"Further densities (seeds: {len(seeds)})", ("", "accuracy", f"less {REFERENCE}", "wins"), rows)


def _settings(seeds: Seeds, tasks: Sequence[str]) -> Bootstrap:
    """Make replicates of all settings that prune, and of task arithmetic."""
    names = [setting.name for setting in SETTINGS if setting.family in (*PRUNERS, REFERENCE)]
    tests = [{name: each["compare"]["settings"][name]["test"] for name in names} for each in seeds.values()]
    return bootstrap(tests, tasks)


def _against(found: Bootstrap, name: str, other: str) -> tuple[str, str]:
    """Give by how much a method is better than another, and how often."""
    if name == other:
        return "", ""
    return _points(found.difference(name, other)), f"{100 * found.wins(name, other):.0f}%"


def _losses(
    seeds: Sequence[Mapping[str, Any]], name: str, tasks: Sequence[str], other: str = REFERENCE
) -> tuple[str, str]:
    """Give the mean loss of a method, and in how many seeds and tasks it is less than that of another."""
    losses = {
        each: np.array([[seed[each][task]["loss"] for task in tasks] for seed in seeds]) for each in (name, other)
    }
    share = "" if name == other else f"{100 * (losses[name] < losses[other]).mean():.0f}%"
    return f"{losses[name].mean():.4f}", share


def _by_task(result: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, float]:
    return {task: float(unpack(result[task]).mean()) for task in tasks}


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else float("nan")


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.2f} ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:+.2f} ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
