"""PaddleOCR's two networks (ONNX): one proposes lines of text, the other reads a line. Run by onnxruntime on one CPU thread.

Liao et al., "Real-time Scene Text Detection with Differentiable Binarization" (AAAI 2020): the detector gives the probability of
each pixel to lie in the shrunk middle of a line; a line is a connected piece of such pixels, grown again. Du et al., "SVTR: Scene
Text Recognition with a Single Visual Model" (IJCAI 2022), trained with CTC: the reader gives, along a line, the probability of each
glyph and of none.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from imanim.errors import InputError

STEP_PX = 32  # the detector halves its input five times
MIN_PIXEL, MIN_LINE = 0.3, 0.5  # probability of a pixel of text; mean probability inside a line
GROW = 1.6  # a line's area over its perimeter, times this, is how far its shrunk middle is grown on each side
MIN_MIDDLE_PX, MIN_SIDE_PX = 3.0, 5.0  # of the detector's picture: below are specks
LINE_PX, LEAST_WIDTH_PX, MOST_WIDTH_PX = 48, 320, 1600  # the reader's picture of a line
UPRIGHT = 1.5  # a line this much higher than wide is lettered from top to bottom: turned before it is read


class LineDetector:
    """DBNet. Raises InputError when a package is missing or the file is no such network."""

    def __init__(self, network: str | Path):
        self._cv2 = load_module("cv2", "opencv-python-headless")
        self._session = _session(network)

    def lines(self, image: np.ndarray, side_px: int) -> np.ndarray:
        """The lines proposed in an image uint8 [H,W,3].

        Args:
            side_px: longer side of the picture that the network looks at.

        Returns:
            float64 [M,4,2]: the corners of each line's rectangle in pixels of the image, in order around it, inside the image.
        """
        high, wide = image.shape[:2]
        scale = side_px / max(high, wide)
        size = [max(STEP_PX, round(side * scale / STEP_PX) * STEP_PX) for side in (wide, high)]
        planes = _planes(self._cv2.resize(image, size, interpolation=self._cv2.INTER_LINEAR))
        probability = _run(self._session, planes, "text detector")
        if probability.shape != (1, 1, size[1], size[0]):
            raise InputError(
                f"text detector: gives {list(probability.shape)} for a picture {size[0]}x{size[1]}, not one probability"
                " a pixel; give a DBNet detection network"
            )
        found = self._rectangles(probability[0, 0])
        corners = np.array(found, np.float64).reshape(-1, 4, 2) * (wide / size[0], high / size[1])
        return np.clip(corners, 0, (wide, high))

    def _rectangles(self, probability: np.ndarray) -> list[np.ndarray]:
        """Corners [4,2] of the lines in a map of probabilities [h,w], in its pixels."""
        cv2 = self._cv2
        # The two-by-two dilation joins letters that touch at a corner, as the reference does.
        pixels = cv2.dilate((probability > MIN_PIXEL).astype(np.uint8), np.ones((2, 2), np.uint8))
        outlines, _ = cv2.findContours(pixels, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        kept = []
        for outline in outlines:
            middle, (width, height), angle_deg = cv2.minAreaRect(outline)
            if min(width, height) < MIN_MIDDLE_PX:
                continue
            if self._mean_inside(probability, cv2.boxPoints((middle, (width, height), angle_deg))) < MIN_LINE:
                continue
            reach = GROW * width * height / (2 * (width + height))
            width, height = width + 2 * reach, height + 2 * reach
            if min(width, height) >= MIN_SIDE_PX:
                kept.append(cv2.boxPoints((middle, (width, height), angle_deg)))
        return kept

    def _mean_inside(self, probability: np.ndarray, corners: np.ndarray) -> float:
        """Mean probability over a rectangle with corners [4,2]; the parts outside the picture do not count."""
        high, wide = probability.shape
        low = np.clip(np.floor(corners.min(axis=0)), 0, (wide - 1, high - 1)).astype(int)
        top = np.clip(np.ceil(corners.max(axis=0)), 0, (wide - 1, high - 1)).astype(int)
        window = probability[low[1] : top[1] + 1, low[0] : top[0] + 1]
        mask = np.zeros(window.shape, np.uint8)
        self._cv2.fillPoly(mask, [(corners - low).astype(np.int32)], 1)
        return float(self._cv2.mean(window, mask)[0])


class LineReader:
    """SVTR. Which glyphs it reads is not kept, only how many and how surely: that is how a line is told from a pattern."""

    def __init__(self, network: str | Path):
        self._cv2 = load_module("cv2", "opencv-python-headless")
        self._session = _session(network)

    def glyphs(self, image: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """float32 [G]: the probability of each glyph read in a line of an image uint8 [H,W,3], its corners [4,2] in pixels."""
        line = self._straight(image, corners)
        width = min(MOST_WIDTH_PX, int(np.ceil(LINE_PX * line.shape[1] / line.shape[0])))
        planes = _planes(self._cv2.resize(line, (width, LINE_PX)))
        padded = np.zeros((1, 3, LINE_PX, max(width, LEAST_WIDTH_PX)), np.float32)
        padded[..., :width] = planes
        steps = _run(self._session, padded, "text reader")
        if steps.ndim != 3 or steps.shape[0] != 1:
            raise InputError(
                f"text reader: gives {list(steps.shape)}, not glyph probabilities along the line; give a CTC reader"
            )
        best = steps[0].argmax(axis=1)
        # CTC: class 0 is no glyph, and a glyph seen at several steps in a row is one.
        first = (best != 0) & np.concatenate([[True], best[1:] != best[:-1]])
        return steps[0].max(axis=1)[first]

    def _straight(self, image: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """A line's rectangle, cut out level: uint8 [h,w,3]."""
        cv2 = self._cv2
        across, down = corners.sum(axis=1), corners[:, 1] - corners[:, 0]
        order = [across.argmin(), down.argmin(), across.argmax(), down.argmax()]  # clockwise from the upper left
        points = corners[order].astype(np.float32)
        sides = np.linalg.norm(points - np.roll(points, -1, axis=0), axis=1)
        width, height = max(2, int(max(sides[0], sides[2]))), max(2, int(max(sides[1], sides[3])))
        target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        turn = cv2.getPerspectiveTransform(points, target)
        line = cv2.warpPerspective(image, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return np.ascontiguousarray(np.rot90(line)) if height >= UPRIGHT * width else line


def load_module(module: str, package: str) -> Any:
    """An optional package's module. Raises InputError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"{package}: not installed; run `pip install imanim[data]`") from None


def _planes(image: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3] RGB -> float32 [1,3,H,W] in -1..1, BGR: the networks were trained on OpenCV's order."""
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None], np.float32) / 127.5 - 1.0


def _session(network: str | Path) -> Any:
    runtime = load_module("onnxruntime", "onnxruntime")
    if not Path(network).is_file():
        raise InputError(f"text network {network}: no such file; give the path of an .onnx file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # the job's workers are the parallelism
    try:
        return runtime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no base below Exception
        raise InputError(f"{network}: not a readable ONNX network ({error}); get the file again") from None


def _run(session: Any, planes: np.ndarray, what: str) -> np.ndarray:
    try:
        return session.run(None, {session.get_inputs()[0].name: planes})[0]
    except Exception as error:  # a network of another kind; onnxruntime's own classes share no base below Exception
        raise InputError(
            f"{what}: cannot look at a picture {list(planes.shape)} ({error}); give another file"
        ) from None
