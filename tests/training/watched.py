"""Run by test_watch.py: two ranks that train by the loop's own phases; one of them stops (SIGSTOP), hangs, or dies at step 3.

python tests/training/watched.py FOLDER HOW     with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set; HOW: stop, hang, die
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from three_stages import settings  # noqa: E402

from imanim import cli, distributed  # noqa: E402
from imanim.config import load  # noqa: E402

TIMEOUT_SEC = 6.0
STEPS_BEFORE = 3


def main(argv: list[str]) -> int:
    folder, how = Path(argv[0]), argv[1]
    from imanim.training import batches, plan
    from imanim.training.config import TrainConfig
    from imanim.training.loop import train

    honest = batches.training_batches

    def feed(*arguments, **named):  # type: ignore[no-untyped-def]
        for number, batch in enumerate(honest(*arguments, **named)):
            if number == STEPS_BEFORE and distributed.place().rank == 1:
                FAILURES[how]()
            yield batch

    batches.training_batches = feed
    overrides = settings(folder, how, **{"model": folder / "toy.yaml", "failures.timeout_sec": TIMEOUT_SEC})
    train(plan.make(load(TrainConfig, REPOSITORY / "configs" / "stage1.yaml", overrides)))
    distributed.stop()
    return 0


def hang() -> None:
    for _ in itertools.count():
        time.sleep(1)


FAILURES = {
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": hang,
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


if __name__ == "__main__":
    distributed.prepare_environment()
    cli.run(main)
