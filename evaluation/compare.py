"""Two results side by side, or a refusal that says which setting differs.

Differences are paired: the same clips, the same units drawn, for set values the same draws. Numbers of different protocols
or of different samples are not put beside each other at all: nothing in them would say whether a method or a setting differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import results
from evaluation.metrics.base import Value
from evaluation.results import ALL, OURS, Result
from evaluation.summary import how_many, interval, listed, outcome, paired_spread, units_word
from imanim.errors import InputError

ABSENT = "(not there)"
_LONGEST_SETTING = 80
_PLACES = ("folder", "path", "file", "place", "root", "cache", "sha256")
"""Settings that say where something lies, or sum the others up: named as a difference only when nothing else differs."""
_UNTRAINED = ("hold", "driver", "copy", "scale_shift", "bone_length")
"""Baselines that no model takes part in: under one protocol on one set of samples they cannot differ."""
_SAME = 1e-6


def compare(a: Result, b: Result, *, names: Sequence[str] | None = None) -> dict[str, Any]:
    """A against B: the ``ours`` of two results of one protocol on the same samples.

    Args:
        names: what to call A and B; None: the methods' own names.

    Returns:
        for JSON: ``names``, ``protocol``, ``samples``, ``left_out`` ({name: keys that only the other scored}), ``values``
        (value name: ``label``, ``unit``, ``better``, ``digits``, ``scope``, ``a``, ``b``, ``gain``, ``low``, ``high``,
        ``wins``, ``losses``, ``clips``, ``units``, ``outcome``), ``warnings`` and ``verdict``. ``a`` and ``b`` are means
        over the clips that both scored; ``gain`` is positive where A is better, for a value without a direction A - B,
        with its 95 % interval over units; ``outcome`` is ``better``, ``worse``, ``open`` or ``none``.

    Raises:
        InputError: not results, other protocols (the first setting that differs is named), other samples, no common clip.
    """
    called = tuple(names) if names else _names(a, b)
    for result, name in zip((a, b), called):
        results.check(result, name)
    require_same(a, b, called)
    rows = [{row["key"]: row for row in result["rows"] if _scored(row)} for result in (a, b)]
    both = sorted(rows[0].keys() & rows[1].keys())
    if not both:
        raise InputError(f"{called[0]} and {called[1]}: no sample that both scored; there is nothing to compare")
    left_out = {called[i]: sorted(rows[1 - i].keys() - rows[i].keys()) for i in (0, 1)}
    known = [results.values(result) for result in (a, b)]
    found = _clip_values(known[0], rows, both) | _set_values(a, b, known[0], any(left_out.values()), rows)
    found = {name: found[name] for name in known[0] if name in found}
    warnings = [*_warnings(a, b, called), *_uncompared(found, known, called)]
    return {
        "names": list(called),
        "protocol": {key: a["protocol"][key] for key in ("name", "version", "sha256")},
        "samples": {"sha256": a["samples"]["sha256"], "count": a["samples"]["count"], "both": len(both)},
        "left_out": left_out,
        "values": found,
        "warnings": warnings,
        "verdict": _verdict({n: f for n, f in found.items() if n in results.headline(a)}, called, known[0]),
    }


def _names(a: Result, b: Result) -> tuple[str, str]:
    one, other = a["method"]["name"], b["method"]["name"]
    return (one, other) if one != other else (f"{one} (A)", f"{other} (B)")


def _scored(row: Mapping[str, Any]) -> bool:
    return any(number is not None for number in row["methods"].get(OURS, {}).values())


# ------------------------------------------------------------------------------------------------------------ refusals


def differences(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(setting, A's value, B's value) wherever two protocols differ, in A's order; places and hashes come last."""
    late = []
    for found in _walk(a, b, where):
        if found[0].rpartition(".")[2].partition("[")[0] in _PLACES and "weights" not in found[0]:
            late.append(found)
        else:
            yield found
    yield from late


def _walk(a: Any, b: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _walk(a.get(key, ABSENT), b.get(key, ABSENT), f"{where}.{key}".lstrip("."))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b)):
            yield from _walk(one, other, f"{where}[{i}]")
    elif a != b:
        yield where, a, b


def require_same(a: Result, b: Result, names: Sequence[str]) -> None:
    """Raises InputError, naming what differs first, unless both were measured under one protocol on one set of samples."""
    _same_protocol(a["protocol"], b["protocol"], names)
    _same_samples(a, b, names)


