"""A paper's table, in Markdown or LaTeX, that cannot be read without its protocol.

Rows of one table are of one protocol and one set of samples; others are refused. What other papers print stands in a table
of its own, because their protocols are not known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation import results
from evaluation.compare import require_same
from evaluation.metrics.base import Value
from evaluation.results import OURS, Result, method_name
from imanim.errors import InputError

PUBLISHED = Path(__file__).with_name("published.json")
"""Rows that papers print: method, source, what they state of their protocol, values by the papers' own labels, as printed."""
PUBLISHED_HEADING = "Published, not comparable"


@dataclass(frozen=True)
class _Form:
    """How a markup language writes: plain text, a bold number, arrows by a value's sign, and a row of cells."""

    plain: Callable[[str], str]
    bold: str
    arrows: dict[int, str]
    row: Callable[[Sequence[str]], str]


def _latex_text(words: str) -> str:
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(marks.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in words)


_MARKDOWN = _Form(
    plain=lambda words: words.replace("|", "\\|"),
    bold="**{}**",
    arrows={1: " ↑", -1: " ↓", 0: ""},
    row=lambda cells: f"| {' | '.join(cells)} |",
)
_LATEX = _Form(
    plain=_latex_text,
    bold=r"\textbf{{{}}}",
    arrows={1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""},
    row=lambda cells: f"{' & '.join(cells)} \\\\",
)


def columns(measured: Sequence[Result]) -> list[str] | None:
    """The values that the protocol puts first (its ``headline``); None: all."""
    return list(measured[0]["protocol"].get("headline") or ()) or None


def markdown_row(result: Result, values: Sequence[str] | None = None, *, method: str = OURS) -> str:
    """One method of one result: its name, how many clips, its values. ``values`` by name; None: all that have a number."""
    return _MARKDOWN.row(_cells(_MARKDOWN, result, method, _chosen([result], values), set()))


def latex_row(result: Result, values: Sequence[str] | None = None, *, method: str = OURS) -> str:
    """As :func:`markdown_row`, for a ``tabular``."""
    return _LATEX.row(_cells(_LATEX, result, method, _chosen([result], values), set()))


def markdown(
    measured: Sequence[Result],
    values: Sequence[str] | None = None,
    *,
    methods: Sequence[str] = (OURS,),
    published: bool = False,
) -> str:
    """A whole table with its heading and its protocol.

    Args:
        measured: results of one protocol on one set of samples; each gives a row of ours.
        methods: baselines among them get rows too, from the first result.
        published: what papers print, in a table of its own beneath.

    Raises:
        InputError: other protocols or samples, or a value that was not measured.
    """
    lines = [_MARKDOWN.row(line) for line in _lines(_MARKDOWN, measured, values, methods)]
    rule = _MARKDOWN.row(["---", *["---:"] * (lines[0].count(" | "))])
    out = [
        "\n".join([lines[0], rule, *lines[1:]]),
        "\n".join(f"<sub>{note}</sub>" for note in notes(measured, values, methods)),
    ]
    if published:
        head, *rows = [_MARKDOWN.row(cells) for cells in _published_lines(_MARKDOWN)]
        rule = _MARKDOWN.row(["---"] * 3 + ["---:"] * (head.count(" | ") - 2))
        out += [f"**{PUBLISHED_HEADING}**", "\n".join([head, rule, *rows])]
    return "\n\n".join(out) + "\n"


def latex(
    measured: Sequence[Result],
    values: Sequence[str] | None = None,
    *,
    methods: Sequence[str] = (OURS,),
    published: bool = False,
) -> str:
    """As :func:`markdown`, as a ``tabular`` for the package booktabs; the protocol stands in comments and in a last line."""
    head, *rows = _lines(_LATEX, measured, values, methods)
    told = notes(measured, values, methods)
    comments = [f"% protocol sha256 {measured[0]['protocol']['sha256']}", *(f"% {note}" for note in told)]
    foot = [rf"\multicolumn{{{len(head)}}}{{l}}{{\footnotesize {_latex_text(note)}}} \\" for note in told]
    out = comments + _tabular("l" + "r" * (len(head) - 1), head, rows, foot)
    if published:
        head, *rows = _published_lines(_LATEX)
        above = [rf"\multicolumn{{{len(head)}}}{{l}}{{\emph{{{PUBLISHED_HEADING}}}}} \\"]
        out += ["", f"% {PUBLISHED_HEADING}: these protocols are not known.", r"\medskip", ""]
        out += _tabular("lll" + "r" * (len(head) - 3), head, rows, [], above)
    return "\n".join(out) + "\n"


