"""Process set-up and agreement between ranks, whoever started them: deepspeed, torchrun, srun or plain python.

Nothing heavy is imported at module level, so that a launcher can call :func:`prepare_environment` before torch starts its
thread pools.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imanim.errors import InputError

if TYPE_CHECKING:
    import torch


GLOO_THREAD = "pt_gloo_runloop"
"""What torch calls the threads that do gloo's collectives."""


@dataclass(frozen=True)
class Place:
    """Where this process stands: its rank among all processes and among those of its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def place(env: Mapping[str, str] | None = None) -> Place:
    """Reads the place from the variables that ``deepspeed``, ``torchrun`` or ``srun`` set; a plain process is a world of one.

    Raises:
        InputError: when the variables are incomplete or contradict each other.
    """
    env = os.environ if env is None else env
    if "RANK" not in env and "WORLD_SIZE" not in env:
        return _place_in_slurm(env)
    try:
        rank, world_size = int(env["RANK"]), int(env["WORLD_SIZE"])
        local_rank = int(env.get("LOCAL_RANK", "0"))
        # torchrun says LOCAL_WORLD_SIZE, the deepspeed launcher LOCAL_SIZE.
        local_size = int(env.get("LOCAL_WORLD_SIZE") or env.get("LOCAL_SIZE") or world_size)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"environment: RANK and WORLD_SIZE must both be whole numbers ({error}); "
            "unset them for one process, or start with `deepspeed` or `torchrun`"
        ) from None
    if not 0 <= rank < world_size:
        raise InputError(f"environment: RANK={rank} is outside WORLD_SIZE={world_size}; unset both for one process")
    return Place(rank, world_size, local_rank, local_size)


def _place_in_slurm(env: Mapping[str, str]) -> Place:
    """The place in a job step of ``srun``. A batch script itself is none: what it starts without srun is a world of one."""
    if "SLURM_STEP_NUM_TASKS" not in env or "SLURM_PROCID" not in env:
        return Place()
    try:
        on_node = int(env["SLURM_STEP_TASKS_PER_NODE"].split("(")[0].split(",")[0])
        return Place(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"]), on_node)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"environment: the variables of srun are not as expected ({error}); start with srun, or set RANK, WORLD_SIZE and "
            "LOCAL_RANK"
        ) from None


def prepare_environment() -> Place:
    """Sets what libraries read once, when they are imported. Call it before importing torch or deepspeed.

    Two ranks that each start a thread per core slow each other down up to thirty times: each gets its share of cores.
    """
    here = place()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // here.local_world_size)))
    return here


def start(timeout_sec: float = 1800.0) -> torch.device:
    """Joins the process group and returns this rank's device.

    Args:
        timeout_sec: how long a rank waits for another one before it gives up.

    Raises:
        InputError: when there are fewer GPUs than ranks on this machine.
    """
    import torch

    here = place()
    if here.world_size == 1 and "MASTER_PORT" not in os.environ:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"environment: {' and '.join(missing)} not set for {here.world_size} ranks; the first node's name and a free port "
            "(launchers/slurm/train.sbatch sets both)"
        )
    os.environ.update(RANK=str(here.rank), WORLD_SIZE=str(here.world_size), LOCAL_RANK=str(here.local_rank))
    if torch.cuda.is_available():
        if here.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"environment: LOCAL_RANK={here.local_rank}, but this machine shows {torch.cuda.device_count()} GPUs; "
                "start fewer ranks (--num_gpus, --nproc_per_node) or change CUDA_VISIBLE_DEVICES"
            )
        device, backend = torch.device("cuda", here.local_rank), "nccl"
        torch.cuda.set_device(device)
    else:
        device, backend = torch.device("cpu"), "gloo"
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_sec))
    return device


def stop() -> None:
    """Leaves the process group; the process may end then."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    settle()


def settle(limit_sec: float = 10.0) -> None:
    """Waits until gloo's threads hold no tensors of ours any more; a process that ends before that may abort (exit code 134).

    Such a thread drops a collective's tensors after it has said that the collective is done, and needs the interpreter for it;
    Python before 3.14 unwinds a thread that asks for an interpreter that is ending, through destructors that must not throw.
    Leaving the group joins its threads only where nobody else refers to it, and DeepSpeed does. Looks only where /proc is.
    """
    end = time.monotonic() + limit_sec
    before = None
    now = _gloo_at_rest()
    while now != {} and (now is None or now != before) and time.monotonic() < end:
        time.sleep(0.002)  # the interpreter is free meanwhile: a thread that waits for it is awake after this
        before, now = now, _gloo_at_rest()


def _gloo_at_rest() -> dict[str, str] | None:
    """How often each of gloo's threads has gone to sleep so far; None if one is awake."""
    slept = {}
    for thread in Path("/proc/self/task").glob("*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in thread.read_text().splitlines() if ":\t" in line)
        except OSError:  # it has ended meanwhile
            continue
        if lines["Name"] != GLOO_THREAD:
            continue
        if not lines["State"].startswith("S"):
            return None
        slept[thread.parent.name] = lines["voluntary_ctxt_switches"]
    return slept


def any_rank(*flags: bool, device: torch.device) -> list[bool]:
    """Whether each flag is up on at least one rank: the same answer everywhere, so that all ranks turn together."""
    import torch

    up = torch.tensor([float(f) for f in flags], device=device)
    torch.distributed.all_reduce(up, op=torch.distributed.ReduceOp.MAX)
    return [value > 0 for value in up.tolist()]


def tell(*values: float, device: torch.device) -> list[list[float]]:
    """Everybody's numbers: for each of ``values`` a list with that of every rank. One small collective; NaN stays whose it is."""
    import torch

    here = place()
    table = torch.zeros(len(values), here.world_size, dtype=torch.float64, device=device)
    table[:, here.rank] = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(table)
    return table.tolist()


def mean_over_ranks(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The mean over ranks of each value. Every rank must give the same keys."""
    import torch

    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return dict(zip(names, (total / torch.distributed.get_world_size()).tolist()))


def gather(value: Any) -> list[Any]:
    """Everybody's small value, in the order of ranks, on every rank."""
    import torch

    out: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(out, value)
    return out


def from_first(value: Any) -> Any:
    """The first rank's value on every rank: a decision about files that only one rank should take."""
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of torch.distributed means that another rank has gone."""
    import torch

    known = (torch.distributed.DistBackendError, torch.distributed.DistNetworkError)
    return isinstance(error, known) or any(
        text in str(error) for text in ("closed by peer", "reset by peer", "timed out")
    )


def barrier() -> None:
    """Waits for every rank."""
    import torch

    torch.distributed.barrier()


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
