"""From whole results (a row a clip) to small files that are kept beside the page, and that it is written from.

A *scope* is a set of splits (``deciding``, ``cells``, each cell, ``portrait``), a *level group* one level, ``all``, or the
headline's levels together (``L3+L4``). Numbers keep six digits: enough for every table, and files stay small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import summary
from evaluation.evidence.config import EvidenceConfig
from evaluation.metrics.base import Value
from evaluation.report_figures import HELD_OUT
from evaluation.results import ALL, OURS, Result
from evaluation.results import headline as headline_of
from evaluation.results import values as values_of
from imanim.errors import InputError

Rows = Sequence[Mapping[str, Any]]
DECIDING, CELLS = "deciding", "cells"
GAP_BINS = 5
GAP_VALUES = ("joint_error", "read_joint_error")
MOTION_VALUES = ("moving_error", "read_moving_error")
_POINTS = 160
"""Of a training curve: more are not seen in a picture."""


def pooled(levels: Sequence[str]) -> str:
    """The name of levels taken together."""
    return "+".join(levels)


def scopes(cfg: EvidenceConfig) -> dict[str, list[str]]:
    """{scope: its splits}."""
    named = {DECIDING: cfg.scopes.deciding, CELLS: cfg.scopes.cells}
    alone = [*cfg.scopes.cells, *([cfg.scopes.portrait] if cfg.scopes.portrait else [])]
    return {**named, **{split: [split] for split in alone}}


def scores(result: Result, cfg: EvidenceConfig) -> dict[str, Any]:
    """What is kept of an evaluation.

    Returns:
        ``protocol``, ``samples``, ``method``, ``methods``, ``values`` and ``environment`` as in :mod:`evaluation.results`;
        ``refused``: how many; ``sets``: see :func:`sets`; ``scopes``: {scope: splits}; ``groups``: {scope: {level group:
        ``clips``, ``units``, ``means``, ``intervals``, ``gains``: {value: {baseline: gain, low, high, clips,
        units, outcome}}}}; ``halved``: see
        :func:`halved`; ``gaps``: see :func:`by_gap`.

    Raises:
        InputError: a split that is to be pooled has no samples.
    """
    values = values_of(result, "clip")
    first = _first(result, cfg, values)
    groups = {scope: _level_groups(_rows_of(result, scope, splits), cfg) for scope, splits in scopes(cfg).items()}
    facts = {key: result[key] for key in ("protocol", "samples", "methods", "environment")}
    return rounded(
        {
            "schema": 1,
            **facts,
            "method": _method(result),
            "samples": {key: result["samples"][key] for key in ("count", "sha256")},
            "values": {name: result["values"][name] for name in [*first, *(v for v in values if v not in first)]},
            "sets": sets(result),
            "set_values": {name: facts for name, facts in result["values"].items() if facts["scope"] == "set"},
            "refused": len(result["refused"]),
            "warnings": result.get("warnings", []),
            "scopes": scopes(cfg),
            "groups": {
                scope: {
                    level: _group(rows, values if _whole(scope, level, cfg) else first)
                    for level, rows in by_level.items()
                    if scope not in cfg.scopes.cells or level in (ALL, pooled(cfg.scopes.headline_levels))
                }
                for scope, by_level in groups.items()
            },
            "halved": {
                scope: {
                    level: halved(groups[scope][level], cfg.targets.guesses, cfg.targets.joint_ratio)
                    for level in cfg.scopes.headline_levels
                    if level in groups[scope]
                }
                for scope in (DECIDING, CELLS)
            },
            "gaps": by_gap(
                [row for level in cfg.scopes.headline_levels for row in groups[CELLS].get(level, [])], result["methods"]
            ),
        }
    )


def _method(result: Result) -> dict[str, Any]:
    """What was measured, without its folder: that is of the machine, the weights' hashes are not."""
    return {key: value for key, value in result["method"].items() if key != "folder"}


def _rows_of(result: Result, scope: str, splits: Sequence[str]) -> Rows:
    found = [row for row in result["rows"] if row.get("split") in splits]
    absent = sorted(set(splits) - {row.get("split") for row in found})
    if absent:
        known = sorted({str(row.get("split")) for row in result["rows"]})
        raise InputError(
            f"scopes.{scope}: no measured sample of split {', '.join(absent)}; there are {', '.join(known)}"
        )
    return found


def _first(result: Result, cfg: EvidenceConfig, values: Mapping[str, Value]) -> dict[str, Value]:
    """The headline and what targets and plots need: what every group keeps."""
    first = [*headline_of(result, "clip"), *cfg.targets.beaten_values, *GAP_VALUES, *MOTION_VALUES]
    return {name: values[name] for name in dict.fromkeys(first) if name in values}