def _same_protocol(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> None:
    if a["sha256"] == b["sha256"]:
        return
    found = [found for found in differences(a, b) if found[0] != "sha256"]
    if not found:
        raise InputError(
            f"protocols differ in their sha256 alone ({names[0]} {a['sha256'][:10]}, {names[1]} {b['sha256'][:10]}), no setting "
            "in the files does; measure both again"
        )
    setting, one, other = found[0]
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    raise InputError(
        f"protocols differ in `{setting}`: {_brief(one)} ({names[0]}), {_brief(other)} ({names[1]}){more}; "
        "measure both under one protocol"
    )


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SETTING else f"{text[: _LONGEST_SETTING - 4]} ..."


def _same_samples(a: Result, b: Result, names: Sequence[str]) -> None:
    if a["samples"]["sha256"] == b["samples"]["sha256"]:
        return
    keys = [{row["key"] for row in r["rows"]} | {entry["key"] for entry in r["refused"]} for r in (a, b)]
    only = sorted(keys[0] - keys[1]) or sorted(keys[1] - keys[0])
    told = (
        f"`{only[0]}` is only in {names[0] if keys[0] - keys[1] else names[1]}" if only else "same keys, other contents"
    )
    raise InputError(
        f"samples differ: {a['samples']['count']}, sha256 {a['samples']['sha256'][:10]} ({names[0]}), "
        f"{b['samples']['count']}, sha256 {b['samples']['sha256'][:10]} ({names[1]}); {told}; measure both on one set"
    )


# ------------------------------------------------------------------------------------------------------------- numbers


def _facts(value: Value, scope: str) -> dict[str, Any]:
    return {"label": value.label, "unit": value.unit, "better": value.better, "digits": value.digits, "scope": scope}


def _clip_values(
    known: Mapping[str, Value], rows: Sequence[Mapping[str, Mapping[str, Any]]], both: Sequence[str]
) -> dict[str, dict[str, Any]]:
    out = {}
    for name, value in known.items():
        pairs = [[of[key]["methods"][OURS].get(name) for of in rows] for key in both]
        at = [i for i, pair in enumerate(pairs) if None not in pair]
        if not at:
            continue
        numbers = np.array([pairs[i] for i in at], np.float64)
        units = [rows[0][both[i]]["unit"] for i in at]
        gains = (value.sign or 1) * (numbers[:, 0] - numbers[:, 1])
        low, high = interval(units, gains)
        out[name] = {
            **_facts(value, "clip"),
            "a": float(numbers[:, 0].mean()),
            "b": float(numbers[:, 1].mean()),
            "gain": float(gains.mean()),
            "low": low,
            "high": high,
            **({"wins": int((gains > 0).sum()), "losses": int((gains < 0).sum())} if value.sign else {}),
            "clips": len(at),
            "units": len(set(units)),
            "outcome": outcome(low, high, len(set(units))) if value.sign else "none",
        }
    return out


def _set_values(
    a: Result, b: Result, known: Mapping[str, Value], uneven: bool, rows: Sequence[Mapping[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Set values of the group of all clips; none when a clip is in one set alone: they would be of different sets."""
    units = len({row["unit"] for row in rows[0].values()})
    out = {}
    for name, value in known.items():
        spreads = [results.spread(result, OURS, name, ALL) for result in (a, b)]
        one, other = spreads
        if uneven or one is None or other is None or one["n"] != other["n"] or None in (one["value"], other["value"]):
            continue
        gain, low, high = paired_spread(one, other, value.sign or 1, units)
        sure = "open" if low is None or high is None else outcome(low, high, units)
        out[name] = {
            **_facts(value, "set"),
            "a": one["value"],
            "b": other["value"],
            "gain": gain,
            "low": low,
            "high": high,
            "clips": len(rows[0]),
            "units": units,
            "outcome": sure if value.sign else "none",
        }
    return out


def _warnings(a: Result, b: Result, names: Sequence[str]) -> list[str]:
    out = [
        f"environment differs in `{key}`: {one} ({names[0]}), {other} ({names[1]})"
        for key, one, other in differences(a["environment"], b["environment"])
    ]
    for method in _UNTRAINED:
        for value in a["values"]:
            pair = [_per_key(result, method, value) for result in (a, b)]
            off = [key for key in sorted(pair[0].keys() & pair[1].keys()) if not _alike(pair[0][key], pair[1][key])]
            if off:
                one, other = (found[off[0]] for found in pair)
                out.append(
                    f"{results.method_name(method).words}: `{value}` of {off[0]} is {one:g} ({names[0]}) and {other:g} "
                    f"({names[1]}), though no model takes part in it: something that the protocol does not name differs"
                )
                break
    return out


def _per_key(result: Result, method: str, value: str) -> dict[str, float]:
    found = {row["key"]: row["methods"].get(method, {}).get(value) for row in result["rows"]}
    return {key: number for key, number in found.items() if number is not None}


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(1.0, abs(one))


def _uncompared(found: Mapping[str, Any], known: Sequence[Mapping[str, Value]], names: Sequence[str]) -> list[str]:
    """Why a value that one of them knows is not in the table."""
    out = []
    every = {**known[0], **known[1]}
    for name in every:
        if name not in known[0] or name not in known[1]:
            out.append(f"`{name}` was only measured by {names[0] if name in known[0] else names[1]}")
        elif name not in found:
            out.append(f"`{name}` is not compared: no clips, or not the same clips, gave it a number")
    out += [f"`{n}` has no paired draws, so no interval" for n, f in found.items() if f["low"] is None]
    return out


# --------------------------------------------------------------------------------------------------------------- words


def _verdict(found: Mapping[str, Mapping[str, Any]], names: Sequence[str], known: Mapping[str, Value]) -> str:
    judged = {name: facts for name, facts in found.items() if facts["outcome"] != "none"}
    if not judged:
        return "Nothing was compared that has a better and a worse."
    clips, units = (max(facts[key] for facts in judged.values()) for key in ("clips", "units"))
    start = f"On {how_many(clips, units)}, "
    by = {
        o: [results.short(known[n]) for n, f in judged.items() if f["outcome"] == o]
        for o in ("better", "worse", "open")
    }
    said = [f"{names[0]} is better than {names[1]} in {listed(by['better'])}"] if by["better"] else []
    said += [f"{names[0]} is worse than {names[1]} in {listed(by['worse'])}"] if by["worse"] else []
    if by["open"]:
        few = outcome(1.0, 1.0, units) == "open"
        why = f"too few {units_word(units, clips)} ({units}) to be sure" if few else "the difference may be chance"
        said.append(f"{why} in {listed(by['open'])}")
    return start + "; ".join(said) + "."
