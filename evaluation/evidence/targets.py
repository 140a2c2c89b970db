"""The targets, reached or not: computed from the kept results, never written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation import results
from evaluation.evidence.config import TargetsConfig
from evaluation.evidence.trim import DECIDING
from evaluation.results import ALL, method_name

Kept = Mapping[str, Any]
REACHED, UNSURE, MISSED, UNKNOWN = "reached", "reached, not surely", "**not reached**", "not measured"


@dataclass(frozen=True)
class Target:
    """One line of the table: what was wanted, what was found, and whether that is enough."""

    wanted: str
    found: str
    state: str


def judge(kept: Kept, cfg: TargetsConfig) -> list[Target]:
    """Every target in the issue's order.

    Args:
        kept: the files of a run by name: ``scores`` and, where they were made, ``tokens`` and ``leakage``.
    """
    return [*tokens(kept, cfg), *joints(kept["scores"], cfg), video(kept["scores"], cfg), clothes(kept, cfg)]


def tokens(kept: Kept, cfg: TargetsConfig) -> list[Target]:
    """Joints read from the tokens of the deciding splits, and codes used over all samples."""
    error = f"joints read from the tokens: at most {cfg.token_error:g} % of the image height"
    used = f"codes in use: at least {cfg.codes_used:g} %"
    if kept.get("tokens") is None:
        return [Target(error, "", UNKNOWN), Target(used, "", UNKNOWN)]
    found = kept["tokens"]["scopes"]
    facts, every = found[DECIDING], found[ALL]
    ends = facts["error_interval"]
    sure = None if ends is None else ends[1] <= cfg.token_error
    told = f"{facts['error']:.2f}{_ends(ends)} (mean pose {facts['mean_pose']:.2f})"
    return [
        Target(error, told, _state(facts["error"] <= cfg.token_error, sure)),
        Target(used, f"{every['codes_used']:.1f} %", _state(every["codes_used"] >= cfg.codes_used)),
    ]


def joints(scores: Kept, cfg: TargetsConfig) -> list[Target]:
    """Retargeted joints against the best training-free guess, a line a headline level."""
    out = []
    for level, facts in scores["halved"][DECIDING].items():
        wanted = f"retargeted joints at {level}: at most {cfg.joint_ratio:g} x the best training-free guess"
        if facts is None:
            out.append(Target(wanted, "", UNKNOWN))
            continue
        told = f"{facts['ours']:.2f} against {facts['theirs']:.2f} ({method_name(facts['best']).words}): {facts['ratio']:.2f} x"
        out.append(Target(wanted, told, _state(facts["ratio"] <= cfg.joint_ratio, facts["outcome"] == "better")))
    return out or [Target("retargeted joints at the headline's levels", "", UNKNOWN)]


def video(scores: Kept, cfg: TargetsConfig) -> Target:
    """The made video against every baseline in every value at every level; :func:`grid` has the cells."""
    levels = grid_levels(scores)
    cells = grid(scores, cfg)
    methods, named = _listed(cfg.beaten_methods), _listed([_short(scores, v) for v in cfg.beaten_values])
    wanted = f"made video beats {methods} in {named} at {', '.join(levels)}"
    total = len(cfg.beaten_methods) * len(cfg.beaten_values) * len(levels)
    ahead = sum(facts["gain"] > 0 for facts in cells.values())
    sure = sum(facts["outcome"] == "better" for facts in cells.values())
    told = f"ahead in {ahead} of {total} comparisons, surely in {sure}"
    if len(cells) < total:
        told += f"; {total - len(cells)} not measured"
        return Target(wanted, told, UNKNOWN if ahead == len(cells) else MISSED)
    return Target(wanted, told, _state(ahead == total, sure == total))


def grid(scores: Kept, cfg: TargetsConfig, scope: str = DECIDING) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """{(level, value, baseline): gain, low, high, outcome}, of what was measured."""
    out = {}
    for level in grid_levels(scores, scope):
        gains = scores["groups"][scope][level]["gains"]
        for value in cfg.beaten_values:
            for method in cfg.beaten_methods:
                if method in gains.get(value, {}):
                    out[level, value, method] = gains[value][method]
    return out


def grid_levels(scores: Kept, scope: str = DECIDING) -> list[str]:
    """The single levels of a scope."""
    return [name for name in scores["groups"][scope] if name != ALL and "+" not in name]


def clothes(kept: Kept, cfg: TargetsConfig) -> Target:
    """The largest R2 of a clothing colour, any probe, from the motion tokens."""
    wanted = f"colour of clothes read from the tokens: R2 below {cfg.clothes_r2:g}"
    if kept.get("leakage") is None:
        return Target(wanted, "", UNKNOWN)
    labels = kept["leakage"]["leakage"]["labels"]
    found = [
        (scores["tokens"], labels[name]["words"], reader)
        for name in cfg.clothes
        for reader, scores in labels.get(name, {}).get("scores", {}).items()
        if "tokens" in scores
    ]
    if not found:
        return Target(wanted, "no probe could be made", UNKNOWN)
    worst, words, reader = max(found, key=lambda f: f[0]["value"])
    told = f"at most {worst['value']:.3f} [{worst['low']:.3f}, {worst['high']:.3f}] ({words}, {reader})"
    return Target(wanted, told, _state(worst["value"] < cfg.clothes_r2, worst["high"] < cfg.clothes_r2))


def _state(reached: bool, sure: bool | None = None) -> str:
    if not reached:
        return MISSED
    return UNSURE if sure is False else REACHED


def _ends(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"


def _short(scores: Kept, value: str) -> str:
    known = results.values(scores)
    return results.short(known[value]) if value in known else f"`{value}`"


def _listed(words: Sequence[str]) -> str:
    known = [method_name(word).words for word in words]
    return " and ".join([", ".join(known[:-1]), known[-1]]) if len(known) > 1 else known[0]
