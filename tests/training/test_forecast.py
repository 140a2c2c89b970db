"""A forecast as a whole: parameter counts, what it assumes and says, and what a real run needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy

from imanim.errors import ConfigError, InputError
from imanim.models import sizes
from imanim.training import forecast, forecast_report, hollow

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize(
    ("name", "billions", "outside"),
    [
        ("wan2.1-1.3b", 1.42, {"vae": 126_892_531}),
        ("wan2.2-5b", 5.00, {"vae": 704_688_668}),
        ("wan2.1-14b", 14.3, {"vae": 126_892_531}),
        ("wan2.1-i2v-14b", 16.4, {"vae": 126_892_531, "image_encoder": 630_766_080}),
    ],
)
def test_wans_sizes_have_wans_parameters_without_any_weights(name: str, billions: float, outside: dict[str, int]):
    """The published counts (meta device): T2V-1.3B 1.42 B, TI2V-5B 5.00 B, T2V-14B 14.3 B, I2V-14B 16.4 B."""
    cfg = forecast.load("configs/stage3.yaml", [f"model={name}"])
    module = hollow.build(cfg, forecast.sizes_of(cfg))
    denoiser = module.animator.part("denoiser").transformer
    count = sum(p.numel() for p in denoiser.parameters()) / 1e9
    assert count == pytest.approx(billions, rel=0.005)
    assert all(p.is_meta for p in module.parameters())
    for encoder, expected in outside.items():
        assert sum(p.numel() for p in getattr(module, encoder).parameters()) == expected
    assert (module.image_encoder is None) == ("image_encoder" not in outside)


def test_adapters_train_and_the_base_below_them_does_not():
    words = ["model=wan2.1-1.3b", "model_settings.denoiser.lora_rank=16"]
    cfg = forecast.load("configs/stage3.yaml", words)
    module = hollow.build(cfg, forecast.sizes_of(cfg))
    trained = {n for n, p in module.animator.part("denoiser").named_parameters() if p.requires_grad}
    assert trained and not [n for n in trained if n.startswith("transformer.") and "lora_" not in n]


def test_nothing_that_only_a_run_needs_is_asked_for():
    cfg = forecast.load("configs/stage3.yaml", ["model=wan2.1-14b", "init_from=null"])
    assert (cfg.gpus, cfg.gpu_memory_gb, cfg.sequence_parallel) == (8, 80.0, 1)
    assert forecast.sizes_of(cfg).denoiser.layers == 40


def test_an_attention_kernel_of_another_machine_does_not_matter():
    cfg = forecast.load("configs/stage3.yaml", ["model=tiny", "model_settings.denoiser.attention=_flash_3"])
    assert forecast.sizes_of(cfg).denoiser.attention == "native"


def test_without_a_model_it_says_which_there_are(tmp_path: Path):
    cfg = forecast.load("configs/stage3.yaml", [f"init_from={tmp_path / 'no'}", f"output={tmp_path / 'run'}"])
    with pytest.raises(InputError, match=r"model: not given, .*no such folder.*give one of .*wan2\.1-14b"):
        forecast.sizes_of(cfg)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("gpus=0", "gpus: 0 must be above 0"),
        ("gpu_memory_gb=-1", "gpu_memory_gb: -1.0 must be above 0"),
        ("sequence_parallel=3", "gpus: 8 is not a multiple of sequence_parallel"),
        ("gpuss=8", "gpuss: unknown key; did you mean `gpus`"),
        ("model=wan3", "model: wan3: neither a file nor one of"),
        ("parts.denoiser.mode=absent", "parts.denoiser.mode: absent, but stage 3 needs it"),
    ],
)
def test_a_wrong_setting_is_refused(word: str, complaint: str):
    with pytest.raises(ConfigError, match=complaint.replace("(", r"\(")):
        forecast.load("configs/stage3.yaml", ["model=tiny", word])


def test_checkpointing_everywhere_changes_every_part_that_can():
    plain = sizes.load("wan2.1-1.3b", {"denoiser": {"gradient_checkpointing": False}})
    everywhere = forecast.checkpointed(plain)
    assert everywhere.denoiser.gradient_checkpointing and everywhere.tokenizer.gradient_checkpointing
    assert forecast.checkpointed(everywhere) == everywhere and everywhere.retargeter == plain.retargeter


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_model(tmp_path_factory.mktemp("forecast"))


def make(model: Path, *words: str) -> forecast.Forecast:
    return forecast.make(forecast.load("configs/stage2.yaml", [f"model={model}", *words]))


def test_a_plan_fits_one_screen_and_its_numbers_agree(toy_model: Path):
    found = make(toy_model, "gpus=4", "batch.global_size=8", "deepspeed.zero_stage=2", "gpu_tflops=100")
    text, numbers = forecast_report.describe(found), forecast_report.to_json(found)
    assert len(text.splitlines()) < 45 and max(map(len, text.splitlines())) <= 120
    assert "stage 2 of toy: 32x48, 5 frames" in text and "ZeRO-2, fp32, 2 samples at once" in text
    assert "fits in 80 GB" in text and found.fits and found.notes == []
    parts = numbers["parameters"]
    assert parts["retargeter"]["trained"] > 0 == parts["retargeter"]["frozen"]
    assert parts["tokenizer_encoder"]["frozen"] > 0 == parts["tokenizer_encoder"]["trained"]
    assert parts["autoencoder"]["frozen"] > 0
    assert numbers["operations_per_step"] == pytest.approx(8 * sum(numbers["operations_per_sample"].values()))
    assert numbers["peak_bytes"] == max(numbers["phase_bytes"].values())
    assert json.loads(json.dumps(numbers)) == numbers
    assert [c["gpus"] for c in numbers["least_gpus"]] == [1, 1, 1, 1]


def test_a_batch_that_does_not_divide_is_planned_with_a_sample_a_rank_and_said(toy_model: Path):
    found = make(toy_model, "gpus=64")
    assert found.samples_per_step == 64 and found.traced.samples == 1
    assert "batch.global_size 8 does not divide over 64 ranks, which training refuses" in found.notes[0]
    assert "note: batch.global_size 8" in forecast_report.describe(found)


def test_what_training_cannot_do_and_what_is_not_modelled_is_said(toy_model: Path):
    words = ["sequence_parallel=2", "deepspeed.extra.amp.enabled=true", "deepspeed.precision=autocast_bf16"]
    notes = make(toy_model, *words).notes
    assert [note.split(":")[0].split(" ")[0] for note in notes] == [
        "sequence_parallel",
        "deepspeed.extra.amp",
        "autocast_bf16",
    ]


def test_what_does_not_fit_says_why_and_is_tried_checkpointed(tmp_path: Path):
    model = tmp_path / "titok.yaml"
    changed = "tokenizer: {encoder: titok, image_size: 32, stem_patch: 8, stem_convs: 0, heatmap: 8}"
    model.write_text(f"extends: {toy.write_model(tmp_path)}\n{changed}\n")
    words = [f"model={model}", "batch.global_size=8", "gpu_memory_gb=1.0001"]
    found = forecast.make(forecast.load("configs/stage1.yaml", words))
    assert not found.fits
    assert {c.checkpointing for c in found.choices} == {"as configured", "gradient checkpointing everywhere"}
    assert all(c.gpus is None and c.why for c in found.choices)
    assert "DOES NOT FIT" in forecast_report.describe(found) and "more GPUs do not help" in forecast_report.describe(
        found
    )


MEASURED = ["model=configs/plan/model.yaml", "batch.global_size=4", "deepspeed.zero_stage=0", "max_steps=3"]


def test_a_real_run_needs_what_was_forecast(tmp_path: Path):
    """Within 15 %, as `plan.py --validate` demands of runs of every ZeRO stage."""
    result = tmp_path / "peaks.json"
    command = [
        sys.executable,
        "launchers/plan.py",
        "--measure",
        "--json",
        str(result),
        "--config",
        "configs/stage1.yaml",
    ]
    env: Any = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *MEASURED], env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    peak = json.loads(result.read_text())["peak"]
    assert peak["measured"] > 0.5e9
    assert peak["forecast"] == pytest.approx(peak["measured"], rel=0.15), done.stdout
