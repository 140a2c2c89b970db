"""The page's section on the ablation, out of what :func:`evaluation.evidence.trim.ablation` keeps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from evaluation import results
from evaluation.evidence.parts import ARMS_PICTURE, Kept, Page, bold, table
from imanim.errors import InputError


def section(page: Page) -> list[str]:
    """Arms, their numbers over seeds, and the paired differences from the full method."""
    found = page.kept.get("ablation")
    if found is None:
        return ["There is no ablation among the kept files of this run; `imanim ablate` makes one (docs/ablation.md)."]
    base, columns = found["baseline"], found["columns"]
    rows, differences = [], []
    for arm in in_order(found["table"], base):
        facts, cells = found["arms"][arm], [_over_seeds(found, arm, column) for column in columns]
        cost = [f"{facts['parameters'] / 1e6:.1f}", f"{facts['tflop']:.0f}", f"{facts['cpu_sec'] / 60:.0f}"]
        rows.append([bold(arm, arm == base), str(facts["about"]), str(facts["seeds"]), *cells, *cost])
        if arm in found["differences"]:
            told = [_difference(found, arm, column) for column in columns if column in _compared(found)]
            differences.append([arm, *told])
    titles = {column: column_title(found, column) for column in columns}
    head = ["arm", "what differs", "seeds", *titles.values(), "parameters, M", "training, TFLOP", "CPU minutes"]
    out = [
        "Mean over seeds; in brackets, where there are several, the least and the largest.",
        page.picture(ARMS_PICTURE, "Arms of the ablation"),
    ]
    out.append(table(head, rows, left=2))
    if differences:
        out.append(
            f"Gain over `{base}`, paired by clip and seed, 95 % over motions; bold is surely better, *italic surely worse*:"
        )
        out.append(table(["arm", *(titles[c] for c in columns if c in _compared(found))], differences))
    out += replicated(page.cfg.replicated, found, page.kept.get("replications", {}))
    out += [f"Not finished: {m['arm']}, seed {m['seed']} ({m['job']}: {m['state']})." for m in found["missing"]]
    return [*out, "    imanim ablate --config configs/ablate/plan.yaml"]


def in_order(arms: Iterable[str], base: str) -> list[str]:
    """The baseline first, then by name, numbers in names as numbers: ``tokens8`` before ``tokens32``."""
    return sorted(arms, key=lambda arm: (arm != base, re.sub(r"\d+", lambda n: n.group().zfill(6), arm)))


def column_title(found: Kept, column: str) -> str:
    """A column of the ablation in words: ``VALUE@LEVEL``, or a leakage's own name."""
    name, _, group = column.partition("@")
    known = results.values(found)
    if name not in known:
        return column
    return f"{results.title(known[name])}{f' at {group}' if group else ''} {results.arrow(known[name])}"


def replicated(columns: Sequence[str], found: Kept, replications: Mapping[str, Kept]) -> list[str]:
    """The ablation beside itself under other seeds: does a difference come back?"""
    base, runs = found["baseline"], {_seeds(found): found, **replications}
    shown = [column for column in columns if any(column in of for run in runs.values() for of in run["table"].values())]
    arms = {arm for run in replications.values() for arm in run["table"]} & set(found["table"])
    if not (shown and arms):
        return []
    return [
        f"The same arms again. `{base}`: values, and a probe's are values for every arm; else gains over `{base}` of the same run "
        "and seed, 95 % over motions, bold and italic as above:",
        *(_run_by_run(runs, in_order(arms, base), base, column) for column in shown),
        *(_came_back(found, name, run) for name, run in replications.items()),
        *(_in_every_run(found, replications) if len(replications) > 1 else []),
    ]


def _run_by_run(runs: Mapping[str, Kept], arms: Sequence[str], base: str, column: str) -> str:
    """One column of the ablation in every run; a row an arm."""
    title = column_title(next(iter(runs.values())), column)
    rows = [[bold(arm, arm == base), *(_either(run, arm, column) for run in runs.values())] for arm in arms]
    return table([title, *runs], rows)


