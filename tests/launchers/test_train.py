from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "training"))
import toy  # noqa: E402

LAUNCHER = "launchers/train.py"


def launch(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, LAUNCHER, *words],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train")
    toy.write_model(path)
    toy.write_shards(path / "shards", train=4, val=1)
    return path


def stage1(folder: Path) -> list[str]:
    return ["--config", "configs/stage1.yaml", f"model={folder / 'toy.yaml'}", f"data.train={folder / 'shards'}"]


def test_help_answers_without_importing_torch():
    done = launch("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0 and "deepspeed launchers/train.py" in done.stdout
    assert not {"torch", "deepspeed", "diffusers"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


def test_a_wrong_config_is_one_line_and_exit_code_2(folder: Path):
    done = launch(*stage1(folder), "--local_rank=0", "optimzer.lr=1")
    assert done.returncode == 2 and "did you mean `optimizer`?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


def test_a_missing_data_folder_is_one_line_and_exit_code_2(folder: Path):
    done = launch(*stage1(folder), "data.train=/nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: /nowhere: no such folder")


def test_plain_python_trains_then_says_that_it_is_done(folder: Path):
    """A world of one: RANK and its like are not set. The launcher's own --local_rank may stand anywhere."""
    words = [*stage1(folder), f"output={folder / 'run'}", "max_steps=2", "batch.global_size=2", "data.workers=1"]
    words += [
        "deepspeed.zero_stage=1",
        "deepspeed.precision=autocast_bf16",
        "monitor.picture_every=0",
        "--local_rank=0",
    ]
    done = launch(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step 2/2" in done.stdout and (folder / "run" / "model" / "model_index.json").is_file()
    again = launch(*words)
    assert again.returncode == 0 and "already trained for 2 of 2 steps" in again.stdout
