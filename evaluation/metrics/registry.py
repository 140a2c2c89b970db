"""The metrics by name. A metric's module has ``METRICS``: name to :class:`MetricSpec`; modules import torch only when built."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from evaluation.metrics.base import ClipMetric, Machine, MetricSpec, SetMetric
from imanim import config, weights
from imanim.errors import InputError

MODULES = tuple(
    f"evaluation.metrics.{name}"
    for name in (
        "pixels",
        "lpips",
        "fid",
        "fvd",
        "legacy_wrong",
        "identity",
        "expression",
        "doubles",
        "joints",
        "pose",
        "temporal",
    )
)


@cache
def known() -> dict[str, MetricSpec]:
    """Every metric by its name."""
    found: dict[str, MetricSpec] = {}
    for module in MODULES:
        found |= importlib.import_module(module).METRICS
    return found


def lookup(name: str) -> MetricSpec:
    """The metric of that name. Raises InputError with the known names."""
    if name not in known():
        raise InputError(f"metric `{name}`: unknown; known: {', '.join(sorted(known()))}")
    return known()[name]


def check(wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of metrics by name, built from plain values.

    Raises:
        InputError: an unknown metric, a setting it does not know, or weights that are not here (all of them in one message).
    """
    settings: dict[str, Any] = {
        name: config.from_dict(lookup(name).settings, given, name=f"protocol.metric_settings.{name}")
        for name, given in wanted.items()
    }
    needed = {file for name, chosen in settings.items() for file in lookup(name).weights(chosen)}
    weights.require_all(sorted(needed))
    return settings


def build(wanted: Mapping[str, Mapping[str, Any]], machine: Machine) -> dict[str, ClipMetric | SetMetric]:
    """Metrics by name. Raises InputError as :func:`check` does."""
    return {name: lookup(name).build(chosen, machine) for name, chosen in check(wanted).items()}


def describe() -> str:
    """Every metric in words: what it is called, its settings with defaults, its weights by default."""
    lines = []
    for name, spec in sorted(known().items()):
        fields = dataclasses.fields(spec.settings)
        complete = not any(_required(f) for f in fields)
        needed = sorted(spec.weights(spec.settings())) if complete else []
        lines.append(f"{name}" + (f"  (weights: {', '.join(needed)})" if needed else ""))
        for field in fields:
            default = "required" if _required(field) else config.to_dict(_default(field))
            lines.append(f"    {field.name} = {default}: {field.metadata.get('doc', '')}")
    return "\n".join(lines)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory
    return made() if callable(made) else field.default
