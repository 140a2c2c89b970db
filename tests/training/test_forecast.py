"""Forecasts: what the recorder counts against sums done by hand, what ZeRO holds against formulas, and orders that must hold."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from imanim.errors import InputError
from imanim.training import forecast, trace, zero

CONFIG = "configs/stage3.yaml"


@pytest.fixture(scope="module")
def traced() -> trace.Trace:
    cfg = forecast.load(CONFIG, ["model=tiny", "batch.global_size=1"])
    return trace.run(cfg, forecast.sizes_of(cfg), 1)


def engine(**changed: object) -> zero.Engine:
    cfg = forecast.load(CONFIG, ["model=tiny"])
    return dataclasses.replace(zero.read(cfg, 8), **changed)


def peak(recomputed: bool) -> int:
    """The recorder's peak of two wide layers between narrow ones, in bytes."""
    recorder = trace.Recorder(("all",))
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(10, 1000), nn.GELU(), nn.Linear(1000, 1000), nn.GELU(), nn.Linear(1000, 10))
        x = torch.zeros(100, 10)
        for p in model.parameters():
            recorder.own(p, "all")
            p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        with recorder:
            y = checkpoint(model, x, use_reentrant=False) if recomputed else model(x)
            after_forward = int(recorder.live[-1].sum())
            y.sum().backward()
    assert after_forward == (100 * 10 * 4 if recomputed else (4 * 1000 + 10) * 100 * 4)
    return int(recorder.live.sum(1).max())


def test_live_bytes_are_those_of_the_tensors_that_autograd_keeps():
    assert peak(False) > (4 * 1000 + 10) * 100 * 4


def test_operations_of_a_product_and_of_attention_are_counted():
    recorder = trace.Recorder(("all",))
    with FakeTensorMode():
        a, b = torch.zeros(7, 11, requires_grad=True), torch.zeros(11, 13)
        q = torch.zeros(2, 3, 64, 16)
        with recorder:
            product = a @ b
            recorder.backward = True
            product.sum().backward()
            recorder.backward = False
            with torch.no_grad():
                F.scaled_dot_product_attention(q, q, q)
    assert recorder.flops["forward"]["all"] == recorder.flops["backward"]["all"] == 2 * 7 * 11 * 13
    assert recorder.flops["frozen"]["all"] == 4 * 2 * 3 * 64 * 64 * 16


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_adams_averages_are_cut_over_the_ranks_from_zero_1_on(traced: trace.Trace, stage: int):
    trained = sum(w.elements for w in traced.weights if w.trained)
    held, _ = zero.held(traced, engine(stage=stage, ranks=4))
    assert held["optimizer"] == (trained if stage == 0 else -(-trained // 4)) * 8


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_more_gpus_never_need_more_each(traced: trace.Trace, stage: int):
    peaks = [forecast.memory(traced, engine(stage=stage, ranks=n)).peak for n in (2, 4, 8, 64)]
    assert peaks == sorted(peaks, reverse=True)


def test_the_least_number_of_gpus_fits_and_half_of_it_does_not(traced: trace.Trace):
    z = engine(stage=3)
    all_of_it = forecast.memory(traced, dataclasses.replace(z, ranks=1)).needed / 1e9
    room = 0.97 * all_of_it
    gpus, needs = forecast.least_gpus(traced, z, room)
    assert gpus is not None and gpus > 1 and forecast.fits(needs, room)
    assert not forecast.fits(forecast.memory(traced, dataclasses.replace(z, ranks=gpus // 2)), room)
    assert forecast.least_gpus(traced, z, 0.1)[0] is None


def test_a_model_must_be_named():
    with pytest.raises(InputError, match="model: not given"):
        forecast.sizes_of(forecast.load(CONFIG, []))