def _came_back(found: Kept, name: str, run: Kept) -> str:
    """How many of the first run's sure differences another run has too, over every column that both compare."""
    pairs = [
        (facts["outcome"], run["differences"][arm][column]["outcome"])
        for arm, columns in found["differences"].items()
        for column, facts in columns.items()
        if facts["outcome"] != "open" and column in run["differences"].get(arm, {})
    ]
    again = sum(one == other for one, other in pairs)
    return (
        f"Of {len(pairs)} differences of these arms, in all columns, that are sure in {_seeds(found)}, {again} are sure again "
        f"in {name}, in the same direction."
    )


def _in_every_run(found: Kept, replications: Mapping[str, Kept]) -> list[str]:
    """Which differences are sure, in the same direction, in every run that has the arm, the first among them."""
    runs = replications.values()
    lines = []
    for arm in in_order(found["differences"], found["baseline"]):
        others = [run["differences"][arm] for run in runs if arm in run["differences"]]
        same = {
            column: facts["outcome"]
            for column, facts in found["differences"][arm].items()
            if facts["outcome"] != "open" and all(o.get(column, {}).get("outcome") == facts["outcome"] for o in others)
        }
        if others and same:
            told = [f"{column_title(found, column)} ({outcome})" for column, outcome in same.items()]
            lines.append(f"- {arm} ({len(others) + 1} runs): {', '.join(told)}")
    if not lines:
        return ["No difference is sure in every run that has its arm."]
    return ["Sure in every run that has the arm, in the same direction:", "\n".join(lines)]


def check_replications(found: Kept | None, replications: Mapping[str, Kept]) -> None:
    """Raises InputError for replications that cannot stand beside the ablation, or have none to stand beside."""
    for name, run in replications.items():
        if found is None:
            raise InputError(f"replications: {name} has no ablation to stand beside; give ablation=FILE too")
        if name == _seeds(found):
            raise InputError(f"replications: {name} is what the first ablation is called; choose another name")
        if run["baseline"] != found["baseline"]:
            raise InputError(f"replications: {name} compares with {run['baseline']}, not {found['baseline']}")
        for what in ("budget", "protocols"):
            # Files kept by earlier versions do not say; nothing can be held against them.
            if found.get(what) and run.get(what) and run[what] != found[what]:
                raise InputError(
                    f"replications: {name} has other {what} than the ablation, so it is not the same one again; "
                    "run both with the same plan, or show it on a page of its own"
                )


def _seeds(found: Kept) -> str:
    known = sorted(
        {seed for of in found["table"].values() for facts in of.values() for seed in facts["seeds"]}, key=int
    )
    return f"seed{'s' if len(known) > 1 else ''} {', '.join(known)}"


def _either(run: Kept, arm: str, column: str) -> str:
    """A gain over the baseline where there is one, else the value; nothing where the run had not that arm."""
    if arm not in run["table"]:
        return ""
    return _difference(run, arm, column) if column in run["differences"].get(arm, {}) else _over_seeds(run, arm, column)


def _compared(found: Kept) -> set[str]:
    return {column for columns in found["differences"].values() for column in columns}


def _over_seeds(found: Kept, arm: str, column: str) -> str:
    facts, value = found["table"][arm].get(column), results.values(found).get(column.partition("@")[0])
    if facts is None:
        return ""
    mean, low, high = (
        f"{facts[key]:.3f}" if value is None else results.number(facts[key], value) for key in ("mean", "low", "high")
    )
    return f"{mean} ({low} to {high})" if len(facts["seeds"]) > 1 else mean


def _difference(found: Kept, arm: str, column: str) -> str:
    facts, value = found["differences"][arm].get(column), results.values(found)[column.partition("@")[0]]
    if facts is None:
        return ""
    gain, low, high = (results.signed(facts[key], value) for key in ("gain", "low", "high"))
    told = f"{gain} [{low}, {high}]"
    return f"*{told}*" if facts["outcome"] == "worse" else bold(told, facts["outcome"] == "better")
