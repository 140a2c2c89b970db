"""A clip's filmstrip: character, driver, truth and what a model made of them."""

from __future__ import annotations

import numpy as np

from imanim.data.sample import Sample
from imanim.inference.filmstrip import filmstrip, pick


def sample_strip(sample: Sample, made: np.ndarray, *, frames: int = 7, height: int = 192) -> np.ndarray:
    """``frames`` moments spread over the clip, uint8 [H,W,3]; ``made`` uint8 [T,h,w,3]."""
    shown = pick(len(made), frames)
    rows = [("driver", sample.driving), ("truth", sample.truth), ("ours", made)]
    return filmstrip([(name, clip[shown]) for name, clip in rows], height=height, lead=("character", sample.identity))
