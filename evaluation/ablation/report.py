"""From finished scores to ``ablation.json``: every run's numbers with what made them, and paired differences to the baseline arm.

Written: ``schema``, ``plan``, ``arms`` {name: about, model, stages, skip}, ``runs`` (see :func:`_run`), ``values`` (label, unit,
better, digits), ``columns``, ``unmeasured``, ``table`` {arm: {column: {mean, low, high, seeds}}} (low and high: the least and the
largest seed), ``differences`` {arm: {column: {gain, low, high, motions, clips, seeds, outcome}}}, ``missing``, ``environment``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import results
from evaluation.ablation.config import AblationConfig, ArmConfig
from evaluation.ablation.jobs import DONE, Runner
from evaluation.ablation.stages import Stage, Unit, score_folder, stage_folder
from evaluation.generation import weights_of
from evaluation.metrics.base import Value
from evaluation.results import OURS, Result
from evaluation.summary import interval, outcome
from imanim.config import to_dict
from imanim.data.files import read_json, write_json
from imanim.models import files, sizes
from imanim.training.transfer import MODEL

SCHEMA = 1
RESULT = "ablation.json"
COSTS = "costs"
CONTROL, TOKENS = "joints", "tokens"
LEAK = "leakage of {}"
"""A column each label of a leakage protocol: what a linear probe reads from the tokens minus what it reads from the true joints."""
CARRIED = "driver's colours in the video"
"""A column of a leakage protocol that makes videos: the share of the difference between two drivers' colours that gets in."""


def add_up(
    plan: AblationConfig, arms: Mapping[str, ArmConfig], units: Sequence[Unit], runner: Runner, output: Path
) -> dict[str, Any]:
    """The whole ablation, from what is there; what is not is named in ``missing``."""
    from evaluation.benchmark import environment

    scored: dict[tuple[str, int], list[Result]] = {}
    runs, missing = [], []
    for unit in units:
        told = {
            key: runner.record(key).get("state", "to do")
            for key in (*(s.key for s in unit.last.line()), *unit.measures)
        }
        lacking = [key for key, state in told.items() if state != DONE]
        if lacking:
            missing.append({"arm": unit.arm, "seed": unit.seed, "job": lacking[0], "state": told[lacking[0]]})
            continue
        scored[unit.arm, unit.seed] = [results.load(score_folder(output, key)) for key in unit.measures]
        runs.append(_run(unit, scored[unit.arm, unit.seed], runner, output))
    values = {
        name: value for found in scored.values() for result in found for name, value in results.values(result).items()
    }
    columns = _columns(plan, scored)
    return {
        "schema": SCHEMA,
        "plan": to_dict(plan),
        "arms": {name: to_dict(arm) for name, arm in arms.items()},
        "runs": runs,
        "values": {name: {"label": v.label, "unit": v.unit, "better": v.better, "digits": v.digits} for name, v in values.items()},
        "columns": columns,
        "unmeasured": [column for column in plan.columns if scored and column not in columns],
        "table": {arm: table_row(columns, _of_arm(scored, arm)) for arm in arms if _of_arm(scored, arm)},
        "differences": {
            arm: differences(columns, values, _of_arm(scored, arm), _of_arm(scored, plan.baseline))
            for arm in arms
            if arm != plan.baseline and _of_arm(scored, arm)
        },
        "missing": missing,
        "environment": environment(),
    }  # fmt: skip


def _of_arm(scored: Mapping[tuple[str, int], list[Result]], arm: str) -> dict[int, list[Result]]:
    return {seed: found for (name, seed), found in scored.items() if name == arm}


# --------------------------------------------------------------------------------------------------------------- a run


def _run(unit: Unit, scored: Sequence[Result], runner: Runner, output: Path) -> dict[str, Any]:
    """An arm under a seed: its trainings with their cost, the model, the scores by protocol and group, the leakage."""
    trainings = [_training(stage, runner, output) for stage in unit.last.line()]
    model = stage_folder(output, unit.last) / MODEL
    counts = sizes.parameters(files.read_index(model).config)
    return {
        "arm": unit.arm,
        "seed": unit.seed,
        "trainings": trainings,
        **{name: sum(t[name] for t in trainings) for name in ("samples", "seconds", "cpu_sec", "tflop")},
        "parameters": counts,
        "weights_sha256": weights_of(model),
        "scores": {
            result["protocol"]["name"]: {
                "protocol_sha256": result["protocol"]["sha256"],
                "samples_sha256": result["samples"]["sha256"],
                "groups": {
                    group: {"clips": facts["clips"], "means": facts["means"].get(OURS, {}), "baselines": _others(facts["means"])}
                    for group, facts in result["groups"].items()
                },
                "sets": {g: {n: s["value"] for n, s in m.get(OURS, {}).items()} for g, m in result["sets"].items()},
                "leakage": leakage(result),
                "carried": carried(result),
                "refused": len(result["refused"]),
            }
            for result in scored
        },
    }  # fmt: skip


def _others(means: Mapping[str, Any]) -> dict[str, Any]:
    return {method: found for method, found in means.items() if method != OURS}


def _training(stage: Stage, runner: Runner, output: Path) -> dict[str, Any]:
    record = runner.record(stage.key)
    # With a cap (max_minutes) a training may have ended early: what it says of itself counts.
    steps = files.read_index(stage_folder(output, stage) / MODEL).record["steps"]
    samples = steps * stage.cfg.batch.global_size
    return {
        "stage": stage.number,
        "key": stage.key,
        "steps": steps,
        "samples": samples,
        "seconds": record["seconds"],
        "cpu_sec": record["cpu_sec"],
        "tflop": flop_per_sample(stage, output) * samples / 1e12,
    }


