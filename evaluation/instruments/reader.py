"""The reader: what a frame of a Doubles render shows, read without knowing which model made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.instruments.network import Networks, cut_faces, folded, places
from evaluation.instruments.truth import ACTIONS, HEIGHT_PX, WIDTH_PX
from imanim.data.files import sha256
from imanim.errors import InputError

WEIGHTS = Path(__file__).resolve().parents[1] / "assets" / "reader" / "reader.safetensors"
_PASS_FRAMES = 17
_SHAPE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Reading:
    """What T frames show.

    joints: float32 [T,20,2], x and y in [0,1], hidden joints guessed. parts: uint8 [T,128,80] labels of
    imanim.data.sample.PARTS, whatever the frames' own size. actions: float32 [T,A], 0 to 1, without meaning where a face is small.
    """

    joints: np.ndarray
    parts: np.ndarray
    actions: np.ndarray

    @property
    def person(self) -> np.ndarray:
        """bool [T,128,80]."""
        return self.parts > 0


class Reader:
    """Reads frames with the weights in a file.

    Args:
        weights: a safetensors file; by default the one in this package.
        device: where the network runs.

    Raises:
        InputError: no such file, or not of this network.
    """

    def __init__(self, weights: Path = WEIGHTS, device: str = "cpu"):
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not weights.is_file():
            raise InputError(f"reader weights {weights}: not there; make them with launchers/train_reader.py")
        data = weights.read_bytes()
        self.sha256 = sha256(data)
        networks = Networks()
        try:
            networks.load_state_dict({name: value.float() for name, value in load(data).items()})
        except (SafetensorError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise InputError(
                f"reader weights {weights}: not of this network ({first}); make them with launchers/train_reader.py"
            ) from None
        self._device = device
        self._frame, self._face = folded(networks.frame).to(device), folded(networks.face).to(device)

    def protocol(self) -> dict[str, Any]:
        """What readings depend on."""
        return {
            "reader_sha256": self.sha256,
            "size": [HEIGHT_PX, WIDTH_PX],
            "resize": "area mean, when the frames are of another size",
            "actions": list(ACTIONS),
        }

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> Reading:
        """Reads uint8 [T,H,W,3], each frame alone.

        Raises:
            InputError: frames of another shape than 8:5, which would have to be distorted.
        """
        pieces = [self._read(frames[i : i + _PASS_FRAMES]) for i in range(0, len(frames), _PASS_FRAMES)]
        return Reading(*(np.concatenate(values) for values in zip(*pieces)))

    def _read(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = resized(to_input(frames, self._device))
        out = self._frame(x)
        joints, parts = places(out.heat), out.parts.argmax(1).to(torch.uint8)
        actions = self._face(cut_faces(x, joints)).clamp(0, 1)
        return joints.cpu().numpy(), parts.cpu().numpy(), actions.cpu().numpy()


def to_input(frames: np.ndarray, device: str = "cpu") -> Tensor:
    """uint8 [T,H,W,3] -> float32 [T,3,H,W] in [-1,1]."""
    return torch.tensor(frames, device=device).movedim(-1, 1).float().div_(127.5).sub_(1)


def resized(x: Tensor) -> Tensor:
    """Frames [T,3,H,W] at the reader's size, by area mean. Raises InputError for another shape than 8:5."""
    height, width = x.shape[-2:]
    if (height, width) == (HEIGHT_PX, WIDTH_PX):
        return x
    if abs(height * WIDTH_PX / (width * HEIGHT_PX) - 1) > _SHAPE_TOLERANCE:
        raise InputError(
            f"frames of {height}x{width} pixels: the reader reads {HEIGHT_PX}x{WIDTH_PX} and its multiples"
        )
    return F.interpolate(x, (HEIGHT_PX, WIDTH_PX), mode="area")
