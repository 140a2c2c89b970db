"""Animating with Wan bases: image conditions reach the DiT, two halves share the noise levels, what is missing is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

from base_pipeline import family, write_base

from imanim.errors import InputError
from imanim.inference.pipeline import AnimationPipeline
from imanim.models import conditioning
from imanim.models.animator import Animator

RANDOM = np.random.default_rng(0)
CHARACTER = RANDOM.integers(0, 255, (64, 32, 3), dtype=np.uint8)
DRIVER = RANDOM.integers(0, 255, (12, 64, 32, 3), dtype=np.uint8)


def saved(name: str, folder: Path, base: Path) -> Path:
    """A model of that family with random weights and its base, as training leaves it."""
    cfg = family(name, sampling_steps=4)
    write_base(cfg, base)
    torch.manual_seed(1)
    animator = Animator(cfg, from_base=True)
    torch.nn.init.normal_(animator.denoiser.token_inlet.weight)
    animator.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(conditioning.CACHE_VARIABLE, str(tmp_path / "cache"))


def test_an_image_to_video_base_animates_and_sees_the_character(tmp_path):
    model = saved("wan2.1-i2v-14b", tmp_path / "model", tmp_path / "base")
    pipeline = AnimationPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(CHARACTER, DRIVER).frames
    assert frames.shape == (12, 64, 32, 3)
    assert not np.array_equal(frames, pipeline(255 - CHARACTER, DRIVER).frames)
    assert pipeline.scheduler.config.shift == 3.0  # what suits the model


def test_the_base_may_have_moved(tmp_path):
    model = saved("wan2.2-5b", tmp_path / "model", tmp_path / "base")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="no such folder"):
        AnimationPipeline.from_pretrained(model)
    assert AnimationPipeline.from_pretrained(model, base=str(tmp_path / "moved")).canvas_size == (128, 64)


def test_each_half_of_a14b_gets_the_noise_levels_it_is_for(tmp_path, monkeypatch):
    base = tmp_path / "base"
    high = saved("wan2.2-t2v-a14b-high", tmp_path / "high", base)
    low = saved("wan2.2-t2v-a14b-low", tmp_path / "low", base)
    for model, other in ((high, None), (low, None), (low, high)):
        with pytest.raises(InputError, match="made for noise levels"):
            AnimationPipeline.from_pretrained(model, low_noise=other)
    pipeline = AnimationPipeline.from_pretrained(high, low_noise=low)
    pipeline.set_progress_bar_config(disable=True)
    asked: dict[str, list[float]] = {"high": [], "low": []}
    for name, half in (("high", pipeline.animator), ("low", pipeline.low_noise)):
        true = half.velocity

        def velocity(x, sigma, told, name=name, true=true):
            asked[name].append(float(sigma[0]))
            return true(x, sigma, told)

        monkeypatch.setattr(half, "velocity", velocity)
    pipeline(CHARACTER, DRIVER[:9])
    assert [round(s, 3) for s in asked["high"]] == [1.0, 0.9] and [round(s, 3) for s in asked["low"]] == [0.75, 0.5]
