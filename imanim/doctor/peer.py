"""A process of its own for each rank that tries the links between ranks: `python -m imanim.doctor.peer FD`.

It may hang, as training would; whoever started it (:mod:`imanim.doctor.links`) then knows at which stage and ends it. It writes a
JSON line to file descriptor FD for every stage it enters, then its result; a line on its standard input is handed to the others.
Nothing is pickled: what ranks tell each other is JSON in torch's key-value store, which has connections of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from imanim import distributed

if TYPE_CHECKING:
    import torch

BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
TRIAL_ELEMENTS = {"cuda": 64 << 20, "cpu": 4 << 20}
"""float32 numbers of the messages whose speed is measured: 256 MiB over NVLink or InfiniBand, 16 MiB over a socket."""
TIMES = 5
LONG_SEC = 900.0
"""How long ranks wait for each other's findings once all links have proved sound."""


class Peer:
    """One rank. ``told`` writes to whoever started it."""

    def __init__(self, told: Any, limit_sec: float):
        self.told, self.limit = told, timedelta(seconds=limit_sec)
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def say(self, **what: Any) -> None:
        print(json.dumps(what), file=self.told, flush=True)

    def run(self) -> None:
        """All stages; says the result, then hands over what comes in on standard input and says what the others handed over."""
        self.say(stage="start")
        import torch
        from torch import distributed as dist

        self.say(stage="device")
        device = self._device()
        mine = facts(device)
        self.say(stage="address")
        self.store = dist.PrefixStore("imanim-doctor", self._connect())
        self.say(stage="ranks")
        self._tell("facts", mine)
        missing = self._wait("facts", self.limit)
        if missing:
            self.say(missing=missing)
            return
        everyone = self._hear("facts")
        self.say(stage="group", backend=BACKENDS[device.type])
        dist.init_process_group(
            BACKENDS[device.type],
            store=dist.PrefixStore("group", self.store),
            rank=self.rank,
            world_size=self.world,
            timeout=self.limit,
            device_id=device if device.type == "cuda" else None,
        )
        dist.barrier()
        self.say(stage="all-reduce")
        reduce = self._slowest("all-reduce", self._all_reduce(device))
        self.say(stage="broadcast")
        broadcast = self._slowest("broadcast", self._broadcast(device))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the check of GPUs is to see what others use
        self.say(stage="clock")
        clocks = self._clocks()
        what = {"backend": BACKENDS[device.type], "all-reduce": reduce, "broadcast": broadcast}
        self.say(result={**what, "clocks_sec": clocks, "facts": everyone})
        self._hand_over()
        distributed.stop()

    def _connect(self) -> torch.distributed.Store:
        """The store at MASTER_ADDR:MASTER_PORT: torchrun has one there, else the first rank opens it."""
        from torch.distributed import TCPStore

        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            None if agent else self.world,
            self.rank == 0 and not agent,
            timeout=self.limit,
            wait_for_workers=False,
        )

    def _device(self) -> torch.device:
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cuda", torch.cuda.current_device())

    # ------------------------------------------------------------------------------------------- through the store

    def _tell(self, what: str, value: Any) -> None:
        self.store.set(f"{what}/{self.rank}", json.dumps(value))

    def _hear(self, what: str) -> list[Any]:
        return [json.loads(self.store.get(f"{what}/{rank}")) for rank in range(self.world)]

    def _wait(self, what: str, limit: timedelta) -> list[int]:
        """The ranks that have not told in time."""
        end = time.monotonic() + limit.total_seconds()
        missing = list(range(self.world))
        while missing and time.monotonic() < end:
            missing = [rank for rank in missing if not self.store.check([f"{what}/{rank}"])]
            if missing:
                time.sleep(0.1)
        return missing

    def _slowest(self, what: str, mine: dict[str, Any]) -> dict[str, Any]:
        """What was measured, the same on every rank: right when all are, as fast as the slowest."""
        self._tell(what, mine)
        self._wait(what, self.limit)
        everyone = self._hear(what)
        return {
            "right": all(one["right"] for one in everyone),
            "gb_per_sec": min(one["gb_per_sec"] for one in everyone),
        }

    def _hand_over(self) -> None:
        """A line from standard input to everybody, and everybody's to whoever started us.

        A launcher ends all ranks when one leaves with an error: so nobody leaves before the first rank, which prints, has closed
        our standard input; and the first, whose process has the store, leaves last.
        """
        line = sys.stdin.readline()
        if not line:
            return
        self._tell("findings", json.loads(line))
        missing = self._wait("findings", timedelta(seconds=LONG_SEC))
        if not missing:
            self.say(findings=self._hear("findings"))
        else:
            self.say(missing=missing)
        if self.rank == 0:
            sys.stdin.read()
            self._tell("left", True)
            self._wait("left", self.limit)
        else:
            self.store.wait(["left/0"], timedelta(seconds=LONG_SEC))
            self._tell("left", True)

    # ------------------------------------------------------------------------------------------------- collectives

    def _all_reduce(self, device: torch.device) -> dict[str, Any]:
        """Everybody adds a pattern times its rank + 1; the sum is known, and exact in float32."""
        import torch
        from torch import distributed as dist

        mine = self._pattern(device) * (self.rank + 1)
        total = mine.clone()
        dist.all_reduce(total)
        right = torch.equal(total, self._pattern(device) * (self.world * (self.world + 1) // 2))
        seconds = self._time(lambda: dist.all_reduce(mine.copy_(total)), device)
        # Bytes that cross each rank's link in a ring, so that numbers of different worlds compare.
        moved = 2 * (self.world - 1) / self.world * mine.numel() * 4
        return {"right": right, "gb_per_sec": moved / seconds / 1e9}

    def _broadcast(self, device: torch.device) -> dict[str, Any]:
        """The last rank's pattern, on every rank."""
        import torch
        from torch import distributed as dist

        mine = self._pattern(device) + self.rank
        dist.broadcast(mine, self.world - 1)
        right = torch.equal(mine, self._pattern(device) + self.world - 1)
        seconds = self._time(lambda: dist.broadcast(mine, self.world - 1), device)
        return {"right": right, "gb_per_sec": mine.numel() * 4 / seconds / 1e9}

    def _pattern(self, device: torch.device) -> torch.Tensor:
        import torch

        return torch.arange(TRIAL_ELEMENTS[device.type], device=device, dtype=torch.int32).remainder_(251).float()

    def _time(self, work: Any, device: torch.device) -> float:
        """The median of a few, each from a barrier on, in seconds."""
        import torch
        from torch import distributed as dist

        found = []
        for _ in range(TIMES):
            dist.barrier()
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(time.perf_counter() - started)
        return statistics.median(found)

    def _clocks(self) -> list[float]:
        """Every rank's clock at the end of a barrier minus the first's, in seconds: the median of a few, good to milliseconds."""
        from torch import distributed as dist

        times = []
        for _ in range(TIMES):
            dist.barrier()
            times.append(time.time())
        self._tell("times", times)
        self._wait("times", self.limit)
        everyone = self._hear("times")
        return [statistics.median(a - b for a, b in zip(times, everyone[0])) for times in everyone]


def facts(device: torch.device) -> dict[str, Any]:
    """What ranks should have in common (``versions``, ``revision``, ``device``), and where this one is."""
    import platform
    from importlib import metadata

    import torch

    import imanim
    from imanim.doctor.findings import hostname
    from imanim.revision import revision

    names = ("torch", "deepspeed", "diffusers", "transformers", "numpy", "av")
    versions = {"python": platform.python_version(), "imanim": imanim.__version__, "CUDA": torch.version.cuda}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    if device.type == "cuda":
        versions["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"host": hostname(), "versions": versions, "revision": revision(), "device": name}


def main(words: list[str]) -> int:
    descriptor, limit_sec = int(words[0]), float(words[1])
    with os.fdopen(descriptor, "w") as told:
        peer = Peer(told, limit_sec)
        try:
            peer.run()
        except Exception as error:
            peer.say(error=f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}")
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
