"""Checks of what lies between ranks: reduce and broadcast, with a limit in time; the same software everywhere; the clocks."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imanim import distributed
from imanim.doctor.findings import Finding, Situation, problem, warning, well
from imanim.errors import InputError

REMEDIES = {
    "start": "importing torch takes that long: a slow disk or network file system; copy the environment to a local disk",
    "device": "one rank a GPU: start fewer ranks (--num_gpus, --nproc_per_node, --ntasks-per-node) or change CUDA_VISIBLE_DEVICES",
    "address": "MASTER_ADDR must be the first rank's machine, its name must resolve here, and no firewall may close MASTER_PORT",
    "ranks": "look at what the missing ranks print; start as many processes as WORLD_SIZE says",
    "group": "a firewall between the machines, or the wrong network: set {socket}=INTERFACE (see `ip addr`) on all of them{nccl}",
    "all-reduce": "connections open but do not carry data: compare MTU and firewalls, try another {socket}{nccl}",
    "broadcast": "connections open but do not carry data: compare MTU and firewalls, try another {socket}{nccl}",
    "clock": "a rank has stopped; look at what it printed",
}
"""Stage to what helps when it fails or hangs."""
SOCKET = {"nccl": "NCCL_SOCKET_IFNAME", "gloo": "GLOO_SOCKET_IFNAME"}
NCCL_HINT = ", NCCL_DEBUG=INFO tells more, NCCL_IB_DISABLE=1 and NCCL_P2P_DISABLE=1 leave InfiniBand and NVLink out"
SLACK_SEC = 5.0
"""A peer that notices itself that time is up gets to say why, before it is ended."""
SLOW_GPU_GB_PER_SEC = 1.0
APART_SEC = 1.0


class Link:
    """A running :mod:`imanim.doctor.peer`.

    Attributes:
        stage: the last one it entered.
        backend: ``gloo`` or ``nccl``, once known.
        answer: its result; None when there is none.
        failure: why there is none.
    """

    def __init__(self, env: Mapping[str, str], limit_sec: float):
        read, write = os.pipe()
        # What libraries print (NCCL_DEBUG) must not mix with what the peer says, so that has a pipe of its own.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "imanim.doctor.peer", str(write), str(limit_sec)],
            env={**os.environ, **env, "PYTHONPATH": _import_path()},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(write,),
            text=True,
        )
        os.close(write)
        self._said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, args=(read,), daemon=True).start()
        self.limit_sec, self.stage, self.backend = limit_sec, "start", "gloo"
        self.answer: dict[str, Any] | None = None
        self.failure = ""

    def _listen(self, read: int) -> None:
        with os.fdopen(read) as lines:
            for line in lines:
                self._said.put(json.loads(line))
        self._said.put(None)

    def follow(self, until: str, limit_sec: float) -> Any:
        """Waits until the peer says ``until`` and returns that; None when it fails, ends, or stays in a stage for too long."""
        while not self.failure:
            try:
                said = self._said.get(timeout=limit_sec + SLACK_SEC)
            except queue.Empty:
                self.failure = f"nothing happens for {limit_sec:.0f} s"
                break
            if said is None:
                self.failure = f"its process ended with {self._process.wait()}: {self.last_words()}"
            elif "error" in said:
                self.failure = said["error"]
            elif "missing" in said:
                self.failure = f"no word from rank {', '.join(map(str, said['missing']))} in {limit_sec:.0f} s"
            elif until in said:
                return said[until]
            else:
                self.stage, self.backend = said["stage"], said.get("backend", self.backend)
        return None

    def run(self) -> None:
        """Follows the peer to its result."""
        self.answer = self.follow("result", self.limit_sec)

    def hand_over(self, value: Any, limit_sec: float) -> list[Any] | None:
        """Gives everybody ``value``; returns everybody's, or None when a rank no longer answers."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.failure = f"its process has ended: {self.last_words()}"
        return self.follow("findings", limit_sec)

    def last_words(self) -> str:
        """The last line it printed."""
        self._log.seek(0)
        return (self._log.read().strip().splitlines() or ["no message"])[-1]

    def close(self, patience_sec: float = 0.0) -> None:
        """Ends the process: after ``patience_sec`` for one whose store others may still read."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(patience_sec)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._log.close()


def _import_path() -> str:
    """So that the peer imports this very package, installed or not."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])


