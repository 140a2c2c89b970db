"""The ablation: what arms share, what a setting changes, the arms of configs/ablate, and the arithmetic of its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_fixture import make_result

from evaluation import results
from evaluation.ablation import pages, report, run, stages
from evaluation.ablation.config import ROOT, AblationConfig, ArmConfig, load_arms
from evaluation.ablation.jobs import Runner
from imanim import config
from imanim.errors import InputError

PLAN = ROOT / "configs/ablate/plan.yaml"


def plan(*overrides: str) -> AblationConfig:
    return config.load(AblationConfig, PLAN, overrides)


def lines(arm: ArmConfig, *overrides: str) -> list[str]:
    """The keys of an arm's trainings under seed 0."""
    (unit,) = stages.units(plan("seeds=[0]", *overrides), {"arm": arm})
    return [stage.key for stage in unit.last.line()]


METHOD = lines(ArmConfig("the method"))


# ------------------------------------------------------------------------------------------------------------- sharing


def test_every_arm_of_the_plan_can_be_trained_and_differs_in_what_it_says():
    full = plan()
    arms = load_arms(full.arms, PLAN.parent)
    units = stages.units(plan("seeds=[0]"), arms)
    assert [unit.arm for unit in units] == full.arms
    assert len({unit.last.key for unit in units}) == len(units)
    used = {unit.arm: [stage.key for stage in unit.last.line()] for unit in units}
    method = used["full"]
    assert {arm for arm, keys in used.items() if keys[0] == method[0]} == {
        "full", "skeleton", "no_mask", "no_temporal", "no_heatmaps", "no_stage2", "no_reference",
    }  # fmt: skip
    assert {arm for arm, keys in used.items() if method[1] in keys} == {"full", "no_heatmaps"}
    assert [len(used[arm]) for arm in ("full", "skeleton", "no_stage2")] == [3, 2, 2]
    # Equal samples a stage, whatever the arm.
    assert len({(s.number, s.samples) for unit in units for s in unit.last.line()}) == 3


def test_a_model_setting_is_shared_up_to_the_stage_that_builds_it():
    assert lines(ArmConfig("", model={"tokenizer": {"tokens": 8}}))[0] != METHOD[0]
    retargeter = lines(ArmConfig("", model={"retargeter": {"layers": 1}}))
    assert retargeter[0] == METHOD[0] and retargeter[1] != METHOD[1]
    expression = lines(ArmConfig("", model={"expression": {"tokens": 2}}))
    assert expression[:2] == METHOD[:2] and expression[2] != METHOD[2]


def test_what_decides_weights_decides_the_key_and_what_does_not_does_not():
    assert lines(ArmConfig("other words"), "output=elsewhere", "jobs=2", "data.folder=there") == METHOD
    assert lines(ArmConfig("", stages={"3": {"monitor": {"log_every": 1}}})) == METHOD
    changed = lines(ArmConfig("", stages={"1": {"optimizer": {"lr": 1e-3}}}))
    assert not set(changed) & set(METHOD)  # every later training stands on the changed one
    assert lines(ArmConfig("", stages={"3": {"max_steps": 7}}))[:2] == METHOD[:2]
    assert not set(lines(ArmConfig(""), "data.settings={seed: 1}")) & set(METHOD)
    (one,) = stages.units(plan("seeds=[1]"), {"arm": ArmConfig("")})
    assert not {s.key for s in one.last.line()} & set(METHOD)


def test_an_impossible_arm_is_named():
    with pytest.raises(InputError, match=r"arm bad: .*no_such_thing"):
        stages.units(plan("seeds=[0]"), {"bad": ArmConfig("", model={"tokenizer": {"no_such_thing": 1}})})
    with pytest.raises(InputError, match=r"arms: nobody: .*full"):
        load_arms(["nobody"], PLAN.parent)