def notes(
    measured: Sequence[Result], values: Sequence[str] | None = None, methods: Sequence[str] = (OURS,)
) -> list[str]:
    """Plain lines that belong below a table: protocol, samples, and where numbers rest on fewer clips."""
    first, chosen = measured[0], _chosen(measured, values)
    of_sets: dict[str, None] = {}
    fewer: dict[str, None] = {}
    for result, method in _rows(measured, methods):
        for value in chosen:
            got, clips = results.counted(result, method, value.name), _clips(result)
            if result["values"].get(value.name, {}).get("scope") == "set":
                of_sets |= {f"{results.short(value)} n = {got}": None} if got else {}
            elif 0 < got < clips:
                fewer[f"{_name(result, method)}: {results.short(value)} on {got} of {clips}"] = None
    protocol = f"Protocol {results.protocol_name(first)}, samples {first['samples']['sha256'][:10]}. n: clips"
    out = [protocol + (f" ({', '.join(of_sets)})" if of_sets else "") + "."]
    return out + ([f"On fewer clips: {'; '.join(fewer)}."] if fewer else [])


# --------------------------------------------------------------------------------------------------------------- parts


def _chosen(measured: Sequence[Result], wanted: Sequence[str] | None) -> list[Value]:
    if not measured:
        raise InputError("table: no results given; name at least one")
    known = {name: value for result in reversed(measured) for name, value in results.values(result).items()}
    missing = [name for name in wanted or () if name not in known]
    if missing:
        raise InputError(f"value `{missing[0]}`: not measured; there are {', '.join(known)}")
    if wanted is not None:
        return [known[name] for name in wanted]
    return [v for name, v in known.items() if any(results.mean(r, OURS, name) is not None for r in measured)]


def _lines(
    form: _Form, measured: Sequence[Result], wanted: Sequence[str] | None, methods: Sequence[str]
) -> list[list[str]]:
    """Heading and rows, cells written out. The best of a column is bold when there are several rows."""
    chosen = _chosen(measured, wanted)
    for other in measured[1:]:
        require_same(measured[0], other, (measured[0]["method"]["name"], other["method"]["name"]))
    absent = [m for m in methods if m not in measured[0]["methods"]]
    if absent:
        raise InputError(f"method `{absent[0]}`: not measured; there are {', '.join(measured[0]['methods'])}")
    rows = _rows(measured, methods)
    bold: list[set[str]] = [set() for _ in rows]
    for value in chosen:
        # A ceiling stands in the table, but nothing can be expected to reach it.
        found = {
            i: number
            for i, (result, method) in enumerate(rows)
            if (method == OURS or method_name(method).baseline)
            and (number := results.mean(result, method, value.name)) is not None
        }
        if value.sign and len(found) > 1:
            top = max(value.sign * number for number in found.values())
            for i, number in found.items():
                if results.number(value.sign * number, value) == results.number(top, value):
                    bold[i].add(value.name)
    head = ["method", "n", *(form.plain(results.title(value)) + form.arrows[value.sign] for value in chosen)]
    return [head, *(_cells(form, result, method, chosen, bold[i]) for i, (result, method) in enumerate(rows))]


def _rows(measured: Sequence[Result], methods: Sequence[str]) -> list[tuple[Result, str]]:
    """Ours of every result, then the first one's other methods."""
    return [(result, OURS) for result in measured] + [(measured[0], m) for m in methods if m != OURS]


def _cells(form: _Form, result: Result, method: str, chosen: Sequence[Value], bold: set[str]) -> list[str]:
    cells = [form.plain(_name(result, method)), str(_clips(result))]
    for value in chosen:
        shown = results.number(results.mean(result, method, value.name), value) or "-"
        cells.append(form.bold.format(shown) if value.name in bold else shown)
    return cells


def _name(result: Result, method: str) -> str:
    return result["method"]["name"] if method == OURS else method_name(method).title


def _clips(result: Result) -> int:
    return result["groups"][results.ALL]["clips"]


def _published_lines(form: _Form) -> list[list[str]]:
    rows = json.loads(PUBLISHED.read_text())
    labels = list(dict.fromkeys(label for row in rows for label in row["values"]))
    head = ["method", "source", "protocol", *labels]
    cells = [
        [row["method"], row["source"], row["protocol"], *(row["values"].get(label, "-") for label in labels)]
        for row in rows
    ]
    return [[form.plain(cell) for cell in line] for line in [head, *cells]]


def _tabular(
    columns: str, head: Sequence[str], rows: Sequence[Sequence[str]], foot: Sequence[str], above: Sequence[str] = ()
) -> list[str]:
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *above, _LATEX.row(head), r"\midrule"]
    lines += [_LATEX.row(row) for row in rows]
    return [*lines, r"\bottomrule", *foot, r"\end{tabular}"]