def _whole(scope: str, level: str, cfg: EvidenceConfig) -> bool:
    """Whether a group keeps every value: all cells at the headline's levels together or at all, and the portraits."""
    return (scope == CELLS and level in (ALL, pooled(cfg.scopes.headline_levels))) or scope == cfg.scopes.portrait


def _level_groups(rows: Rows, cfg: EvidenceConfig) -> dict[str, Rows]:
    levels = sorted({str(row["labels"]["level"]) for row in rows if row["labels"].get("level")})
    out: dict[str, Rows] = {ALL: rows}
    out |= {level: [row for row in rows if row["labels"].get("level") == level] for level in levels}
    both = [level for level in cfg.scopes.headline_levels if level in levels]
    if len(both) > 1:
        out[pooled(both)] = [row for row in rows if row["labels"].get("level") in both]
    return out


def _group(rows: Rows, values: Mapping[str, Value]) -> dict[str, Any]:
    found = summary.means(rows)
    told: dict[str, dict[str, Any]] = {}
    for c in summary.comparisons(rows, values):
        facts = {"gain": c.gain, "low": c.low, "high": c.high, "clips": c.clips, "units": c.units, "outcome": c.outcome}
        told.setdefault(c.value, {})[c.baseline] = facts
    names = set(values)
    kept = {
        key: {m: {v: n for v, n in of.items() if v in names} for m, of in found[key].items()}
        for key in ("means", "intervals")
    }
    return {"clips": len(rows), "units": len({row["unit"] for row in rows}), **kept, "gains": told}


def halved(rows: Rows, guesses: Sequence[str], ratio: float) -> dict[str, Any] | None:
    """Ours against ``ratio`` times the best guess's joint error, paired; None where either has no number.

    Returns:
        ``best``: the guess with the least mean; ``ours``, ``theirs``: mean errors of the clips that both have; ``ratio`` of the
        two; ``low``, ``high``: 95 % interval over motions of (ratio x theirs - ours), above zero where the target is surely
        reached; ``clips``, ``units``, ``outcome``.
    """
    means = summary.means(rows)["means"]
    known = {name: means[name]["joint_error"] for name in guesses if "joint_error" in means.get(name, {})}
    if not known or "joint_error" not in means.get(OURS, {}):
        return None
    best = min(known, key=lambda name: known[name])
    pairs = [
        (row["unit"], row["methods"][OURS]["joint_error"], row["methods"][best]["joint_error"])
        for row in rows
        if all(row["methods"].get(method, {}).get("joint_error") is not None for method in (OURS, best))
    ]
    if not pairs:
        return None
    units = [unit for unit, _, _ in pairs]
    ours, theirs = (np.array([pair[i] for pair in pairs]) for i in (1, 2))
    low, high = summary.interval(units, ratio * theirs - ours)
    means_of = {"ours": float(ours.mean()), "theirs": float(theirs.mean())}
    ends = {"low": low, "high": high, "outcome": summary.outcome(low, high, len(set(units)))}
    return {
        "best": best,
        **means_of,
        "ratio": means_of["ours"] / means_of["theirs"],
        **ends,
        "clips": len(pairs),
        "units": len(set(units)),
    }