def test_a_shared_training_is_one_job_and_comes_before_what_needs_it(tmp_path: Path):
    both = plan("seeds=[0]", "arms=[full,no_heatmaps]")
    units = stages.units(both, load_arms(both.arms, PLAN.parent))
    jobs = run.jobs(both, units, tmp_path)
    keys = [job.key for job in jobs]
    assert len(keys) == len(set(keys)) == 2 + 4 + 4  # samples of two kinds; stages 1, 2, 3, 3; two measurements an arm
    assert all(keys.index(parent) < i for i, job in enumerate(jobs) for parent in job.parents)
    # What a protocol makes from seeds is made once, before any arm is measured on it: two at once would write over each other.
    (people,) = [job for job in jobs if job.title == "samples of ablation_leakage"]
    assert people.made is not None
    on_them = [job for job in jobs if f"data={people.made.parent}" in job.command]
    assert len(on_them) == 2 and all(people.key in job.parents for job in on_them)
    told = "\n".join(run.tree(both, units, Runner(tmp_path / "jobs", ROOT), tmp_path))
    assert "4 trainings for 2 runs (6 without sharing)" in told


def test_tasks_share_the_runs_without_rest():
    units = stages.units(plan("seeds=[0,1,2]"), {"a": ArmConfig(""), "b": ArmConfig("", skip=[2])})
    parts = [run.share(units, i, 4) for i in (1, 2, 3, 4)]
    assert sorted((u.arm, u.seed) for part in parts for u in part) == sorted((u.arm, u.seed) for u in units)


# ---------------------------------------------------------------------------------------------------------- arithmetic


def shifted(result: dict[str, Any], value: str, off: float) -> dict[str, Any]:
    for row in result["rows"]:
        row["methods"]["ours"][value] += off
    return result


def test_a_difference_is_paired_averaged_over_seeds_and_positive_where_better():
    base = {s: [make_result(seed=s)] for s in (0, 1)}
    values = report.results.values(base[0][0])
    better = {s: [shifted(make_result(seed=s), "lpips_alex", -off)] for s, off in ((0, 0.01), (1, 0.03), (2, 9.0))}
    found = report.differences(["lpips_alex", "lpips_alex@L2", "psnr"], values, better, base)
    assert found["lpips_alex"]["gain"] == pytest.approx(0.02)  # seed 2 has no partner
    assert found["lpips_alex"]["low"] == pytest.approx(0.02) and found["lpips_alex"]["outcome"] == "better"
    assert (found["lpips_alex"]["seeds"], found["lpips_alex"]["clips"], found["lpips_alex"]["motions"]) == (2, 24, 8)
    assert found["lpips_alex@L2"]["clips"] == 8
    assert found["psnr"]["gain"] == 0


def test_motions_not_clips_are_drawn():
    base = {0: [make_result(clips_a_unit=3)]}
    values = report.results.values(base[0][0])
    arm = {0: [make_result(clips_a_unit=3)]}
    rng = np.random.default_rng(0)
    for start in range(0, 24, 3):  # the three clips of a motion differ alike
        off = rng.normal()
        for row in arm[0][0]["rows"][start : start + 3]:
            row["methods"]["ours"]["psnr"] += off
    found = report.differences(["psnr"], values, arm, base)["psnr"]
    alone = {0: [make_result(clips_a_unit=1)]}
    for row, other in zip(alone[0][0]["rows"], arm[0][0]["rows"]):
        row["methods"]["ours"]["psnr"] = other["methods"]["ours"]["psnr"]
    clips = report.differences(["psnr"], values, alone, {0: [make_result(clips_a_unit=1)]})["psnr"]
    assert found["gain"] == pytest.approx(clips["gain"])
    assert found["high"] - found["low"] > 1.3 * (clips["high"] - clips["low"])


