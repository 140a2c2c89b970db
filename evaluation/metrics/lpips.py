"""LPIPS over the whole frame and inside the person, from one pass of the network (:mod:`evaluation.features.lpips`).

Over the frame it is LPIPS as published. Inside the person it is the mean over the truth's mask of the spatial map, each
depth of which is upsampled bilinearly to the frame (``spatial=True`` in the package ``lpips``). The networks see around
a pixel, so what is next to the person counts a little; a mask over the whole frame gives LPIPS again to about 1e-4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.clip import Clip
from evaluation.metrics.base import Machine, MetricSpec, NoSettings, Value
from evaluation.metrics.pixels import check
from imanim import weights

NETWORKS = {"alex": "AlexNet", "vgg": "VGG-16"}


class LpipsMetric:
    """LPIPS 0.1 with one of :data:`NETWORKS`: per frame, a clip is the mean over its frames."""

    def __init__(self, net: str, machine: Machine):
        self.net, self.machine = net, machine
        self.values: tuple[Value, ...] = (
            Value(f"lpips_{net}", f"LPIPS ({NETWORKS[net]}), whole frame", "lower"),
            Value(f"lpips_{net}_person", f"LPIPS ({NETWORKS[net]}) inside the person", "lower"),
        )

    def protocol(self) -> dict[str, Any]:
        return {
            "network": f"LPIPS 0.1 {self.net}",
            "weights_sha256": weights.fingerprint(f"lpips-{self.net}"),
            "input": "RGB in [-1,1]",
            "resize": None,
            "over": "mean over frames",
            "person": "mean of the spatial map over the clip's mask; frames without one do not count",
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        from evaluation.features import lpips

        whole, person = (value.name for value in self.values)
        if clip.truth is None:
            return {whole: float("nan"), person: float("nan")}
        check(clip.made, clip.truth, clip.mask)
        lpips.check_size(self.net, *clip.made.shape[1:3])
        network = lpips.load(self.net, self.machine.device)
        frames, inside = lpips.measured(network, clip.made, clip.truth, clip.mask, self.machine.batch_size)
        known = inside[~np.isnan(inside)]
        return {whole: float(frames.mean()), person: float(known.mean()) if len(known) else float("nan")}


def _spec(net: str) -> MetricSpec:
    return MetricSpec(
        NoSettings, lambda settings, machine: LpipsMetric(net, machine), lambda settings: (f"lpips-{net}",)
    )


METRICS = {f"lpips-{net}": _spec(net) for net in NETWORKS}
