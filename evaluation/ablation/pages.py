"""``ablation.md`` and ``ablation.png`` from an ablation's result."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from evaluation import results
from evaluation.metrics.base import Value

_PLAIN = Value("", "", "none", 3, "")
_PER_ROW = 3


def markdown(result: Mapping[str, Any]) -> str:
    """Arms and what they change; the table; differences to the baseline arm; what is missing."""
    base, columns = result["plan"]["baseline"], result["columns"]
    seeds = ", ".join(map(str, result["plan"]["seeds"]))
    out = [
        "# Ablation",
        "",
        f"Mean over seeds ({seeds}), in brackets the least and the largest. Commit {_commit(result)}.",
        "",
    ]
    out += _rows(["arm", *(_title(result, c) for c in columns), "parameters", "TFLOP", "s of one core"], [
        [_arm(name, base), *(_cell(result, name, c) for c in columns), *_cost(result, name)] for name in result["table"]
    ])  # fmt: skip
    if result["differences"]:
        out += ["", f"## Against {base}", ""]
        out += [
            "Paired on the same clips under the same seeds, positive is better, with a 95 % interval over motions (not over "
            "seeds). **Bold**: the interval is off zero.",
            "",
        ]
        shown = [c for c in columns if any(c in found for found in result["differences"].values())]
        out += _rows(["arm", *(_title(result, c, arrow=False) for c in shown)], [
            [name, *(_gain(result, found.get(c), c) for c in shown)] for name, found in result["differences"].items()
        ])  # fmt: skip
    out += ["", "## Arms", ""] + [f"- **{name}**: {arm['about']}" for name, arm in result["arms"].items()]
    if result["unmeasured"]:
        out += ["", f"Not measured under these protocols: {', '.join(result['unmeasured'])}."]
    if result["missing"]:
        out += ["", "Missing:", ""]
        out += [f"- {m['arm']}, seed {m['seed']}: job {m['job']} is {m['state']}" for m in result["missing"]]
    return "\n".join(out) + "\n"


def _rows(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def _arm(name: str, base: str) -> str:
    return f"**{name}**" if name == base else name


def _commit(result: Mapping[str, Any]) -> str:
    return str(result["environment"].get("commit", "unknown"))[:10]


def _value(result: Mapping[str, Any], column: str) -> Value:
    facts = result["values"].get(column.partition("@")[0])
    return Value(column, facts["label"], facts["better"], facts["digits"], facts["unit"]) if facts else _PLAIN


def _title(result: Mapping[str, Any], column: str, *, arrow: bool = True) -> str:
    """A column's heading: label, unit, group, and where better is."""
    value, group = _value(result, column), column.partition("@")[2]
    name = results.title(value) if value.label else column
    return " ".join(filter(None, [name, group, results.arrow(value) if arrow else ""]))


def _cell(result: Mapping[str, Any], arm: str, column: str) -> str:
    found = result["table"][arm].get(column)
    if found is None:
        return "-"
    value = _value(result, column)
    mean, low, high = (results.number(found[name], value) for name in ("mean", "low", "high"))
    return mean if len(found["seeds"]) == 1 else f"{mean} [{low}, {high}]"


def _cost(result: Mapping[str, Any], arm: str) -> list[str]:
    """Parameters, TFLOP and seconds of training of an arm: the same for every seed but for the seconds, whose mean it is."""
    runs = [run for run in result["runs"] if run["arm"] == arm]
    seconds = sum(run["cpu_sec"] for run in runs) / len(runs)
    return [f"{sum(runs[0]['parameters'].values()) / 1e6:.2f} M", f"{runs[0]['tflop']:.1f}", f"{seconds:.0f}"]


def _gain(result: Mapping[str, Any], found: Mapping[str, Any] | None, column: str) -> str:
    if found is None:
        return "-"
    value = _value(result, column)
    text = f"{results.signed(found['gain'], value)} [{results.signed(found['low'], value)}, {results.signed(found['high'], value)}]"
    return text if found["outcome"] == "open" else f"**{text}**"


def picture(result: Mapping[str, Any]) -> bytes:
    """A PNG: a panel a column, a line an arm, a dot a seed, the mean as a bar; the baseline arm's mean runs through as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, arms, base = result["columns"], list(result["table"]), result["plan"]["baseline"]
    across = min(_PER_ROW, max(1, len(columns)))
    down = max(1, -(-len(columns) // across))
    figure = Figure(
        figsize=(1.6 + 3.2 * across, down * (0.9 + 0.26 * max(1, len(arms)))), layout="constrained", dpi=130
    )
    panels: list[Any] = list(figure.subplots(down, across, squeeze=False, sharey=True).ravel())
    for panel, column in zip(panels, columns):
        for y, arm in enumerate(arms):
            found = result["table"][arm].get(column)
            if found is None:
                continue
            ink = "#c4501b" if arm == base else "#33557f"
            panel.plot(
                list(found["seeds"].values()), [y] * len(found["seeds"]), "o", color=ink, alpha=0.7, markersize=5
            )
            panel.plot([found["mean"]] * 2, [y - 0.3, y + 0.3], color=ink, linewidth=2)
            if arm == base:
                panel.axvline(found["mean"], color=ink, linewidth=0.8, alpha=0.5, zorder=0)
        panel.set_title(
            _title(result, column).replace("↑", "(higher is better)").replace("↓", "(lower is better)"), fontsize=7
        )
        panel.grid(axis="x", alpha=0.25)
        panel.tick_params(labelsize=7)
    for panel in panels[len(columns) :]:
        panel.set_visible(False)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    FigureCanvasAgg(figure)
    kept = io.BytesIO()
    figure.savefig(kept, format="png")
    return kept.getvalue()
