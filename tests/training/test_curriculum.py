from __future__ import annotations

from pathlib import Path

import pytest

from imanim.config import ConfigError, load
from imanim.models.animator import PARTS, Animator
from imanim.models.config import AnimatorConfig
from imanim.training import curriculum
from imanim.training.config import NEEDED, OptimizerConfig, TrainConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# docs/method.md's table. The motion decoder is kept frozen after stage 1, so that the weights stay readable as joints.
TABLE = {
    1: {"tokenizer_encoder": "train", "codebook": "train", "motion_decoder": "train"},
    2: {
        "tokenizer_encoder": "frozen",
        "codebook": "frozen",
        "motion_decoder": "frozen",
        "joint_decoder": "train",
        "retargeter": "train",
    },
    3: {
        "tokenizer_encoder": "train",
        "codebook": "frozen",
        "motion_decoder": "frozen",
        "joint_decoder": "train",
        "retargeter": "train",
        "expression": "train",
        "denoiser": "train",
    },
}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(CONFIGS.parent)


def stage(number: int, *overrides: str) -> TrainConfig:
    return load(TrainConfig, CONFIGS / f"stage{number}.yaml", ["data.train=shards", *overrides])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_shipped_configs_are_the_curriculum_table(number: int):
    modes = {name: part.mode for name, part in stage(number).parts.items()}
    assert modes == {name: TABLE[number].get(name, "absent") for name in PARTS}
    assert all(modes[name] != "absent" for name in NEEDED[number])


def test_in_the_last_stage_the_encoder_learns_slowly():
    assert stage(3).parts.tokenizer_encoder.lr_scale <= 0.2


@pytest.mark.parametrize("number", [1, 2, 3])
def test_optimizer_groups_hold_every_trained_parameter_once_and_no_frozen_one(number: int):
    cfg = stage(number)
    animator = Animator(AnimatorConfig(), cfg.parts.built())
    animator.set_modes({name: part.mode for name, part in cfg.parts.items() if part.mode != "absent"})
    groups = curriculum.parameter_groups(animator, cfg)
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in animator.parameters() if p.requires_grad}
    for group in groups:
        assert group["lr"] == pytest.approx(cfg.optimizer.lr * getattr(cfg.parts, group["part"]).lr_scale)
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


def test_the_learning_rate_warms_up_then_falls_to_its_fraction():
    cfg = OptimizerConfig(warmup_steps=10, final_lr_fraction=0.1)
    factors = [curriculum.lr_factor(step, 100, cfg) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == pytest.approx(1.0) and factors[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(factors[10:], factors[11:]))


def test_a_constant_schedule_stays_and_no_warm_up_starts_at_the_peak():
    cfg = OptimizerConfig(warmup_steps=0, schedule="constant")
    assert {curriculum.lr_factor(step, 50, cfg) for step in (0, 1, 49, 500)} == {1.0}


def test_setting_rates_touches_each_group_by_its_own_scale():
    cfg = stage(3, "optimizer.warmup_steps=0", "optimizer.lr=0.001")
    groups = [{"part": "denoiser", "lr_scale": 1.0}, {"part": "tokenizer_encoder", "lr_scale": 0.1}]
    rates = curriculum.set_learning_rates(groups, cfg, 0)
    assert rates == pytest.approx({"denoiser": 1e-3, "tokenizer_encoder": 1e-4})
    assert groups[1]["lr"] == pytest.approx(1e-4)


def test_a_part_may_have_a_schedule_and_a_weight_decay_of_its_own():
    own = ["weight_decay=0.2", "warmup_steps=4", "schedule=constant"]
    cfg = stage(3, "optimizer.warmup_steps=0", "optimizer.lr=0.001", *(f"parts.expression.{word}" for word in own))
    animator = Animator(AnimatorConfig(), cfg.parts.built())
    groups = curriculum.parameter_groups(animator, cfg)
    decays = {group["name"]: group["weight_decay"] for group in groups}
    assert decays["expression"] == 0.2 and decays["expression.vectors"] == 0 and decays["denoiser"] == 0.01
    first, last = (curriculum.set_learning_rates(groups, cfg, step) for step in (0, cfg.max_steps))
    assert first["expression"] == pytest.approx(0.25e-3) and first["denoiser"] == pytest.approx(1e-3)
    assert last["expression"] == pytest.approx(1e-3) and last["denoiser"] == pytest.approx(0.05e-3)


def test_a_parts_own_settings_are_checked_like_the_optimizers():
    with pytest.raises(ConfigError) as refused:
        stage(3, "parts.denoiser.warmup_steps=-1", "parts.retargeter.final_lr_fraction=2")
    assert [line.partition(".yaml: ")[2] for line in refused.value.problems] == [
        "parts.retargeter.final_lr_fraction: 2.0 must lie in [0, 1]",
        "parts.denoiser.warmup_steps: -1 must not be negative",
    ]


def test_the_summary_names_absent_parts_and_counts_the_codebook_as_buffers():
    cfg = stage(1)
    lines = {line.name: line for line in curriculum.summary(Animator(AnimatorConfig(), cfg.parts.built()), cfg)}
    assert lines["denoiser"].mode == "absent" and lines["denoiser"].parameters == 0
    assert lines["codebook"].parameters == 0 and lines["codebook"].buffer_elements == 512 * 12
    assert lines["tokenizer_encoder"].lr == pytest.approx(cfg.optimizer.lr)
