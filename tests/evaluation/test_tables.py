"""A paper's table: numbers, what is best, and the protocol that they depend on."""

import json
import re

import pytest
from result_fixture import make_result

from evaluation import tables
from imanim.errors import InputError


def cells(text):
    """Markdown table lines to lists of cells."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]


@pytest.fixture(scope="module")
def one():
    return make_result("one")


@pytest.fixture(scope="module")
def two():
    return make_result("two_b", gain=0.2, seed=3)


def test_a_row_holds_the_values_asked_for(one):
    psnr = one["groups"]["all"]["means"]["ours"]["psnr"]
    assert tables.markdown_row(one, ["fvd", "psnr"]) == f"| one | 24 | 360.0 | {psnr:.2f} |"
    assert tables.latex_row(one, ["fvd"], method="hold") == r"character held still & 24 & 430.0 \\"


def test_the_best_of_a_column_is_bold_but_never_a_ceiling(one, two):
    head, _, *rows = cells(tables.markdown([one, two], ["psnr", "fvd", "lag_frames"], methods=("hold", "autoencoder")))
    assert head == ["method", "n", "PSNR, whole frame (dB) ↑", "FVD ↓", "lag (frames)"]
    assert [row[0] for row in rows] == [
        "one",
        "two_b",
        "character held still",
        "truth through the autoencoder (ceiling)",
    ]
    bold = [[cell.startswith("**") for cell in row[2:]] for row in rows]
    assert bold == [[True, True, False], [False] * 3, [False] * 3, [False] * 3]
    assert rows[3][3] == "190.0", "the ceiling is shown"


def test_one_row_alone_is_not_called_the_best(one):
    assert "**" not in tables.markdown([one])


def test_the_protocol_the_counts_and_what_is_missing_stand_below(one, two):
    text = tables.markdown([one, two])
    short = one["protocol"]["sha256"][:10]
    assert f"Protocol doubles-cross-identity 2 ({short}), samples 5a5a5a5a5a. n: clips (FVD n = 24)." in text
    assert "one: face identity similarity on 18 of 24" in text
    latex = tables.latex([one, two])
    assert (
        latex.startswith(f"% protocol sha256 {one['protocol']['sha256']}\n") and short in latex.split(r"\bottomrule")[1]
    )


def test_latex_escapes_and_closes_what_it_opens(one, two):
    text = tables.latex([one, two], ["psnr", "lpips_alex"], published=True)
    assert r"two\_b" in text and r"$\uparrow$" in text and r"\textbf{" in text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[_%#]", body)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    columns = {"lrrr": 3, "lllrrrrr": 7}
    for spec, block in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in block.splitlines() if " & " in line]
        assert rows and all(len(re.findall(r"(?<!\\)&", line)) == columns[spec] for line in rows)


def test_other_protocols_do_not_share_a_table(one):
    with pytest.raises(InputError, match=r"protocols differ in `fps`: 12.0 .*, 24.0"):
        tables.markdown([one, make_result("two", fps=24.0)])


def test_what_was_not_measured_is_refused_by_name(one):
    with pytest.raises(InputError, match="value `fid`: not measured; there are psnr"):
        tables.markdown([one], ["fid"])
    with pytest.raises(InputError, match="method `copy`: not measured"):
        tables.markdown([one], methods=("copy",))
    with pytest.raises(InputError, match="no results given"):
        tables.latex([])


def test_a_value_without_a_number_is_a_dash():
    result = make_result(truth=False)
    assert cells(tables.markdown([result], ["psnr"]))[2][2] == "-"


def test_published_rows_stand_apart_as_printed_with_their_protocol(one):
    above, heading, below = tables.markdown([one], published=True).partition(f"**{tables.PUBLISHED_HEADING}**")
    assert heading and "IM-Animation" not in above
    head, _, *rows = cells(below)
    assert head == ["method", "source", "protocol", "PSNR", "SSIM", "LPIPS", "FID", "FVD"]
    known = {(row[0], row[1]): row[2:] for row in rows}
    wan = known["Wan-Animate", "IM-Animation, table of results"]
    assert wan == ["protocol not stated", "22.72", "0.92", "0.24", "59.10", "267.71"]
    assert known["One-to-All 14B", "One-to-All"][4] == "-"
    assert all("not stated" in row[2] for row in rows)


def test_published_numbers_are_text_as_printed():
    rows = json.loads(tables.PUBLISHED.read_text())
    assert all(isinstance(number, str) and float(number) > 0 for row in rows for number in row["values"].values())
