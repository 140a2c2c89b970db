"""A result file is whole, or it is refused by the name of what is wrong."""

import copy
import json

import pytest
from result_fixture import make_result

from evaluation import results
from evaluation.metrics.base import Value
from imanim.errors import InputError


@pytest.fixture(scope="module")
def result():
    return make_result()


def broken(result, path, value):
    """The result with one key set, or left out for ``...``."""
    found = copy.deepcopy(result)
    at = found
    *before, last = path
    for key in before:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return found


def test_a_whole_result_is_read_back_from_its_file_or_folder(result, tmp_path):
    (tmp_path / results.RESULT).write_text(json.dumps(result))
    assert results.load(tmp_path) == results.load(tmp_path / results.RESULT) == json.loads(json.dumps(result))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["schema"], 2, "schema 2"),
        (["protocol", "sha256"], ..., "protocol.sha256: missing"),
        (["samples", "count"], "24", "samples.count: str, expected int"),
        (["methods"], ["hold", "ours"], "`ours` first"),
        (["values", "psnr", "better"], "up", "values.psnr.better: 'up'"),
        (["values", "psnr", "digits"], True, "values.psnr.digits: bool"),
        (["rows", 0, "methods", "ours", "psnr"], float("nan"), "rows.0.methods.ours.psnr: nan"),
        (["rows", 0, "methods", "ours", "psnr"], "20", "psnr: str"),
        (["rows", 0, "methods", "stranger"], {}, "`stranger` is not among methods"),
        (["rows", 0, "methods", "ours", "fvd"], 3.0, "`fvd` of ours is not among values of scope clip"),
        (["rows", 1, "key"], "s000", "'s000' a second time"),
        (["sets", "all", "ours", "fvd", "draws"], ..., "sets.all.ours.fvd.draws: missing"),
        (["groups", "all"], ..., "groups.all: missing"),
        (["environment"], ..., "environment: missing"),
    ],
)
def test_what_is_wrong_is_named(result, path, value, told):
    with pytest.raises(InputError) as error:
        results.check(broken(result, path, value), "a.json")
    assert told in str(error.value) and str(error.value).startswith("a.json: ") and "measure again" in str(error.value)


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a result file"):
        results.check([1])
    with pytest.raises(InputError, match="no such file"):
        results.load(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"schema": 1')
    with pytest.raises(InputError, match="damaged JSON"):
        results.load(tmp_path / "half.json")


def test_numbers_of_both_scopes_are_found_alike(result):
    assert results.mean(result, "ours", "fvd") == 360.0 and results.counted(result, "ours", "fvd") == 24
    assert results.mean(result, "ours", "psnr") == pytest.approx(
        sum(r["methods"]["ours"]["psnr"] for r in result["rows"]) / 24
    )
    assert results.counted(result, "ours", "identity_similarity") == 18
    assert results.mean(result, "ours", "absent") is None and results.interval(result, "hold", "absent") is None
    low, high = results.interval(result, "hold", "fvd")
    assert low < 430 < high


def test_numbers_are_written_with_the_digits_they_deserve():
    value = Value("x", "x", "lower", 2)
    assert results.number(-0.001, value) == "0.00" and results.number(None, value) == ""
    assert results.signed(0.126, value) == "+0.13" and results.signed(-0.001, value) == "+0.00"


def test_units_are_not_named_twice():
    assert results.title(Value("a", "PSNR", "higher", unit="dB")) == "PSNR (dB)"
    assert results.title(Value("a", "PSNR (dB)", "higher", unit="dB")) == "PSNR (dB)"
    assert results.short(Value("a", "PSNR, wrapped (wrong)", "higher", unit="dB")) == "PSNR, wrapped (wrong)"


def test_methods_stand_in_order_ours_first_ceilings_last():
    assert results.ordered(["autoencoder", "mine", "driver", "hold", "ours"]) == [
        "ours",
        "hold",
        "driver",
        "mine",
        "autoencoder",
    ]
