"""Starts a test's script on several ranks of this machine, as users start a training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from imanim.distributed import free_port


def launch(script: str | Path, ranks: int, *words: object, timeout_sec: float = 1800, **environment: object) -> None:
    """``deepspeed --num_gpus RANKS SCRIPT WORDS``, on the CPU, a thread a rank. Fails with what the script said."""
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(ranks)]
    done = subprocess.run(
        [*launcher, "--master_port", str(free_port()), str(script), *map(str, words)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **{k: str(v) for k, v in environment.items()},
        },
        capture_output=True,
        text=True,
        timeout=timeout_sec,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
