"""What is kept of a result, what targets make of it, what the page says, and whether two runs agree."""

from __future__ import annotations

import json

import evidence_fixture as fixture
import numpy as np
import pytest

from evaluation.evidence import ablations, agree, build, page, targets, trim
from evaluation.evidence.trim import CELLS, DECIDING
from imanim.errors import InputError

RUN = {
    "steps": {
        name: {"command": f"python launchers/{name}.py", "seconds": 3.0}
        for name in ("scores", "tokens", "leakage", "page")
    },
    "verified": None,
}


def kept(cfg=None, **made):
    return trim.scores(fixture.make(**made), cfg or fixture.settings())


def by_name(found):
    return {t.wanted.split(":")[0]: t for t in found}


def test_scopes_pool_splits_and_levels():
    scores = kept()
    deciding, cells = scores["groups"][DECIDING], scores["groups"][CELLS]
    assert (deciding["L3"]["clips"], cells["L3"]["clips"], cells["L3+L4"]["clips"], cells["all"]["clips"]) == (
        14,
        28,
        56,
        84,
    )
    assert scores["groups"]["portrait"]["all"]["clips"] == 14 and "portrait" not in scores["scopes"][CELLS]
    rows = [r for r in fixture.make()["rows"] if r["split"] == "unseen" and r["labels"]["level"] == "L4"]
    mean = np.mean([r["methods"]["copy"]["joint_error"] for r in rows])
    assert deciding["L4"]["means"]["copy"]["joint_error"] == pytest.approx(mean, rel=1e-5)
    json.dumps(scores, allow_nan=False)


def test_the_motion_alone_is_kept_at_every_level_and_in_every_cell():
    result = fixture.make()
    result["values"] = result["values"] | {"moving_error": {**fixture.VALUES["joint_error"], "label": "motion alone"}}
    for row in result["rows"]:
        for numbers in row["methods"].values():
            if "joint_error" in numbers:
                numbers["moving_error"] = numbers["joint_error"] / 2
    groups = trim.scores(result, fixture.settings())["groups"]
    for scope, level in ((CELLS, "L3"), (DECIDING, "L4"), ("seen", "L3+L4")):
        means = groups[scope][level]["means"]["ours"]
        assert means["moving_error"] == pytest.approx(means["joint_error"] / 2, rel=1e-4)


def test_arms_are_in_an_order_that_people_expect():
    arms = ["tokens32", "no_mask", "tokens8", "full"]
    assert ablations.in_order(arms, "full") == ["full", "no_mask", "tokens8", "tokens32"]


def test_places_on_a_machine_are_not_kept():
    assert "folder" in fixture.make()["method"] and "folder" not in kept()["method"]


def test_a_split_that_is_not_there_is_named():
    cfg = fixture.settings(scopes={"cells": ["seen", "unsen"], "deciding": ["seen"]})
    with pytest.raises(
        InputError, match=r"scopes.cells: no measured sample of split unsen; there are portrait, seen, unseen"
    ):
        trim.scores(fixture.make(), cfg)


@pytest.mark.parametrize(("ours", "state"), [(2.0, targets.REACHED), (3.0, targets.MISSED), (2.5, targets.UNSURE)])
def test_half_of_the_best_guess(ours, state):
    joints = fixture.JOINTS | {"ours": ours}
    result = fixture.make(joints=joints)
    if ours == 2.5:  # one half exactly, clip by clip: whatever tips it is chance
        rng = np.random.default_rng(0)
        for row in result["rows"]:
            row["methods"]["ours"]["joint_error"] += rng.normal(0, 0.3)
        judged = [r for r in result["rows"] if r["split"] == "unseen" and r["labels"]["level"] == "L3"]
        share = np.mean([r["methods"]["ours"]["joint_error"] for r in judged])
        for row in result["rows"]:
            row["methods"]["ours"]["joint_error"] *= 2.49 / share
    scores = trim.scores(result, fixture.settings())
    facts = scores["halved"][DECIDING]["L3"]
    assert facts["best"] == "scale_shift" and facts["ratio"] == pytest.approx(ours / 5.0, rel=0.02)
    assert by_name(targets.joints(scores, fixture.settings().targets))["retargeted joints at L3"].state == state


