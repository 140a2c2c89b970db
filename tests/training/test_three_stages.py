"""The whole curriculum on two ranks under ZeRO-3, every weight cut in two: one launch, many questions."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
import toy
from launching import launch
from safetensors.torch import load_file
from saved import optimized
from three_stages import STEPS
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from imanim.models import conditioning
from imanim.models.animator import Animator
from imanim.models.files import read_index
from imanim.training.monitor import read_metrics
from launchers import export

SCRIPT = Path(__file__).with_name("three_stages.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stages, the first and the third also interrupted and continued (see three_stages.py)."""
    folder = tmp_path_factory.mktemp("three_stages")
    toy.write_model(folder)
    toy.write_shards(folder / "shards")
    toy.write_wan(folder)
    on(2, folder)
    return folder


def on(ranks: int, folder: Path, *words: str) -> None:
    """Runs three_stages.py on so many ranks."""
    launch(SCRIPT, ranks, folder, *words, **{conditioning.CACHE_VARIABLE: folder / "cache"})


def weights(folder: Path, part: str) -> dict[str, Tensor]:
    return load_file(folder / "model" / part / "diffusion_pytorch_model.safetensors")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(folder) if "loss" in row}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_does_its_steps_with_finite_losses(runs: Path, stage: int):
    found = losses(runs / f"stage{stage}")
    assert list(found) == list(range(1, STEPS + 1))
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("name", ["stage1", "stage3", "wan"])
def test_a_continued_run_has_the_same_losses_and_weights_bit_for_bit(runs: Path, name: str):
    whole, cut = runs / name, runs / f"{name}_cut"
    assert losses(cut) == losses(whole)
    validations = [[row for row in read_metrics(f) if "validation" in row] for f in (whole, cut)]
    assert validations[0] == validations[1] and len(validations[0]) == 2
    for part in read_index(whole / "model").parts:
        assert equal(weights(cut, part), weights(whole, part)), part


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_run_goes_on_with_other_ranks_and_another_zero_stage(runs: Path, ranks: int):
    on(ranks, runs, "go_on")
    whole, start, end = losses(runs / "stage3"), optimized(runs / "stage3", 3), optimized(runs / "stage3", STEPS)
    for stage in (1, 3):
        cut = runs / f"on_{ranks}_zero_{stage}"
        assert losses(cut) == pytest.approx(whole, rel=1e-3)
        found = optimized(cut, STEPS)
        for what in ("weight", "exp_avg", "exp_avg_sq", "average"):
            moved = (end[what] - start[what]).norm()
            assert moved > 0 and (found[what] - end[what]).norm() < 0.02 * moved, (stage, what)


def test_frozen_parts_do_not_change_by_a_bit(runs: Path):
    for part in ("tokenizer_encoder", "codebook", "motion_decoder"):
        assert equal(weights(runs / "stage2", part), weights(runs / "stage1", part)), part
    for part in ("codebook", "motion_decoder"):
        assert equal(weights(runs / "stage3", part), weights(runs / "stage1", part)), part


def test_trained_parts_change(runs: Path):
    for part in ("retargeter", "joint_decoder", "tokenizer_encoder"):
        assert not equal(weights(runs / "stage3", part), weights(runs / "stage2", part)), part


def test_a_stage_exports_the_parts_it_has(runs: Path):
    first = ("tokenizer_encoder", "codebook", "motion_decoder")
    assert set(read_index(runs / "stage1" / "model").parts) == set(first)
    assert set(read_index(runs / "stage2" / "model").parts) == {*first, "retargeter", "joint_decoder"}
    animator = Animator.from_pretrained(runs / "stage3" / "model")
    assert all(torch.isfinite(p).all() for p in animator.parameters())
    assert {"expression", "denoiser"} <= set(animator.parts)


@pytest.mark.parametrize("name", ["stage3", "wan"])
def test_a_checkpoint_is_exported_without_the_ranks_that_wrote_it(runs: Path, tmp_path: Path, name: str):
    checkpoint = runs / name / "checkpoints" / f"step-{STEPS:06d}"
    export.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--dtype", "float32"])
    exported, record = read_index(tmp_path / "out"), read_index(runs / name / "model")
    assert exported.config == record.config and exported.record["averaged"] and exported.record["steps"] == STEPS
    for part in exported.parts:
        found = load_file(tmp_path / "out" / part / "diffusion_pytorch_model.safetensors")
        assert equal(found, weights(runs / name, part)), part
    export.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "raw"), "--dtype", "float32", "--raw"])
    raw = load_file(tmp_path / "raw" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert not equal(raw, weights(runs / name, "denoiser"))


def test_the_record_says_what_made_the_weights(runs: Path):
    record = read_index(runs / "stage3" / "model").record
    assert (record["stage"], record["steps"], record["ema_decay"]) == (3, STEPS, 0.9)
    assert record["started_from"]["retargeter"] == str(runs / "stage2" / "model")
    assert record["started_from"]["denoiser"] == "new"
    assert record["config"]["optimizer"]["lr"] > 0 and math.isfinite(record["losses"]["flow"])


def test_the_run_folder_holds_logs_pictures_and_the_newest_checkpoints(runs: Path):
    folder = runs / "stage3"
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-000003", f"step-{STEPS:06d}"]
    assert (folder / "pictures" / f"step-{STEPS:06d}-0.png").is_file()
    assert (folder / "config.yaml").is_file()
    assert list((runs / "stage1" / "tensorboard").glob("events.*"))
    row = read_metrics(folder)[0]
    assert row["lr"]["tokenizer_encoder"] == pytest.approx(0.1 * row["lr"]["denoiser"])
    assert row["samples_per_sec"] > 0 and row["grad_norm"] > 0 and row["memory_peak_bytes"] > 0
    state = json.loads((folder / "checkpoints" / "step-000003" / "state.json").read_text())
    assert (state["step"], state["ranks"], state["stage"]) == (3, 2, 3)


def test_a_half_written_checkpoint_is_cleared_away(runs: Path):
    assert not list((runs / "stage3_cut" / "checkpoints").glob(".partial-*"))


def test_adapters_on_a_wan_base_train_and_leave_the_base_where_it_is(runs: Path):
    saved = weights(runs / "wan", "denoiser")
    assert all(saved[name].abs().sum() > 0 for name in saved if "lora_B" in name)
    assert saved["text"].abs().sum() > 0 and len(list((runs / "cache" / "text").iterdir())) == 1
    assert not [name for name in saved if name.startswith("transformer.") and "lora_" not in name]
    record = read_index(runs / "wan" / "model").record
    assert record["started_from"]["denoiser"] == str(runs / "base" / "transformer")
    base = load_file(runs / "base" / "transformer" / "diffusion_pytorch_model.safetensors")
    animator = Animator.from_pretrained(runs / "wan" / "model")
    held = animator.denoiser.transformer.state_dict()
    name = "blocks.0.attn1.to_q"
    assert torch.equal(held[f"{name}.base_layer.weight"], base[f"{name}.weight"])
