"""The identity networks by name."""

from __future__ import annotations

from collections.abc import Callable

from data_pipeline import plugins
from data_pipeline.identity import dlib_resnet
from data_pipeline.identity.arcface import ArcFace
from data_pipeline.identity.base import FaceEmbedder
from data_pipeline.identity.config import IdentityConfig
from imanim.errors import InputError


def _dlib(config: IdentityConfig) -> FaceEmbedder:
    return dlib_resnet.DlibEmbedder(config.embedding, config.landmarks)


def _arcface(config: IdentityConfig) -> FaceEmbedder:
    if config.embedding is None:
        raise InputError("embedding: arcface_onnx needs the path of its .onnx file")
    return ArcFace(config.embedding)


BACKENDS: dict[str, Callable[[IdentityConfig], FaceEmbedder]] = {"dlib": _dlib, "arcface_onnx": _arcface}


def build(config: IdentityConfig) -> FaceEmbedder:
    """The network that ``config.backend`` names. Raises InputError when its files, its runtime or its plug-in is missing.

    Its ``threshold`` is ``config.threshold`` where that is set.
    """
    made: FaceEmbedder = plugins.build(config, BACKENDS, FaceEmbedder)
    if config.threshold is not None:
        made.threshold = config.threshold
    return made


def required_weights(config: IdentityConfig) -> list[str]:
    """Names for :func:`imanim.weights.require_all`: what :func:`build` will ask for."""
    if config.backend != "dlib":
        return []
    given = {dlib_resnet.EMBEDDING: config.embedding, dlib_resnet.LANDMARKS: config.landmarks}
    return [name for name, path in given.items() if path is None]
