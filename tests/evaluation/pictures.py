"""Pictures that the tests of frame metrics make, and ways to spoil them."""

import numpy as np
from scipy import ndimage

from evaluation.clip import Clip

BLURS_PX = (0.5, 1.0, 2.0, 4.0, 8.0)
NOISES = (2.0, 5.0, 12.0, 30.0, 70.0)


def picture(height: int = 96, width: int = 80, seed: int = 0) -> np.ndarray:
    """uint8 [H,W,3]: stripes and discs over smooth colours, with fine and coarse structure."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([ndimage.gaussian_filter(draw.normal(size=(height, width)), 9) for _ in range(3)], -1)
    out = 128 + 300 * base + 25 * np.sin(x / 2.5 + y / 7)[..., None]
    for _ in range(6):
        cy, cx, r = draw.integers(height), draw.integers(width), draw.integers(5, 20)
        out[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = draw.uniform(20, 235, 3)
    return np.clip(out, 0, 255).astype(np.uint8)


def blurred(frames: np.ndarray, sigma_px: float) -> np.ndarray:
    """uint8 [T,H,W,3], each frame blurred."""
    return ndimage.gaussian_filter(frames.astype(float), (0, sigma_px, sigma_px, 0)).round().astype(np.uint8)


def noisy(frames: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 [T,H,W,3] with Gaussian noise of that deviation (of 255)."""
    noise = np.random.default_rng(1).normal(size=frames.shape)
    return np.clip(frames + sigma * noise, 0, 255).round().astype(np.uint8)


def clip_of(made: np.ndarray, truth: np.ndarray | None, mask: np.ndarray | None = None) -> Clip:
    return Clip("one", made, np.zeros((len(made), 8, 8, 3), np.uint8), made[0], 25.0, truth, mask)


def spoilt_more_and_more(truth: np.ndarray) -> list[list[np.ndarray]]:
    """The truth blurred stronger and stronger, and the truth with more and more noise."""
    return [[blurred(truth, s) for s in BLURS_PX], [noisy(truth, s) for s in NOISES]]
