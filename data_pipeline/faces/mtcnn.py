"""MTCNN: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks" (2016).

Three networks, each looking closer at what the one before let through: the first slides over a pyramid of the picture, the
second sees 24 px squares, the third 48 px ones and gives the five points. Steps and constants are those of the port whose weights
these are (facenet-pytorch 2.6.0): boxes are inclusive and count pixels from 1 until they leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.faces.base import Face, in_middle
from data_pipeline.pose.base import Region
from data_pipeline.pose.crop import cut
from imanim import weights

if TYPE_CHECKING:
    from torch import Tensor

PROPOSAL_CELL_PX, PROPOSAL_STRIDE_PX = 12, 2
PYRAMID_STEP = 0.709  # half the area, about
MIN_SCORES = (0.6, 0.7)  # of the first two networks; the last one's is the detector's
MAX_OVERLAP_OF_SCALE, MAX_OVERLAP = 0.5, 0.7
REGION_SIDE_PX = 192  # a head's region is seen at this size: its face is then about 70 px
SMALLEST_OF_REGION = 8  # a face in a region is no smaller than this part of its side
BATCH = 256  # squares at a time


@dataclass(frozen=True)
class Layout:
    """One network: its convolutions as (layer's number, size of the pooling after it, 0 = none), its hidden dense layer and
    its outputs, score first. ``side_px``: of its input, 0 = any.
    """

    weights: str
    convolutions: tuple[tuple[str, int], ...]
    dense: str
    outputs: tuple[str, ...]
    side_px: int


LAYOUTS = (
    Layout("mtcnn-proposal", (("1", 2), ("2", 0), ("3", 0)), "", ("conv4_1", "conv4_2"), 0),
    Layout("mtcnn-refine", (("1", 3), ("2", 3), ("3", 0)), "4", ("dense5_1", "dense5_2"), 24),
    Layout("mtcnn-output", (("1", 3), ("2", 3), ("3", 2), ("4", 0)), "5", ("dense6_1", "dense6_2", "dense6_3"), 48),
)
WEIGHTS = tuple(layout.weights for layout in LAYOUTS)


class Mtcnn:
    """A :class:`~data_pipeline.faces.base.FaceDetector`; boxes reach from the forehead to the chin, with all five points.

    Args:
        min_score: of the last network (its authors use 0.7). min_face_px: :meth:`detect` finds none much smaller.

    ``models`` has the sha256 of the published files by the weights' registered names.

    Raises:
        InputError: its weights are not here.
    """

    name = "mtcnn"

    def __init__(self, min_score: float = 0.5, min_face_px: int = 20):
        weights.require_all(WEIGHTS)
        self._networks = [_Network(layout) for layout in LAYOUTS]
        self._min_score, self._min_face_px = min_score, min_face_px
        self.models = {name: weights.fingerprint(name) for name in WEIGHTS}

    def find(self, frame: np.ndarray, region: Region) -> Face | None:
        """The face in the middle of the region."""
        side = REGION_SIDE_PX
        seen = self._cascade(_shrunk(frame, region, side), side // SMALLEST_OF_REGION)
        return in_middle(region, [(f.box / side, f.points / side, f.score) for f in seen])

    def detect(self, frame: np.ndarray) -> list[Face]:
        """All faces of a frame uint8 [H,W,3], the most certain first."""
        return self._cascade(frame, self._min_face_px)

    def _cascade(self, frame: np.ndarray, min_face_px: int) -> list[Face]:
        import torch

        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(frame, np.float32)).permute(2, 0, 1)[None]
            boxes = self._propose(image, min_face_px)
            boxes = self._refine(image, boxes)
            return self._finish(image, boxes)

    def _propose(self, image: Tensor, min_face_px: int) -> np.ndarray:
        found = [np.zeros((0, 9))]
        height, width = image.shape[2:]
        for scale in scales(height, width, min_face_px):
            size = [int(side * scale + 1) for side in (height, width)]
            score, shift = self._networks[0](_resized(image, size))
            rows, columns = np.nonzero(score[0] >= MIN_SCORES[0])
            # In float32 as in the port: a quotient that is nearly whole falls to the same side.
            corner = (PROPOSAL_STRIDE_PX * np.stack([columns, rows], axis=1)).astype(np.float32)
            low, high = (np.floor((corner + n) / np.float32(scale)) for n in (1, PROPOSAL_CELL_PX))
            cells = np.concatenate([low, high, score[0, rows, columns, None], shift[0, :, rows, columns]], axis=1)
            found.append(cells[suppress(cells[:, :4], cells[:, 4], MAX_OVERLAP_OF_SCALE)])
        cells = np.concatenate(found)
        cells = cells[suppress(cells[:, :4], cells[:, 4], MAX_OVERLAP)]
        # The first network was trained on shifts in units of the box without its last pixel, the others with it.
        return squared(cells[:, :4] + cells[:, 5:] * np.tile(cells[:, 2:4] - cells[:, :2], 2))

    def _refine(self, image: Tensor, boxes: np.ndarray) -> np.ndarray:
        boxes, score, shift = self._look(1, image, boxes, MIN_SCORES[1])
        kept = suppress(boxes, score, MAX_OVERLAP)
        return squared(moved(boxes[kept], shift[kept]))

    def _finish(self, image: Tensor, boxes: np.ndarray) -> list[Face]:
        boxes, score, shift, flat = self._look(2, image, boxes, self._min_score)
        points = boxes[:, None, :2] - 1 + flat.reshape(-1, 2, 5).transpose(0, 2, 1) * _size(boxes)[:, None]
        boxes = moved(boxes, shift)
        kept = suppress(boxes, score, MAX_OVERLAP, of_smaller=True)
        from_zero = boxes - (1, 1, 0, 0)
        return [
            Face(from_zero[i].astype(np.float32), points[i].astype(np.float32), min(float(score[i]), 1.0)) for i in kept
        ]

    def _look(self, stage: int, image: Tensor, boxes: np.ndarray, min_score: float) -> tuple[np.ndarray, ...]:
        """The boxes that a network lets through, then its outputs for them."""
        network = self._networks[stage]
        inside, squares = squares_of(image, boxes, network.side_px)
        answers = list(network.in_batches(squares))
        values = [np.concatenate([answer[i] for answer in answers]) for i in range(network.outputs)] if answers else [
            np.zeros((0, width)) for width in network.widths
        ]  # fmt: skip
        score = values[0].reshape(-1)
        good = score > min_score
        return boxes[inside][good], score[good], *(value[good] for value in values[1:])


class _Network:
    """The layers of one of the three; the score is the probability of a face."""

    def __init__(self, layout: Layout):
        self._layout, self._tensors = layout, weights.tensors(layout.weights)
        self.side_px, self.outputs = layout.side_px, len(layout.outputs)
        self.widths = (1, *(len(self._tensors[f"{name}.bias"]) for name in layout.outputs[1:]))

    def __call__(self, image: Tensor) -> list[np.ndarray]:
        """float32 [N,3,h,w] in 0..255 -> score [N,...], then the other outputs [N,C,...], float64."""
        from torch.nn import functional as F

        w, x = self._tensors, (image - 127.5) / 128.0
        for number, pooled in self._layout.convolutions:
            x = F.prelu(F.conv2d(x, *self._layer(f"conv{number}")), w[f"prelu{number}.weight"])
            if pooled:
                x = F.max_pool2d(x, pooled, 2, ceil_mode=True)
        if self._layout.dense:
            # The dense layers were trained on columns before rows, channels last.
            x = F.linear(x.permute(0, 3, 2, 1).flatten(1), *self._layer(f"dense{self._layout.dense}"))
            x = F.prelu(x, w[f"prelu{self._layout.dense}.weight"])
        apply = F.linear if self._layout.dense else F.conv2d
        score, *others = (apply(x, *self._layer(name)) for name in self._layout.outputs)
        return [v.double().numpy() for v in (score.softmax(dim=1)[:, 1], *others)]

    def in_batches(self, squares: list[Tensor]) -> Iterator[list[np.ndarray]]:
        import torch

        for start in range(0, len(squares), BATCH):
            yield self(torch.cat(squares[start : start + BATCH]))

    def _layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]


def scales(height: int, width: int, min_face_px: int) -> list[float]:
    """How much the picture is shrunk at each level of the pyramid: the smallest face fills a cell of the first, the largest
    that fits one of the last.
    """
    scale, found = PROPOSAL_CELL_PX / min_face_px, []
    while min(height, width) * scale >= PROPOSAL_CELL_PX:
        found.append(scale)
        scale *= PYRAMID_STEP
    return found


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float, *, of_smaller: bool = False) -> np.ndarray:
    """Non-maximum suppression: the boxes kept, as int [K], the best first.

    Args:
        boxes: [N,4]. scores: [N].
        overlap: more than this of the union falls to a better box; ``of_smaller``: of the smaller box, its last pixel counted.
    """
    extra = 1.0 if of_smaller else 0.0
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + extra, axis=1)
    rest, kept = np.argsort(-scores, kind="stable"), []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = np.prod(np.maximum(sides + extra, 0.0), axis=1)
        whole = np.minimum(areas[best], areas[rest]) if of_smaller else areas[best] + areas[rest] - shared
        rest = rest[shared <= overlap * whole]
    return np.array(kept, np.int64)


def squared(boxes: np.ndarray) -> np.ndarray:
    """Boxes [N,4] widened to squares about their centres."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def moved(boxes: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Boxes [N,4] with each side moved by its shift [N,4], in units of the box's sides."""
    return boxes + shift * np.tile(_size(boxes), 2)


def squares_of(image: Tensor, boxes: np.ndarray, side_px: int) -> tuple[np.ndarray, list[Tensor]]:
    """The part of each box that lies in the picture [1,3,H,W], resized: which boxes have any, bool [N], and their squares."""
    low = np.maximum(np.trunc(boxes[:, :2]).astype(int), 1) - 1
    high = np.minimum(np.trunc(boxes[:, 2:]).astype(int), image.shape[:1:-1])
    inside = (high > low).all(axis=1)
    pairs = zip(low[inside], high[inside])
    return inside, [_resized(image[:, :, y0:y1, x0:x1], [side_px, side_px]) for (x0, y0), (x1, y1) in pairs]


def _shrunk(frame: np.ndarray, region: Region, side: int) -> np.ndarray:
    """The region as float32 [side,side,3]; of a large one, the means of its pixels: :func:`cut` alone would alias."""
    times = max(1, round(region.width / side))
    fine = cut(frame, region, side * times, side * times)
    return fine.reshape(side, times, side, times, 3).mean(axis=(1, 3))


def _resized(image: Tensor, size: list[int]) -> Tensor:
    from torch.nn import functional as F

    return F.interpolate(image, size=size, mode="area")


def _size(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 2:] - boxes[:, :2] + 1