def by_gap(rows: Rows, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Errors over the gap between the bodies, in bins that hold equally many clips; empty where no sample states its gap.

    Returns:
        bins, each ``low``, ``high``, ``middle`` (mean) of ``labels.scale_gap`` (log of the character's over the driver's size,
        below 0: the driver is larger), ``clips``, ``units``, and ``values``: {value: {method: [mean, low, high]}}.
    """
    known = sorted(
        (row for row in rows if _number(row["labels"].get("scale_gap"))), key=lambda r: r["labels"]["scale_gap"]
    )
    bins = min(GAP_BINS, len(known))
    out = []
    for members in (known[i * len(known) // bins : (i + 1) * len(known) // bins] for i in range(bins)):
        gaps = [float(row["labels"]["scale_gap"]) for row in members]
        found = summary.means(members)
        values: dict[str, Any] = {}
        for value in GAP_VALUES:
            for method in methods:
                mean = found["means"].get(method, {}).get(value)
                if mean is not None:
                    ends = found["intervals"].get(method, {}).get(value, [mean, mean])
                    values.setdefault(value, {})[method] = [mean, *ends]
        facts = {"low": gaps[0], "high": gaps[-1], "middle": float(np.mean(gaps)), "clips": len(members)}
        out.append({**facts, "units": len({row["unit"] for row in members}), "values": values})
    return out


def sets(result: Result) -> dict[str, Any]:
    """FID, KID, FVD: {``all`` or split: {method: {value: value, low, high, n}}}, without the draws."""
    return {
        group.removeprefix("split "): {
            method: {name: {key: found[key] for key in ("value", "low", "high", "n")} for name, found in of.items()}
            for method, of in methods.items()
        }
        for group, methods in result["sets"].items()
    }


def arm_gaps(arms: Mapping[str, Result], cfg: EvidenceConfig) -> dict[str, Any]:
    """Arms of the ablation over the gap: ``values`` and ``bins`` of :func:`by_gap`, ours of each arm under the arm's name.

    Raises:
        InputError: arms that were not measured on the same samples by one protocol.
    """
    protocols = {(r["protocol"]["sha256"], r["samples"]["sha256"]) for r in arms.values()}
    if len(protocols) > 1:
        raise InputError(f"gap_arms: {', '.join(arms)} differ in protocol or samples; measure all of them by one")
    first = next(iter(arms.values()))
    rows = [row for row in first["rows"] if row["labels"].get("level") in cfg.scopes.headline_levels]
    numbers = {name: {row["key"]: row["methods"].get(OURS, {}) for row in r["rows"]} for name, r in arms.items()}
    merged = [{**row, "methods": {name: found.get(row["key"], {}) for name, found in numbers.items()}} for row in rows]
    values = {name: first["values"][name] for name in GAP_VALUES if name in first["values"]}
    return rounded({"values": values, "bins": by_gap(merged, list(arms))})


def ablation(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What is kept of an ``ablation.json``: ``baseline``, ``columns``, ``values``, ``table``, ``differences``, ``missing`` and
    ``environment`` as there; ``arms``: {arm: about, seeds, parameters, cpu_sec, tflop (means over seeds)}; ``budget``: the plan's
    stages with their settings; ``protocols``: {name: sha256 of the protocol and of its samples}.

    Raises:
        InputError: not such a file.
    """
    needed = ("plan", "arms", "runs", "values", "columns", "table", "differences", "missing", "environment")
    absent = [key for key in needed if key not in found]
    if absent:
        raise InputError(f"{name}: has no `{absent[0]}`, so `imanim ablate` did not write it; check ablation")
    arms = {}
    for arm, about in found["arms"].items():
        runs = [run for run in found["runs"] if run["arm"] == arm]
        if runs:
            costs = {key: float(np.mean([run[key] for run in runs])) for key in ("cpu_sec", "tflop")}
            parameters = sum(runs[0]["parameters"].values())
            arms[arm] = {"about": about.get("about", ""), "seeds": len(runs), "parameters": parameters, **costs}
    kept = {key: found[key] for key in needed if key not in ("plan", "arms", "runs")}
    # A value without a scope is one of clips: what imanim ablate tabulates.
    kept["values"] = {value: {"scope": "clip", **facts} for value, facts in found["values"].items()}
    plan = found["plan"]
    budget = [{key: stage[key] for key in ("config", "settings") if key in stage} for stage in plan.get("stages", [])]
    protocols = {
        name: {key: scored[key] for key in ("protocol_sha256", "samples_sha256") if key in scored}
        for run in found["runs"]
        for name, scored in run.get("scores", {}).items()
    }
    told = {"baseline": plan["baseline"], "budget": budget, "protocols": protocols}
    return rounded({"schema": 1, **told, "arms": arms, **kept})


def leakage(result: Result) -> dict[str, Any]:
    """What is kept of a result with probes. Raises InputError when its protocol has none."""
    found = result.get("leakage")
    if found is None:
        raise InputError(
            f"leakage: protocol {result['protocol']['name']} has no probes; give one with `leakage:` settings"
        )
    facts = {"method": _method(result), **{key: result[key] for key in ("protocol", "environment")}}
    samples = {key: result["samples"][key] for key in ("count", "sha256")}
    return rounded({"schema": 1, **facts, "samples": samples, "leakage": found})


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], values: Sequence[str]) -> dict[str, Any]:
    """Training and validation curves, thinned: {run, or run + ``HELD_OUT``: rows with ``step`` and the values}."""
    out: dict[str, Any] = {}
    for name, rows in runs.items():
        for suffix, found in (
            ("", [row for row in rows if "validation" not in row]),
            (HELD_OUT, [{"step": row["step"], **row["validation"]} for row in rows if "validation" in row]),
        ):
            kept = [{k: row[k] for k in ("step", *values) if _number(row.get(k))} for row in found]
            kept = [row for row in kept if len(row) > 1]
            places = np.unique(np.linspace(0, len(kept) - 1, min(_POINTS, len(kept))).round().astype(int))
            if kept:
                out[name + suffix] = rounded([kept[i] for i in places])
    return out


def rounded(value: Any) -> Any:
    """JSON with floats of six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
