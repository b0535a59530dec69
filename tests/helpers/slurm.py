"""A real SLURM of several nodes on this one machine: Debian's packages, as root, without systemd, cgroups, database.

Its daemons are children of the tests' process and end with it. Every port, key and file is its own, so that a SLURM or
munge of the machine's, or another cluster of this kind, is not touched.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

#: Set to 1, as in CI, it lets the tests install SLURM by apt where it is missing.
MAY_INSTALL = "DINOBENCH_TEST_SLURM"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
#: Seconds that installing may take in all.
INSTALLING = 240
#: Seconds until the nodes must have joined.
STARTING = 30
#: What each node's GPUs are made of.
GPUS = ("/dev/null", "/dev/zero")

# Requeued jobs start again as soon as their credential has expired (two minutes by default); jobs in `scavenge` give
# way to those in `main`, five seconds after they were sent the signal that they asked for; a job that is told to end
# has three seconds. Without `config_overrides` a machine of one core could not play nodes of two.
CONFIGURATION = """
ClusterName=dinobench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=3
MinJobAge=600
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=ALL State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={mb} Gres=gpu:{gpus}"


class Unavailable(Exception):
    """Why there can be no SLURM here."""


class Cluster:
    """A running SLURM; `folder` holds its files, and SLURM_CONF in `environment` leads its commands to it."""

    def __init__(self, folder: Path, nodes: tuple[str, ...]) -> None:
        self.folder, self.nodes = folder, nodes
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def __call__(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """The state of every task in the queue, by its id, as in 12_3 for the task 3 of an array."""
        lines = self("squeue", "-r", "-h", "-o", "%i %T").split("\n")
        return dict(line.split() for line in lines if line)

    def wait(self, until: Callable[[], object], what: str, seconds: float = 300) -> None:
        """Wait for something to become true of the cluster; says what the queue holds when it does not."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, f"no {what} in {seconds} s; the queue: {self('squeue', '-r')}"
            time.sleep(0.2)

    def wait_empty(self, seconds: float = 300) -> None:
        self.wait(lambda: not self.jobs(), "empty queue", seconds)

    def clear(self) -> None:
        """End all jobs and put all nodes to work again."""
        self("scancel", "--user=root")
        for node in self.nodes:
            state = self("sinfo", "-h", "-n", node, "-o", "%t").split()
            if state and state[0] not in ("idle", "alloc", "mix", "comp"):
                self("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait_empty(60)


@contextmanager
def cluster(nodes: int = 2, cpus: int = 2) -> Iterator[Cluster]:
    """A SLURM of nodes n1, n2, … with `cpus` processors and two pretended GPUs each.

    Raises Unavailable where there cannot be one.
    """
    _provide()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    names = tuple(f"n{i + 1}" for i in range(nodes))
    made = Cluster(folder, names)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _configure(folder, names, cpus)
        munge = [
            f"--{kind}={folder}/munge.{kind.split('-')[0]}"
            for kind in ("key-file", "socket", "pid-file", "log-file", "seed-file")
        ]
        stack.enter_context(_daemon(made, "munged", "--foreground", "--force", *munge))
        _until((folder / "munge.socket").exists, made)
        stack.enter_context(_daemon(made, "slurmctld", "-D", "-i"))
        for name in names:
            stack.enter_context(_daemon(made, "slurmd", "-D", "-N", name))
        _until(lambda: _states(made) == {"idle"}, made)
        stack.callback(_end_jobs, made)
        yield made


def _provide() -> None:
    """Install what is missing, where that is allowed. Raises Unavailable with the reason where it cannot be had."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise Unavailable("a SLURM for the tests needs root: slurmd starts jobs for their owners")
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys([*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"]))
    if not (lacking := [program for program in PROGRAMS if not shutil.which(program)]):
        return
    if not shutil.which("apt-get"):
        raise Unavailable(f"{lacking[0]} is not installed, and there is no apt-get to install it")
    if os.environ.get(MAY_INSTALL) != "1":
        raise Unavailable(f"{lacking[0]} is not installed; {MAY_INSTALL}=1 lets the tests install it by apt")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60"]
    end = time.monotonic() + INSTALLING
    try:
        with FileLock(Path(tempfile.gettempdir()) / "dinobench-slurm.lock", timeout=INSTALLING):
            for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
                if all(map(shutil.which, PROGRAMS)):  # another process of the tests was first
                    return
                subprocess.run(
                    command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=True, capture_output=True,
                    text=True, timeout=max(1.0, end - time.monotonic()), stdin=subprocess.DEVNULL,
                )  # fmt: skip
    except (subprocess.SubprocessError, OSError, Timeout) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise Unavailable(f"apt-get cannot install slurm-wlm: {said[-1] if said else error}") from error
    if lacking := [program for program in PROGRAMS if not shutil.which(program)]:
        raise Unavailable(f"{lacking[0]} is not there after slurm-wlm was installed")


def _configure(folder: Path, names: tuple[str, ...], cpus: int) -> None:
    folder.chmod(0o755)  # munge's clients must reach the socket
    (folder / "state").mkdir(mode=0o700)
    for name in names:
        (folder / f"spool-{name}").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    # Any device file makes a GPU to SLURM, which then sets CUDA_VISIBLE_DEVICES.
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in GPUS))
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={_cgroup_plugin()}\n")
    host = socket.gethostname().split(".")[0]
    port, *ports = _free_ports(1 + len(names))
    mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    lines = [
        NODE.format(name=n, host=host, port=p, cpus=cpus, mb=mb, gpus=len(GPUS))
        for n, p in zip(names, ports, strict=True)
    ]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(folder=folder, host=host, port=port, nodes="\n".join(lines))
    )


