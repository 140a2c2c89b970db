"""Run by test_killed.py: a run on two ranks of which one is killed (kill -9) at random moments, again and again.

python tests/training/killed_ranks.py FOLDER KILLS     (FOLDER holds toy.yaml and shards/); prints a JSON object
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from three_stages import settings  # noqa: E402

from imanim import distributed  # noqa: E402
from imanim.config import load  # noqa: E402

EVERY = 2
PATIENCE_SEC = 60.0


def main(folder: Path, kills: int) -> None:
    distributed.prepare_environment()
    # Everything is imported once; a life begins with a fork.
    import deepspeed.runtime.zero.muon.original_muon  # noqa: F401  torch.compile at import: seconds

    from imanim.training import checkpoint, loop  # noqa: F401

    moments, lost = random.Random(0), []
    for _ in range(kills):
        before = newest(folder / "killed")
        ranks = [
            born(folder, "killed", 10_000, rank, 2, port) for port in [distributed.free_port()] for rank in range(2)
        ]
        until = time.monotonic() + PATIENCE_SEC
        while newest(folder / "killed") <= before:  # at least one checkpoint more in every life
            assert time.monotonic() < until, "no checkpoint came"
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.6))
        had, victim = newest(folder / "killed"), moments.randrange(2)
        os.kill(ranks[victim], signal.SIGKILL)
        time.sleep(0.2)
        lost.append(newest(folder / "killed") < had)
        os.kill(ranks[1 - victim], signal.SIGKILL)  # as launchers do
        for rank in ranks:
            _, status = os.waitpid(rank, 0)
            assert os.WIFSIGNALED(status) or rank == ranks[1 - victim], "the victim ended by itself"
    end = newest(folder / "killed")
    for output in ("killed", "undisturbed"):
        ranks = [
            born(folder, output, end + EVERY, rank, 2, port) for port in [distributed.free_port()] for rank in range(2)
        ]
        assert all(os.waitpid(rank, 0)[1] == 0 for rank in ranks), output
    print(json.dumps({"steps": end + EVERY, "lost": sum(lost)}))


def born(folder: Path, output: str, steps: int, rank: int, ranks: int, port: int) -> int:
    """Forks a rank that trains. Returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        train(folder, output, steps)
        os._exit(0)
    except BaseException as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def train(folder: Path, output: str, steps: int) -> None:
    from imanim.training import loop, plan
    from imanim.training.config import TrainConfig

    changed = {
        "model": folder / "toy.yaml",
        "max_steps": steps,
        "optimizer.schedule": "constant",
        "ema_decay": 0.9,
        "objective.vq_start_fraction": 0,
        "monitor.checkpoint_every": EVERY,
        "monitor.validate_every": 0,
        "monitor.picture_every": 0,
    }
    loop.train(
        plan.make(load(TrainConfig, REPOSITORY / "configs" / "stage1.yaml", settings(folder, output, **changed)))
    )
    distributed.stop()


def newest(output: Path) -> int:
    from imanim.training import checkpoint

    found = checkpoint.complete(output)
    return int(found[-1].name[5:]) if found else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
