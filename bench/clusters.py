"""What a merge costs by a Dask cluster and by MPI on this machine, beside threads: time and processor time.

    python -m bench.clusters --repeats 3

A CABS merge of three checkpoints with a warm page cache, in turn: by threads; by the worker processes of a Dask cluster
that runs already; by ranks of MPI that each make their share; and by ranks of which one hands parts out. Each way is
held against threads with as many threads in all, so that the ratio is what the way itself costs. Whole commands are
measured; the processor time of Dask's workers, which are no children of the command, is not in theirs.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

if str(Path(__file__).parent) not in sys.path:  # scripts beside this one are imported by their names
    sys.path.insert(0, str(Path(__file__).parent))

import workplace
import xxhash
from measure import Run, alternate, median, ratios, run, warm
from report import print_table, spread, write_results
from shard_check import tensors_of

from tests.mpi_launch import Launcher, has_mpi4py, mpich

POOL = ("-m", "mpi4py.futures")
"""Options by which one of several ranks hands parts out, and makes some itself."""

Way = Callable[[Path, Path], Run]
"""Merges a recipe into a folder."""


@contextmanager
def dask_workers(processes: int, threads: int) -> Iterator[str]:
    """Start a Dask cluster on this machine; give the address for ``--executor``."""
    from distributed import LocalCluster

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=processes, threads_per_worker=threads, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address.replace("tcp://", "dask://")


def threads(count: int, args: argparse.Namespace) -> Way:
    """Merge by threads of one process."""
    return lambda recipe, out: run(workplace.dovetail(recipe, out, memory=args.memory, workers=count))


def by_dask(address: str, args: argparse.Namespace) -> Way:
    """Merge by the workers of a cluster."""
    return lambda recipe, out: run([*workplace.dovetail(recipe, out, memory=args.memory), "--executor", address])


def by_ranks(start: Sequence[str], launcher: Launcher, args: argparse.Namespace) -> Way:
    """Merge by processes of MPI, one thread each; the output is removed before, since parts refuse ``--restart``."""

    def merged(recipe: Path, out: Path) -> Run:
        command = ["-m", "dovetail", "merge", recipe, out, "--memory", args.memory, "--workers", "1", "--json"]
        return run([*start, *command], environment=launcher.variables)

    return merged


def ways(stack: ExitStack, args: argparse.Namespace) -> dict[str, tuple[int, Way]]:
    """Give every way of merging by its name, with its threads in all."""
    cores = args.workers
    found: dict[str, tuple[int, Way]] = {f"{n} threads": (n, threads(n, args)) for n in sorted({1, cores})}
    if importlib.util.find_spec("distributed") is None:
        print("Dask is left out: distributed is not installed (pip install 'dovetail[dask]')")
    else:
        for processes, each in sorted({(1, 1), (1, cores), (cores, 1)}):
            address = stack.enter_context(dask_workers(processes, each))
            found[f"Dask, {processes} x {each}"] = processes * each, by_dask(address, args)
    if (launcher := mpich()) is None or not has_mpi4py():
        print("MPI is left out: mpich or mpi4py is not installed (pip install 'dovetail[mpi]' mpich)")
    else:
        for ranks in sorted({1, cores}):
            start = launcher.command(ranks)
            if ranks > 1:
                found[f"MPI, {ranks} shares"] = ranks, by_ranks(start, launcher, args)
                found[f"MPI, handed out to {ranks}"] = ranks, by_ranks([*start, *POOL], launcher, args)
    return found


def main() -> None:
    parser = workplace.arguments(__doc__)
    args = parser.parse_args()
    with workplace.workplace(args.work, 9 * 10**9) as place, ExitStack() as stack:
        tiny, family = workplace.make_family(place / "tiny", "tiny"), workplace.make_family(place / "family", args.size)
        out, expected = place / "out", {}
        entrants = ways(stack, args)

        def contestant(way: Way, models: Sequence[Path]) -> Callable[[], Run]:
            recipe = workplace.cabs_recipe(place / f"{models[0].parent.name}.yml", models)

            def measured() -> Run:
                shutil.rmtree(out, ignore_errors=True)
                return way(recipe, out)

            return measured

        for name, (_, way) in entrants.items():  # not counted: workers load kernels, and tell whether all works
            contestant(way, tiny)()
            expected[name] = tensors(out)
        if any(found != next(iter(expected.values())) for found in expected.values()):
            sys.exit(f"the tensors differ: {expected}")
        warm(family)
        runs = alternate({name: contestant(way, family) for name, (_, way) in entrants.items()}, args.repeats)
    rows, results = [], {}
    for name, (count, _) in entrants.items():
        against = ratios(runs[name], runs[f"{count} threads"])
        results[name] = {"times_threads": against, "runs": [one.to_json() for one in runs[name]]}
        figures = (f"{median(runs[name], figure):.2f}" for figure in ("wall_s", "cpu_s"))
        rows.append((name, *figures, spread(against)))
    print_table(
        f"CABS 64:256, {len(family)} checkpoints of size {args.size}, warm",
        ("by", "s", "CPU s of the command", "times as long as threads"),
        rows,
    )
    write_results("clusters", results)


def tensors(out: Path) -> dict[str, str]:
    """Hash the tensors of an output, however it is cut into files."""
    places = (item for path in sorted(out.glob("*.safetensors")) for item in tensors_of(path).items())
    return {name: xxhash.xxh3_64_hexdigest(place.read(0, place.length)) for name, place in places}


if __name__ == "__main__":
    main()