def _cgroup_plugin() -> str:
    """The one that needs no cgroups: from 23.11 on there is one of that name, before it v1 is not looked for."""
    version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=False).stdout.split()[-1:]
    numbers = version[0].split(".")[:2] if version else []
    return "disabled" if [int(n) for n in numbers if n.isdecimal()] >= [23, 11] else "cgroup/v1"


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _daemon(cluster: Cluster, *command: str) -> Iterator[None]:
    """A daemon in the foreground, ended with the block, and by the system should this process be killed."""
    path = shutil.which(command[0])
    assert path is not None
    log = cluster.folder / f"{command[0]}-{command[-1].rpartition('/')[2]}.out"
    with log.open("wb") as out:
        running = subprocess.Popen(
            [path, *command[1:]], env={**os.environ, **cluster.environment}, stdout=out, stderr=out,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent,
        )  # fmt: skip
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _end_with_parent() -> None:
    """prctl(PR_SET_PDEATHSIG, SIGTERM): Linux's way of ending a child whose parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _states(cluster: Cluster) -> set[str]:
    try:
        return set(cluster("sinfo", "-h", "-o", "%t").split())
    except AssertionError:  # slurmctld does not listen yet
        return set()


def _until(ready: Callable[[], bool], cluster: Cluster) -> None:
    end = time.monotonic() + STARTING
    while not ready():
        if time.monotonic() > end:
            tails = [(p, p.read_text(errors="replace").splitlines()[-2:]) for p in sorted(cluster.folder.glob("*.log"))]
            raise Unavailable(
                f"SLURM did not start in {STARTING} s: " + "; ".join(f"{p.name}: {' '.join(t)}" for p, t in tails)
            )
        time.sleep(0.1)


def _end_jobs(cluster: Cluster) -> None:
    """No step of a job outlives its cluster."""
    try:
        cluster("scancel", "--user=root")
        cluster.wait_empty(20)
    except (AssertionError, subprocess.TimeoutExpired):
        cluster("scancel", "--signal=KILL", "--user=root")
