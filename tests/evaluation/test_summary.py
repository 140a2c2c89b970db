"""Means, intervals, comparisons and the sentences made of them."""

import numpy as np
import pytest
from scipy import stats

from evaluation import summary
from evaluation.metrics.base import Value

VALUES = {
    v.name: v
    for v in (
        Value("psnr", "PSNR, whole frame", "higher", 2, "dB"),
        Value("ssim", "SSIM, whole frame", "higher", 3),
        Value("joint_error", "joint error (% of height)", "lower", 2, "% of height"),
        Value("lag_frames", "lag", "none", 1, "frames"),
        Value("fvd", "FVD", "lower", 1),
    )
}
PSNR = VALUES["psnr"]


def row(unit, ours, hold, value="psnr", level="L3", split="test"):
    methods = {"ours": {value: ours}, "hold": {value: hold}}
    return {"key": f"{unit}", "split": split, "unit": unit, "labels": {"level": level}, "methods": methods}


def spread(value, draws, n=24):
    return {"value": value, "low": None, "high": None, "n": n, "draws": draws, "warnings": []}


def test_means_leave_out_what_was_not_measured_and_count_what_was():
    found = summary.means([row("a", 20.0, None), row("b", 22.0, 10.0)])
    assert found["means"] == {"ours": {"psnr": 21.0}, "hold": {"psnr": 10.0}}
    assert found["counted"] == {"ours": {"psnr": 2}, "hold": {"psnr": 1}}
    assert "hold" not in found["intervals"], "one motion has no interval"


def test_intervals_of_independent_clips_agree_with_scipy():
    numbers = np.random.default_rng(0).normal(20, 2, 40)
    low, high = summary.interval([str(i) for i in range(40)], numbers)
    level = 1 - 2 * stats.norm.cdf(-stats.t.ppf(0.975, 39) * np.sqrt(40 / 39))
    known = stats.bootstrap(
        (numbers,), np.mean, n_resamples=4000, method="percentile", confidence_level=level, rng=np.random.default_rng(1)
    ).confidence_interval
    assert low == pytest.approx(known.low, abs=0.06) and high == pytest.approx(known.high, abs=0.06)


def test_a_draw_of_units_weighs_every_clip_of_a_unit():
    units = ["a", "a", "a", "b"]
    low, high = summary.interval(units, np.array([1.0, 1.0, 1.0, 5.0]))
    assert (low, high) == (1.0, 5.0), "draws are a-a (1), a-b (2) and b-b (5)"


def test_an_interval_does_not_depend_on_the_order_of_the_clips():
    rng = np.random.default_rng(3)
    units, numbers = [f"m{i % 7}" for i in range(30)], rng.normal(size=30)
    order = rng.permutation(30)
    assert summary.interval(units, numbers) == pytest.approx(
        summary.interval([units[i] for i in order], numbers[order]), abs=1e-12
    )


@pytest.mark.parametrize("motions", [6, 12])
def test_chance_is_called_sure_about_as_rarely_as_promised(motions):
    rng = np.random.default_rng(motions)
    units = [str(i) for i in range(motions)]
    ends = [summary.interval(units, rng.normal(size=motions)) for _ in range(1000)]
    assert np.mean([low > 0 or high < 0 for low, high in ends]) < 0.075, "plain percentiles: 0.13 for 6, 0.09 for 12"


def test_groups_are_everyone_and_each_level_and_split_where_there_are_several():
    rows = [row("a", 1, 0, level="L2"), row("b", 1, 0, level="L1"), row("c", 1, 0, level=None)]
    assert {name: len(found) for name, found in summary.group_rows(rows).items()} == {"all": 3, "L1": 1, "L2": 1}
    rows = [row("a", 1, 0, level="all"), row("b", 1, 0, level=None, split="val")]
    assert list(summary.group_rows(rows)) == ["all", "split test", "split val"]


def test_a_sure_win_a_sure_loss_and_an_open_case_are_told_apart():
    rng = np.random.default_rng(0)
    sure = [row(str(m), 25 + rng.normal(), 20.0) for m in range(8)]
    assert summary.compare(sure, PSNR, "hold").outcome == "better"
    turned = [row(r["unit"], 20.0, r["methods"]["ours"]["psnr"]) for r in sure]
    assert summary.compare(turned, PSNR, "hold").outcome == "worse"
    even = [row(str(m), 20 + (-1) ** m, 20.0) for m in range(8)]
    found = summary.compare(even, PSNR, "hold")
    assert found.outcome == "open" and found.wins == 4 and found.gain == pytest.approx(0)


def test_lower_joint_error_is_a_gain():
    rows = [row("a", 3.0, 5.0, "joint_error"), row("b", 4.0, 5.0, "joint_error")]
    found = summary.compare(rows, VALUES["joint_error"], "hold")
    assert found.gain == pytest.approx(1.5) and found.wins == 2


