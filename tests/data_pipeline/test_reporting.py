"""The report of a job: its numbers add up, and books that disagree are told."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_rows import Page, clip, manifest_of, refused, small_set, summary_of, video

from data_pipeline.reporting import in_one_line, marks, measures, page, reason_of, summarise
from data_pipeline.reporting.reasons import REASONS, STEPS

# ---------------------------------------------------------------------------------------------------------------- funnel


def test_the_funnel_counts_what_is_left_and_why():
    funnel = summary_of(*small_set())["funnel"]
    assert [(s["unit"], s["count"]) for s in funnel] == [
        ("videos", 4), ("videos", 3), ("videos", 3), ("videos", 2), ("videos", 2), ("clips", 4), ("clips", 3),
    ]  # fmt: skip
    assert [s["dropped"] for s in funnel] == [{}, {"corrupt": 1}, {}, {"no_person": 1}, {}, {}, {"blurred": 1}]
    assert funnel[2]["stretches"] == {"hard_cut": 3} and funnel[3]["stretches"] == {"no_person": 4}
    assert funnel[0]["seconds"] is None, "nobody knows how long the torn video is"
    assert funnel[3]["seconds"] == 20.0 and funnel[-1]["seconds"] == 4.5


names = st.sampled_from(["a", "b", "c", "d", "e"])
reasons = st.sampled_from([*REASONS, "new_reason"])
entries = st.builds(clip, names, st.integers(0, 3), st.one_of(st.none(), reasons))
counts = st.dictionaries(reasons, st.integers(0, 5), max_size=4)


@st.composite
def videos_of(draw):
    out = []
    for name in sorted(draw(st.sets(names))):
        if draw(st.booleans()):
            out.append(refused(name, draw(reasons)))
        else:
            row = video(name, draw(st.integers(0, 3)), draw(counts))
            out.append({**row, "reason": draw(reasons)} if draw(st.booleans()) and not row["clips"] else row)
    return out


@settings(max_examples=150, deadline=None)
@given(videos_of(), st.lists(entries, max_size=12))
def test_drops_and_what_is_left_are_what_there_was_before(rows, clips):
    made = summary_of(rows, clips)
    for before, step in zip(made["funnel"], made["funnel"][1:]):
        if step["unit"] == before["unit"]:
            assert step["count"] + sum(step["dropped"].values()) == before["count"]
        else:
            assert not step["dropped"], "a new unit starts whole"
    steps, total = {s["label"]: s for s in made["funnel"]}, made["totals"]
    assert steps["files found"]["count"] == len(rows) == total["files_kept"] + total["files_refused"]
    assert steps["gave clips"]["count"] == total["files_kept"] == sum(row.get("clips", 0) > 0 for row in rows)
    assert steps["kept"]["count"] == total["clips"] == sum("reason" not in c for c in clips)
    assert sum(r["videos"] for r in made["reasons"]) == total["files_refused"]
    assert sum(r["clips"] for r in made["reasons"]) == total["clips_dropped"]
    listed = Counter(c["reason"] for c in clips if "reason" in c)
    assert all(r["clips"] >= listed[r["reason"]] for r in made["reasons"])
    json.dumps(made, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(videos_of(), st.lists(entries, max_size=8), st.randoms())
def test_the_order_of_the_input_does_not_matter(rows, clips, random):
    other_rows, other_clips = random.sample(rows, len(rows)), random.sample(clips, len(clips))
    assert json.dumps(summary_of(rows, clips)) == json.dumps(summary_of(other_rows, other_clips))


def test_a_stretch_that_is_counted_and_listed_is_one_stretch():
    rows = [video("a.mp4", 0, {"blurred": 3, "text": 1})]
    clips = [clip("a.mp4", i, "blurred") for i in range(2)] + [clip("a.mp4", 5, "dark")]
    assert {r["reason"]: r["clips"] for r in summary_of(rows, clips)["reasons"]} == {"blurred": 3, "text": 1, "dark": 1}


def test_the_reason_of_a_video_is_that_of_its_best_stretch():
    assert reason_of({"hard_cut": 9, "no_person": 3, "blurred": 1}) == "blurred"
    assert reason_of({"text": 1, "blurred": 1}) == "blurred", "as frequent: the first by name"
    assert reason_of({"hard_cut": 9, "too_short": 0}) == "hard_cut"
    assert reason_of({}) == "no_clip"


def test_one_line_for_the_terminal():
    rows, _ = small_set()
    assert in_one_line(rows) == "corrupt 1, no_person 1"
    assert in_one_line(rows[:2]) == "every video gave clips"


def test_every_reason_has_a_step_and_a_line_of_text():
    for code, reason in REASONS.items():
        assert re.fullmatch(r"[a-z_]+", code) and reason.step in STEPS
        assert reason.text and "\n" not in reason.text + reason.setting


def test_a_reason_that_nobody_described_is_shown_as_it_is():
    rows = [refused("x.mp4", "meteor <b>")]
    made = summary_of(rows, [])
    assert made["reasons"] == [
        {"reason": "meteor <b>", "step": "readable", "videos": 1, "clips": 0, "text": "", "setting": ""}
    ]
    assert "meteor &lt;b&gt;" in page(made, rows) and "not described" in page(made, rows)


# --------------------------------------------------------------------------------------------------------------- numbers


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan")), st.integers(0, 40)), st.booleans())
    ),
    st.sampled_from(["linear", "log", "whole", "part"]),
)
def test_a_histogram_loses_nobody(values, scale):
    made = measures.histogram(values, scale)
    inside = sum(made["kept"]) + sum(made["dropped"])
    assert inside + made["below"] + made["above"] + made["unknown"] == len(values)
    assert len(made["kept"]) == len(made["dropped"]) == max(len(made["edges"]) - 1, 0) <= 60
    assert all(a < b for a, b in zip(made["edges"], made["edges"][1:]))
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize("scale", ["linear", "whole", "part"])
def test_a_histogram_counts_as_numpy_does(scale):
    numbers = np.random.default_rng(5).integers(0, 65, 500) / 64
    made = measures.histogram([(float(v), True) for v in numbers], scale)
    assert made["kept"] == np.histogram(numbers, np.array(made["edges"]))[0].tolist()
    assert made["median"] == pytest.approx(np.median(numbers), rel=1e-5)


def test_one_odd_value_does_not_squeeze_the_rest():
    made = measures.histogram([*((float(i), True) for i in range(200)), (1e9, True)])
    assert made["above"] == 1 and made["edges"][-1] <= 250


def test_whole_numbers_have_a_bin_each():
    made = measures.histogram([(n, True) for n in (0, 1, 1, 3)], "whole")
    assert dict(zip(made["edges"], made["kept"])) == {0: 1, 1: 2, 2: 0, 3: 1}


def test_stages_have_frames_per_cpu_second_and_a_share():
    found = measures.stages([video("a.mp4"), video("b.mp4"), refused("c.mp4", "corrupt", cpu_sec={"decode": 0.5})])
    assert found[0] == {"stage": "people", "cpu_sec": 6.0, "frames": 240, "frames_per_cpu_sec": 40.0, "share": 0.7059}
    assert found[1]["stage"] == "decode" and found[1]["frames_per_cpu_sec"] == 200.0


def test_the_long_tail_names_the_slowest_and_their_share():
    rows = [video(f"{i:02}.mp4", wall_sec=float(i), cpu_sec={"people": 10.0 if i >= 90 else 1.0}) for i in range(100)]
    tail = measures.long_tail(rows)
    assert [v["file"] for v in tail["videos"]] == [f"{i}.mp4" for i in range(99, 89, -1)]
    assert tail["cpu_share"] == round(100 / 190, 4) and tail["wall_sec_median"] == 49.5 and tail["wall_sec_p95"] == 94.0


def test_thresholds_of_the_settings_stand_in_the_histograms():
    rows, clips = small_set()
    made = summarise(
        rows, clips, manifest_of(clips, settings={"rules": {"min_motion": 0.05, "min_person_px": None}}), None
    )
    plots = {(d["of"], d["name"]): d for d in made["distributions"]}
    assert plots["clips", "motion"]["limits"] == {"rules.min_motion": 0.05}
    assert plots["clips", "person_px"]["limits"] == {}
    assert ("clips", "camera") not in plots, "nobody could measure it"
    assert 'class="limit"' in marks.histogram(plots["clips", "motion"])
    assert sum(plots["clips", "motion"]["dropped"]) == 1 and sum(plots["videos", "people"]["kept"]) == 2


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7980, "2 h 13 min"),
        (3.6e6, "1,000 h"),
    ],
)
def test_durations_for_people(seconds, shown):
    assert marks.duration(seconds) == shown


# ---------------------------------------------------------------------------------------------------------------- checks


def checks_of(rows, clips, manifest=None, leakage=None):
    made = summarise(rows, clips, manifest or manifest_of(clips), leakage)
    return {c["check"]: c for c in made["checks"]}, page(made, rows)


def test_good_books_raise_no_alarm():
    checks, html = checks_of(*small_set())
    assert {c["ok"] for c in checks.values()} == {True, None}
    assert checks["no face of one split is like one of another"]["ok"] is None
    assert Page(html).text.count("in quarantine:") == 1 and html.count('role="alert"') == 1


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        (
            "every kept clip is in the shards",
            lambda rows, clips, manifest: manifest["splits"].update(train={"samples": 2}),
        ),
        ("every video's count is that of its clips", lambda rows, clips, manifest: rows[0].update(clips=7)),
        (
            "every video's count is that of its clips",
            lambda rows, clips, manifest: clips[0].update(file="stranger.mp4"),
        ),
        ("no two clips have one key", lambda rows, clips, manifest: clips[1].update(key=clips[0]["key"])),
        ("no person is in two splits", lambda rows, clips, manifest: clips[1].update(split="val", file="c.mp4")),
        (
            "no video is in two splits",
            lambda rows, clips, manifest: clips[1].update(split="val", person="person-other"),
        ),
    ],
)
def test_books_that_disagree_are_told_in_red(check, spoil):
    rows, clips = small_set()
    manifest = manifest_of(clips)
    spoil(rows, clips, manifest)
    checks, html = checks_of(rows, clips, manifest)
    assert checks[check]["ok"] is False and checks[check]["detail"]
    assert marks.text(checks[check]["problem"]) in html.partition("<section>")[0]


def test_a_leak_is_told_in_red_and_its_pairs_are_listed():
    side = {"video": "a.mp4", "person": "person-<1>", "split": "train"}
    pair = {"a": side, "b": {**side, "video": "<b>.mp4", "split": "val"}, "distance": 0.3123}
    found = {"ok": False, "threshold": 0.5, "distances": {"train/val": 0.3123}, "nearest": [pair],
             "persons_in_two": ["person-<1>"], "videos_in_two": []}  # fmt: skip
    checks, html = checks_of(*small_set(), leakage=found)
    assert checks["no face of one split is like one of another"]["ok"] is False
    top, _, rest = html.partition("<section>")
    assert "Leak between the splits" in top and "train/val 0.3123" in top
    assert "person-&lt;1&gt;" in rest and "0.312" in Page(html).text
    _, fine = checks_of(*small_set(), leakage={**found, "ok": True, "persons_in_two": []})
    assert "Leak between" not in fine and "no leak found" in fine
    assert "too small or turned" not in fine
    _, unseen = checks_of(*small_set(), leakage={**found, "without_vector": 3})
    assert "3 people show a face too small or turned too far to compare" in unseen
