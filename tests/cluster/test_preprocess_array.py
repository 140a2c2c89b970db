"""Preprocessing as a Slurm array over two nodes: the same bytes as on one machine, also when a task is cut short."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import slurm

sys.path.insert(0, str(slurm.ROOT / "tests" / "data_pipeline"))

from moving_disc import disc_frames, settings, write
from test_job import bytes_of

from data_pipeline.jobs import job
from imanim.config import to_yaml

pytestmark = pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "runs")
SCRIPT = "launchers/slurm/preprocess.sbatch"


def test_an_array_makes_what_one_machine_makes_and_a_requeued_task_goes_on(
    folder: Path, env: dict[str, str], tmp_path: Path
):
    videos = tmp_path / "in"
    videos.mkdir()
    for i in range(5):
        write(videos / f"v{i}.mp4", disc_frames(90 + 10 * i, blue=10 + 20 * i, ground=60 + 10 * i))
    write(videos / "pair.mp4", np.concatenate([disc_frames(60), disc_frames(60)], axis=2))
    (videos / "torn.mp4").write_bytes((videos / "v0.mp4").read_bytes()[:5000])
    here, there = settings(videos, tmp_path / "here"), settings(videos, tmp_path / "there", workers=1)
    job.run(here, progress=False)

    (tmp_path / "job.yaml").write_text(to_yaml(there))
    words = ("--config", str(tmp_path / "job.yaml"))
    env = {**env, "PYTHONPATH": os.pathsep.join([str(slurm.ROOT / "tests" / "data_pipeline"), str(slurm.ROOT)])}
    slurm.run(env, tmp_path / "plan.log", 60, SCRIPT, "plan", *words)
    array = slurm.submit(env, "--output", str(tmp_path / "task-%a.log"), "--array=1-3", SCRIPT, *words)
    merge = slurm.submit(
        env, "--output", str(tmp_path / "merge.log"), f"--dependency=afterok:{array}", SCRIPT, "merge", *words
    )
    slurm.wait_for(lambda: list((tmp_path / "there").rglob("row-*.json")), 60)
    slurm.ask(env, "scontrol", "requeue", f"{array}_1")  # as a preempted node would
    slurm.wait_for(lambda: slurm.state(env, merge) in slurm.ENDED, 180)
    logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
    assert slurm.state(env, merge) == "COMPLETED", logs[-3000:]
    assert all(f"task {i}/3" in (tmp_path / f"task-{i}.log").read_text() for i in (1, 2, 3)), logs[-3000:]
    assert bytes_of(there.output) == bytes_of(here.output)
