"""Ways in which generated frames are worse than true ones: the reader is trained and measured under them.

A way takes a frame uint8 [H,W,3], another frame of the same clip, a strength in 0..1 and a generator; it gives uint8 [H,W,3].
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

Way = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray]


def blur(frame: np.ndarray, other: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian of 0.3 to 2.5 px."""
    import cv2

    return cv2.GaussianBlur(frame, (0, 0), 0.3 + 2.2 * strength)


def coarse(frame: np.ndarray, other: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Made 1.3 to 4 times smaller and brought back."""
    import cv2

    height, width = frame.shape[:2]
    by = 1.3 + 2.7 * strength
    small = cv2.resize(frame, (round(width / by), round(height / by)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def noise(frame: np.ndarray, other: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of 3 to 25 grey levels."""
    return _levels(frame + rng.normal(0, 3 + 22 * strength, frame.shape))


def blocks(frame: np.ndarray, other: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG of quality 60 down to 8."""
    packed = io.BytesIO()
    Image.fromarray(frame).save(packed, "JPEG", quality=round(60 - 52 * strength))
    return np.asarray(Image.open(packed))


def pale(frame: np.ndarray, other: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Contrast down to 35 %."""
    mean = frame.mean((0, 1))
    return _levels(mean + (frame - mean) * (1 - 0.65 * strength))


def tinted(frame: np.ndarray, other: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Each channel multiplied by up to 1 +- 0.3 and shifted by up to 30 levels."""
    gain, shift = 1 + 0.3 * strength * rng.uniform(-1, 1, 3), 30 * strength * rng.uniform(-1, 1, 3)
    return _levels(frame * gain + shift)


def ghost(frame: np.ndarray, other: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Up to 45 % of another frame shines through."""
    share = 0.45 * strength
    return _levels((1 - share) * frame + share * other)


WAYS: dict[str, Way] = {
    "blur": blur,
    "coarse": coarse,
    "noise": noise,
    "blocks": blocks,
    "pale": pale,
    "tinted": tinted,
    "ghost": ghost,
}


def at_random(frame: np.ndarray, other: np.ndarray, rng: np.random.Generator, largest: float = 1.0) -> np.ndarray:
    """A third as it is, the others with one to three ways of random strength up to ``largest``."""
    if rng.random() < 1 / 3:
        return frame
    for name in rng.permutation(list(WAYS))[: rng.integers(1, 4)]:
        frame = WAYS[name](frame, other, largest * float(rng.random()), rng)
    return frame


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(values.round(), 0, 255).astype(np.uint8)