def start(situation: Situation) -> list[Link]:
    """One link for this rank among those started; alone, some ranks of this machine. Raises InputError without an address."""
    here = situation.place
    if here.world_size > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise InputError(
                f"{' and '.join(missing)} not set for {here.world_size} ranks; the first node's name and a free port, as "
                "launchers/slurm/train.sbatch sets them"
            )
        who = {"RANK": here.rank, "WORLD_SIZE": here.world_size, "LOCAL_RANK": here.local_rank}
        return [Link({name: str(value) for name, value in who.items()}, situation.limit_sec)]
    ranks, only = local_ranks()
    port = distributed.free_port()
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **only}
    return [Link({**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, situation.limit_sec) for r in range(ranks)]


def local_ranks() -> tuple[int, dict[str, str]]:
    """How many ranks to try on this machine, and their environment: one a GPU; with fewer than two GPUs, two on the CPU."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return (gpus, {}) if gpus > 1 else (2, {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})


# -------------------------------------------------------------------------------------------------------- findings


def report(links: list[Link], situation: Situation) -> Iterator[Finding]:
    """What the links, followed to their end, have to say."""
    failed = [(number, link) for number, link in enumerate(links) if link.answer is None]
    for number, link in failed:
        rank = situation.place.rank if situation.place.world_size > 1 else number
        words = {"socket": SOCKET[link.backend], "nccl": NCCL_HINT if link.backend == "nccl" else ""}
        where = (
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            if situation.place.world_size > 1
            else "this machine"
        )
        what = f"rank {rank}, stage {link.stage} ({link.backend}, {where}): {link.failure}"
        yield problem(what, REMEDIES[link.stage].format(**words))
    if not failed and links:
        answer = links[0].answer
        assert answer is not None
        yield from _speeds(answer)
        yield from _agreement(answer["facts"])
        yield from _clocks(answer)


def _speeds(answer: Mapping[str, Any]) -> Iterator[Finding]:
    facts, backend = answer["facts"], answer["backend"]
    hosts = len({fact["host"] for fact in facts})
    text = f"{len(facts)} ranks on {hosts} machine{'s' if hosts > 1 else ''} over {backend}: "
    for name in ("all-reduce", "broadcast"):
        if not answer[name]["right"]:
            yield problem(
                f"{text}{name} gives wrong numbers",
                "try NCCL_P2P_DISABLE=1, then NCCL_IB_DISABLE=1; do not train on this",
            )
    speeds = {name: answer[name]["gb_per_sec"] for name in ("all-reduce", "broadcast")}
    text += ", ".join(f"{name} {speed:.2g} GB/s" for name, speed in speeds.items())
    if backend == "nccl" and speeds["all-reduce"] < SLOW_GPU_GB_PER_SEC:
        yield warning(
            f"{text}: slow",
            "NCCL_DEBUG=INFO shows which network it took; NCCL_SOCKET_IFNAME, NCCL_IB_HCA choose another",
        )
    else:
        yield well(text)


def _agreement(facts: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether all ranks run the same."""
    apart = 0
    for name in facts[0]["versions"]:
        apart += yield from _same(
            name, [fact["versions"].get(name) for fact in facts], facts, problem, "install the same on every machine"
        )
    apart += yield from _same(
        "git revision",
        [fact["revision"] for fact in facts],
        facts,
        problem,
        "check out the same commit on every machine",
    )
    apart += yield from _same(
        "device",
        [fact["device"] for fact in facts],
        facts,
        warning,
        "every rank waits for the slowest; choose equal ones",
    )
    if not apart:
        revision = (facts[0]["revision"] or "unknown")[:12]
        yield well(f"all ranks have the same versions, git revision ({revision}) and device ({facts[0]['device']})")


def _same(name: str, values: list[Any], facts: list[dict[str, Any]], kind: Any, remedy: str) -> Any:
    """A finding when values differ; returns 1 then, else 0."""
    by_value: dict[str, list[str]] = {}
    for rank, (value, fact) in enumerate(zip(values, facts)):
        by_value.setdefault(str(value), []).append(f"rank {rank} on {fact['host']}")
    if len(by_value) < 2:
        return 0
    yield kind(f"{name} differs: " + ", ".join(f"{value} ({ranks[0]})" for value, ranks in by_value.items()), remedy)
    return 1


def _clocks(answer: Mapping[str, Any]) -> Iterator[Finding]:
    clocks = answer["clocks_sec"]
    apart = max(clocks) - min(clocks)
    if apart > APART_SEC:
        host = answer["facts"][max(range(len(clocks)), key=lambda rank: abs(clocks[rank]))]["host"]
        yield warning(
            f"clocks are {apart:.1f} s apart ({host})",
            "set them by NTP (timedatectl): logs mislead, and munge may refuse jobs",
        )
    else:
        yield well(f"clocks agree within {max(apart, 1e-3) * 1e3:.0f} ms")
