"""The result file: what it must hold, what its methods are called, and how its numbers are written.

A result carries its protocol, its samples' hash and a row a clip, so that it can be compared, or refused, later and elsewhere.
:mod:`evaluation.summary` makes its groups from its rows, :mod:`evaluation.report` a page, :mod:`evaluation.tables` a paper's table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.metrics.base import Value
from imanim.data.files import read_json
from imanim.errors import InputError

Result = Mapping[str, Any]

SCHEMA = 1
RESULT = "results.json"
OURS, ALL = "ours", "all"
"""The measured method among its baselines; the group of every clip."""
_SHORT = {"psnr": "PSNR", "ssim": "SSIM", "pck": "PCK"}
BETTER, SCOPES = ("higher", "lower", "none"), ("clip", "set")


@dataclass(frozen=True)
class MethodName:
    """A method in a table's heading and in a sentence, and whether it is a baseline: something that ours must beat."""

    title: str
    words: str
    baseline: bool = True


METHODS = {
    OURS: MethodName("ours", "ours", False),
    "hold": MethodName("character held still", "holding still"),
    "hold_autoencoder": MethodName("character held still, through the autoencoder", "holding still (autoencoded)"),
    "driver": MethodName("the driver's own video", "the driver's own video"),
    "copy": MethodName("driver's true joints, copied", "copied true joints"),
    "scale_shift": MethodName("true joints, scaled and shifted", "scaled true joints"),
    "bone_length": MethodName("true joints, 2D bone lengths", "2D bone lengths"),
    "autoencoder": MethodName("truth through the autoencoder (ceiling)", "the autoencoded truth", False),
    "tokens": MethodName("tokenizer reading the driver (its own error)", "the tokenizer's reading", False),
}
"""Known methods in a table's order. Others are baselines under their own names."""


def method_name(method: str) -> MethodName:
    """A method in words."""
    return METHODS.get(method, MethodName(method, method))


def ordered(methods: Sequence[str]) -> list[str]:
    """Methods in a table's order: ours, baselines, then what only stands beside."""
    rank = {method: i for i, method in enumerate(METHODS)}
    return sorted(methods, key=lambda m: (m != OURS, m != OURS and not method_name(m).baseline, rank.get(m, len(rank))))


def load(path: str | Path) -> dict[str, Any]:
    """A result from its file, or from the folder that holds it.

    Raises:
        InputError: no such file, damaged JSON, or not a result of this schema (the first thing wrong is named).
    """
    file = Path(path)
    file = file / RESULT if file.is_dir() else file
    result = read_json(file)
    check(result, str(file))
    return result


def values(result: Result, scope: str | None = None) -> dict[str, Value]:
    """What was measured, by name; ``scope``: only values of a ``clip`` or of a ``set``."""
    return {
        name: Value(name, facts["label"], facts["better"], facts["digits"], facts.get("unit", ""))
        for name, facts in result["values"].items()
        if scope in (None, facts["scope"])
    }


def protocol_name(result: Result) -> str:
    """``name version (first digits of the hash)``: enough to see at a glance that two results do not belong together."""
    protocol = result["protocol"]
    return f"{protocol['name']} {protocol['version']} ({protocol['sha256'][:10]})"


def mean(result: Result, method: str, value: str, group: str = ALL) -> float | None:
    """A group's number for a value of either scope; None where nothing was measured."""
    if result["values"].get(value, {}).get("scope") == "set":
        return (spread(result, method, value, group) or {}).get("value")
    return result["groups"].get(group, {}).get("means", {}).get(method, {}).get(value)


def spread(result: Result, method: str, value: str, group: str = ALL) -> Mapping[str, Any] | None:
    """What a set value says about itself (value, low, high, n, draws, warnings); None where it was not measured."""
    return result["sets"].get(group, {}).get(method, {}).get(value)


def interval(result: Result, method: str, value: str, group: str = ALL) -> tuple[float, float] | None:
    """The 95 % interval of :func:`mean`; None where there is none."""
    found = spread(result, method, value, group)
    of_clips = result["groups"].get(group, {}).get("intervals", {}).get(method, {}).get(value)
    low, high = (found.get("low"), found.get("high")) if found else of_clips or (None, None)
    return None if low is None or high is None else (low, high)


def counted(result: Result, method: str, value: str, group: str = ALL) -> int:
    """Clips that gave a number; for a set value its rows of features."""
    found = spread(result, method, value, group)
    if found is not None:
        return found["n"]
    return result["groups"].get(group, {}).get("counted", {}).get(method, {}).get(value, 0)


def headline(result: Result, scope: str | None = None) -> dict[str, Value]:
    """The values that the protocol puts first, in its order; all of them when it names none."""
    every = values(result, scope)
    first = {name: every[name] for name in result["protocol"].get("headline") or () if name in every}
    return first or every


def measured(result: Result, group: str = ALL) -> tuple[list[str], list[str]]:
    """(values, methods) that have a number in a group, in their order."""
    found = {
        (value, method)
        for value in result["values"]
        for method in result["methods"]
        if mean(result, method, value, group) is not None
    }
    shown = [value for value in result["values"] if any(value == v for v, _ in found)]
    return shown, ordered([m for m in result["methods"] if any(m == method for _, method in found)])


def best(found: Mapping[str, float], value: Value) -> str | None:
    """Which of several numbers is best; None when the value has no direction, or there are not two numbers."""
    if not value.sign or len(found) < 2:
        return None
    return max(found, key=lambda name: value.sign * found[name])


# --------------------------------------------------------------------------------------------------- names and numbers


