"""FID, KID, FVD: from the cached features of all measured samples, read one by one, so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.features.cache import CachedFeatures, FeatureCache
from evaluation.metrics.base import SetMetric
from evaluation.scoring import TRUTH

Row = Mapping[str, Any]


def distances(
    rows: Sequence[Row], metrics: Mapping[str, Any], cache: FeatureCache, *, bootstrap: int, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """{method: {value: {value, low, high, n, draws, warnings}}} of one group of rows; only rows with features count.

    Every method is measured on the samples that all of them have.
    """
    filmed = [row for row in rows if TRUTH in row.get("features", {})]
    methods = [m for m in (filmed[0]["features"] if filmed else ()) if m != TRUTH and filmed[0]["features"][m]]
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, metric in metrics.items():
        if not isinstance(metric, SetMetric) or len(filmed) == 0:
            continue
        units = [row["unit"] for row in filmed]
        truth = CachedFeatures(cache, [row["features"][TRUTH][name] for row in filmed], units)
        for method in methods:
            made = CachedFeatures(cache, [row["features"][method][name] for row in filmed], units)
            for value, spread in metric.distance(made, truth, bootstrap=bootstrap, seed=seed).items():
                out.setdefault(method, {})[value] = _plain(asdict(spread))
    return out


def _plain(spread: dict[str, Any]) -> dict[str, Any]:
    """For JSON: what is not finite becomes None."""
    for name in ("value", "low", "high"):
        spread[name] = float(spread[name]) if np.isfinite(spread[name]) else None
    spread["draws"] = [float(d) for d in spread["draws"]]
    return spread
