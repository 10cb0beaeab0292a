"""How many evaluations a search needs: CMA-ES with awa against a grid, on objectives of which the optimum is known.

    python bench/search.py                  # 20 objectives each for 2, 3 and 4 weights: half a minute
    python -m bench.search --kills 50       # instead: kill a search at random instants, and compare what it ends with

An objective has a task for every weight. The loss of a task is a base loss and a quadratic around common best weights,
in random directions that differ by a factor of 10. awa's cost is lowest at these weights. A figure is the share of the
possible gain (the cost of the start, 0, less that of the best weights) that a search has found; 100% is the optimum.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dovetail.engine.searching.evaluations import Evaluation
from dovetail.engine.searching.loop import Search
from dovetail.engine.searching.objective import Objective, awa_cost
from dovetail.engine.searching.optimizers import make_optimizer
from dovetail.engine.searching.record import Candidate, best_of
from dovetail.engine.searching.space import Dimension, Space, Values

GRIDS = {2: 400, 3: 1000, 4: 4096}
"""Points of the grid by the number of weights: 20, 10 and 8 levels of each."""
SEARCHES = (("grid", 1), ("grid", 10), ("random", 10), ("cma", 10), ("quadratic", 10))
"""Optimisers, and by what the number of the grid's points is divided for their budget."""


class Benchmark:
    """Losses by task, with known best weights.

    Parameters
    ----------
    count
        Number of weights, and of tasks.
    seed
        Decides the best weights, between 0.3 and 1.5, and the losses around them.

    """

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng((count, seed))
        self.best = random.uniform(0.3, 1.5, count)
        self.base = random.uniform(0.5, 2.0, count)
        axes = [np.linalg.qr(random.standard_normal((count, count)))[0] for _ in range(count)]
        widths = np.geomspace(0.3, 3.0, count)
        self.curves = [axis @ np.diag(widths) @ axis.T for axis in axes]

    def losses(self, weights: Values) -> dict[str, float]:
        """Give the loss of every task."""
        away = np.array(weights, float) - self.best
        return {
            f"task {t}": float(base + away @ curve @ away)
            for t, (base, curve) in enumerate(zip(self.base, self.curves, strict=True))
        }

    def share(self, optimizer: str, budget: int, seed: int) -> tuple[float, int]:
        """Search with a budget; give the share of the possible gain, and the number of evaluations."""
        count = len(self.best)
        space = Space(tuple(Dimension(f"w{i}", "weight", (), "float", 0.1, 2.0) for i in range(count)))
        start: Values = (1.0,) * count

        def evaluate(candidates: Sequence[Candidate]) -> list[Evaluation]:
            return [Evaluation(self.losses(candidate.values)) for candidate in candidates]

        chosen = make_optimizer(optimizer, space, space.position(start), budget, seed)
        patient = optimizer in ("grid", "random")
        search = Search(space, start, Objective("awa"), chosen, budget, patient=patient)
        search.run(evaluate)
        found = best_of(search.judged)
        assert found is not None
        assert found.cost is not None
        best = awa_cost(self.losses(tuple(self.best)), self.losses(start))
        return found.cost / best, len(search.judged)


def compare(objectives: int) -> None:
    rows, results = [], []
    for count, points in GRIDS.items():
        for optimizer, divisor in SEARCHES:
            found = [Benchmark(count, seed).share(optimizer, points // divisor + 1, seed) for seed in range(objectives)]
            shares = sorted(share for share, _ in found)
            used = statistics.median(number for _, number in found)
            rows.append([str(count), optimizer, f"{used:g}", _percent(statistics.median(shares)), _percent(shares[0])])
            results.append({"weights": count, "optimizer": optimizer, "evaluations": used, "shares": shares})
    from report import print_table, write_results

    print_table(
        f"Share of the possible gain that is found, over {objectives} objectives",
        ("weights", "optimizer", "evaluations", "median", "worst"),
        rows,
    )
    write_results("search", {"objectives": objectives, "results": results})


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def kill(kills: int) -> None:
    from tests.engine.searching.kills import kill_until_done, make_family

    for given in ("folder", "arrays"):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            found = kill_until_done(make_family(home), home / "kills", kills=kills, seed=0, given=given)
        same = "the same" if found.expected == found.found else "ANOTHER"
        print(f"{given}: {found.kills} kills, {same} history, recipe and model, {len(found.repeated)} evaluated again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", type=int, default=20, help="objectives for each number of weights [20]")
    parser.add_argument("--kills", type=int, help="kill a search so often instead")
    options = parser.parse_args()
    if options.kills:
        kill(options.kills)
    else:
        compare(options.objectives)


if __name__ == "__main__":
    main()
