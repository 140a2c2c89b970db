"""A comparison to look at: for a terminal, in Markdown, as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation import results
from evaluation.markup import page, paragraph, table
from evaluation.metrics.base import Value
from imanim.errors import InputError

Comparison = Mapping[str, Any]
"""Of :func:`evaluation.compare.compare`."""
_OUTCOMES = {"better": "better", "worse": "worse", "open": "open", "none": ""}


def render(comparison: Comparison, form: str = "terminal") -> str:
    """A comparison as ``terminal``, ``markdown`` or ``html``. Raises InputError for another form."""
    if form not in _FORMS:
        raise InputError(f"form `{form}`: unknown; choose one of {', '.join(_FORMS)}")
    return _FORMS[form](comparison)


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    one, other = comparison["names"]
    head = ["", one, other, f"gain of {one}", "95 %", "wins", "outcome"]
    rows = []
    for name, facts in comparison["values"].items():
        value = Value(name, facts["label"], facts["better"], facts["digits"], facts["unit"])
        ends = "" if facts["low"] is None else f"{_signed(facts['low'], value)}, {_signed(facts['high'], value)}"
        wins = f"{facts['wins']} of {facts['clips']}" if "wins" in facts else ""
        rows.append(
            [
                f"{results.title(value)} {results.arrow(value)}".rstrip(),
                results.number(facts["a"], value),
                results.number(facts["b"], value),
                _signed(facts["gain"], value),
                ends,
                wins,
                _OUTCOMES[facts["outcome"]],
            ]
        )
    return head, rows


def _signed(amount: float, value: Value) -> str:
    return results.signed(amount, value)


def _notes(comparison: Comparison) -> list[str]:
    """What must stand below the table."""
    protocol, samples = comparison["protocol"], comparison["samples"]
    out = [
        f"Protocol {protocol['name']} {protocol['version']} ({protocol['sha256'][:10]}), samples "
        f"{samples['sha256'][:10]}: {samples['both']} of {samples['count']} scored by both.",
        "Gain: paired difference, positive where the first is better (without a direction: first minus second).",
    ]
    for name, keys in comparison["left_out"].items():
        if keys:
            shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
            out.append(f"Left out because {name} has no number for it: {len(keys)} ({shown}).")
    return out + [f"Warning: {warning}." for warning in comparison["warnings"]]


def _terminal(comparison: Comparison) -> str:
    head, rows = _cells(comparison)
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [_line(head, widths), "  ".join("-" * width for width in widths), *(_line(row, widths) for row in rows)]
    return "\n".join([comparison["verdict"], "", *lines, "", *_notes(comparison)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths)))
    return "  ".join([first, *others]).rstrip()


def _markdown(comparison: Comparison) -> str:
    head, rows = _cells(comparison)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    shown = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n\n".join([comparison["verdict"], shown, "\n".join(f"- {note}" for note in _notes(comparison))])


def _html(comparison: Comparison) -> str:
    head, rows = _cells(comparison)
    css = [facts["outcome"] for facts in comparison["values"].values()]
    notes = "".join(paragraph(note, "soft") for note in _notes(comparison))
    one, other = comparison["names"]
    return page(
        f"{one} against {other}", comparison["verdict"], [("Paired differences", table(head, rows, css) + notes)]
    )


_FORMS = {"terminal": _terminal, "markdown": _markdown, "html": _html}
