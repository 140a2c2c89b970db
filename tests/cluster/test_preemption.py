"""On a real Slurm of two nodes: a run is preempted, saves, is requeued, goes on, and ends as if nothing had happened."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import slurm

from imanim.training.monitor import read_metrics

STEPS = 60

pytestmark = pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "runs")


def training(folder: Path, output: str) -> list[str]:
    """The arguments of sbatch: the script users submit, on all CPUs of both nodes."""
    settings = {
        "data.train": folder / "shards",
        "model": folder / "toy.yaml",
        "output": folder / output,
        "data.workers": 1,
        "max_steps": STEPS,
        "batch.global_size": 4,
        "objective.vq_start_fraction": 0.3,
        "monitor.log_every": 1,
        "monitor.validate_every": 10,
        "monitor.validation_batches": 2,
        "monitor.picture_every": 0,
        "monitor.checkpoint_every": 1000,
        "monitor.tensorboard": "false",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    where = ["--nodes", "2", "--ntasks-per-node", "1", "--exclusive", "--output", str(folder / f"{output}.log")]
    return [*where, "launchers/slurm/train.sbatch", "--config", "configs/stage1.yaml", *words]


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(folder) if "loss" in row}


def test_a_preempted_run_saves_is_requeued_and_ends_as_if_nothing_had_happened(folder: Path, env: dict[str, str]):
    whole = slurm.submit(env, *training(folder, "whole"))
    slurm.wait_for(lambda: slurm.state(env, whole) in ("COMPLETED", "FAILED"), 180)
    assert slurm.state(env, whole) == "COMPLETED", (folder / "whole.log").read_text()[-2000:]

    cut, log = slurm.submit(env, *training(folder, "cut")), folder / "cut.log"
    slurm.wait_for(lambda: log.is_file() and "step 7/" in log.read_text(), 120)
    urgent = slurm.submit(
        env, "--partition", "high", "--nodes", "2", "--exclusive", "--output", "/dev/null", "--wrap", "sleep 1"
    )
    slurm.wait_for(lambda: slurm.state(env, urgent) == "COMPLETED", 120)
    slurm.wait_for(lambda: slurm.state(env, cut) == "COMPLETED", 240)

    said = log.read_text()
    assert "life 1, 2 ranks" in said and "life 2, 2 ranks" in said and "stopped after step" in said
    stopped = int(said.partition("stopped after step ")[2].split()[0])
    assert 7 <= stopped < STEPS and f"continues after step {stopped}:" in said
    assert losses(folder / "cut") == losses(folder / "whole")
    assert list(losses(folder / "whole")) == list(range(1, STEPS + 1))


def test_out_of_time_a_run_asks_to_be_requeued(folder: Path, env: dict[str, str]):
    """USR1 alone, as Slurm sends it before the time limit: the job itself asks to be requeued."""
    job, log = slurm.submit(env, *training(folder, "timed")), folder / "timed.log"
    slurm.wait_for(lambda: log.is_file() and "step 3/" in log.read_text(), 120)
    subprocess.run(["scancel", "--signal", "USR1", str(job)], env=env, check=True)
    slurm.wait_for(lambda: "saved; asking to be requeued" in log.read_text(), 60)
    slurm.wait_for(lambda: slurm.state(env, job) == "COMPLETED", 240)
    assert "life 2" in log.read_text()
    assert losses(folder / "timed") == losses(folder / "whole")