def test_only_clips_that_both_have_are_compared():
    rows = [row("a", 30.0, None), row("b", 21.0, 20.0), row("c", None, 5.0)]
    found = summary.compare(rows, PSNR, "hold")
    assert (found.clips, found.units, found.gain) == (1, 1, 1.0)
    assert summary.compare(rows[:1], PSNR, "hold") is None


def test_clips_of_one_motion_do_not_count_as_independent():
    rng = np.random.default_rng(1)
    shifts = rng.normal(0.3, 1.0, 6)
    together = [row(str(m), 20 + shifts[m] + 0.01 * rng.normal(), 20.0) for m in range(6) for _ in range(20)]
    apart = [{**r, "unit": str(i)} for i, r in enumerate(together)]
    wide, narrow = summary.compare(together, PSNR, "hold"), summary.compare(apart, PSNR, "hold")
    assert wide.gain == pytest.approx(narrow.gain)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert (wide.clips, wide.units) == (120, 6)


def test_the_interval_is_the_same_every_time():
    rows = [row(str(m), 20 + m % 3, 20.0) for m in range(9)]
    assert summary.compare(rows, PSNR, "hold") == summary.compare(rows, PSNR, "hold")


def test_values_without_a_direction_and_ceilings_are_not_compared():
    rows = [row(str(m), 1.0, 2.0, "lag_frames") for m in range(8)]
    assert summary.comparisons(rows, VALUES) == []
    ceiling = [{**row("a", 1.0, 2.0), "methods": {"ours": {"psnr": 1.0}, "autoencoder": {"psnr": 2.0}}}]
    assert summary.comparisons(ceiling, VALUES) == []


def test_the_verdict_names_what_is_not_beaten():
    rows = []
    for m in range(6):
        methods = {"ours": {"psnr": 25.0 + 0.1 * m, "ssim": 0.5}, "hold": {"psnr": 20.0, "ssim": 0.9}}
        rows.append({**row(str(m), 0, 0), "methods": methods})
    text = summary.verdict(summary.comparisons(rows, VALUES), VALUES)
    assert "ours beats holding still in PSNR;" in text and "does not beat holding still in SSIM" in text
    only = summary.comparisons(rows, VALUES, {"psnr": ("hold",)})
    assert "every baseline in every measure" in summary.verdict(only, VALUES)
    assert summary.verdict([], VALUES) == "Nothing was compared."


def test_many_baselines_are_not_named_one_by_one():
    rows = [
        {
            **row(str(m), 0, 0),
            "methods": {"ours": {"psnr": 9.0, "ssim": 0.1}, **{b: {"psnr": 1.0, "ssim": 0.5} for b in "abc"}},
        }
        for m in range(6)
    ]
    text = summary.verdict(summary.comparisons(rows, VALUES), VALUES)
    assert "ours beats every baseline in PSNR; it does not beat any baseline in SSIM" in text


def test_a_sentence_says_who_by_how_much_and_whether_it_is_sure():
    even = [row(str(m), 20.2 + (-1) ** m, 20.0) for m in range(8)]
    text = summary.sentence(summary.compare(even, PSNR, "hold"), VALUES)
    assert (
        "holding still" in text and "PSNR, whole frame (dB) by +0.20" in text and "4 of 8" in text and "chance" in text
    )


def test_five_motions_are_too_few_to_be_sure():
    def rows(motions):
        return [row(str(m), 25.0 + m, 20.0) for m in range(motions) for _ in range(2)]

    found = summary.compare(rows(5), PSNR, "hold")
    assert found.low > 0 and found.outcome == "open" and "too few motions (5)" in summary.sentence(found, VALUES)
    assert summary.compare(rows(6), PSNR, "hold").outcome == "better"
    clips = summary.compare([row(str(m), 25.0, 20.0) for m in range(5)], PSNR, "hold")
    assert "too few clips (5)" in summary.sentence(clips, VALUES)


def test_set_values_are_compared_by_their_paired_draws():
    shared = np.random.default_rng(0).normal(0, 50, 100)
    noise = np.random.default_rng(1).normal(0, 1, 100)
    ours, hold = spread(100.0, (115 + shared).tolist()), spread(110.0, (125 + shared + noise).tolist())
    rows = [row(str(m), 1.0, 1.0) for m in range(8)]
    (found,) = summary.set_comparisons(rows, {"ours": {"fvd": ours}, "hold": {"fvd": hold}}, VALUES)
    assert found.outcome == "better" and found.gain == 10 and found.wins is None
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 7) * np.sqrt(8 / 7) * noise.std(ddof=1))
    assert "Ours beats holding still in FVD by +10.0" in summary.sentence(found, VALUES)
    unpaired = {"ours": {"fvd": spread(1.0, [])}, "hold": {"fvd": hold}}
    assert summary.set_comparisons(rows, unpaired, VALUES) == []
    fewer = {"ours": {"fvd": {**ours, "n": 20}}, "hold": {"fvd": hold}}
    assert summary.set_comparisons(rows, fewer, VALUES) == []