def test_the_video_must_be_ahead_everywhere():
    cfg = fixture.settings().targets
    assert targets.video(kept(), cfg).state == targets.REACHED
    behind = kept(videos=fixture.VIDEOS | {"hold": 22.5})
    found = targets.video(behind, cfg)
    assert found.state == targets.MISSED and "ahead in 3 of 6" in found.found
    few = targets.video(kept(motions=3), cfg)
    assert few.state == targets.UNSURE and "surely in 0" in few.found
    absent = targets.video(kept(), fixture.settings(targets={"beaten_values": ["psnr", "lpips_alex"]}).targets)
    assert absent.state == targets.UNKNOWN and "6 not measured" in absent.found


def test_tokens_and_clothes():
    cfg = fixture.settings().targets
    assert [t.state for t in targets.tokens({"tokens": fixture.TOKENS}, cfg)] == [targets.REACHED, targets.REACHED]
    worse = {
        "codes": 512,
        "scopes": {n: f | {"error": 1.6, "codes_used": 79.0} for n, f in fixture.TOKENS["scopes"].items()},
    }
    assert [t.state for t in targets.tokens({"tokens": worse}, cfg)] == [targets.MISSED, targets.MISSED]
    states = [
        targets.clothes({"leakage": trim.leakage(fixture.probes(*numbers))}, cfg).state
        for numbers in ((0.01, 0.03), (0.03, 0.09), (0.06, 0.2))
    ]
    assert states == [targets.REACHED, targets.UNSURE, targets.MISSED]
    assert targets.clothes({}, cfg).state == targets.UNKNOWN


def test_bins_over_the_gap_hold_every_clip_once():
    scores = kept()
    bins = scores["gaps"]
    assert sum(b["clips"] for b in bins) == scores["groups"][CELLS]["L3+L4"]["clips"]
    assert all(a["high"] <= b["low"] for a, b in zip(bins, bins[1:]))
    assert bins[0]["values"]["joint_error"]["copy"][0] > bins[0]["values"]["joint_error"]["ours"][0]
    assert kept(gaps=False)["gaps"] == []


def test_arms_over_the_gap_need_the_same_samples():
    cfg, one, other = fixture.settings(), fixture.make(), fixture.make(joints=fixture.JOINTS | {"ours": 8.0})
    found = trim.arm_gaps({"full": one, "skeleton": other}, cfg)
    first = found["bins"][0]["values"]["joint_error"]
    assert first["skeleton"][0] == pytest.approx(4 * first["full"][0], rel=1e-4)
    other["samples"] = {**other["samples"], "sha256": "00"}
    with pytest.raises(InputError, match="full, skeleton differ in protocol or samples"):
        trim.arm_gaps({"full": one, "skeleton": other}, cfg)


def test_curves_are_thinned_and_keep_their_ends():
    rows = [{"step": i, "loss": 1 / (i + 1), "note": "x"} for i in range(1000)]
    rows += [{"step": 500, "validation": {"loss": 0.4}}]
    found = trim.curves({"stage 1": rows}, ["loss"])
    assert len(found["stage 1"]) <= 160 and found["stage 1"][0]["step"] == 0 and found["stage 1"][-1]["step"] == 999
    assert found["stage 1 (held out)"] == [{"step": 500, "loss": 0.4}]


# ---------------------------------------------------------------------------------------------------------------- page


def whole(tmp_path, cfg=None, **outputs):
    cfg = cfg or fixture.settings(tmp_path)
    found = {"scores": fixture.make(), "tokens": fixture.TOKENS, "leakage": fixture.probes(0.01, 0.03), **outputs}
    build.keep(cfg, RUN, found, fixture.pictures)
    return build.write_page(cfg).read_text()


def test_the_page_is_written_from_the_kept_files_alone(tmp_path):
    text = whole(tmp_path)
    assert "| retargeted joints at L3: at most 0.5 x the best training-free guess |" in text
    for heading in ("Targets", "Error by level", "The four cells", "Motion tokens", "Across bodies", "Expression"):
        assert f"\n## {heading}\n" in text
    assert "2.00 [" in text and "python launchers/scores.py" in text and "Not probed: shoes" in text
    assert "![Errors by level, ours beside every baseline](pictures/evidence_by_level.png)" in text
    pictures = {p.name for p in (tmp_path / "pictures").iterdir()}
    assert {"evidence_by_level.png", "evidence_by_gap.png", "evidence_unseen_L3.png"} <= pictures
    assert build.write_page(fixture.settings(tmp_path)).read_text() == text
    assert "evidence_curves.png" not in pictures