def title(value: Value) -> str:
    """A value's label with its unit."""
    return value.label if not value.unit or f"({value.unit}" in value.label else f"{value.label} ({value.unit})"


def short(value: Value) -> str:
    """A value's name inside a list of several, without its unit."""
    return _SHORT.get(value.name, value.label.removesuffix(f" ({value.unit})"))


def arrow(value: Value) -> str:
    """Where better is."""
    return {1: "↑", -1: "↓", 0: ""}[value.sign]


def number(amount: float | None, value: Value) -> str:
    """With as many digits as the value deserves; nothing for None."""
    return "" if amount is None else f"{_plain(amount, value):.{value.digits}f}"


def signed(amount: float, value: Value) -> str:
    """+1.25, -0.031."""
    return f"{_plain(amount, value):+.{value.digits}f}"


def _plain(amount: float, value: Value) -> float:
    """Rounded, without a minus before zero."""
    return round(amount, value.digits) + 0.0


# --------------------------------------------------------------------------------------------------------------- check

_NUMBER = (int, float)
_NEEDED: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("protocol", dict),
    ("protocol.name", str),
    ("protocol.version", (str, int)),
    ("protocol.sha256", str),
    ("samples", dict),
    ("samples.count", int),
    ("samples.sha256", str),
    ("method", dict),
    ("method.kind", str),
    ("method.name", str),
    ("methods", list),
    ("values", dict),
    ("rows", list),
    ("sets", dict),
    ("groups", dict),
    ("refused", list),
    ("environment", dict),
)
_OF_VALUE = (("label", str), ("better", str), ("digits", int), ("scope", str))
_OF_ROW = (("key", str), ("unit", str), ("labels", dict), ("methods", dict))
_OF_GROUP = (("clips", int), ("means", dict), ("comparisons", list), ("verdict", str))
_OF_SPREAD = (("n", int), ("draws", list), ("warnings", list))


def check(result: Any, name: str = "result") -> None:
    """Whether this is a whole result of this schema.

    Raises:
        InputError: naming the first key that is missing or holds what it must not (NaN and infinity among them).
    """
    if not isinstance(result, dict):
        raise InputError(f"{name}: {type(result).__name__} instead of an object; this is not a result file")
    if result.get("schema") != SCHEMA:
        raise InputError(f"{name}: schema {result.get('schema')!r}; this version reads schema {SCHEMA}; measure again")
    for problem in _problems(result):
        raise InputError(f"{name}: {problem}; measure again, results are not mended by hand")


def _problems(result: dict[str, Any]) -> Iterator[str]:
    for path, kind in _NEEDED:
        found: Any = result
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        yield from _wrong_type(path, found, kind)
    methods, known = result["methods"], result["values"]
    if methods[:1] != [OURS] or len(set(methods)) != len(methods):
        yield f"methods: {methods}, expected `{OURS}` first and every method once"
    for value, facts in known.items():
        yield from _fields(f"values.{value}", facts, _OF_VALUE)
        for key, allowed in (("better", BETTER), ("scope", SCOPES)):
            if facts[key] not in allowed:
                yield f"values.{value}.{key}: {facts[key]!r}, expected one of {', '.join(allowed)}"
    yield from _row_problems(result["rows"], methods, known)
    for group, of_methods in result["sets"].items():
        for method, found in of_methods.items():
            yield from _unknown(f"sets.{group}", method, found, methods, known, "set")
            for value, spread in found.items():
                yield from _fields(f"sets.{group}.{method}.{value}", spread, _OF_SPREAD)
    for group, facts in result["groups"].items():
        yield from _fields(f"groups.{group}", facts, _OF_GROUP)
    if ALL not in result["groups"]:
        yield f"groups.{ALL}: missing"
    yield from _not_finite("", result)


def _row_problems(rows: list[Any], methods: list[str], known: Mapping[str, Any]) -> Iterator[str]:
    seen: set[str] = set()
    for i, row in enumerate(rows):
        yield from _fields(f"rows[{i}]", row, _OF_ROW)
        if row["key"] in seen:
            yield f"rows[{i}].key: {row['key']!r} a second time"
        seen.add(row["key"])
        for method, found in row["methods"].items():
            yield from _unknown(f"rows[{i}] ({row['key']})", method, found, methods, known, "clip")


def _unknown(
    where: str, method: str, found: Any, methods: Sequence[str], known: Mapping[str, Any], scope: str
) -> Iterator[str]:
    if method not in methods:
        yield f"{where}: method `{method}` is not among methods"
    yield from _wrong_type(f"{where}.{method}", found, dict)
    for value, amount in found.items():
        if known.get(value, {}).get("scope") != scope:
            yield f"{where}: value `{value}` of {method} is not among values of scope {scope}"
        if scope == "clip" and amount is not None:
            yield from _wrong_type(f"{where}.{method}.{value}", amount, _NUMBER)


def _fields(where: str, found: Any, needed: Sequence[tuple[str, type]]) -> Iterator[str]:
    yield from _wrong_type(where, found, dict)
    for key, kind in needed:
        yield from _wrong_type(f"{where}.{key}", found.get(key), kind)


def _wrong_type(where: str, found: Any, kind: type | tuple[type, ...]) -> Iterator[str]:
    if not isinstance(found, kind) or isinstance(found, bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        yield f"{where}: {'missing' if found is None else type(found).__name__}, expected {names}"


def _not_finite(where: str, found: Any) -> Iterator[str]:
    if isinstance(found, float) and not math.isfinite(found):
        yield f"{where}: {found}, expected a finite number or null"
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in inner:
        yield from _not_finite(f"{where}.{key}".lstrip("."), value)
