"""What a rank holds, by formula and by hand, and how a forecast and the least number of GPUs follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from imanim import config
from imanim.errors import InputError
from imanim.training import forecast, zero
from imanim.training.config import TrainConfig
from imanim.training.trace import KINDS, OUTSIDE, Trace, Weight
from imanim.training.zero import Engine

OWNERS = ("retargeter", "denoiser", *OUTSIDE)
MILLION = 1_000_000


def weight(number: int, elements: int, trained: bool = True, part: str = "denoiser") -> Weight:
    return Weight(f"{part}.{number}.weight", part, elements, trained, False, True)


def made(
    weights: Sequence[Weight],
    live: Sequence[int],
    ready: Any = (),
    uses: Any = (),
    held: Any = (),
    owner: str = "denoiser",
) -> Trace:
    """A trace whose activations are all ``owner``'s."""
    table = np.zeros((len(live), len(OWNERS)), np.int64)
    table[:, OWNERS.index(owner)] = live
    flops = {kind: dict.fromkeys(OWNERS, 0) for kind in KINDS}
    return Trace(1, OWNERS, table, len(live) // 2, tuple(weights), 0, {}, tuple(ready), tuple(uses), tuple(held), flops)


def engine(stage: int, ranks: int = 4, **changed: Any) -> Engine:
    defaults: dict[str, Any] = {
        "weight": 4,
        "autocast": False,
        "accumulation": 1,
        "offload": False,
        "on_gpu": True,
        "ema": False,
        "reduce_bucket": 500 * MILLION,
        "prefetch": 50 * MILLION,
        "persistent": 100_000,
        "max_live": 1000 * MILLION,
        "max_reuse": 1000 * MILLION,
        "sub_group": 1000 * MILLION,
    }
    return Engine(stage=stage, ranks=ranks, **{**defaults, **changed})


BIG = made([weight(0, 80 * MILLION), weight(1, 40 * MILLION, trained=False)], [5, 5], ready=[(1, 0)])
W, T = 120 * MILLION, 80 * MILLION
"""Elements of all weights and of the trained ones."""


@pytest.mark.parametrize(
    ("stage", "weight_bytes", "expected"),
    [
        (0, 4, {"weights": 4 * W, "master weights": 0, "optimizer": 8 * T, "gradients": 0}),
        (0, 2, {"weights": 2 * W, "master weights": 4 * T, "optimizer": 8 * T, "gradients": 0}),
        (1, 4, {"weights": 4 * W, "master weights": T, "optimizer": 2 * T, "gradients": 0}),
        (1, 2, {"weights": 2 * W, "master weights": T, "optimizer": 2 * T, "gradients": 0}),
        (2, 2, {"weights": 2 * W, "master weights": T, "optimizer": 2 * T, "gradients": 0}),
        (3, 2, {"weights": W / 2, "master weights": T, "optimizer": 2 * T, "gradients": T / 2, "buffers": 10**9}),
        (3, 4, {"weights": W, "master weights": T, "optimizer": 2 * T, "gradients": T, "buffers": 2 * 10**9}),
    ],
)
def test_what_four_ranks_hold_by_stage(stage: int, weight_bytes: int, expected: dict[str, int]):
    gpu, host = zero.held(BIG, engine(stage, weight=weight_bytes))
    assert gpu == {"buffers": 0, "moving average": 0, **expected} and not any(host.values())


def test_the_moving_average_is_cut_by_stage_3_alone():
    for stage, share in ((0, 1), (1, 1), (2, 1), (3, 4)):
        assert zero.held(BIG, engine(stage, ema=True))[0]["moving average"] == 4 * T // share


def test_offloading_moves_optimizer_and_in_stage_3_weights_to_the_machine():
    gpu, host = zero.held(BIG, engine(2, offload=True, weight=2))
    assert gpu["optimizer"] == gpu["master weights"] == 0 and host["optimizer"] == 2 * T and gpu["weights"] == 2 * W
    gpu, host = zero.held(BIG, engine(3, offload=True, weight=2))
    assert gpu["weights"] == 0 and host["weights"] == W / 2 and gpu["buffers"] == 10**9


def test_small_weights_stay_whole_on_every_rank_of_stage_3():
    few = made([weight(0, 90_000), weight(1, 110_000)], [1], ready=[(0, 0), (0, 1)])
    assert zero.held(few, engine(3))[0]["weights"] == (200_000 // 4 + 90_000) * 4
    assert zero.held(few, engine(3, ranks=1))[0]["weights"] == 200_000 * 4


# ------------------------------------------------------------------------------------------------------ within a step

THREE = [weight(i, 10 * MILLION) for i in range(3)]
FORWARD_BACKWARD = [(0, 0), (1, 1), (2, 2), (3, 2), (4, 1), (5, 0)]


def test_one_weight_at_a_time_is_gathered_when_nothing_may_wait():
    t = made(THREE, [0] * 6, uses=FORWARD_BACKWARD)
    got = zero.gathered(t, engine(3, prefetch=0, max_reuse=0))
    assert got.tolist() == [40 * MILLION] * 6 + [0]


def test_what_is_used_again_soon_stays_gathered():
    t = made(THREE, [0] * 6, uses=FORWARD_BACKWARD)
    got = zero.gathered(t, engine(3, prefetch=0, max_reuse=15 * MILLION))
    assert got.tolist() == [n * 40 * MILLION for n in (1, 1, 1, 1, 1, 1, 0)]  # the middle one is 20 M elements away
    got = zero.gathered(t, engine(3, prefetch=0, max_reuse=25 * MILLION))
    assert got.tolist() == [n * 40 * MILLION for n in (1, 1, 2, 2, 1, 1, 0)]


def test_gathering_runs_ahead_until_as_much_is_there_as_may_be():
    t = made(THREE, [0] * 6, uses=FORWARD_BACKWARD)
    ahead = (10 + 10) * MILLION * 4  # the buffer that what runs ahead arrives in
    got = zero.gathered(t, engine(3, prefetch=10 * MILLION, max_reuse=0, max_live=20 * MILLION)) - ahead
    assert got[:6].tolist() == [n * 40 * MILLION for n in (2, 2, 2, 2, 2, 1)]


def test_a_weight_that_autograd_holds_stays_though_it_was_let_go():
    t = made(THREE, [0] * 6, uses=FORWARD_BACKWARD, held=[(0, 5, 0)])
    got = zero.gathered(t, engine(3, prefetch=0, max_reuse=0))
    assert got.tolist() == [n * 40 * MILLION for n in (1, 2, 2, 2, 2, 2, 0)]


@pytest.mark.parametrize(("stage", "ranks"), [(0, 4), (1, 4), (2, 4), (3, 1)])
def test_nothing_is_gathered_below_stage_3_or_alone(stage: int, ranks: int):
    assert not zero.gathered(made(THREE, [0] * 6, uses=FORWARD_BACKWARD), engine(stage, ranks)).any()


def test_whole_gradients_add_up_in_stages_0_and_1_and_pass_through_a_bucket_in_stage_2():
    t = made(THREE, [0] * 6, ready=[(3, 2), (4, 1), (5, 0)])
    one = 40 * MILLION
    assert zero.gradients(t, engine(0)).tolist() == [0, 0, 0, one, 2 * one, 3 * one, 6 * one]  # flattened to be reduced
    bucket = 20 * MILLION
    first = zero.gradients(t, engine(1, reduce_bucket=bucket))
    assert first.tolist() == [0, 0, 0, 3 * one, 4 * one, 5 * one, 5 * one + 3 * one // 4]
    second = zero.gradients(t, engine(2, reduce_bucket=bucket))
    own = 3 * one // 4
    assert second.tolist() == [0, 0, 0, 2 * one, 2 * one, 4 * one + own, 3 * one + own]
    third = zero.gradients(t, engine(3, reduce_bucket=bucket))
    assert third.tolist() == [0, 0, 0, 0, 0, 2 * one, one]


def test_the_optimizers_step_needs_gradients_in_float32_and_adams_temporaries():
    t = made([weight(0, 80 * MILLION)], [0], ready=[(0, 0)])
    n = 80 * MILLION
    assert zero.step(t, engine(0)) == n * (4 + 4)
    assert zero.step(t, engine(0, weight=2)) == n * (2 + 4 + 4)
    assert zero.step(t, engine(2, weight=2)) == n // 4 * (2 + 8)
    assert zero.step(t, engine(3)) == n // 4 * (4 + 4)
    assert zero.step(t, engine(3, on_gpu=False)) == n // 4 * (4 + 8)


def test_a_run_starts_with_the_whole_model_on_every_rank_on_a_cpu_in_float32():
    assert zero.start(BIG, engine(3, ranks=1024, weight=4, reduce_bucket=1)) == 4 * W
    assert zero.start(BIG, engine(3, ranks=1024, weight=2, reduce_bucket=1)) == 2 * W
    assert zero.start(BIG, engine(3, ranks=1024, weight=2, reduce_bucket=1, on_gpu=False)) == 4 * W
    assert zero.start(BIG, engine(2, ranks=1024)) >= 4 * (W + T)  # copied into one piece


# -------------------------------------------------------------------------------------------------- memory and choices


def trace_of(megabytes: int, owner: str = "denoiser") -> Trace:
    live = [0, megabytes * MILLION, 0]
    return made([weight(i, 100 * MILLION) for i in range(10)], live, [(2, i) for i in range(10)], owner=owner)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("weight_bytes", [2, 4])
def test_more_gpus_never_need_more_each(stage: int, weight_bytes: int):
    peaks = [forecast.memory(trace_of(500), engine(stage, n, weight=weight_bytes)).peak for n in (2, 4, 8, 16, 512)]
    assert peaks == sorted(peaks, reverse=True)
    if stage:
        assert peaks[-1] < peaks[0]


def test_a_higher_stage_never_holds_more():
    held = [sum(zero.held(trace_of(0), engine(stage, 8, reduce_bucket=1))[0].values()) for stage in (0, 1, 2, 3)]
    assert held == sorted(held, reverse=True)


def test_the_peak_is_the_highest_phase_and_something_is_left_free():
    needs = forecast.memory(trace_of(6000), engine(3))
    assert needs.peak == max(needs.phases.values()) == needs.phases["forward and backward"]
    assert needs.needed == pytest.approx(1.1 * needs.peak + 1e9)
    assert forecast.fits(needs, needs.needed / 1e9) and not forecast.fits(needs, needs.needed / 1e9 - 0.001)


def test_the_least_number_of_gpus_is_the_first_that_fits():
    t, z = trace_of(6000), engine(3, weight=2)
    needs = {n: forecast.memory(t, dataclasses.replace(z, ranks=n)).needed / 1e9 for n in (1, 2, 4, 8)}
    assert forecast.least_gpus(t, z, needs[4] + 0.01)[0] == 4
    assert forecast.least_gpus(t, z, needs[8] - 0.01)[0] not in (1, 2, 4, 8)
    assert forecast.least_gpus(t, z, 1000.0)[0] == 1


def test_activations_alone_may_be_too_much_for_any_number_of_gpus():
    gpus, needs = forecast.least_gpus(trace_of(50_000), engine(3), 40.0)
    assert gpus is None
    assert forecast._why(needs, 40.0) == "activations alone take 50.0 GB on 1024 GPUs"


def test_a_world_must_divide_by_the_sequence_parallel_degree():
    assert forecast.least_gpus(dataclasses.replace(trace_of(1), team=8), engine(3), 1000.0)[0] == 8
    with pytest.raises(InputError, match="sequence_parallel: 3 divides none"):
        forecast.least_gpus(dataclasses.replace(trace_of(1), team=3), engine(3), 1000.0)


# ------------------------------------------------------------------------------------------------------------ settings


def settings(*overrides: str) -> TrainConfig:
    tree = {"stage": 1, "output": "x", "model": "tiny", "data": {"train": "x"}}
    parts = [f"parts.{p}.mode=train" for p in ("tokenizer_encoder", "codebook", "motion_decoder")]
    return config.load(TrainConfig, None, [*parts, *overrides], settings=tree)


def test_the_engine_is_read_with_deepspeeds_own_defaults_and_what_is_laid_over_them():
    z = zero.read(settings("deepspeed.zero_stage=3", "batch.global_size=8", "batch.micro_size=2"), 2)
    assert (z.stage, z.ranks, z.weight, z.accumulation, z.offload) == (3, 2, 4, 2, False)
    assert (z.reduce_bucket, z.prefetch, z.persistent, z.max_live) == (5e8, 5e7, 100_000, 1e9)
    extra = (
        "deepspeed.extra.zero_optimization={reduce_bucket_size: 7, stage3_max_live_parameters: 9, sub_group_size: 11}"
    )
    z = zero.read(settings("deepspeed.precision=bf16", "deepspeed.offload=true", "ema_decay=0.9", extra), 8)
    assert (z.weight, z.offload, z.ema, z.reduce_bucket, z.max_live, z.sub_group) == (2, True, True, 7, 9, 11)


def test_settings_whose_memory_is_not_known_are_named():
    cfg = settings("deepspeed.extra={zero_optimization: {zero_quantized_weights: true, sub_group_size: 5}, amp: {}}")
    assert zero.unmodelled(cfg) == ["amp", "zero_optimization.zero_quantized_weights"]
    assert zero.unmodelled(settings()) == []