def flop_per_sample(stage: Stage, output: Path) -> int:
    """Floating-point operations of a training sample, traced (imanim.training.trace). Counted once, then kept on disk."""
    from imanim.training import trace

    path = output / COSTS / f"{stage.key}.json"
    if not path.is_file():
        write_json(path, {"flop_per_sample": trace.run(stage.cfg, stage.model, 1).total_flops()})
    return read_json(path)["flop_per_sample"]


def leakage(result: Result) -> dict[str, dict[str, float]] | None:
    """By label: what the linear probe reads from tokens, from true joints, and the difference; None without such a protocol."""
    found = result.get("leakage")
    if found is None:
        return None
    out = {}
    for name, label in found["labels"].items():
        scores = label.get("scores", {}).get("linear", {})
        if TOKENS in scores and CONTROL in scores:
            tokens, control = scores[TOKENS]["value"], scores[CONTROL]["value"]
            out[name] = {"tokens": tokens, "joints": control, "difference": tokens - control}
    return out


def carried(result: Result) -> dict[str, float] | None:
    """How far the person's colour in the video moves with the driver's: value, low, high, 0 not at all, 1 all the way."""
    videos = (result.get("leakage") or {}).get("videos") or {}
    return videos.get("colour_pull")


# -------------------------------------------------------------------------------------------------------------- columns


def _columns(plan: AblationConfig, scored: Mapping[Any, list[Result]]) -> list[str]:
    """The plan's columns that were measured, then one a leakage label, then what videos carry."""
    every = [result for found in scored.values() for result in found]
    leaks = {LEAK.format(label): None for result in every for label in leakage(result) or {}}
    videos = [CARRIED] if any(carried(result) for result in every) else []
    return [c for c in plan.columns if any(number(c, [r]) is not None for r in every)] + list(leaks) + videos


def number(column: str, scored: Sequence[Result]) -> float | None:
    """A column's number of one run; None where none of its protocols has it."""
    value, _, group = column.partition("@")
    for result in scored:
        for label, found in (leakage(result) or {}).items():
            if column == LEAK.format(label):
                return found["difference"]
        if column == CARRIED and (pull := carried(result)):
            return pull["value"]
        mean = results.mean(result, OURS, value, group or results.ALL)
        if mean is not None:
            return mean
    return None


def table_row(columns: Sequence[str], seeds: Mapping[int, list[Result]]) -> dict[str, dict[str, Any]]:
    """Column -> mean over seeds, the least, the largest, and each seed's number."""
    row = {}
    for column in columns:
        found = {seed: n for seed, scored in seeds.items() if (n := number(column, scored)) is not None}
        if found:
            amounts = list(found.values())
            row[column] = {"mean": float(np.mean(amounts)), "low": min(amounts), "high": max(amounts), "seeds": found}
    return row


# ---------------------------------------------------------------------------------------------------------- differences


def differences(
    columns: Sequence[str],
    values: Mapping[str, Value],
    arm: Mapping[int, list[Result]],
    base: Mapping[int, list[Result]],
) -> dict[str, dict[str, Any]]:
    """Column -> how much better than the baseline (``gain``, positive is better; for a value without a direction the difference).

    Paired: on the same clip under the same seed, averaged over the seeds that both have. The 95 % interval draws motions; how much
    another seed would give is in the table's range, not in it.
    """
    found = {}
    for column in columns:
        name, _, group = column.partition("@")
        if name not in values:
            continue
        sign = values[name].sign or 1
        clips = _paired(name, group, arm, base)
        if not clips:
            continue
        gains = np.array([sign * gain for _, gain in clips.values()])
        motions = [unit for unit, _ in clips.values()]
        low, high = interval(motions, gains)
        found[column] = {
            "gain": float(gains.mean()), "low": low, "high": high, "clips": len(gains), "motions": len(set(motions)),
            "seeds": len(arm.keys() & base.keys()), "outcome": outcome(low, high, len(set(motions))),
        }  # fmt: skip
    return found


def _paired(
    value: str, group: str, arm: Mapping[int, list[Result]], base: Mapping[int, list[Result]]
) -> dict[str, tuple[str, float]]:
    """Clip -> (motion, mean difference over the common seeds), of clips that every one of these runs scored."""
    sums: dict[str, tuple[str, list[float]]] = {}
    common = sorted(arm.keys() & base.keys())
    for seed in common:
        ours, theirs = (_clips(found, value, group) for found in (arm[seed], base[seed]))
        for key in ours.keys() & theirs.keys():
            sums.setdefault(key, (ours[key][0], []))[1].append(ours[key][1] - theirs[key][1])
    return {key: (unit, float(np.mean(off))) for key, (unit, off) in sorted(sums.items()) if len(off) == len(common)}


def _clips(scored: Sequence[Result], value: str, group: str) -> dict[str, tuple[str, float]]:
    """Clip -> (motion, number) of a group (a level, or everything), from the first protocol that has the value, as in the table."""
    for result in scored:
        found = {
            row["key"]: (row["unit"], row["methods"][OURS][value])
            for row in result["rows"]
            if group in ("", results.ALL, row["labels"].get("level"), f"split {row.get('split')}")
            and row["methods"].get(OURS, {}).get(value) is not None
        }
        if found:
            return found
    return {}
