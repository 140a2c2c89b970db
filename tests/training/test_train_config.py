from __future__ import annotations

from pathlib import Path

import pytest

from imanim.config import load
from imanim.errors import ConfigError
from imanim.training.config import BatchConfig, TrainConfig, identity
from imanim.training.engine import deepspeed_settings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(CONFIGS.parent)


def stage(number: int, *overrides: str) -> TrainConfig:
    return load(TrainConfig, CONFIGS / f"stage{number}.yaml", ["data.train=shards", *overrides])


def problems(number: int, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        stage(number, *overrides)
    return "\n".join(caught.value.problems)


def test_every_problem_is_reported_at_once():
    found = problems(1, "max_steps=0", "optimizer.lr=-1", "batch.global_size=0", "parts.codebook.mode=absent")
    for key in ("max_steps", "optimizer.lr", "batch.global_size", "parts.codebook.mode"):
        assert key in found


def test_a_stage_must_start_from_the_last_ones_weights():
    assert "init_from" in problems(2, "init_from=null", "model=configs/model/tiny.yaml")


def test_a_misspelt_key_is_answered_with_the_nearest_one():
    assert "did you mean `optimizer`" in problems(1, "optimzer.lr=1")


def test_a_missing_model_file_is_named():
    assert "configs/model/huge.yaml" in problems(1, "model=configs/model/huge.yaml")


def test_training_nothing_is_refused():
    frozen = [f"parts.{name}.mode=frozen" for name in ("tokenizer_encoder", "motion_decoder")]
    assert "no part has mode=train" in problems(1, *frozen)


@pytest.mark.parametrize(
    ("size", "micro", "ranks", "cut"),
    [
        (8, None, 2, (4, 1)),
        (8, 2, 2, (2, 2)),
        (8, 2, 1, (2, 4)),
        (8, 3, 2, (0, 0)),
        (8, None, 3, (0, 0)),
        (1, None, 2, (0, 0)),
    ],
)
def test_the_global_batch_is_cut_exactly_or_not_at_all(size: int, micro: int | None, ranks: int, cut: tuple[int, int]):
    assert BatchConfig(size, micro).cut(ranks) == cut


def test_what_may_change_on_resume_is_not_part_of_a_runs_identity():
    base = identity(stage(1))
    assert (
        identity(stage(1, "max_steps=9", "monitor.log_every=1", "data.workers=0", "output=elsewhere", "compile=true"))
        == base
    )
    changed = identity(stage(1, "optimizer.lr=0.1", "seed=7"))
    assert {key for key in base if base[key] != changed[key]} == {"optimizer.lr", "seed"}


def test_settings_reach_deepspeed_and_extra_ones_are_laid_over_them():
    cfg = stage(1, "batch.micro_size=2", "deepspeed.precision=autocast_bf16", "deepspeed.offload=true")
    cfg.deepspeed.extra = {"zero_optimization": {"stage3_prefetch_bucket_size": 7}}
    found = deepspeed_settings(cfg, ranks=2)
    assert found["gradient_accumulation_steps"] * found["train_micro_batch_size_per_gpu"] * 2 == cfg.batch.global_size
    assert found["zero_optimization"]["stage"] == 3 and found["zero_optimization"]["stage3_prefetch_bucket_size"] == 7
    assert found["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert found["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"} and "bf16" not in found
