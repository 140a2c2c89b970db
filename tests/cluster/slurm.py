"""A Slurm of two nodes on this machine, for tests: started in a folder, stopped at the end.

Needs root and Debian's slurm-wlm, slurm-client and munge.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
FIRST_PORT = 17870
ROOT = Path(__file__).resolve().parents[2]

# cred_expire: a requeued job waits until its old credentials have expired, by default two minutes.
CONFIG = """\
ClusterName=imanim
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why no cluster can be started here; empty when one can."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if absent:
        return f"no {', '.join(absent)} (Debian: apt-get install slurm-wlm slurm-client munge)"
    return "" if os.geteuid() == 0 else "needs root to start Slurm's daemons"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Two nodes with two CPUs each; jobs in partition ``high`` preempt those in ``main``. Yields the environment to use it with."""
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    ports = {"port": FIRST_PORT, "n1": FIRST_PORT + 1, "n2": FIRST_PORT + 2}
    (folder / "slurm.conf").write_text(CONFIG.format(host=host, folder=folder, **ports))
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    _start_munge(env)
    daemons = [["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]]
    with (folder / "daemons.log").open("w") as log:
        running = [subprocess.Popen(command, env=env, stdout=log, stderr=log) for command in daemons]
        try:
            wait_for(lambda: ask(env, "sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * 2, 60)
            yield env
        finally:
            subprocess.run(["scancel", "--full", "-u", "root"], env=env, capture_output=True, check=False)
            for daemon in reversed(running):
                daemon.terminate()
            for daemon in running:
                daemon.wait(30)


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def submit(env: dict[str, str], *words: str) -> int:
    """The job's number. Raises AssertionError with what sbatch says when it refuses."""
    done = subprocess.run(
        ["sbatch", "--parsable", *words], env=env, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def state(env: dict[str, str], job: int) -> str:
    """``PENDING``, ``RUNNING``, ``COMPLETED``, ...; ``?`` when Slurm does not know the job."""
    shown = ask(env, "scontrol", "show", "job", str(job))
    return shown.partition("JobState=")[2].split()[0] if "JobState=" in shown else "?"


def run(env: dict[str, str], log: Path, seconds: float, *words: str) -> str:
    """Submits a job, waits for its end and returns what it printed. Raises AssertionError when it failed."""
    job = submit(env, "--output", str(log), *words)
    wait_for(lambda: state(env, job) in ENDED, seconds)
    assert state(env, job) == "COMPLETED", log.read_text()[-3000:]
    return log.read_text()


def ask(env: dict[str, str], *command: str) -> str:
    """What a Slurm command prints; empty when it fails."""
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60).stdout


def wait_for(true: object, seconds: float) -> None:
    """Waits until ``true()``. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.2)


def _start_munge(env: dict[str, str]) -> None:
    """Slurm's daemons trust each other by munge's key; one daemon serves the machine, and stays."""
    if subprocess.run(["munge", "-n"], env=env, capture_output=True, check=False).returncode == 0:
        return
    key = Path("/etc/munge/munge.key")
    if not key.is_file():
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_bytes(os.urandom(1024))
    for folder in (key, key.parent, Path("/run/munge"), Path("/var/log/munge"), Path("/var/lib/munge")):
        if folder != key:
            folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    key.chmod(0o400)
    Path("/run/munge").chmod(0o755)
    subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "/usr/sbin/munged --force"], env=env, check=True)
    wait_for(lambda: subprocess.run(["munge", "-n"], env=env, capture_output=True, check=False).returncode == 0, 20)