def test_words_stay_and_are_never_lost(tmp_path):
    words = tmp_path / "words.md"
    words.write_text("## Summary\n\nIt holds.\n\n## Targets\n\nTwo of them.\n")
    cfg = fixture.settings(tmp_path)
    cfg.keep.words = str(words)
    text = whole(tmp_path, cfg)
    assert text.index("It holds.") < text.index("## Targets\n\nTwo of them.\n")
    words.write_text("## Tagrets\n\nTwo of them.\n")
    with pytest.raises(InputError, match="no section `Tagrets` on the page"):
        build.write_page(cfg)
    for wrong, says in (("Loose words.\n", "before the first"), ("## A\nx\n## A\ny\n", "a second time")):
        words.write_text(wrong)
        with pytest.raises(InputError, match=says):
            page.read_words(words)


def test_what_an_earlier_run_had_does_not_stay(tmp_path):
    whole(tmp_path)
    text = whole(tmp_path, tokens=None, leakage=None)
    assert "## Motion tokens" not in text and not (tmp_path / "kept" / "tokens.json").exists()
    assert "| joints read from the tokens: at most 1.5 % of the image height |  | not measured |" in text


def test_an_ablation_is_optional_and_checked(tmp_path):
    assert "There is no ablation" in whole(tmp_path)
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps(ABLATION))
    text = whole(tmp_path, fixture.settings(tmp_path, ablation=str(path)))
    assert "| **full** | the method | 2 | 3.50 (3.00 to 4.00) |" in text
    assert "| skeleton | *-2.00 [-3.00, -1.00]* |" in text and "Not finished: no_mask, seed 0" in text
    path.write_text("{}")
    with pytest.raises(InputError, match="has no `plan`"):
        whole(tmp_path, fixture.settings(tmp_path, ablation=str(path)))


def test_an_ablation_is_shown_beside_its_replications(tmp_path):
    again = json.loads(json.dumps(ABLATION))
    again["differences"]["skeleton"]["joint_error@L3"] |= {"gain": -1.5, "low": -2.5, "high": -0.5}
    again["table"]["full"]["joint_error@L3"] |= {"mean": 3.25, "seeds": {"2": 3.25}}
    paths = {"ablation": tmp_path / "ablation.json", "seed 2": tmp_path / "again.json"}
    for path, content in zip(paths.values(), (ABLATION, again)):
        path.write_text(json.dumps(content))
    cfg = fixture.settings(tmp_path, ablation=str(paths["ablation"]), replicated=["joint_error@L3", "unknown"])
    cfg.replications = {"seed 2, float32": str(paths["seed 2"])}
    text = whole(tmp_path, cfg)
    assert "| joint error (%) at L3 ↓ | seeds 0, 1 | seed 2, float32 |" in text
    assert "| **full** | 3.50 (3.00 to 4.00) | 3.25 |" in text
    assert "| skeleton | *-2.00 [-3.00, -1.00]* | *-1.50 [-2.50, -0.50]* |" in text
    said = "Of 1 differences of these arms, in all columns, that are sure in seeds 0, 1, {} are sure again in seed 2, float32"
    assert said.format(1) in text
    again["differences"]["skeleton"]["joint_error@L3"]["outcome"] = "open"
    paths["seed 2"].write_text(json.dumps(again))
    assert said.format(0) in whole(tmp_path, cfg)
    cfg.replications = {"seeds 0, 1": str(paths["seed 2"])}
    with pytest.raises(InputError, match="seeds 0, 1 is what the first ablation is called"):
        whole(tmp_path, cfg)
    cfg.replications, cfg.ablation = {"seed 2, float32": str(paths["seed 2"])}, None
    with pytest.raises(InputError, match="seed 2, float32 has no ablation to stand beside"):
        whole(tmp_path, cfg)
    cfg.ablation = str(paths["ablation"])
    again["plan"]["baseline"] = "skeleton"
    paths["seed 2"].write_text(json.dumps(again))
    with pytest.raises(InputError, match="seed 2, float32 compares with skeleton, not full"):
        whole(tmp_path, cfg)


