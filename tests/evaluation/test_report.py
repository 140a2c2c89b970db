"""The report: whole in one file, and nothing said that the numbers do not say."""

import html
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from result_fixture import make_result, pictures

from evaluation import markup, plots, report, report_figures, results
from evaluation.demo_report import DemoFacts, demo_page
from evaluation.strips import clip_strip, side_by_side
from imanim.errors import InputError

VOID = {"meta", "img"}


class Balanced(HTMLParser):
    """Raises when tags are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag


def check_page(text):
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r'(src|href)="(?!data:)', text), "something lies outside the file"
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg


def headings(text):
    return re.findall(r"<h2>(.*?)</h2>", text)


def table_cells(text):
    rows = [re.findall(r"<td.*?>(.*?)</td>", line, re.S) for line in re.findall(r"<tr.*?</tr>", text, re.S)[1:]]
    return [[re.sub(r"<small>.*", "", cell) for cell in row] for row in rows]


@pytest.fixture(scope="module")
def result():
    return make_result()


def test_the_page_is_whole_and_escapes_what_it_is_given():
    text = markup.page("a <title>", "lead & more", [("one", markup.paragraph("`code` < text"))])
    assert "a &lt;title&gt;" in text and "<code>code</code> &lt; text" in text
    check_page(text)


def test_a_full_result_shows_everything(result):
    text = report.evaluation_page(result, pictures)
    check_page(text)
    assert headings(text) == [
        "Results",
        "Against the baselines",
        "Best and worst clips",
        "By level",
        "Clip by clip",
        "Refused",
        "Everything the numbers depend on",
    ]
    assert result["groups"]["all"]["verdict"] in html.unescape(text) and result["protocol"]["sha256"] in text
    assert "one frame; at least 2 are needed" in text and text.count("<video") == 4


def test_a_result_without_truth_baselines_levels_or_videos_is_shown_too():
    bare = make_result(truth=False, methods=["ours"], levels=())
    text = html.unescape(report.evaluation_page(bare, lambda key: None))
    assert "Nothing was compared." in text and "No clip's video was kept." in text
    assert "Without a number here" in text and "FVD" in text and "By level" not in headings(text)
    check_page(report.evaluation_page(bare))
    assert "Best and worst clips" not in headings(report.evaluation_page(bare))


def test_a_result_of_no_clips_at_all_is_shown():
    text = report.evaluation_page(make_result(clips=0, methods=["ours"], levels=(), truth=False))
    check_page(text)
    assert "No clip gave a number." in text


def test_what_is_not_a_result_is_refused():
    with pytest.raises(InputError, match="schema None"):
        report.evaluation_page({"rows": []})


def test_the_table_shows_ours_first_and_leaves_blank_what_was_not_measured(result):
    shown = html.unescape(report_figures.results_table(result, extra={"shipped weights": {"psnr": 19.0}}))
    heads = re.findall(r"<th>(.*?)</th>", shown)
    assert heads[1:4] == ["ours", "shipped weights", "character held still"] and "ceiling" in heads[-1]
    rows = {row[0]: row[1:] for row in table_cells(shown)}
    means = result["groups"]["all"]["means"]
    assert rows["PSNR, whole frame (dB) ↑"][:2] == [f"{means['ours']['psnr']:.2f}", "19.00"]
    assert rows["FVD ↓"][:3] == ["360.0", "", "430.0"]


def test_the_best_is_bold_and_a_ceiling_is_not_the_best(result):
    worse = make_result(gain=-2.0)
    for found, best in ((result, "ours"), (worse, "hold")):
        line = next(
            row for row in re.findall(r"<tr.*?</tr>", report_figures.results_table(found), re.S) if "whole frame" in row
        )
        bold = re.findall(r'<td class="[^"]*best[^"]*">([\d.]+)', line)
        assert bold == [f"{found['groups']['all']['means'][best]['psnr']:.2f}"]


def test_missing_numbers_and_warnings_of_sets_are_told(result):
    notes = html.unescape(report_figures.table_notes(result))
    assert "Numbers on fewer clips, ours 18, holding still 24" in notes and "face identity similarity." in notes
    assert "FVD (n = 24): n = 24 is below the 400 dimensions" in notes


def test_sentences_follow_the_numbers(result):
    better = report_figures.comparison_list(result["groups"]["all"])
    worse = report_figures.comparison_list(make_result(gain=-2.0)["groups"]["all"])
    assert 'class="better"' in better and 'class="worse"' not in better and "Ours beats" in better
    assert 'class="worse"' in worse and 'class="better"' not in worse and "does not beat" in worse
    assert "by chance alone" in better


def test_best_and_worst_clips_are_those_with_the_best_and_worst_numbers(result):
    value = results.values(result)["lpips_alex"]
    numbers = {row["key"]: row["methods"]["ours"]["lpips_alex"] for row in result["rows"]}
    order = sorted(numbers, key=numbers.get)
    asked = []
    shown = report_figures.extremes(result, lambda key: asked.append(key) or pictures(key), value)
    assert asked == [*order[:2], *order[::-1][:2]]
    assert re.findall(r"<figcaption>(\w+) by LPIPS \(alex\): (\d+) of 24", shown) == [
        ("Best", "1"),
        ("Best", "2"),
        ("Worst", "24"),
        ("Worst", "23"),
    ]


def test_clips_that_were_not_kept_are_passed_over_with_their_true_rank(result):
    value = results.values(result)["psnr"]
    kept = report_figures.ranked(result, value)[5:8]
    shown = report_figures.extremes(result, lambda key: pictures(key) if key in kept else None, value)
    assert re.findall(r"<figcaption>(\w+) by PSNR: (\d+) of 24", shown) == [
        ("Best", "6"),
        ("Best", "7"),
        ("Worst", "8"),
    ]


def test_a_clip_says_who_drives_whom_and_what_was_measured(result):
    row = result["rows"][1]
    assert report_figures.who_drives_whom(row) == "walk, L2, full body: d1 drives p1"
    assert report_figures.who_drives_whom({"key": "clip7", "labels": {}}) == "clip7"
    assert f"PSNR {row['methods']['ours']['psnr']:.2f}" in report_figures.clip_numbers(result, row)


def test_strips_and_videos_take_clips_of_other_sizes_and_without_truth():
    clip = pictures("a", truth=False)
    clip.driving = np.zeros((9, 100, 160, 3), np.uint8)
    clip.character = np.zeros((33, 21, 3), np.uint8)
    frames, caption = side_by_side(clip)
    assert caption == "character · driver · ours" and frames.shape == (9, 64, 40 + 102 + 48, 3)
    two_rows, three_rows = clip_strip(clip), clip_strip(pictures("a"))
    assert two_rows.shape[0] < three_rows.shape[0]


def test_a_plot_marks_every_clip_and_counts_where_ours_is_better(result):
    value = results.values(result)["lpips_alex"]
    lanes = plots.distributions(result, value)
    assert [path.count("h0") for path in re.findall(r'class="dots".*? d="(.*?)"', lanes)] == [24] * 4
    found = plots.scatter(result, value)
    better = sum(row["methods"]["ours"]["lpips_alex"] < row["methods"]["hold"]["lpips_alex"] for row in result["rows"])
    assert found.count("<circle") == 24 and f"ours better here: {better} of 24" in found
    assert plots.scatter(make_result(methods=["ours", "autoencoder"]), value) == ""


def test_equal_numbers_still_have_an_axis(result):
    same = make_result()
    for row in same["rows"]:
        row["methods"]["ours"]["psnr"] = row["methods"]["hold"]["psnr"] = 20.0
    for figure in (plots.distributions, plots.scatter):
        check_page(figure(same, results.values(same)["psnr"]))


def test_leakage_is_shown_with_its_sentences_and_a_table_a_probe():
    score = {"value": 0.412, "low": 0.3, "high": 0.5, "found": True}
    label = {"words": "body shape", "measure": "R2", "scores": {"linear": {"tokens": score, "pixels": {"value": 0.9}}}}
    leakage = {
        "sentences": ["Motion tokens leak body shape <1>."],
        "labels": {"shape": label, "skin": {"reason": "no skin"}},
    }
    text = report.evaluation_page({**make_result(), "leakage": leakage})
    check_page(text)
    assert "leak body shape &lt;1&gt;" in text and "Not probed: no skin." in text
    assert table_cells(report.leakage_table(leakage["labels"], "linear")) == [["body shape (R2)", "0.412", "0.900"]]


def test_curves_draw_what_is_there():
    png = report_figures.curves(
        {"stage 1": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "stage 2": [{"step": 1}]}, ["loss", "absent"]
    )
    assert png.startswith(b"\x89PNG")


def test_a_run_and_its_validation_have_one_colour_and_no_other_run_has_it():
    names = [name + end for name in ("stage 1", "stage 2", "stage 3") for end in ("", report_figures.HELD_OUT)]
    colours = report_figures.run_colours(names)
    assert len(set(colours.values())) == 3
    assert all(colours[name] == colours[name + report_figures.HELD_OUT] for name in ("stage 1", "stage 2", "stage 3"))


def test_the_demo_says_what_its_training_changed(result):
    before = make_result("shipped", gain=0.2, seed=3)
    text = html.unescape(demo_page(DemoFacts(result, pictures, before, seconds={"data": 3.0}, about={"torch": "2"})))
    check_page(demo_page(DemoFacts(result, pictures, before)))
    assert "this run's model is better than the shipped one in PSNR" in text
    assert "shipped weights, before this run's training" in text
    assert "learned from nothing" in demo_page(DemoFacts(result))
    other = demo_page(DemoFacts(result, None, make_result("shipped", fps=24.0)))
    assert "cannot be compared" in other and "protocols differ in <code>fps</code>" in other
