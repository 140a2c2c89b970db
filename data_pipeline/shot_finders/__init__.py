"""Shots: where one take ends and the next begins, found while the frames go by."""

from __future__ import annotations

from collections.abc import Callable

from data_pipeline import plugins
from data_pipeline.shot_finders.base import ShotFinder
from data_pipeline.shot_finders.config import ShotsConfig
from data_pipeline.shot_finders.guard import Guarded

__all__ = ["ShotFinder", "ShotsConfig", "build"]


def _adaptive(config: ShotsConfig) -> ShotFinder:
    from data_pipeline.shot_finders.adaptive import Adaptive

    return Adaptive(config)


def _transnet(config: ShotsConfig) -> ShotFinder:
    from data_pipeline.shot_finders.transnet import TransNet

    return TransNet(config)


BACKENDS: dict[str, Callable[[ShotsConfig], ShotFinder]] = {"pyscenedetect": _adaptive, "transnetv2": _transnet}


def build(config: ShotsConfig) -> ShotFinder:
    """A finder for one video, by the backend that ``config.backend`` names, with its cuts guarded (see :class:`Guarded`).

    Raises:
        InputError: the backend's package or plug-in is missing, or makes something else.
    """
    return Guarded(plugins.build(config, BACKENDS, ShotFinder), config)
