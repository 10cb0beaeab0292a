"""Random masks: how often mergekit and Dovetail keep each element over 1,000 seeds, and how they rescale.

    python bench/parity_random.py
    python bench/parity_random.py --seeds 5000 --python MERGEKIT_PYTHON

Both are compared with the probabilities of the papers' formulas, and with each other, by the standard score of the
element that is furthest off; about one score in 10^5 is beyond 4.5. The sum of magnitudes after rescaling is given as a
part of the sum before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the tests' oracles

import numpy as np
from numpy.typing import NDArray
from parity import Mergekit
from peers import PACKAGES, peer_python
from report import print_table, write_results

from tests.engine.methods.probing import describe, run
from tests.oracles.result import Case
from tests.oracles.task_vectors import PROBABILITIES

LIMIT = 5.0
"""Beyond it something is wrong: a chance of one in 2,000 for all scores of a run together."""
SETTINGS = (
    *(("dare_linear", density, 0.0) for density in (0.1, 0.5, 0.9)),
    ("dare_ties", 0.3, 0.0),
    *(("della_linear", density, epsilon) for density, epsilon in ((0.5, 0.15), (0.3, 0.25), (0.8, 0.1))),
    ("della", 0.6, 0.2),
)
"""Method, density, epsilon."""
THEIR_NAMES = {"dare": "random", "della": "della_magprune"}
"""mergekit's names of the ways to sparsify, by the first word of the method."""

Floats = NDArray[np.float32]


def our_statistics(method: str, tau: Floats, each: dict[str, Any], seeds: int) -> tuple[NDArray[np.int64], list[float]]:
    """Count how often elements are kept, and find the least and greatest sum of magnitudes."""
    base, kept, norms = np.zeros_like(tau), np.zeros(tau.shape, np.int64), []
    options = {"rescale": True, "normalize": False}
    for seed in range(seeds):
        problem = describe(method, base, [tau], options, [each], seed=seed)
        merged = run(problem, method, base, [tau])
        kept += merged != 0
        norms.append(float(np.sum(np.abs(merged), dtype=np.float64)))
    return kept, [min(norms), max(norms)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter of an environment with mergekit [one is made]")
    parser.add_argument("--seeds", type=int, default=1000, help="masks of each method [1000]")
    args = parser.parse_args()
    tau = np.random.default_rng(3).standard_normal((4, 51)).astype(np.float32)
    norm = float(np.sum(np.abs(tau), dtype=np.float64))
    rows, results, worst = [], [], 0.0
    with tempfile.TemporaryDirectory() as temporary:
        mergekit = Mergekit(args.python or peer_python(), Path(temporary))
        for method, density, epsilon in SETTINGS:
            each = {"weight": 1.0, "density": density, **({"epsilon": epsilon} if method.startswith("della") else {})}
            expected = PROBABILITIES[method](Case(method, None, (), {}, (each,)), 0, tau)
            ours, our_norms = our_statistics(method, tau, each, args.seeds)
            request = {"tensor": tau.tolist(), "density": density, "epsilon": epsilon, "seeds": args.seeds}
            answer = mergekit.ask(sparsify=THEIR_NAMES[method.split("_")[0]], **request)
            theirs = np.array(answer["kept"])
            deviation = np.sqrt(args.seeds * expected * (1 - expected))
            scores = {
                "ours": float(np.max(np.abs(ours - args.seeds * expected) / deviation)),
                "theirs": float(np.max(np.abs(theirs - args.seeds * expected) / deviation)),
                "between": float(np.max(np.abs(ours - theirs) / (np.sqrt(2) * deviation))),
            }
            norms = {"ours": [each / norm for each in our_norms], "theirs": [each / norm for each in answer["norms"]]}
            worst = max(worst, *scores.values(), *(1e6 * abs(each - 1) for both in norms.values() for each in both))
            results.append({"method": method, "density": density, "epsilon": epsilon, "scores": scores, "norms": norms})
            rows.append(
                (
                    method,
                    f"{density:g}",
                    f"{epsilon:g}" if epsilon else "-",
                    *(f"{np.mean(kept) / args.seeds:.4f}" for kept in (ours, theirs)),
                    *(f"{score:.2f}" for score in scores.values()),
                    *(f"{both[0]:.7f} to {both[1]:.7f}" for both in norms.values()),
                )
            )
        mergekit.close()
    columns = ("density", "epsilon", "ours kept", "theirs", "score, ours", "theirs", "between", "norm, ours", "theirs")
    print_table(f"Dovetail and mergekit {PACKAGES[1][10:]}: {args.seeds} random masks", ("method", *columns), rows)
    write_results("parity-random", {"seeds": args.seeds, "settings": results})
    if worst > LIMIT:
        sys.exit(f"a score or a norm (in parts in a million) is off by {worst:.2f}; expected at most {LIMIT}")


if __name__ == "__main__":
    main()
