"""Text in the picture: subtitles, captions, lettered logos and signs.

A detector of text alone is no good on people: PP-OCRv4's took a face or a hand for a line of text in 28 of 90 frames without
any. So a line counts only when a reader sees glyphs in it; then none of the 90 was left. What they say is not kept.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

import numpy as np

from data_pipeline.quality.ocr import LineDetector, LineReader, load_module
from imanim import weights
from imanim.errors import InputError

DETECTOR, READER = "text-detector-dbnet", "text-reader-svtr"
MIN_GLYPHS, MIN_SURE = 2, 0.62  # so many glyphs of so much mean probability are text
MIN_SUM = 3.0  # or this sum of probabilities: many glyphs read somehow, as in an alphabet that the reader does not know
MAX_READ = 12  # lines read a frame, the largest first: on a page of text the rest goes with the most of them


class TextFinder(Protocol):
    """Finds text. Frames are uint8 [H,W,3] RGB."""

    name: str
    models: dict[str, str]
    """File name -> sha256 of the networks it runs."""

    def find(self, image: np.ndarray) -> np.ndarray:
        """float32 [M,4]: upright boxes x0,y0,x1,y1 in pixels around the lines of text; M = 0 when there is none."""

    def coverage(self, image: np.ndarray) -> float:
        """Part of the frame that lies in lines of text, 0 to 1."""


class DbnetTextFinder:
    """A :class:`TextFinder` by DBNet, confirmed by an SVTR reader.

    Args:
        detector, reader: .onnx files of the PaddleOCR family; None takes the registered ones.
        side_px: longer side of the picture that the detector looks at; letters lower than about 8 px there are missed.

    Raises:
        InputError: onnxruntime or OpenCV is missing, or a file is no such network.
    """

    name = "dbnet"

    def __init__(self, detector: str | Path | None = None, reader: str | Path | None = None, *, side_px: int = 640):
        given = (detector or weights.require(DETECTOR), reader or weights.require(READER))
        self._detector, self._reader = LineDetector(given[0]), LineReader(given[1])
        self.models = {Path(path).name: weights.sha256_of(path) for path in given}
        self._cv2 = load_module("cv2", "opencv-python-headless")
        self._side_px = side_px

    def find(self, image: np.ndarray) -> np.ndarray:
        corners = self.lines(image)
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)

    def coverage(self, image: np.ndarray) -> float:
        corners = self.lines(image)
        # Lines may overlap, so they are painted, at a size at which a pixel is far below a thousandth of the frame.
        scale = min(1.0, self._side_px / max(image.shape[:2]))
        mask = np.zeros([max(1, round(side * scale)) for side in image.shape[:2]], np.uint8)
        for rectangle in corners:
            self._cv2.fillConvexPoly(mask, (rectangle * scale).round().astype(np.int32), 1)
        return float(mask.mean())

    def lines(self, image: np.ndarray) -> np.ndarray:
        """float64 [M,4,2]: the corners of each line's rectangle in pixels, the largest line first."""
        corners = self._detector.lines(image, self._side_px)
        corners = corners[np.argsort([-_area(c) for c in corners], kind="stable")]
        read = np.array([is_text(self._reader.glyphs(image, c)) for c in corners[:MAX_READ]], bool)
        rest = len(corners) - len(read)
        return corners[np.concatenate([read, np.full(rest, rest > 0 and read.mean() > 0.5)])]


def is_text(glyphs: np.ndarray) -> bool:
    """Whether glyphs of these probabilities [G], read in a line, make it text."""
    surely = len(glyphs) >= MIN_GLYPHS and float(glyphs.mean()) >= MIN_SURE
    return surely or float(glyphs.sum()) >= MIN_SUM


def build(backend: str, *, side_px: int) -> TextFinder | None:
    """The text finder that a name stands for: ``dbnet``, ``none`` (None), or ``package.module:factory`` of yours.

    A factory is called as ``factory(side_px=...)`` and gives a :class:`TextFinder`.

    Raises:
        InputError: no such backend, module or factory; or what it needs is missing.
    """
    if backend == "none":
        return None
    if backend == "dbnet":
        return DbnetTextFinder(side_px=side_px)
    module, colon, factory = backend.partition(":")
    if not colon:
        raise InputError(f"quality.text: `{backend}` is unknown; use dbnet, none or package.module:factory")
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise InputError(f"quality.text: {backend} cannot be loaded ({error}); check the name and PYTHONPATH") from None
    made = make(side_px=side_px)
    if not all(callable(getattr(made, method, None)) for method in ("find", "coverage")):
        raise InputError(
            f"quality.text: {backend} made a {type(made).__name__} without find() and coverage(); give a TextFinder"
        )
    return made


def required_weights(backend: str) -> list[str]:
    """Names for :func:`imanim.weights.require_all`: what :func:`build` will ask for."""
    return [DETECTOR, READER] if backend == "dbnet" else []


def _area(corners: np.ndarray) -> float:
    """Area of the rectangle with corners [4,2] in order."""
    x, y = corners[:, 0], corners[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
