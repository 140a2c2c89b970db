"""Tables, comparisons and the sentences made of them."""

import numpy as np
import pytest

from evaluation import summary


def row(motion, ours, hold, metric="psnr"):
    return {
        "key": "k",
        "split": "test",
        "level": "L3",
        "motion": motion,
        "methods": {"ours": {metric: ours}, "hold": {metric: hold}},
    }


def test_means_leave_out_what_was_not_measured():
    rows = [row("a", 20.0, None), row("b", 22.0, 10.0)]
    assert summary.means(rows) == {"ours": {"psnr": 21.0}, "hold": {"psnr": 10.0}}


def test_a_sure_win_a_sure_loss_and_an_open_case_are_told_apart():
    rng = np.random.default_rng(0)
    sure = [row(str(m), 25 + rng.normal(), 20.0) for m in range(8)]
    assert summary.compare(sure, "psnr", "hold").outcome == "better"
    turned = [row(r["motion"], 20.0, r["methods"]["ours"]["psnr"]) for r in sure]
    assert summary.compare(turned, "psnr", "hold").outcome == "worse"
    even = [row(str(m), 20 + (-1) ** m, 20.0) for m in range(8)]
    found = summary.compare(even, "psnr", "hold")
    assert found.outcome == "open" and found.wins == 4 and found.gain == pytest.approx(0)


def test_lower_joint_error_is_a_gain():
    found = summary.compare(
        [row("a", 3.0, 5.0, "joint_error"), row("b", 4.0, 5.0, "joint_error")], "joint_error", "hold"
    )
    assert found.gain == pytest.approx(1.5) and found.wins == 2


def test_clips_of_one_motion_do_not_count_as_independent():
    rng = np.random.default_rng(1)
    shifts = rng.normal(0.3, 1.0, 6)
    together = [row(str(m), 20 + shifts[m] + 0.01 * rng.normal(), 20.0) for m in range(6) for _ in range(20)]
    apart = [{**r, "motion": str(i)} for i, r in enumerate(together)]
    wide, narrow = summary.compare(together, "psnr", "hold"), summary.compare(apart, "psnr", "hold")
    assert wide.gain == pytest.approx(narrow.gain)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert (wide.clips, wide.motions) == (120, 6)


def test_the_interval_is_the_same_every_time():
    rows = [row(str(m), 20 + m % 3, 20.0) for m in range(9)]
    assert summary.compare(rows, "psnr", "hold") == summary.compare(rows, "psnr", "hold")


def test_the_verdict_names_what_is_not_beaten():
    rows = [
        {
            **row(str(m), 25.0 + 0.1 * m, 20.0),
            "methods": {"ours": {"psnr": 25.0 + 0.1 * m, "ssim": 0.5}, "hold": {"psnr": 20.0, "ssim": 0.9}},
        }
        for m in range(6)
    ]
    text = summary.verdict(summary.comparisons(rows, {"psnr": ("hold",), "ssim": ("hold",)}))
    assert "ours beats holding still in PSNR;" in text and "does not beat holding still in SSIM" in text
    assert "every baseline in every measure" in summary.verdict(summary.comparisons(rows, {"psnr": ("hold",)}))
    assert summary.verdict([]) == "Nothing was compared."


def test_a_sentence_says_who_by_how_much_and_whether_it_is_sure():
    even = [row(str(m), 20.2 + (-1) ** m, 20.0) for m in range(8)]
    text = summary.sentence(summary.compare(even, "psnr", "hold"))
    assert "holding still" in text and "+0.20" in text and "4 of 8" in text and "chance" in text


def test_five_motions_are_too_few_to_be_sure():
    found = summary.compare([row(str(m), 25.0 + m, 20.0) for m in range(5)], "psnr", "hold")
    assert found.low > 0 and found.outcome == "open" and "too few motions (5)" in summary.sentence(found)
    assert summary.compare([row(str(m), 25.0 + m, 20.0) for m in range(6)], "psnr", "hold").outcome == "better"
