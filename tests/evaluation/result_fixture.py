"""Results as a scoring loop writes them, with numbers drawn from a seed: some values missing, a set value, levels, units."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from evaluation import results, summary

VALUES: dict[str, dict[str, Any]] = {
    "psnr": {"label": "PSNR, whole frame", "better": "higher", "digits": 2, "unit": "dB", "metric": "psnr"},
    "psnr_person": {"label": "PSNR inside the person", "better": "higher", "digits": 2, "unit": "dB", "metric": "psnr"},
    "lpips_alex": {"label": "LPIPS (alex)", "better": "lower", "digits": 3, "unit": "", "metric": "lpips-alex"},
    "identity_similarity": {
        "label": "face identity similarity",
        "better": "higher",
        "digits": 3,
        "unit": "",
        "metric": "identity",
    },
    "lag_frames": {"label": "lag", "better": "none", "digits": 1, "unit": "frames", "metric": "temporal"},
    "fvd": {"label": "FVD", "better": "lower", "digits": 1, "unit": "", "scope": "set", "metric": "fvd-tf"},
}
TYPICAL = {"psnr": 20.0, "psnr_person": 15.0, "lpips_alex": 0.3, "identity_similarity": 0.8, "lag_frames": 0.0}
SPREAD = {"psnr": 1.5, "psnr_person": 1.2, "lpips_alex": 0.04, "identity_similarity": 0.05, "lag_frames": 0.4}
METHODS = ["ours", "hold", "driver", "autoencoder"]


def make_result(
    name: str = "a",
    *,
    gain: float = 1.0,
    clips: int = 24,
    clips_a_unit: int = 3,
    seed: int = 0,
    truth: bool = True,
    methods: list[str] = METHODS,
    levels: tuple[str, ...] = ("L1", "L2", "L3"),
    **protocol: Any,
) -> dict[str, Any]:
    """A result whose ours is better than every baseline by about ``gain`` spreads. ``seed`` moves ours alone: the clips'
    difficulty and the baselines are the same for all names."""
    clip_rng, own = np.random.default_rng(100), np.random.default_rng(seed)
    rows = []
    for i in range(clips):
        hard = clip_rng.normal(0, 1)
        numbers: dict[str, dict[str, float | None]] = {}
        for m, method in enumerate(methods):
            rng = own if method == "ours" else np.random.default_rng([i, m])
            shift = {"ours": gain, "autoencoder": 4.0}.get(method, -0.3 * m)
            numbers[method] = {v: number(v, hard, shift, rng) for v in TYPICAL} if truth or method == "ours" else {}
        if i % 4 == 0:
            numbers["ours"]["identity_similarity"] = None
        if not truth:
            numbers["ours"] = {"identity_similarity": numbers["ours"]["identity_similarity"]}
        level = levels[i % len(levels)] if levels else None
        labels = {"level": level, "kind": "walk", "framing": "full_body", "person": f"p{i}", "driver_person": f"d{i}"}
        unit = f"m{i // clips_a_unit}"
        rows.append({"key": f"s{i:03d}", "unit": unit, "split": "test", "labels": labels, "methods": numbers})
    facts = {"scope": "clip"}
    values = {name: {**facts, **about} for name, about in VALUES.items()}
    result: dict[str, Any] = {
        "schema": 1,
        "protocol": protocol_facts(**protocol),
        "samples": {"count": clips + 1, "sha256": "5a" * 32, "folder": "shards"},
        "method": {"kind": "model", "name": name, "folder": f"runs/{name}", "weights_sha256": {}, "sampler": None},
        "methods": list(methods),
        "values": values,
        "rows": rows,
        "sets": sets(gain, seed, methods, ["all", *levels]) if truth else {},
        "groups": {},
        "refused": [{"key": "s999", "reason": "one frame; at least 2 are needed"}],
        "environment": {"numpy": "2.1", "torch": "2.13.0", "machine": "x86_64"},
    }
    result["groups"] = summary.summarise(rows, results.values(result), sets=result["sets"])
    return result


def number(value: str, hard: float, shift: float, rng: np.random.Generator) -> float:
    sign = {"higher": 1, "lower": -1, "none": 0}[VALUES[value]["better"]]
    return float(TYPICAL[value] + SPREAD[value] * (sign * (shift - hard) + 0.4 * rng.normal()))


def protocol_facts(**over: Any) -> dict[str, Any]:
    facts = {
        "name": "doubles-cross-identity",
        "version": 2,
        "size": [128, 80],
        "frames": 17,
        "fps": 12.0,
        "seed": 0,
        "source": {"folder": "shards", "splits": ["test"]},
        "metrics": {"psnr": {"data_range": 255}, "fvd-tf": {"weights_sha256": "af5c", "ddof": 1}},
        **over,
    }
    return {**facts, "sha256": results_hash(facts)}


def results_hash(facts: dict[str, Any]) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def sets(gain: float, seed: int, methods: list[str], groups: list[str]) -> dict[str, Any]:
    """FVD of every group and method; draws share their noise between methods, as draws of the same units do."""
    shared = np.random.default_rng(7).normal(0, 20, 200)
    out: dict[str, Any] = {}
    for group in groups:
        for m, method in enumerate(methods):
            value = 400.0 - 40 * gain if method == "ours" else 400.0 + 30 * m - 300 * (method == "autoencoder")
            draws = value + 15 + shared + np.random.default_rng([m, seed if method == "ours" else 0]).normal(0, 2, 200)
            half = 1.96 * draws.std(ddof=1)
            n = 24 if group == "all" else 8
            warning = f"n = {n} is below the 400 dimensions: biased upwards, compare only at equal n"
            out.setdefault(group, {})[method] = {
                "fvd": {
                    "value": value,
                    "low": value - half,
                    "high": value + half,
                    "n": n,
                    "draws": draws.tolist(),
                    "warnings": [warning],
                }
            }
    return out


def pictures(key: str, *, truth: bool = True, frames: int = 9, size: tuple[int, int] = (64, 48)) -> SimpleNamespace:
    """What a clip looks like: a bright square that walks, another colour a key."""
    height, width = size
    clip = np.full((frames, height, width, 3), 60, np.uint8)
    ink = np.random.default_rng(list(key.encode())).integers(120, 255, 3)
    for t in range(frames):
        clip[t, 10:30, 2 * t + 4 : 2 * t + 20] = ink
    return SimpleNamespace(
        character=clip[0], driving=clip[::-1], made=clip, truth=clip.copy() if truth else None, fps=12.0
    )
