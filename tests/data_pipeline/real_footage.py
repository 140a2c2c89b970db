"""Real clips and the weights of real networks, where they are at hand; a test that needs them is skipped otherwise and says why."""

import os
from pathlib import Path

import pytest

from imanim import weights
from imanim.errors import InputError


def shared_clip(name):
    """The path of a real clip."""
    root = os.environ.get("IMANIM_SHARED")
    path = (Path(root) if root else Path(__file__).parents[3] / "shared") / "clips" / name
    if not path.is_file():
        pytest.skip(f"no real clip at hand: {path} is missing (IMANIM_SHARED names the folder that holds clips/)")
    return path


def have_weights(*names):
    """Goes on only where all of these weights are here; all that are known when none is named."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra `data`)")
    try:
        weights.require_all(names or list(weights.REGISTRY))
    except InputError as error:
        pytest.skip(f"weights are missing: {error}")
