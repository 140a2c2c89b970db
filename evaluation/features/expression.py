"""What a face does, from meshes of it: the head's pose, size and place taken off, then the person's own neutral face.

All points are those of :mod:`evaluation.features.face_mesh`. Lengths are in units of the distance between the outer corners of
the eyes.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.faces import quality
from evaluation.features.face_mesh import OUTER_EYES

# Corners of the eyes, ridge of the nose, forehead below the hair, temples and before the ears: expressions hardly move them.
RIGID = (
    33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 10, 151, 109, 338, 67, 297, 103, 332, 54, 284, 21, 251, 162, 389, 127, 356,
    234, 454,
)  # fmt: skip
LIPS = (
    0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181, 185, 191, 267, 269, 270, 291, 308, 310,
    311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415,
)  # fmt: skip
EYES = (
    7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246, 249, 263, 362, 373, 374, 380, 381, 382, 384,
    385, 386, 387, 388, 390, 398, 466,
)  # fmt: skip
BROWS = (46, 52, 53, 55, 63, 65, 66, 70, 105, 107, 276, 282, 283, 285, 293, 295, 296, 300, 334, 336)
MOVING = LIPS + EYES + BROWS
LIP_PAIRS = ((81, 178), (13, 14), (311, 402))
"""Upper and lower inner lip."""
LID_PAIRS = ((160, 144), (159, 145), (158, 153), (385, 380), (386, 374), (387, 373))
"""Upper and lower lid."""
EYE_CORNERS = ((33, 133), (362, 263))
NOSE_TIP, FOREHEAD, BETWEEN_EYES = 1, 10, 168
ROUNDS = 3  # alignments to the mean of the round before; after two it no longer changes


def frontality(mesh: np.ndarray) -> float:
    """As :func:`data_pipeline.faces.quality.frontality`, of a mesh [468,3]: 1 = facing the camera, 0 = profile."""
    eyes = [mesh[list(corners), :2].mean(axis=0) for corners in EYE_CORNERS]
    return quality.frontality(np.stack([*eyes, mesh[NOSE_TIP, :2], mesh[NOSE_TIP, :2], mesh[NOSE_TIP, :2]]))


def aligned(meshes: np.ndarray) -> np.ndarray:
    """Meshes [T,468,3] in pixels, all known -> the same faces upright, from the front, one size and place: float64 [T,468,3].

    A similarity moves the points that expressions leave alone onto their mean over the clip (generalised Procrustes, Gower
    1975): x goes to the person's left, y down the forehead.
    """
    from scipy.spatial.transform import Rotation

    rigid = list(RIGID)
    centred = meshes - meshes[:, rigid].mean(axis=1, keepdims=True)
    centred /= np.sqrt((centred[:, rigid] ** 2).sum(axis=(1, 2), keepdims=True))
    mean = centred[0, rigid]
    for _ in range(ROUNDS):
        turned = np.stack([Rotation.align_vectors(mean, face[rigid])[0].apply(face) for face in centred])
        mean = turned[:, rigid].mean(axis=0)
    middle = turned.mean(axis=0)
    return turned @ _axes(middle).T / np.linalg.norm(np.subtract(*middle[list(OUTER_EYES)]))


def movement(faces: np.ndarray) -> np.ndarray:
    """Aligned faces [T,468,3] less their median over time, the clip's own neutral: [T,92,2] of lips, eyes and brows.

    x and y only: a single camera tells depth too badly.
    """
    moving = faces[:, list(MOVING), :2]
    return moving - np.median(moving, axis=0)


def opening(faces: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """How far the points of each pair are apart in aligned faces [T,468,3], the mean over pairs: [T]."""
    upper, lower = (faces[:, list(side), :2] for side in zip(*pairs))
    return np.linalg.norm(upper - lower, axis=2).mean(axis=1)


def _axes(face: np.ndarray) -> np.ndarray:
    """The rotation that levels the eyes of one face [468,3] and puts its forehead upright."""
    across = np.subtract(*face[list(OUTER_EYES)[::-1]])
    x = across / np.linalg.norm(across)
    down = face[BETWEEN_EYES] - face[FOREHEAD]
    down = down - (down @ x) * x
    y = down / np.linalg.norm(down)
    return np.stack([x, y, np.cross(x, y)])
