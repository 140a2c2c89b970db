"""The face detectors by name."""

from __future__ import annotations

from collections.abc import Callable

from data_pipeline import plugins
from data_pipeline.faces.base import FaceDetector
from data_pipeline.faces.blazeface import BlazeFace
from data_pipeline.faces.config import FaceConfig
from data_pipeline.faces.mtcnn import WEIGHTS as MTCNN_WEIGHTS
from data_pipeline.faces.mtcnn import Mtcnn
from data_pipeline.faces.scrfd import Scrfd
from imanim.errors import InputError


def _blazeface(config: FaceConfig) -> FaceDetector:
    return BlazeFace(config.detector, config.min_score)


def _mtcnn(config: FaceConfig) -> FaceDetector:
    return Mtcnn(config.min_score)


def _scrfd(config: FaceConfig) -> FaceDetector:
    if config.detector is None:
        raise InputError("detector: scrfd_onnx needs the path of its .onnx file")
    return Scrfd(config.detector, config.min_score, config.input_side_px)


BACKENDS: dict[str, Callable[[FaceConfig], FaceDetector]] = {
    "blazeface": _blazeface,
    "mtcnn": _mtcnn,
    "scrfd_onnx": _scrfd,
}


def build(config: FaceConfig) -> FaceDetector:
    """The detector that ``config.backend`` names. Raises InputError when its file, its runtime or its plug-in is missing."""
    return plugins.build(config, BACKENDS, FaceDetector)


def required_weights(config: FaceConfig) -> list[str]:
    """Names for :func:`imanim.weights.require_all`: what :func:`build` will ask for."""
    from data_pipeline.faces import blazeface

    needed = {"blazeface": [blazeface.WEIGHTS], "mtcnn": list(MTCNN_WEIGHTS)}
    return needed.get(config.backend, []) if config.detector is None else []
