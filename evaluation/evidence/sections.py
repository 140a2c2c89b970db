"""The page's sections, each a list of Markdown parts; an empty list where a run has nothing to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluation import results
from evaluation.evidence import ablations, targets
from evaluation.evidence.parts import (
    CURVES_PICTURE,
    GAP_PICTURE,
    LEVEL_PICTURE,
    Kept,
    Page,
    bold,
    cell,
    headline_group,
    known_values,
    methods_of,
    table,
    with_ends,
)
from evaluation.evidence.trim import CELLS, DECIDING, pooled
from evaluation.metrics.base import Value
from evaluation.results import ALL, OURS, method_name


def _targets(page: Page) -> list[str]:
    found = targets.judge(page.kept, page.cfg.targets)
    where = ", ".join(f"`{split}`" for split in page.scores["scopes"][DECIDING])
    head = f"On {where} (codes used: over all samples; probes: over the probes' own samples)."
    rows = [[t.wanted, t.found, t.state] for t in found]
    return [head, table(["target", "found", "state"], rows, left=3), page.command("page")]


def _by_level(page: Page) -> list[str]:
    scores = page.scores
    levels = [*targets.grid_levels(scores, CELLS), ALL]
    picture = page.picture(LEVEL_PICTURE, "Errors by level, ours beside every baseline")
    out = ["All cells together.", picture]
    for value in known_values(scores, ["joint_error", "moving_error", "read_joint_error", "read_moving_error"]):
        out.append(_levels_table(scores, CELLS, value, levels))
    return [*out, page.command("scores")]


def _levels_table(scores: Kept, scope: str, value: Value, levels: Sequence[str]) -> str:
    methods = methods_of(scores, scope, value.name)
    if not methods:
        return ""
    rows = []
    for method in methods:
        cells = [cell(scores["groups"][scope].get(level), method, value) for level in levels]
        rows.append([bold(method_name(method).title, method == OURS), *cells])
    return table([f"{results.title(value)} {results.arrow(value)}", *levels], rows)


def _cells(page: Page) -> list[str]:
    scores, splits = page.scores, [s for s in page.scores["scopes"] if s not in (DECIDING, CELLS)]
    splits = [split for split in splits if split in page.cfg.scopes.cells]
    if len(splits) < 2:
        return []
    level = headline_group(page)
    out = [f"At {level}."]
    for value in known_values(scores, ["joint_error", "moving_error", "read_joint_error", "psnr_person"]):
        rows = []
        for method in methods_of(scores, CELLS, value.name):
            cells = [cell(scores["groups"][split].get(level), method, value) for split in splits]
            rows.append([bold(method_name(method).title, method == OURS), *cells])
        if rows:
            out.append(table([f"{results.title(value)} {results.arrow(value)}", *splits], rows))
    return [*out, page.command("scores")]


def _video(page: Page) -> list[str]:
    scores, level = page.scores, headline_group(page)
    group = scores["groups"][CELLS][level]
    shown = [v for v in results.values(scores).values() if v.name in group["means"].get(OURS, {})]
    methods = [m for m in results.ordered(scores["methods"]) if "psnr" in group["means"].get(m, {}) or m == OURS]
    rows = [[f"{results.title(v)} {results.arrow(v)}", *(cell(group, m, v) for m in methods)] for v in shown]
    out = [f"All cells, {level}: {group['clips']} clips of {group['units']} motions."]
    out.append(table(["", *(method_name(m).title for m in methods)], rows))
    return [*out, *_video_levels(page), *_sets(page), *_grid(page), page.command("scores")]


def _video_levels(page: Page) -> list[str]:
    """What the made video must be better in, level by level, beside what it must beat."""
    scores, cfg = page.scores, page.cfg.targets
    levels = targets.grid_levels(scores, CELLS)
    methods = [OURS, *cfg.beaten_methods]
    rows = []
    for value in known_values(scores, cfg.beaten_values):
        for method in methods:
            cells = [cell(scores["groups"][CELLS].get(level), method, value) for level in levels]
            if any(cells):
                name = f"{results.short(value)} {results.arrow(value)}, {method_name(method).words}"
                rows.append([bold(name, method == OURS), *cells])
    return ["By level, all cells:", table(["", *levels], rows)] if rows else []


def _sets(page: Page) -> list[str]:
    """FID, KID, FVD over all samples: one number a set, so portraits are among them."""
    found, facts = page.scores["sets"].get(ALL, {}), page.scores["set_values"]
    known = results.values({"values": facts})
    methods = [m for m in results.ordered(page.scores["methods"]) if found.get(m)]
    rows = []
    for value in known.values():
        cells = [found[m].get(value.name) for m in methods]
        if any(cell and cell["value"] is not None for cell in cells):
            told = ["" if not c else with_ends(c["value"], _both(c), value) for c in cells]
            rows.append([f"{results.title(value)} {results.arrow(value)}", *told])
    if not rows:
        return []
    return ["As sets, over all samples:", table(["", *(method_name(m).title for m in methods)], rows)]


def _both(facts: Kept) -> list[float] | None:
    return None if facts["low"] is None or facts["high"] is None else [facts["low"], facts["high"]]


def _grid(page: Page) -> list[str]:
    """The gains at every level, on the deciding splits and on all cells."""
    scores, cfg = page.scores, page.cfg.targets
    out = []
    for scope, words in ((DECIDING, "the splits that targets are judged on"), (CELLS, "all cells")):
        cells = targets.grid(scores, cfg, scope)
        if not cells or (scope == CELLS and set(page.cfg.scopes.cells) == set(page.cfg.scopes.deciding)):
            continue
        known, levels = results.values(scores), targets.grid_levels(scores, scope)
        rows = []
        for value in cfg.beaten_values:
            for method in cfg.beaten_methods:
                found = [cells.get((level, value, method)) for level in levels]
                if any(found):
                    told = [_gain(facts, known[value]) for facts in found]
                    rows.append([f"{results.short(known[value])} over {method_name(method).words}", *told])
        out.append(f"Gain of the made video on {words}; positive is better, bold is sure, *italic is behind*:")
        out.append(table(["gain in", *levels], rows))
    return out


def _gain(facts: Kept | None, value: Value) -> str:
    if facts is None:
        return ""
    told = f"{results.signed(facts['gain'], value)} [{results.signed(facts['low'], value)}, {results.signed(facts['high'], value)}]"
    if facts["gain"] <= 0:
        return f"*{told}*"
    return bold(told, facts["outcome"] == "better")


def _gap(page: Page) -> list[str]:
    bins, known = page.scores["gaps"], results.values(page.scores)
    if not bins:
        return ["The samples of this run do not say how large their bodies are."]
    levels = pooled(page.cfg.scopes.headline_levels)
    out = [
        f"Log of the character's size over the driver's, in {len(bins)} bins of equally many clips ({levels}, all cells).",
        page.picture(GAP_PICTURE, "Error against the gap in size between driver and character"),
    ]
    for name in bins[0]["values"]:
        value = known[name]
        methods = results.ordered(sorted({m for b in bins for m in b["values"].get(name, {})}))
        heads = [f"{b['low']:+.2f} to {b['high']:+.2f} (n = {b['clips']})" for b in bins]
        rows = []
        for method in methods:
            found = [b["values"].get(name, {}).get(method) for b in bins]
            cells = [with_ends(f[0], f[1:], value) if f else "" for f in found]
            rows.append([bold(method_name(method).title, method == OURS), *cells])
        out.append(table([f"{results.title(value)} {results.arrow(value)}", *heads], rows))
    return [*out, page.command("scores")]


def _strips(page: Page) -> list[str]:
    found = page.kept["run"].get("strips", [])
    if not found:
        return []
    out = ["The first motion of each level, not picked; every body of it."]
    for strip in found:
        out += [page.picture(strip["file"], strip["caption"]), f"*{strip['caption']}*"]
    return [*out, page.command("page")]


def _tokens(page: Page) -> list[str]:
    kept = page.kept.get("tokens")
    if kept is None:
        return []
    rows = []
    for name, facts in kept["scopes"].items():
        error = f"{facts['error']:.2f}"
        error += (
            f" [{facts['error_interval'][0]:.2f}, {facts['error_interval'][1]:.2f}]" if facts["error_interval"] else ""
        )
        sizes = f"{facts['clips']} / {facts['motions']}"
        rows.append(
            [
                name,
                sizes,
                error,
                f"{facts['mean_pose']:.2f}",
                f"{facts['codes_used']:.1f} %",
                f"{facts['perplexity']:.0f}",
            ]
        )
    head = ["splits", "clips / motions", "joint error, % of the image height", "mean pose", "codes used", "perplexity"]
    words = (
        f"Joints of the driver, read from quantised tokens by the tokenizer's own decoder; {kept['codes']} codes. The mean pose is "
        "that of the very clips it is measured on."
    )
    return [words, table(head, rows), page.command("tokens")]


def _leakage(page: Page) -> list[str]:
    kept = page.kept.get("leakage")
    if kept is None:
        return []
    found, rows, absent = kept["leakage"], [], []
    readers = dict.fromkeys(reader for label in found["labels"].values() for reader in label.get("scores", {}))
    for reader in readers:
        for label in found["labels"].values():
            if "reason" in label:
                absent.append(f"Not probed: {label['reason']}.")
            elif reader in label["scores"]:
                rows.append(_probe_row(label, reader))
    head = [
        "read by a probe",
        "probe",
        "from tokens",
        "from retargeted tokens",
        "from true joints",
        "from pixels",
        "planted leak",
        "so",
    ]
    size = f"{found['clips']} driving clips of {found['persons']} people and {found['motions']} motions."
    said = [
        line
        for line in kept["leakage"].get("sentences", ())
        if line.startswith(("Unseen", "Swap", "Videos", "In videos"))
    ]
    return [size, table(head, rows, left=2), *dict.fromkeys(absent), *said, page.command("leakage")]


def _probe_row(label: Kept, reader: str) -> list[str]:
    scores = label["scores"][reader]

    def told(name: str, *, ends: bool = False) -> str:
        one = scores.get(name)
        if one is None:
            return ""
        return f"{one['value']:.3f}" + (f" [{one['low']:.3f}, {one['high']:.3f}]" if ends else "")

    verdicts = [v for v in label["verdicts"] if v["reader"] == reader and v["representation"] == "tokens"]
    words = {
        "leaks": "**leaks**",
        "motion": "no more than motion tells",
        "trace": "a trace",
        "none": "nothing found",
        "blind": "cannot be judged",
    }
    so = words[verdicts[0]["outcome"]] if verdicts else ""
    control = max((told(name) for name in ("joints", "joints_centred") if name in scores), key=float, default="")
    named = (
        f"{label['words']} ({label['measure']}, floor {scores['tokens']['floor']:.3f})"
        if "tokens" in scores
        else label["words"]
    )
    return [named, reader, told("tokens", ends=True), told("retargeted"), control, told("pixels"), told("planted"), so]


def _expression(page: Page) -> list[str]:
    split = page.cfg.scopes.portrait
    if split is None:
        return []
    group = page.scores["groups"][split][ALL]
    methods = [m for m in results.ordered(page.scores["methods"]) if group["means"].get(m)]
    shown = [v for v in results.values(page.scores).values() if v.name in group["means"].get(OURS, {})]
    rows = [[f"{results.title(v)} {results.arrow(v)}", *(cell(group, m, v) for m in methods)] for v in shown]
    head = f"Talking heads (`{split}`): {group['clips']} clips of {group['units']} motions."
    return [head, table(["", *(method_name(m).title for m in methods)], rows), page.command("scores")]


def _training(page: Page) -> list[str]:
    picture = page.picture(CURVES_PICTURE, "Training and held-out curves")
    if "curves" not in page.kept or not picture:
        return []
    ends = {name: rows[-1] for name, rows in page.kept["curves"].items() if rows}
    names = dict.fromkeys(key for row in ends.values() for key in row if key != "step")
    rows = [
        [name, str(row["step"]), *(f"{row[k]:.4g}" if k in row else "" for k in names)] for name, row in ends.items()
    ]
    return [picture, "Where the curves end:", table(["run", "step", *names], rows), page.command("page")]


def _made(page: Page) -> list[str]:
    run = page.kept["run"]
    rows = [[name, f"`{step['command']}`", f"{step['seconds']:.0f}"] for name, step in run["steps"].items()]
    facts = [f"{key} {value}" for key, value in sorted(page.scores["environment"].items())]
    verified = run.get("verified") or "The samples were not compared with checksums."
    return [
        table(["step", "command", "seconds"], rows, left=2),
        verified,
        f"Measured with: {', '.join(facts)}.",
        f"    {page.cfg.command}",
    ]


SECTIONS: dict[str, Callable[[Page], list[str]]] = {
    "Targets": _targets,
    "Error by level": _by_level,
    "The four cells": _cells,
    "Generated video": _video,
    "Bodies of different size": _gap,
    "Across bodies": _strips,
    "Motion tokens": _tokens,
    "What the tokens tell about who moved": _leakage,
    "Ablations": ablations.section,
    "Expression": _expression,
    "Training": _training,
    "How it was made": _made,
}
"""Heading to what makes its parts, in the page's order; a section without parts and without words is left out."""
