"""The report: whole in one file, and nothing said that the numbers do not say."""

import html
import re
import sys
from pathlib import Path

import numpy as np

from evaluation import report
from evaluation.benchmark import summarise
from imanim.data.sample import JOINTS, Sample

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference"))

from small_model import moving_square


def rows(gain: float):
    values = {"psnr": 20.0, "ssim": 0.8, "psnr_person": 15.0, "ssim_person": 0.6}
    ours = {k: v + gain for k, v in values.items()}
    for i in range(6):
        methods = {
            "ours": {**ours, "joint_error": 4.0 - gain},
            "hold": {**values, "joint_error": 4.0},
            "driver": dict(values),
        }
        yield {"key": f"k{i}", "split": "test", "level": "L3", "motion": f"m{i}", "methods": methods}


def test_the_page_is_whole_and_escapes_what_it_is_given():
    text = report.page("a <title>", "lead & more", [("one", report.paragraph("`code` < text"))])
    assert "a &lt;title&gt;" in text and "<code>code</code> &lt; text" in text
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_the_table_shows_ours_first_and_leaves_blank_what_was_not_measured():
    group = summarise(list(rows(0.5)))["test"]
    shown = html.unescape(report.results_table(group, extra={"shipped weights": {"psnr": 19.0}}))
    cells = [re.findall(r"<td>(.*?)</td>", line) for line in re.findall(r"<tr.*?</tr>", shown)[1:]]
    assert [c[0] for c in cells] == ["ours", "shipped weights", "character held still", "the driver's own video"]
    assert cells[0][1:] == ["20.50", "1.300", "15.50", "1.100", "3.50"] and cells[1][1:] == ["19.00", "", "", "", ""]


def test_sentences_follow_the_numbers():
    better = report.comparison_list(summarise(list(rows(0.5)))["test"])
    worse = report.comparison_list(summarise(list(rows(-0.5)))["test"])
    assert 'class="better"' in better and 'class="worse"' not in better and "Ours beats" in better
    assert 'class="worse"' in worse and "does not beat" in worse


def test_a_sample_is_shown_with_its_truth():
    clip = moving_square(9, 64, 48)
    joints = np.zeros((9, len(JOINTS), 3), np.float32)
    meta = {"motion": {"kind": "walk"}, "level": "L3", "framing": "full_body", "person": "b", "driver_person": "a"}
    sample = Sample(
        "k", clip, 12.0, clip[0], joints, np.full((9, 4), np.nan, np.float32), meta, target=clip[::-1].copy()
    )
    text = report.sample_figure(sample, clip)
    assert (
        "data:image/png;base64," in text
        and "data:video/mp4;base64," in text
        and "walk, L3, full body: a drives b" in text
    )


def test_curves_draw_what_is_there():
    png = report.curves(
        {"stage 1": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "stage 2": [{"step": 1}]}, ["loss", "absent"]
    )
    assert png.startswith(b"\x89PNG")
