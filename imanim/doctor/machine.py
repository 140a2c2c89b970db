"""Checks of memory, cores and Slurm's job."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from imanim.doctor.findings import Finding, Situation, size, warning, well

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
LEAST_RANK_BYTES = 1e9
"""Of one rank and its worker before there is a model: the libraries alone were measured to take 0.5 GB of a process."""
NO_LIMIT = 1 << 60
"""Version 1 of cgroups says so when there is none, with some number close to 2**63."""


def check_memory(situation: Situation) -> Iterator[Finding]:
    """What is free of the machine's memory, and of what this container or job may take of it."""
    free, total = available_bytes()
    ranks = situation.place.local_world_size
    text = f"{size(free)} of {size(total)} free for {ranks} rank{'s' if ranks > 1 else ''}"
    whole = _meminfo()["MemTotal"]
    if total < whole:
        text += f" (the limit of this container or job; the machine has {size(whole)})"
    if free < LEAST_RANK_BYTES * ranks:
        yield warning(
            f"{text}; libraries alone take up to {size(LEAST_RANK_BYTES)} a rank",
            "end other processes, ask for more memory (sbatch --mem, docker run --memory), or start fewer ranks",
        )
    else:
        yield well(text)


def available_bytes() -> tuple[int, int]:
    """(free, total) memory in bytes for this process: the machine's, or what its cgroup leaves."""
    info = _meminfo()
    free, total = info["MemAvailable"], info["MemTotal"]
    for limit, used in _memory_groups():
        if limit < total:
            free, total = min(free, max(0, limit - used)), limit
    return free, total


def _meminfo() -> dict[str, int]:
    rows = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 2}


def _memory_groups() -> Iterator[tuple[int, int]]:
    """(limit, used) bytes of each memory cgroup with a limit that this process is in, those above included."""
    for folder, kind in _groups("memory"):
        limit_file, used_file = {
            "": ("memory.max", "memory.current"),
            "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        }[kind]
        limit, used = _number(folder / limit_file), _number(folder / used_file)
        if limit is not None and limit < NO_LIMIT:
            yield limit, used or 0


def _groups(controller: str) -> Iterator[tuple[Path, str]]:
    """The cgroup folders of this process and those above: (folder, "" for version 2 or the controller's name for version 1)."""
    listed = PROC / "self" / "cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        inner = root / path.lstrip("/")
        # Inside a container the path may be the host's; what the container itself may take is then at the root.
        for folder in dict.fromkeys([inner, *inner.parents, root]):
            if folder.is_relative_to(root) and folder.is_dir():
                yield folder, controller if controllers else ""


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None  # absent in the root group; "max" where there is no limit


def check_cores(situation: Situation) -> Iterator[Finding]:
    """Cores of this process, shared by the ranks of the machine, and the threads each is going to start."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota, ranks = cpu_quota(), situation.place.local_world_size
    allowed = cores if quota is None else min(float(cores), quota)
    threads = situation.env.get("OMP_NUM_THREADS", "")
    text = f"{allowed:g} cores for {ranks} rank{'s' if ranks > 1 else ''}"
    if quota is not None and quota < cores:
        text += f" (a quota; {cores} are to be seen)"
    if threads and not threads.isdecimal():
        yield warning(f"{text}, OMP_NUM_THREADS={threads}", "set it to a whole number, or unset it")
    elif threads and int(threads) * ranks > allowed:
        yield warning(
            f"{text}, but OMP_NUM_THREADS={threads} each: they slow each other down many times over",
            f"OMP_NUM_THREADS={max(1, int(allowed // ranks))}",
        )
    elif not threads and allowed < cores:
        yield warning(
            f"{text}; torch would start {cores // ranks} threads a rank",
            f"OMP_NUM_THREADS={max(1, int(allowed // ranks))}",
        )
    elif allowed < ranks:
        yield warning(
            f"{text}: they slow each other down", "start fewer ranks, or ask for more cores (--cpus-per-task)"
        )
    else:
        yield well(f"{text}, OMP_NUM_THREADS={threads or 'not set (a rank takes its share)'}")


def cpu_quota() -> float | None:
    """Cores that this process's cgroups allow at once; None without a limit."""
    found = []
    for folder, kind in _groups("cpu"):
        if kind:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        else:
            words = (folder / "cpu.max").read_text().split() if (folder / "cpu.max").is_file() else ["max"]
            quota, period = (None, None) if words[0] == "max" else (int(words[0]), int(words[1]))
        if quota is not None and quota > 0 and period:
            found.append(quota / period)
    return min(found, default=None)


# ----------------------------------------------------------------------------------------------------------- Slurm


def check_slurm(situation: Situation) -> Iterator[Finding]:
    """Inside a job: whether its ranks are those that were asked for, and whether it comes back when it is preempted."""
    env = situation.env
    job = env.get("SLURM_JOB_ID")
    if job is None:
        yield well("not in a Slurm job")
        return
    tasks, ranks = int(env.get("SLURM_NTASKS", "1")), situation.place.world_size
    text = f"job {job}, {tasks} tasks on {env.get('SLURM_JOB_NODELIST', '?')}"
    if ranks < tasks:
        yield warning(f"{text}, but {ranks} of them examined", "start with srun: srun python launchers/doctor.py ...")
    gpus, here = env.get("SLURM_GPUS_ON_NODE", ""), situation.place.local_world_size
    if gpus.isdecimal() and here < int(gpus):
        yield warning(f"{text}: {here} ranks, but {gpus} GPUs on this node", "--ntasks-per-node as many as GPUs a node")
    said = _job(job, situation)
    if said.get("Requeue") == "0":
        yield warning(
            f"{text}: not to be requeued when it is preempted", "sbatch --requeue, as launchers/slurm/train.sbatch does"
        )
    script = _script(job, situation)  # none in an interactive job
    if script and "--signal" not in script and "SBATCH_SIGNAL" not in env:
        yield warning(
            f"{text}: its script asks for no signal before the time limit ({said.get('TimeLimit', '?')})",
            "#SBATCH --signal=USR1@600, as in launchers/slurm/train.sbatch (none is needed if sbatch --signal was given)",
        )
    if not said:
        yield warning(f"{text}: scontrol does not answer", "nothing can be said about requeueing; look at slurmctld")
    else:
        yield well(f"{text}, requeue {said.get('Requeue', '?')}, time limit {said.get('TimeLimit', '?')}")


def _job(job: str, situation: Situation) -> Mapping[str, str]:
    """What Slurm knows of the job, as {"Requeue": "1", ...}; empty when it does not answer."""
    shown = _ask(situation, "scontrol", "show", "job", "-o", job)
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)


def _script(job: str, situation: Situation) -> str:
    return _ask(situation, "scontrol", "write", "batch_script", job, "-")


def _ask(situation: Situation, *command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=situation.limit_sec / 3, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
