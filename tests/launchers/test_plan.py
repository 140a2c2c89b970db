"""`imanim plan` and the console command: what is printed, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from imanim.errors import InputError  # noqa: E402
from launchers import main as console  # noqa: E402
from launchers import plan  # noqa: E402

STAGE3 = str(ROOT / "configs" / "stage3.yaml")


def test_a_plan_needs_neither_data_nor_weights_nor_a_gpu(tmp_path, capsys):
    numbers = tmp_path / "plan.json"
    assert plan.main(["--config", STAGE3, "model=tiny", "gpus=2", "gpu_memory_gb=8", "--json", str(numbers)]) == 0
    said = capsys.readouterr().out
    assert "each of 2 GPUs of 8 GB (ZeRO-3, fp32" in said and "least GPUs of 8 GB" in said and "fits" in said
    found = json.loads(numbers.read_text())
    assert found["gpus"] == 2 and found["zero_stage"] == 3


def test_what_does_not_fit_is_said(capsys):
    plan.main(["--config", STAGE3, "model=tiny", "gpus=1", "gpu_memory_gb=0.5"])
    assert "DOES NOT FIT in 0.5 GB" in capsys.readouterr().out


def test_sizes_that_are_not_known_and_worlds_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="model: not given"):
        plan.main(["--config", STAGE3])
    with pytest.raises(InputError, match="not a multiple of sequence_parallel"):
        plan.main(["--config", STAGE3, "model=tiny", "gpus=8", "sequence_parallel=3"])
    with pytest.raises(InputError, match="--config: not given"):
        plan.main([])


def test_the_console_command_knows_every_launcher(capsys):
    assert console.main([]) == 0 and console.main(["--help"]) == 0
    said = capsys.readouterr().out
    there = {path.stem for path in (ROOT / "launchers").glob("*.py")} - {"__init__", "main", "train_autoencoder"}
    assert there == set(console.COMMANDS) and all(f"imanim {name}" in said for name in there)
    with pytest.raises(InputError, match="imanim trian: no such command; use one of train,"):
        console.main(["trian"])
