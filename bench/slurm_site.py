"""A SLURM of one node that runs on this machine for a while: munge, slurmctld and slurmd, all in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo")
CPUS = 4
"""Processors that the node claims, and so tasks that run at the same time, whatever the machine has."""
KILL_SECONDS = 5
"""Seconds that SLURM waits between SIGTERM and SIGKILL."""

_CONFIGURATION = """\
ClusterName=dovetail
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=10000,batch_sched_delay=0
ReturnToService=2
KillWait={wait}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class NoSlurmError(RuntimeError):
    """SLURM is not installed here, or does not start."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job, a task of an array, or several that have not been started yet, as ``scontrol`` shows them."""

    tasks: int
    """How many tasks it is: those of an array that have not been started yet are shown as one."""
    state: str
    """What SLURM calls its state, such as ``RUNNING``."""
    name: str
    """What ``scancel`` and ``scontrol`` call it."""

    @property
    def waits(self) -> bool:
        """Whether it is still to be ended."""
        return self.state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")


@dataclass(frozen=True, slots=True)
class Site:
    """A SLURM that runs."""

    folder: Path
    """Where it keeps everything."""
    host: str
    """The name of its node."""

    def call(self, *words: str, check: bool = True) -> str:
        """Run one of SLURM's commands; give what it prints."""
        done = subprocess.run(words, env=self.environment(), capture_output=True, text=True, check=False, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Give the variables under which SLURM's commands find this one."""
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def resume(self) -> None:
        """Bring the node back, unless it has come back by itself, and wait for it."""
        self.call("scontrol", "update", f"NodeName={self.host}", "State=RESUME", check=False)
        _await_node(self)

    def submit(self, script: str, folder: Path, *options: str) -> str:
        """Submit a batch script from a folder, in which its output lands; give the job's number."""
        path = folder / "job.sh"
        path.write_text(script)
        text = self.call("sbatch", "--parsable", "-D", str(folder), "-o", f"{folder}/job-%j.txt", *options, str(path))
        return text.strip().partition(";")[0]

    def jobs(self, job: str) -> list[Job]:
        """Look at a job, or at all tasks of an array."""
        found = []
        for line in self.call("scontrol", "-o", "show", "job", job).splitlines():
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            place = fields.get("ArrayTaskId", "")
            name = f"{job}_{place}" if place.isdigit() else job
            found.append(Job(_count(place), fields["JobState"], name))
        return found

    def wait(self, job: str, seconds: float = 400.0) -> list[Job]:
        """Wait until a job, or an array, has ended."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.jobs(job)
            if not any(each.waits for each in found):
                return found
            if time.monotonic() > deadline:
                raise RuntimeError(f"job {job} has not ended after {seconds:.0f} s: {found}")
            time.sleep(0.2)


def _count(places: str) -> int:
    """Count the tasks of an array that SLURM writes as ``2,6-8%4``."""
    spans = [span.partition("-") for span in places.partition("%")[0].split(",")]
    return sum(int(last) - int(first) + 1 if last else 1 for first, _, last in spans)


@contextlib.contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Start a SLURM in an empty folder, and stop and end all that it has started when the block ends.

    Raises
    ------
    NoSlurmError
        It is not installed, the user is not root, or it does not start.

    """
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        raise NoSlurmError(f"{', '.join(missing)} not found; expected SLURM; apt-get install slurm-wlm")
    if os.geteuid() != 0:
        raise NoSlurmError("the user is not root; expected root, which starts SLURM's daemons")
    os.environ["PATH"] = path
    site = Site(folder, socket.gethostname().partition(".")[0])
    with contextlib.ExitStack() as stack:
        stack.callback(_end_leftovers, site)
        _configure(site)
        _start(stack, site, "munge", ["munged", "-F", "--force", *_munge_options(folder)], folder / "munge.socket")
        _start(stack, site, "slurmctld", ["slurmctld", "-D", "-i"], folder / "slurmctld.pid")
        _start(stack, site, "slurmd", ["slurmd", "-D", "-N", site.host], folder / "slurmd.pid")
        _await_node(site)
        stack.callback(_cancel_all, site)
        yield site


def _configure(site: Site) -> None:
    folder = site.folder
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    ports = _free_ports(2)
    text = _CONFIGURATION.format(
        host=site.host, folder=folder, controller=ports[0], node=ports[1], wait=KILL_SECONDS, cpus=CPUS
    )
    (folder / "slurm.conf").write_text(text)
    second = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    plugin = "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n" if second else "CgroupPlugin=cgroup/v1\n"
    (folder / "cgroup.conf").write_text(plugin)  # slurmd loads one, though nothing here uses it


def _munge_options(folder: Path) -> list[str]:
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return [f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items()]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _start(stack: contextlib.ExitStack, site: Site, name: str, command: list[str], sign: Path) -> None:
    """Start a daemon, and wait until a file shows that it is ready."""
    with (site.folder / f"{name}.out").open("wb") as output:
        daemon = subprocess.Popen(
            command,
            env=site.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    stack.callback(_stop, daemon)
    deadline = time.monotonic() + 20
    while not sign.exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise NoSlurmError(f"{name} does not start: {_last_lines(site.folder, name)}")
        time.sleep(0.1)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _await_node(site: Site) -> None:
    deadline = time.monotonic() + 30
    while site.call("sinfo", "-h", "-o", "%t", check=False).strip() not in ("idle", "mix"):
        if time.monotonic() > deadline:
            raise NoSlurmError(f"its node is not idle after 30 s: {_last_lines(site.folder, 'slurmd')}")
        time.sleep(0.2)


def _last_lines(folder: Path, name: str) -> str:
    texts = [
        path.read_text(errors="replace") for path in (folder / f"{name}.out", folder / f"{name}.log") if path.exists()
    ]
    return " | ".join("".join(texts).strip().splitlines()[-3:])


def _cancel_all(site: Site) -> None:
    site.call("scancel", "--full", "--signal=KILL", "--user=root", check=False)
    site.call("scancel", "--user=root", check=False)
    deadline = time.monotonic() + 15
    while site.call("squeue", "-h", check=False).strip() and time.monotonic() < deadline:
        time.sleep(0.2)


def _end_leftovers(site: Site) -> None:
    """End what jobs have left: processes that have this SLURM's configuration among their variables."""
    wanted = f"SLURM_CONF={site.folder / 'slurm.conf'}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
