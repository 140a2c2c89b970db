"""Two results side by side: refused across protocols and samples, paired where they belong together."""

import copy
import re

import numpy as np
import pytest
from result_fixture import make_result, protocol_facts

from evaluation.compare import compare, differences
from evaluation.compare_tables import render
from imanim.errors import InputError


def test_other_protocols_are_refused_by_the_first_setting_that_differs():
    one, other = make_result("one"), make_result("two", metrics={"psnr": {"data_range": 1}, "fvd-tf": {"ddof": 0}})
    with pytest.raises(InputError) as error:
        compare(one, other)
    assert "protocols differ in `metrics.psnr.data_range`: 255 (one), 1 (two)" in str(error.value)
    assert "(2 more)" in str(error.value)


def test_places_are_named_only_when_nothing_else_differs():
    one = protocol_facts(source={"folder": "a", "splits": ["test"]})
    other = protocol_facts(source={"folder": "b", "splits": ["test"]}, fps=24.0)
    assert [name for name, _, _ in differences(one, other)] == ["fps", "source.folder", "sha256"]
    listed = list(differences({"a": [1, 2], "b": 1}, {"a": [1, 3], "c": 1}))
    assert listed == [("a[1]", 2, 3), ("b", 1, "(not there)"), ("c", "(not there)", 1)]


def test_a_changed_hash_alone_is_refused_too():
    one, other = make_result(), make_result()
    other["protocol"]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="sha256 alone"):
        compare(one, other)


def test_other_samples_are_refused_by_a_key():
    one, other = make_result("one"), make_result("two", clips=27)
    other["samples"]["sha256"] = "6b" * 32
    with pytest.raises(InputError, match=r"samples differ: 25, .*28, .*`s024` is only in two"):
        compare(one, other)
    same = make_result("two")
    same["samples"]["sha256"] = "6b" * 32
    with pytest.raises(InputError, match="same keys, other contents"):
        compare(one, same)


def test_gains_are_paired_differences_with_a_direction():
    one, other = make_result("one", gain=1.0), make_result("two", gain=0.2, seed=3)
    found = compare(one, other)
    numbers = [[row["methods"]["ours"]["lpips_alex"] for row in result["rows"]] for result in (one, other)]
    lpips = found["values"]["lpips_alex"]
    assert lpips["gain"] == pytest.approx(np.mean(numbers[1]) - np.mean(numbers[0])) and lpips["outcome"] == "better"
    assert lpips["wins"] + lpips["losses"] == 24 and lpips["units"] == 8
    back = compare(other, one)["values"]["lpips_alex"]
    assert (back["gain"], back["low"], back["high"]) == pytest.approx((-lpips["gain"], -lpips["high"], -lpips["low"]))
    assert back["outcome"] == "worse" and back["wins"] == lpips["losses"]
    assert "one is better than two in" in found["verdict"]


def test_a_value_without_a_direction_is_neither_won_nor_lost():
    lag = compare(make_result("one"), make_result("two", seed=3))["values"]["lag_frames"]
    assert lag["outcome"] == "none" and "wins" not in lag


def test_a_result_beside_itself_differs_in_nothing():
    found = compare(make_result(), make_result())
    assert all(facts["gain"] == 0 and facts["outcome"] in ("open", "none") for facts in found["values"].values())
    assert found["names"] == ["a (A)", "a (B)"] and "may be chance" in found["verdict"] and not found["warnings"]


def test_only_samples_that_both_scored_count_and_the_others_are_named():
    one, other = make_result("one"), make_result("two", gain=0.5, seed=3)
    gone = other["rows"].pop(0)
    other["refused"].append({"key": gone["key"], "reason": "made has 8 frames"})
    found = compare(one, other)
    assert found["left_out"] == {"one": [], "two": ["s000"]} and found["samples"]["both"] == 23
    assert found["values"]["psnr"]["clips"] == 23 and "fvd" not in found["values"]
    assert any("`fvd` is not compared" in warning for warning in found["warnings"])
    assert "Left out because two has no number for it: 1 (s000)." in render(found)


def test_set_values_are_compared_by_paired_draws():
    one, other = make_result("one"), make_result("two", gain=0.9, seed=3)
    fvd = compare(one, other)["values"]["fvd"]
    off = np.subtract(*(r["sets"]["all"]["ours"]["fvd"]["draws"] for r in (one, other)))
    assert fvd["gain"] == pytest.approx(4.0) and fvd["high"] - fvd["gain"] == pytest.approx(
        2.5279 * off.std(ddof=1), rel=1e-4
    )
    alone = one["sets"]["all"]["ours"]["fvd"]
    assert fvd["high"] - fvd["low"] < 0.5 * (alone["high"] - alone["low"]), "the noise that both share is gone"
    other["sets"]["all"]["ours"]["fvd"]["draws"] = []
    found = compare(one, other)
    assert found["values"]["fvd"]["low"] is None and "`fvd` has no paired draws, so no interval" in found["warnings"]


def test_other_versions_and_baselines_that_moved_are_warned_of():
    one, other = make_result("one"), make_result("two", seed=3)
    other["environment"]["numpy"] = "2.2"
    other["rows"][5]["methods"]["hold"]["psnr"] += 0.01
    told = " | ".join(compare(one, other)["warnings"])
    assert "environment differs in `numpy`: 2.1 (one), 2.2 (two)" in told
    assert "holding still: `psnr` of s005" in told and "the protocol does not name differs" in told


def test_values_that_one_alone_has_are_named():
    one, other = make_result("one"), make_result("two", seed=3)
    for row in other["rows"]:
        for numbers in row["methods"].values():
            numbers.pop("psnr")
    other["values"].pop("psnr")
    found = compare(one, other)
    assert "`psnr` was only measured by one" in found["warnings"] and "psnr" not in found["values"]


def test_nothing_in_common_is_refused():
    one, other = make_result("one"), make_result("two")
    other["rows"] = []
    with pytest.raises(InputError, match="no sample that both scored"):
        compare(one, other)


def test_the_arguments_are_left_as_they_were():
    one, other = make_result("one"), make_result("two", seed=3)
    kept = copy.deepcopy((one, other))
    compare(one, other)
    assert (one, other) == kept


def test_every_form_shows_the_same_numbers():
    found = compare(make_result("one"), make_result("two|b", gain=0.2, seed=3))
    shown = {form: render(found, form) for form in ("terminal", "markdown", "html")}
    psnr = found["values"]["psnr"]
    for text in shown.values():
        assert (
            f"{psnr['gain']:+.2f}" in text and f"{psnr['a']:.2f}" in text and found["protocol"]["sha256"][:10] in text
        )
    rows = [line for line in shown["markdown"].splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    table = shown["terminal"].split("\n\n")[1].splitlines()
    assert len({line.rstrip().rfind("better") for line in table if line.endswith("better")}) == 1
    with pytest.raises(InputError, match="`pdf`: unknown"):
        render(found, "pdf")