def test_what_is_sure_in_every_run_is_listed():
    found, one, other = (trim.ablation(json.loads(json.dumps(ABLATION)), "a") for _ in range(3))

    def lines():
        return ablations.replicated(["joint_error@L3"], found, {"one": one, "other": other})[-2:]

    assert lines() == [
        "Sure in every run that has the arm, in the same direction:",
        "- skeleton (3 runs): joint error (%) at L3 ↓ (worse)",
    ]
    other["differences"]["skeleton"]["joint_error@L3"]["outcome"] = "open"
    assert lines()[-1] == "No difference is sure in every run that has its arm."
    other["differences"] = {}
    assert lines()[-1] == "- skeleton (2 runs): joint error (%) at L3 ↓ (worse)"
    one["differences"] = {}  # the first run alone is no replication
    assert lines()[-1] == "No difference is sure in every run that has its arm."


@pytest.mark.parametrize("what", ["budget", "protocols"])
def test_another_budget_or_protocol_is_no_replication(what):
    content = json.loads(json.dumps(ABLATION))
    content["plan"]["stages"] = [{"config": "stage1.yaml", "settings": {"max_steps": 10}}]
    content["runs"][0]["scores"] = {"films": {"protocol_sha256": "ab", "samples_sha256": "cd", "groups": {}}}
    found, again = (trim.ablation(content, "a") for _ in range(2))
    assert found["protocols"] == {"films": {"protocol_sha256": "ab", "samples_sha256": "cd"}}
    ablations.check_replications(found, {"again": again})
    ablations.check_replications(found, {"again": {**again, what: {}}})  # kept before it was kept
    again[what] = {"other": 1}
    with pytest.raises(InputError, match=f"again has other {what} than the ablation"):
        ablations.check_replications(found, {"again": again})


def _arm(arm, seed):
    return {"arm": arm, "seed": seed, "cpu_sec": 600.0, "tflop": 1.0, "parameters": {"denoiser": 2_000_000}}


def _column(mean):
    return {
        "joint_error@L3": {
            "mean": mean,
            "low": mean - 0.5,
            "high": mean + 0.5,
            "seeds": {"0": mean - 0.5, "1": mean + 0.5},
        }
    }


ABLATION = {
    "plan": {"baseline": "full"},
    "arms": {"full": {"about": "the method"}, "skeleton": {"about": "joints to the DiT"}, "no_mask": {"about": ""}},
    "runs": [_arm(arm, seed) for arm in ("full", "skeleton") for seed in (0, 1)],
    "values": {"joint_error": {"label": "joint error", "unit": "%", "better": "lower", "digits": 2}},
    "columns": ["joint_error@L3"],
    "table": {"full": _column(3.5), "skeleton": _column(5.5)},
    "differences": {
        "skeleton": {"joint_error@L3": {"gain": -2.0, "low": -3.0, "high": -1.0, "motions": 9, "outcome": "worse"}}
    },
    "missing": [{"arm": "no_mask", "seed": 0, "job": "ab12", "state": "failed"}],
    "environment": {},
}


# --------------------------------------------------------------------------------------------------------------- agree


def test_two_runs_agree_disagree_or_are_too_close():
    full, same = kept(), kept(motions=4)
    found = agree.orderings(full, same, ["L3", "L4"])
    verdicts = {(o.where, o.value.name, o.against): o.verdict for o in found}
    assert verdicts["L3+L4", "psnr", "ours against holding still"] == agree.AGREE
    assert agree.DISAGREE not in verdicts.values()
    few = agree.orderings(full, kept(motions=1), ["L3", "L4"])
    assert {o.verdict for o in few if o.where != "all levels"} == {agree.OPEN} and "same direction" in few[0].line
    other = agree.orderings(full, kept(videos=fixture.VIDEOS | {"hold": 25.0}), ["L3", "L4"])
    assert [o.where for o in other if o.verdict == agree.DISAGREE] == ["L3", "L4", "L3+L4", "all levels"]


def test_other_protocols_do_not_compare():
    full, quick = kept(), kept()
    quick["protocol"]["metrics"] = {}  # a quick run may leave some out
    assert agree.orderings(full, quick, ["L3"])
    quick["protocol"]["size"] = [32, 24]
    with pytest.raises(InputError, match=r"protocol.size differs"):
        agree.orderings(full, quick, ["L3"])


def test_arms_agree_too():
    one = trim.ablation(ABLATION, "a")
    turned = json.loads(json.dumps(one))
    turned["differences"]["skeleton"]["joint_error@L3"] |= {"gain": 1.0, "low": 0.5, "high": 2.0, "outcome": "better"}
    assert [o.verdict for o in agree.arm_orderings(one, one)] == [agree.AGREE]
    assert [o.verdict for o in agree.arm_orderings(one, turned)] == [agree.DISAGREE]
