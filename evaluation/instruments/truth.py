"""What is exactly known of a Doubles clip beside joints and masks: facial actions, and the colours of the parts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from imanim.data.sample import PARTS, Sample

HEIGHT_PX, WIDTH_PX = 128, 80
"""The frame that the reader was trained on."""
ACTIONS: dict[str, tuple[str, ...]] = {
    "jaw_open": ("jawOpen",),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "frown": ("mouthFrownLeft", "mouthFrownRight"),
    "funnel": ("mouthFunnel",),
    "pucker": ("mouthPucker",),
    "stretch": ("mouthStretchLeft", "mouthStretchRight"),
    "brow_down": ("browDownLeft", "browDownRight"),
    "brow_up": ("browInnerUp",),
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
}
"""What is read of a face, each the mean of so many of the 52 ARKit-style actions: those that show at this size."""
COLOURED: dict[str, tuple[str, ...]] = {
    "skin": ("skin",),
    "hair": ("hair",),
    "shirt": ("shirt",),
    "trousers": ("pants", "skirt"),
    "shoes": ("shoes",),
}
"""What has a colour of its own, and the part labels that show it."""


def facial_actions(sample: Sample) -> np.ndarray | None:
    """The truth's facial actions float32 [T,A] (:data:`ACTIONS`), 0 to 1.

    None where nobody knows them, or the face is too small for them (full body). The sample's own ``expression`` counts; sets
    made before it was stored are pure functions of kind and seed, so there the motion is asked again.
    """
    meta = sample.meta
    if meta.get("source") != "doubles" or meta.get("framing") != "portrait":
        return None
    return of_weights(_played(sample) if sample.expression is None else sample.expression.astype(np.float32))


def of_weights(weights: np.ndarray) -> np.ndarray:
    """Weights [T,52] of all facial actions to the [T,A] that are read."""
    from data_pipeline.doubles.motions import FACE_ACTIONS

    columns = [[FACE_ACTIONS.index(name) for name in names] for names in ACTIONS.values()]
    return np.stack([weights[:, of].mean(1) for of in columns], 1).astype(np.float32)


def mean_colours(frames: np.ndarray, parts: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """Mean colour float64 [3] of each of :data:`COLOURED` over a clip, and the number of pixels that it is the mean of.

    Args:
        frames: uint8 [T,H,W,3]. parts: uint8 [T,H,W]. A part without pixels has NaN.
    """
    found = {}
    for name, labels in COLOURED.items():
        pixels = frames[np.isin(parts, [PARTS.index(label) for label in labels])]
        found[name] = (pixels.mean(0, np.float64) if len(pixels) else np.full(3, np.nan), len(pixels))
    return found


def _played(sample: Sample) -> np.ndarray:
    """The 52 weights [T,52] of the sample's motion, played again."""
    from data_pipeline.doubles.motions import Motion

    motion: Mapping[str, object] = sample.meta["motion"]
    played = Motion(str(motion["kind"]), int(str(motion["seed"])), sample.fps, len(sample.driving), portrait=True)
    return played.faces()