def test_a_row_has_the_mean_of_the_seeds_and_their_range_from_whichever_protocol_measured_it():
    other = make_result(name="leaks", methods=["ours"])
    other["values"] = {}
    labels = {
        "shirt": {"scores": {"linear": {"tokens": {"value": 0.3}, "joints": {"value": 0.1}}}},
        "hat": {"reason": "none"},
    }
    other["leakage"] = {"labels": labels, "videos": {"colour_pull": {"value": 0.04, "low": -0.01, "high": 0.09}}}
    seeds = {s: [make_result(seed=s), other] for s in (0, 1, 2)}
    own = [found[0]["groups"]["L1"]["means"]["ours"]["psnr"] for found in seeds.values()]
    row = report.table_row(["psnr@L1", "leakage of shirt", report.CARRIED], seeds)
    assert row["psnr@L1"]["mean"] == pytest.approx(np.mean(own))
    assert (row["psnr@L1"]["low"], row["psnr@L1"]["high"]) == (min(own), max(own))
    assert row["leakage of shirt"]["mean"] == pytest.approx(0.2)
    assert row[report.CARRIED]["mean"] == pytest.approx(0.04)


def test_differences_are_of_the_protocol_that_the_table_shows():
    """Another protocol that scored the same value on other clips (here of a far better arm) must not mix in."""
    values = results.values(make_result())
    arm, base = make_result(seed=1), make_result(seed=0)
    other = make_result(name="leaks", seed=2)
    for row in other["rows"]:
        row["key"] += "-elsewhere"
        row["methods"]["ours"]["psnr"] += 50.0
    both = {0: [arm, other]}, {0: [base, make_result(name="leaks", seed=3)]}
    found = report.differences(["psnr"], values, *both)["psnr"]
    assert found["gain"] == pytest.approx(report.differences(["psnr"], values, {0: [arm]}, {0: [base]})["psnr"]["gain"])
    table = [report.table_row(["psnr"], seeds)["psnr"]["mean"] for seeds in both]
    assert found["gain"] == pytest.approx(table[0] - table[1])


def test_videos_that_could_not_be_made_give_no_column():
    other = make_result(name="leaks", methods=["ours"])
    other["leakage"] = {"labels": {}, "videos": {"reason": "no two drivers of one motion"}}
    assert report.carried(other) is None
    assert report.table_row([report.CARRIED], {0: [other]}) == {}


def test_the_page_and_the_picture_say_what_is_there_and_what_is_not():
    facts = report.results.values(make_result())
    columns = ["psnr@L1", "lpips_alex"]
    scored = {arm: {s: [make_result(seed=s, gain=g)] for s in (0, 1)} for arm, g in (("full", 1.0), ("other", -2.0))}
    result = {
        "plan": {"baseline": "full", "seeds": [0, 1]},
        "arms": {arm: {"about": f"about {arm}"} for arm in scored},
        "runs": [
            {"arm": arm, "seed": s, "parameters": {"a": 2_370_000}, "tflop": 12.34, "cpu_sec": 700.0 + 100 * s}
            for arm in scored
            for s in (0, 1)
        ],
        "values": {
            n: {"label": v.label, "unit": v.unit, "better": v.better, "digits": v.digits} for n, v in facts.items()
        },
        "columns": columns,
        "unmeasured": ["pck"],
        "table": {arm: report.table_row(columns, found) for arm, found in scored.items()},
        "differences": {"other": report.differences(columns, facts, scored["other"], scored["full"])},
        "missing": [{"arm": "third", "seed": 0, "job": "abc", "state": "failed"}],
        "environment": {"commit": "0123456789abcdef"},
    }
    text = pages.markdown(result)
    mean = result["table"]["full"]["psnr@L1"]["mean"]
    assert f"| **full** | {mean:.2f} [" in text and "| 2.37 M | 12.3 | 750 |" in text
    assert "PSNR, whole frame (dB) L1 ↑" in text and "third, seed 0: job abc is failed" in text
    assert "Not measured under these protocols: pck." in text
    worse = next(line for line in text.splitlines() if line.startswith("| other | **-"))
    assert worse.count("**") == 4
    assert pages.picture(result).startswith(b"\x89PNG")
