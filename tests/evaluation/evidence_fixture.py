"""Results of a small benchmark as the scoring loop writes them: two cells and portraits, levels, gaps; numbers from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from result_fixture import pictures as pictures
from result_fixture import results_hash

from evaluation import results, summary
from evaluation.evidence.config import EvidenceConfig
from imanim import config

CELLS, PORTRAIT, LEVELS = ["seen", "unseen"], "portrait", ("L2", "L3", "L4")
VALUES: dict[str, dict[str, Any]] = {
    "psnr": {"label": "PSNR", "better": "higher", "digits": 2, "unit": "dB", "metric": "psnr", "scope": "clip"},
    "joint_error": {"label": "joint error", "better": "lower", "digits": 2, "unit": "%", "metric": "joints", "scope": "clip"},
}  # fmt: skip
JOINTS = {"ours": 2.0, "hold": 9.0, "copy": 10.0, "scale_shift": 5.0, "bone_length": 6.0}
VIDEOS = {"ours": 22.0, "hold": 19.0, "driver": 12.0}


def make(
    *, joints: dict[str, float] = JOINTS, videos: dict[str, float] = VIDEOS, motions: int = 7, gaps: bool = True
) -> dict[str, Any]:
    """``motions`` a cell and level, two clips each; errors scatter by a tenth around the given means."""
    rows = []
    for split in (*CELLS, PORTRAIT):
        for level in ("L3",) if split == PORTRAIT else LEVELS:
            for motion in range(motions):
                rows += [_row(split, level, motion, body, joints, videos, gaps) for body in (0, 1)]
    facts = {"name": "doubles-v1", "version": 1, "size": [64, 48], "metrics": {"psnr": {"data_range": 255}}}
    facts["headline"] = ["joint_error", "psnr"]
    methods = ["ours", *(m for m in (joints | videos) if m != "ours")]
    result = {
        "schema": 1,
        "protocol": {**facts, "sha256": results_hash(facts)},
        "samples": {"count": len(rows), "sha256": "5a" * 32, "folder": "shards"},
        "method": {"kind": "model", "name": "tiny", "folder": "x", "weights_sha256": {"denoiser": "ab" * 32}, "sampler": None},
        "methods": methods,
        "values": VALUES,
        "rows": rows,
        "sets": {},
        "groups": {},
        "refused": [],
        "warnings": [],
        "environment": {"torch": "2.13.0"},
    }  # fmt: skip
    result["groups"] = summary.summarise(rows, results.values(result))
    results.check(result)
    return result


def _row(split, level, motion, body, joints, videos, gaps) -> dict[str, Any]:
    rng = np.random.default_rng([len(split), LEVELS.index(level), motion, body])
    shake = rng.uniform(0.9, 1.1)
    numbers: dict[str, dict[str, float]] = {m: {"joint_error": e * shake} for m, e in joints.items()}
    for method, psnr in videos.items():
        numbers.setdefault(method, {})["psnr"] = psnr + rng.normal(0, 0.1)
    labels = {"level": level, "kind": "walk", "person": f"p{body}"}
    labels |= {"scale_gap": 0.1 * (motion - 3) + 0.02 * body} if gaps else {}
    unit = f"{split}-{level}-{motion}"
    return {"key": f"{unit}-{body}", "unit": unit, "split": split, "labels": labels, "methods": numbers}


def settings(folder: Any = "kept", **over: Any) -> EvidenceConfig:
    """A configuration that keeps everything below a folder."""
    keep = {"results": f"{folder}/kept", "pictures": f"{folder}/pictures", "page": f"{folder}/page.md", "words": None}
    tree = {
        "data": {"config": "configs/data/doubles_eval.yaml", "output": "data"},
        "scores": {"config": "configs/eval/doubles_quick.yaml"},
        "scopes": {"cells": CELLS, "deciding": ["unseen"], "portrait": PORTRAIT},
        "targets": {"beaten_values": ["psnr"]},
        "keep": keep,
    }
    return config.from_dict(EvidenceConfig, {**tree, **over})


TOKENS = {
    "codes": 512,
    "scopes": {
        name: {"error": 1.2, "error_interval": [1.0, 1.4], "mean_pose": 7.0, "codes_used": 91.0, "perplexity": 300.0,
               "clips": 10, "motions": 5, "frames": 170}
        for name in ("deciding", "cells", "seen", "unseen", "portrait", "all")
    },
}  # fmt: skip


def probes(r2: float, high: float) -> dict[str, Any]:
    """A result with probes whose shirt is read with an R2 of ``r2``."""

    def score(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.05, "high": high if value == r2 else value + 0.05, "floor": 0.0}

    scores = {
        "linear": {"tokens": score(r2), "joints": score(-0.04), "joints_centred": score(0.01), "pixels": score(0.3)}
    }
    verdict = {"reader": "linear", "representation": "tokens", "outcome": "none"}
    label = {"words": "the shirt's colour", "measure": "R2", "scores": scores, "verdicts": [verdict]}
    absent = {"words": "the shoes' colour", "reason": "shoes: no clips; probe another label"}
    found = {"clips": 40, "persons": 20, "motions": 8, "labels": {"shirt": label, "shoes": absent}}
    return {**make(), "leakage": {**found, "sentences": ["Unseen motions: joints read."]}}
