"""Merge in parts under a real SLURM: the scripts of docs/clusters.md, tasks that are cancelled, a node that fails.

Run from the repository, as root: ``.venv/bin/python -m bench.slurm``. It needs Debian's ``slurm-wlm``, whose daemons it
starts in a folder of its own, on loopback, and stops at the end. Without it, it says so and ends with 0.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.slurm_site import NoSlurmError, Site, running_site
from bench.workplace import make_family, write_recipe
from dovetail.engine import read_manifest
from dovetail.engine.actions.status import status
from dovetail.engine.errors import OutputError
from tests.crash import tree_bytes
from tests.doc_blocks import ROOT, blocks

PARAMETERS = {"weight": 0.5, "density": 0.5}
TASKS = 8
"""Tasks of an array."""


class Trials:
    """Merges of one recipe under SLURM, each of which must give the bytes of one process."""

    def __init__(self, site: Site, folder: Path, method: str, size: str, seed: int) -> None:
        self.site, self.folder, self.dice = site, folder, random.Random(seed)
        family = make_family(folder, size)
        self.recipe = write_recipe(folder / "recipe.yml", method, family[0], family[1:], parameters=PARAMETERS)
        self.output, self.expected = folder, dict[str, Path]()
        self.array, self.steps = _scripts()

    def try_one(self, name: str, act: Callable[[], str]) -> None:
        """Make the merge in one way, compare every byte, and print a line."""
        self.output = self.folder / name.replace(" ", "-")
        for path in self.folder.glob("job-*.txt"):
            path.unlink()
        began = time.monotonic()
        note = act()
        self._compare()
        print(f"{name:22} {time.monotonic() - began:8.1f}  {note}", flush=True)
        shutil.rmtree(self.output)

    def _compare(self) -> None:
        """Compare the output with that of one process, which has shards of the same size."""
        limit = str(read_manifest(self.output)["options"]["shard_size_bytes"])
        if limit not in self.expected:
            self.expected[limit] = self.folder / f"alone-{limit}"
            command = ["dovetail", "merge", self.recipe, self.expected[limit], "--shard-size", f"{limit}B"]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
        one, found = tree_bytes(self.expected[limit]), tree_bytes(self.output)
        differing = [path for path in sorted(one.keys() | found.keys()) if one.get(path) != found.get(path)]
        if differing:
            raise SystemExit(f"error: {differing} of {self.output} differ from those of one process")

    def submit(self, template: str, array: str = "", part: str = "auto", *options: str) -> str:
        """Submit a script of the documentation, for this merge and this node; give the job's number."""
        text = template.replace("/scratch/merged", str(self.output)).replace("--part auto", f"--part {part}")
        text = re.sub(r"--cpus-per-task=\d+", "--cpus-per-task=1", text)
        text = re.sub(r"--nodes=\d+ --ntasks-per-node=\d+", "--nodes=1 --ntasks-per-node=4", text)
        if array:
            text = re.sub(r"--array=\S+", f"--array={array}", text)
        return self.site.submit(text, self.folder, *options)

    def begin(self) -> str:
        """Submit the array of the documentation."""
        return self.submit(self.array, f"1-{TASKS}")

    def end(self, job: str, *allowed: str) -> str:
        """Wait for a job; tell how many of its tasks ended how. Those that end in no allowed way are an error."""
        states: Counter[str] = Counter()
        for each in self.site.wait(job):
            states[each.state.lower()] += each.tasks
        if not states.keys() <= {"completed", *allowed}:
            texts = "".join(path.read_text() for path in sorted(self.folder.glob("job-*.txt")))
            raise SystemExit(f"error: the tasks of job {job} are {dict(states)}:\n{texts}")
        return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))

    def until(self, share: float, job: str) -> float:
        """Wait until some share of the chunks is done, or the job has ended; give the share that is done."""
        done = 0.0
        while done < share and any(each.waits for each in self.site.jobs(job)):
            try:
                done = status(self.output).share_done or 0.0
            except OutputError:  # nobody has begun
                time.sleep(0.01)
        return done

    def undisturbed(self) -> str:
        """Let all tasks end."""
        return self.end(self.begin())

    def cancelled(self, *, anew: bool) -> str:
        """Cancel all tasks in mid-run, and submit what status prints: the parts that are left, or any number."""
        job = self.begin()
        share = self.until(self.dice.uniform(0.05, 0.6), job)
        running = [each for each in self.site.jobs(job) if each.state == "RUNNING"]
        for each in running:
            how = self.dice.choice(["", "--signal=KILL --full"])
            self.site.call("scancel", *how.split(), each.name, check=False)
        self.site.call("scancel", job, check=False)  # and those that have not begun
        ends = self.end(job, "cancelled", "failed")
        command = ["dovetail", "status", str(self.output)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        arrays = re.findall(r"--array=(\S+) with --part (\S+?)[;.]?\s", text + " ")
        if not arrays:
            self.end(self.begin())  # it was too late
            return f"{ends}; nothing was left"
        array, part = arrays[anew]
        note = f"{len(running)} cancelled while they ran, at {share:.0%}; {ends}"
        if "," in array and not anew:
            refused = self.end(self.submit(self.array, array), "failed")
            note += f"; --array={array} with --part auto: {refused}"
        return f"{note}; --array={array} with --part {part}: {self.end(self.submit(self.array, array, part))}"

    def requeued(self) -> str:
        """Put tasks back into the queue while they run; they begin again by themselves."""
        job, told = self.begin(), []
        for share in (0.1, 0.4):
            self.until(share, job)
            running = [each for each in self.site.jobs(job) if each.state == "RUNNING"]
            for each in running:
                self.site.call("scontrol", "requeue", each.name, check=False)
            told.append(str(len(running)))
        return f"{' and '.join(told)} requeued; {self.end(job)}"

    def failing_node(self) -> str:
        """Let the node fail while tasks run; they begin again once it is back."""
        job = self.begin()
        share = self.until(0.2, job)
        self.site.call("scontrol", "update", f"NodeName={self.site.host}", "State=DOWN", "Reason=trial")
        time.sleep(1)
        self.site.resume()
        return f"down at {share:.0%}; {self.end(job)}"

    def started_twice(self) -> str:
        """Submit the array a second time by mistake, while it runs."""
        first = self.begin()
        self.until(0.1, first)
        second = self.begin()
        return f"{self.end(first, 'failed')}; second: {self.end(second, 'failed')}"

    def by_srun(self) -> str:
        """Run several tasks of one job."""
        return self.end(self.submit(self.steps))

    def arrays_of_steps(self) -> str:
        """Run several tasks in each of several jobs."""
        return self.end(self.submit(self.steps, "", "auto", "--array=0-1"))


def _scripts() -> tuple[str, str]:
    """Give the scripts of the documentation: an array, and a job of several tasks."""
    found = [block.text for block in blocks(ROOT / "docs" / "clusters.md") if "#SBATCH" in block.text]
    (array,) = (text for text in found if "--array" in text)
    (steps,) = (text for text in found if "srun dovetail" in text)
    return array, steps


def run(trials: Trials) -> None:
    """Try everything, and print a table."""
    print(f"{'trial':22} {'seconds':>8}  tasks")
    trials.try_one("array", trials.undisturbed)
    trials.try_one("cancelled", lambda: trials.cancelled(anew=False))
    trials.try_one("cancelled and divided", lambda: trials.cancelled(anew=True))
    trials.try_one("requeued", trials.requeued)
    trials.try_one("node fails", trials.failing_node)
    trials.try_one("started twice", trials.started_twice)
    trials.try_one("srun", trials.by_srun)
    trials.try_one("array of srun", trials.arrays_of_steps)
    print("every output was byte-identical to that of one process")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ties", help="merge method that takes a density [ties]")
    parser.add_argument("--size", default="0.2GB", help="size of the checkpoints, see checkpoints.py [0.2GB]")
    parser.add_argument("--seed", type=int, default=0, help="of the instants at which tasks are cancelled")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped then too
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    with tempfile.TemporaryDirectory(prefix="dovetail-slurm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            with running_site(Path(folder)) as site:
                work = Path(folder) / "work"
                work.mkdir()
                run(Trials(site, work, options.method, options.size, options.seed))
        except NoSlurmError as error:
            print(f"skipped: {error}")


if __name__ == "__main__":
    main()
