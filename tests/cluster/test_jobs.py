"""On a real Slurm of two nodes: the scripts that make shards and measure, DeepSpeed's own launcher, and the doctor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import slurm

from evaluation import results
from imanim import distributed
from imanim.data.sample import decode
from imanim.data.shards import ShardSet
from imanim.training.monitor import read_metrics

pytestmark = pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "runs")

DOUBLES = """\
source: doubles
bodies_per_motion: 2
portrait_fraction: 0.0
splits:
  test: {bodies: [640, 643], motions: [200000, 200002], kinds: [reach, wave], levels: {L3: 1.0}, seen_kinds: true}
"""


def test_preprocessing_and_evaluation_run_as_jobs(folder: Path, env: dict[str, str]):
    """What evaluate.sbatch measures is what preprocess.sbatch made."""
    (folder / "doubles.yaml").write_text(DOUBLES)
    words = ("--config", str(folder / "doubles.yaml"), f"output={folder / 'doubles'}")
    slurm.run(env, folder / "preprocess.log", 120, "launchers/slurm/preprocess.sbatch", *words)
    shards = ShardSet(folder / "doubles", "test")
    shards.verify()
    samples = [decode(*shards.read(i)) for i in range(len(shards))]
    assert len(samples) == 4 and all(s.driving.shape == (17, 128, 80, 3) for s in samples)

    nodes = ("--nodes", "2", "--ntasks-per-node", "1")
    words = (
        "--config",
        "configs/eval/doubles_quick.yaml",
        f"data={folder / 'doubles'}",
        f"output={folder / 'measured'}",
    )
    slurm.run(
        env,
        folder / "evaluate.log",
        120,
        *nodes,
        "launchers/slurm/evaluate.sbatch",
        *words,
        "protocol.source.video_clips=1",
    )
    result = results.load(folder / "measured")
    assert sorted(row["key"] for row in result["rows"]) == sorted(shards.keys)
    assert sum("psnr" in row["methods"]["ours"] for row in result["rows"]) == 1, "one video was generated"
    assert (folder / "measured" / "report.html").is_file() and list((folder / "measured" / "videos").glob("*.mp4"))


# As docs/training.md has it, for nodes with one GPU each; here the nodes' names do not resolve, so MASTER_ADDR is set outside.
DEEPSPEED = """\
#!/bin/bash
set -eu
export MASTER_ADDR=${{MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}} MASTER_PORT={port}
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/$/ slots=1/' > {folder}/hosts
{bin}/deepspeed --launcher slurm --hostfile {folder}/hosts --no_ssh_check --master_addr "$MASTER_ADDR" launchers/train.py "$@"
"""


def test_deepspeeds_launcher_trains_across_two_nodes(folder: Path, env: dict[str, str]):
    script, bin_folder = folder / "deepspeed.sbatch", Path(sys.executable).parent
    script.write_text(DEEPSPEED.format(port=distributed.free_port(), folder=folder, bin=bin_folder))
    settings = {
        "data.train": folder / "shards",
        "model": folder / "toy.yaml",
        "output": folder / "launched",
        "max_steps": 2,
        "batch.global_size": 4,
        "monitor.log_every": 1,
        "monitor.tensorboard": "false",
        "monitor.picture_every": 0,
    }
    words = ["--config", "configs/stage1.yaml", *(f"{key}={value}" for key, value in settings.items())]
    nodes = ("--nodes", "2", "--ntasks-per-node", "1", "--exclusive")
    said = slurm.run(env, folder / "launched.log", 120, *nodes, str(script), *words)
    assert (folder / "hosts").read_text() == "n1 slots=1\nn2 slots=1\n"
    assert [row["step"] for row in read_metrics(folder / "launched") if "loss" in row] == [1, 2], said[-3000:]
    saved = sorted(path.name for path in (folder / "launched" / "checkpoints" / "step-000002").iterdir())
    assert "optimizer-rank-00000.safetensors" in saved and "optimizer-rank-00001.safetensors" in saved


DOCTOR = """\
#!/bin/bash
export MASTER_PORT={port}
srun {python} launchers/doctor.py "$@"
"""


def test_the_doctor_examines_both_nodes_their_links_and_the_job(folder: Path, env: dict[str, str]):
    script = folder / "doctor.sbatch"
    script.write_text(DOCTOR.format(port=distributed.free_port(), python=sys.executable))
    words = [f"data={folder / 'shards'}", f"output={folder / 'doctor'}", "--json", str(folder / "doctor.json")]
    nodes = ("--nodes", "2", "--ntasks-per-node", "1", "--exclusive", "--no-requeue")
    said = slurm.run(env, folder / "doctor.log", 120, *nodes, str(script), *words)
    assert said.count("2 ranks on 2 machines over gloo") == 1
    # A job that would not survive a preemption, as its script has it.
    assert "2 tasks on n[1-2]: not to be requeued" in said and "its script asks for no signal" in said
    found = json.loads((folder / "doctor.json").read_text())
    assert found["verdict"] == "warning" and {f["where"] for f in found["findings"]} == {"n1", "n2"}
