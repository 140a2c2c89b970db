"""Do two runs of the evidence order things alike? A quick one is worth its ten minutes only if it says what the full one says.

An ordering is ours against one baseline in one value, or an arm of the ablation against the full method. It is *sure* where its
95 % interval over motions misses zero and enough motions were seen (:func:`evaluation.summary.outcome`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation import results
from evaluation.evidence.trim import CELLS, pooled
from evaluation.metrics.base import Value
from evaluation.results import ALL, method_name
from evaluation.summary import MIN_MOTIONS
from imanim.errors import InputError

Kept = Mapping[str, Any]
AGREE, DISAGREE, OPEN = "agree", "disagree", "too close to call"


@dataclass(frozen=True)
class Ordering:
    """One ordering in both runs. ``full``, ``quick``: gain, low, high; positive is better. ``motions``: of the run with fewer."""

    where: str
    value: Value
    against: str
    full: tuple[float, float, float]
    quick: tuple[float, float, float]
    motions: int
    verdict: str

    @property
    def line(self) -> str:
        """For a terminal."""

        def told(ends: tuple[float, float, float]) -> str:
            gain, low, high = (results.signed(end, self.value) for end in ends)
            return f"{gain} [{low}, {high}]"

        words = self.verdict
        if self.verdict == OPEN:
            words = f"too few motions ({self.motions}) to call" if self.motions < MIN_MOTIONS else OPEN
            words += ", same direction" if self.full[0] * self.quick[0] > 0 else ", opposite directions"
        return (
            f"{self.where}, {results.short(self.value)}, {self.against}: full {told(self.full)}, "
            f"quick {told(self.quick)}: {words}"
        )


def orderings(full: Kept, quick: Kept, levels: Sequence[str]) -> list[Ordering]:
    """Every headline value against every baseline, over all cells: at each of the levels, at these together, and at all.

    Raises:
        InputError: the two were not measured by one protocol's metrics, or share no ordering.
    """
    _require_alike(full, quick)
    known = results.values(full)
    out = list(_found(full["groups"][CELLS], quick["groups"][CELLS], levels, known, full["protocol"]["headline"]))
    if not out:
        raise InputError("evidence compare: the two results share no level with a headline value; measure them again")
    return out


def _found(
    full: Kept, quick: Kept, levels: Sequence[str], known: Mapping[str, Value], headline: Sequence[str]
) -> Iterator[Ordering]:
    for level in [*levels, pooled(levels), ALL]:
        for value in headline:
            there = full.get(level, {}).get("gains", {}).get(value, {})
            here = quick.get(level, {}).get("gains", {}).get(value, {})
            for method in there:
                if method in here:
                    one, other = there[method], here[method]
                    yield Ordering(
                        "all levels" if level == ALL else level,
                        known[value],
                        f"ours against {method_name(method).words}",
                        _ends(one),
                        _ends(other),
                        min(one["units"], other["units"]),
                        verdict(one["outcome"], other["outcome"]),
                    )


def arm_orderings(full: Kept, quick: Kept) -> list[Ordering]:
    """Every arm of both ablations against the full method, in every column that both have."""
    known = results.values(full)
    out = []
    for arm in full["differences"]:
        here = quick["differences"].get(arm, {})
        for column, one in full["differences"][arm].items():
            if column in here:
                name, _, group = column.partition("@")
                other, what = here[column], verdict(one["outcome"], here[column]["outcome"])
                where = f"ablation{f', {group}' if group else ''}"
                against = f"{arm} against {full['baseline']}"
                out.append(
                    Ordering(
                        where,
                        known[name],
                        against,
                        _ends(one),
                        _ends(other),
                        min(one["motions"], other["motions"]),
                        what,
                    )
                )
    return out


def verdict(one: str, other: str) -> str:
    """Of two outcomes: agree or disagree where both are sure."""
    if "open" in (one, other):
        return OPEN
    return AGREE if one == other else DISAGREE


def _ends(facts: Kept) -> tuple[float, float, float]:
    return facts["gain"], facts["low"], facts["high"]


def _require_alike(full: Kept, quick: Kept) -> None:
    """The samples differ by design, and a quick run may leave metrics out; size, rate and what both measure must not differ."""
    one, other = full["protocol"], quick["protocol"]
    shared = sorted(one["metrics"].keys() & other["metrics"].keys())
    settings = [(key, one.get(key), other.get(key)) for key in ("size", "frames", "fps", "resize", "joints")]
    settings += [(f"metrics.{name}", one["metrics"][name], other["metrics"][name]) for name in shared]
    for key, first, second in settings:
        if first != second:
            raise InputError(
                f"evidence compare: protocol.{key} differs ({first} and {second}); measure both by one protocol"
            )


def notes(full: Kept, quick: Kept) -> list[str]:
    """What else differs between the two."""
    out = [f"full: {full['samples']['count']} samples, quick: {quick['samples']['count']}"]
    if full["method"].get("weights_sha256") != quick["method"].get("weights_sha256"):
        out.append("the two measured different weights: a disagreement may be the model's, not the quick run's")
    return out


def summary(found: Sequence[Ordering]) -> str:
    """How many of which."""
    counts = {word: sum(o.verdict == word for o in found) for word in (AGREE, DISAGREE, OPEN)}
    return ", ".join(f"{count} {word}" for word, count in counts.items())
