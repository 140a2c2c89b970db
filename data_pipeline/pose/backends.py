"""The pose networks by name, or by the path of a factory of the user's."""

from __future__ import annotations

from collections.abc import Callable

from data_pipeline import plugins
from data_pipeline.config import PoseConfig
from data_pipeline.pose import blazepose
from data_pipeline.pose.base import PoseNetwork
from data_pipeline.pose.blazepose import BlazePose
from data_pipeline.pose.rtm import RtmPose
from imanim.errors import InputError

Maker = Callable[[PoseConfig], PoseNetwork]


def _blazepose(config: PoseConfig) -> PoseNetwork:
    return BlazePose(config.detector, config.landmarks, config.min_person_score)


def _rtm(config: PoseConfig) -> PoseNetwork:
    if config.detector is None or config.landmarks is None:
        raise InputError("pose.detector, pose.landmarks: rtm_onnx needs both paths")
    return RtmPose(config.detector, config.landmarks, config.min_person_score)


BACKENDS: dict[str, Maker] = {"blazepose": _blazepose, "rtm_onnx": _rtm}


def build(config: PoseConfig) -> PoseNetwork:
    """The network that ``config.backend`` names. Raises InputError when it, its files or its runtime are missing."""
    return plugins.build(config, BACKENDS, PoseNetwork)


def required_weights(config: PoseConfig) -> list[str]:
    """Names for :func:`imanim.weights.require_all`: what :func:`build` will ask for."""
    if config.backend != "blazepose":
        return []
    given = {blazepose.DETECTOR: config.detector, blazepose.LANDMARKS_FULL: config.landmarks}
    return [name for name, path in given.items() if path is None]
