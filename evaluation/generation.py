"""Making the videos that are measured: sample by sample, resumable, in as many processes as there are.

Samples of the model's own size and length go in batches; every other is fitted onto the model's canvas, window by window, as
``launchers/animate.py`` does it. The autoencoder's own videos (of the truth, of the character held still) are made beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation import predictions
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item, Material
from imanim.data.files import sha256_file
from imanim.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from imanim.inference.pipeline import AnimationPipeline

AUTOENCODED = {"autoencoder": "truth", "hold_autoencoder": "character"}
"""Baselines that the model's autoencoder makes, and of what."""


@dataclass
class Maker:
    """A model and where its videos go.

    folders: ``predictions`` (ours) and one for each baseline of :data:`AUTOENCODED` that the protocol names.
    """

    pipeline: AnimationPipeline
    protocol: ProtocolConfig
    output: Path
    weights_sha256: dict[str, str]
    low_noise_sha256: dict[str, str]

    def folder(self, method: str) -> Path:
        """Where a method's videos lie."""
        return self.output / ("predictions" if method == "ours" else method)

    @property
    def methods(self) -> list[str]:
        """What is made: ours, and the autoencoder's."""
        return ["ours", *(b for b in self.protocol.baselines if b in AUTOENCODED)]

    @property
    def sampler(self) -> dict[str, Any]:
        """How noise becomes video, for the record."""
        steps = self.protocol.steps or self.pipeline.default_steps
        shift = float(self.pipeline.scheduler.config.shift)
        return {"name": "flow-matching Euler", "steps": steps, "shift": shift, "seed": self.protocol.seed}

    def record(self, item: Item, method: str) -> dict[str, Any]:
        """Everything that a made video depends on."""
        record: dict[str, Any] = {"key": item.key, "inputs": item.content, "weights_sha256": self.weights_sha256}
        if method == "ours":
            record |= {"sampler": self.sampler, "noise": self.protocol.seed + item.number, "filmed": item.filmed}
            record |= {"low_noise_sha256": self.low_noise_sha256} if self.low_noise_sha256 else {}
        return {**record, "frames": self.protocol.frames, "fps": self.protocol.fps, "size": self.protocol.size}

    def is_done(self, item: Item) -> bool:
        """Whether a sample's videos are all there, by this model with these settings."""
        wanted = self.methods if item.filmed else ["ours"]
        return all(self._is_there(item, method) for method in wanted)

    def _is_there(self, item: Item, method: str) -> bool:
        return predictions.is_made(self.folder(method), item.key, self.record(item, method), filmed=item.filmed)

    def make(self, batches: Sequence[Sequence[Item]]) -> Iterator[int]:
        """Makes what is missing of ``batches``; yields how many samples each had.

        A batch of which anything is missing is made whole again: in another company a sample comes out a rounding error different.
        """
        for batch in batches:
            if not all(self.is_done(item) for item in batch):
                self._make(batch)
            yield len(batch)

    def _make(self, batch: Sequence[Item]) -> None:
        loaded = [(item, item.load()) for item in batch]
        fitting = [(i, m) for i, m in loaded if self._fits(m)]
        if fitting:
            self._make_batch(fitting)
        for item, material in loaded:
            if not self._fits(material):
                self._make_streamed(item, material)

    def _fits(self, material: Material) -> bool:
        canvas, frames = self.pipeline.canvas_size, self.pipeline.animator.config.frames
        return material.driving.shape[:3] == (frames, *canvas) and material.character.shape[:2] == canvas

    def _make_batch(self, batch: Sequence[tuple[Item, Material]]) -> None:
        import torch

        driving = _to_tensor(np.stack([m.driving for _, m in batch]))
        characters = _to_tensor(np.stack([m.character for _, m in batch]))
        frames = driving.shape[1]
        identity = self.pipeline.encode_character(characters)
        image = self.pipeline.encode_condition(characters, frames)
        motion = self.pipeline.read_motion(driving, identity, image=image)
        joints = _joints_of(motion, len(batch), frames)
        videos: Any = [None] * len(batch)
        if batch[0][0].filmed:
            noise = torch.cat([self.pipeline.noise(frames, self.protocol.seed + item.number) for item, _ in batch])
            latents = self.pipeline.sample(motion.conditions, noise, self.sampler["steps"], low_noise=motion.low_noise)
            videos = _to_uint8(self.pipeline.decode(latents))
        for (item, material), video, own in zip(batch, videos, joints):
            self._keep(item, material, video, own)

    def _make_streamed(self, item: Item, material: Material) -> None:
        if not item.filmed:
            raise InputError(
                f"sample {item.key}: another size than the model's, whose joints can only be read with its video;"
                " set protocol.source.video_clips=null"
            )
        if material.truth is not None and self.methods != ["ours"]:
            found = "x".join(map(str, material.truth.shape[:3]))
            raise InputError(
                f"sample {item.key}: {found} (frames x height x width) is not the model's own size, so its autoencoder makes no"
                " baseline of it; preprocess with the model's size, or leave the autoencoder out of protocol.baselines"
            )
        made = self.pipeline(
            material.character, material.driving, steps=self.protocol.steps, seed=self.protocol.seed + item.number
        )
        self._keep(item, material, made.frames, None)

    def _keep(self, item: Item, material: Material, video: np.ndarray | None, joints: np.ndarray | None) -> None:
        for method in self.methods if item.filmed else ["ours"]:
            frames = video if method == "ours" else self._autoencoded(material, AUTOENCODED[method])
            own = joints if method == "ours" else None
            predictions.write(self.folder(method), item.key, frames, material.fps, own, self.record(item, method))

    def _autoencoded(self, material: Material, what: str) -> np.ndarray:
        from imanim.models.autoencoder import encode_video

        if what == "truth":
            if material.truth is None:
                raise InputError("protocol.baselines: `autoencoder` needs a true video; leave it out")
            clip = material.truth
        else:
            clip = np.broadcast_to(material.character, (len(material.driving), *material.character.shape))
        video = _to_tensor(clip[None]).to(self.pipeline.device)
        return _to_uint8(self.pipeline.decode(encode_video(self.pipeline.vae, video)))[0]


def in_batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Samples in batches, the same however many ranks share them; filmed ones and others apart, so that slow batches are full."""
    out = []
    for filmed in (True, False):
        todo = [item for item in items if item.filmed == filmed]
        out += [todo[start : start + size] for start in range(0, len(todo), size)]
    return out


def weights_of(model: Path) -> dict[str, str]:
    """The sha256 of every weight file of a model folder, by its path inside."""
    return {str(f.relative_to(model)): sha256_file(f) for f in sorted(model.rglob("*.safetensors"))}


def _joints_of(motion: Any, batch: int, frames: int) -> list[np.ndarray]:
    """[2,T,20,2] a sample: retargeted, and the driver's; NaN where the model has no decoder for them."""
    unknown = np.full((batch, frames, 20, 2), np.nan, np.float32)
    both = [unknown if j is None else j.float().cpu().numpy() for j in (motion.joints, motion.driving_joints)]
    return list(np.stack(both, 1))


def _to_tensor(frames: np.ndarray) -> Tensor:
    """uint8 [...,H,W,3] to float32 [...,3,H,W] in [0,1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 255


def _to_uint8(video: Tensor) -> np.ndarray:
    """[B,T,3,H,W] in [0,1] to uint8 [B,T,H,W,3]."""
    return video.movedim(2, -1).mul(255).round().byte().cpu().numpy()
