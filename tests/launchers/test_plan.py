from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers import main as command
from launchers import plan

REPOSITORY = Path(__file__).resolve().parents[2]


def launch(*words: str, launcher: str = "launchers/plan.py", **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, launcher, *words],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        capture_output=True,
        text=True,
        timeout=1200,
    )


def imanim(*words: str, **env: str) -> subprocess.CompletedProcess:
    return launch(*words, launcher="launchers/main.py", **env)


HEAVY = {"torch", "deepspeed", "diffusers", "numpy"}


def imported(done: subprocess.CompletedProcess) -> set[str]:
    return {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


def test_the_command_lists_every_launcher_at_once():
    started = time.process_time()
    done = imanim("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0 and not HEAVY & imported(done)
    assert time.process_time() - started < 2
    for name in command.COMMANDS:
        assert f"imanim {name} " in done.stdout and (REPOSITORY / "launchers" / f"{name}.py").is_file()
    assert len(done.stdout.strip().splitlines()) == len(command.COMMANDS) + 4


def test_an_unknown_command_is_refused_with_the_list():
    done = imanim("trian", "--config", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: imanim trian: no such command; use one of train, preprocess")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", sorted(command.COMMANDS))
def test_every_commands_help_answers_without_torch_under_its_own_name(name: str):
    done = imanim(name, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: imanim {name}")
    assert not {"torch", "deepspeed", "diffusers"} & imported(done)


def test_a_launchers_errors_come_through_the_command():
    done = imanim("plan")
    assert done.returncode == 2 and done.stderr.startswith("error: --config: not given")


def test_a_plan_is_printed_and_written_without_weights_data_or_gpu(tmp_path: Path):
    """The very command a user types first, for the tiny model, from stage 3 whose YAML names weights that are not there."""
    words = ["--config", "configs/stage3.yaml", "model=tiny", "gpus=8", "gpu_memory_gb=40", "deepspeed.precision=bf16"]
    done = imanim("plan", *words, "--json", str(tmp_path / "plan.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "stage 3 of tiny: 80x128, 17 frames" in done.stdout and "fits in 40 GB" in done.stdout
    numbers = json.loads((tmp_path / "plan.json").read_text())
    assert numbers["fits"] and numbers["gpus"] == 8 and numbers["samples_per_rank"] == 1
    assert sum(p["trained"] for p in numbers["parameters"].values()) > 1_000_000


def test_a_plan_without_a_model_is_one_line_and_exit_code_2():
    done = launch("--config", "configs/stage3.yaml", "init_from=/nowhere", "output=/nowhere/run")
    assert done.returncode == 2 and "error: model: not given" in done.stderr and "wan2.1-14b" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_of_the_validation_names_its_runs():
    done = launch("--validate", "--dry-run")
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 6
    for word in ("stage1", "stage2", "stage3", "2 ranks", "lora_rank", "bf16", "gradient_checkpointing=true"):
        assert word in done.stdout
    for stage in (0, 1, 2, 3):
        assert f"zero_stage={stage}" in done.stdout


def test_offloading_is_not_measured_on_a_cpu():
    words = ["--measure", "--config", "configs/stage1.yaml", "deepspeed.zero_stage=2", "deepspeed.offload=true"]
    done = launch(*words)
    assert done.returncode == 2 and done.stderr.startswith("error: deepspeed.offload: true, but on a CPU")


def test_settings_lists_the_plans_own_keys():
    done = launch("--settings")
    assert (
        done.returncode == 0 and "gpu_memory_gb (float, 80.0)" in done.stdout and "deepspeed.zero_stage" in done.stdout
    )


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("error: base: no such folder\nE1125 failed\n======\n", "error: base: no such folder"),
        (
            "Traceback\n[rank1]: RuntimeError: closed by peer\nRoot Cause:\n  exitcode: 1\n=====\n",
            "[rank1]: RuntimeError: closed by peer",
        ),
        ("\n", "no message"),
    ],
)
def test_a_run_that_cannot_be_measured_says_its_own_error_and_not_the_launchers_report(said: str, reason: str):
    assert plan._reason(said) == reason
