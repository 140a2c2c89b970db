"""The shapes that a training run takes: one, the model's, or every one that fits into it (``data.buckets``)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from imanim import clock
from imanim.data.shards import Shape, ShardSet
from imanim.data.stream import describe_shape
from imanim.errors import InputError
from imanim.models.config import AnimatorConfig


@dataclass(frozen=True)
class Buckets:
    """Samples by shape.

    Attributes:
        samples: the samples of each shape (frames, height, width), shapes in ascending order.
        refused: why samples are left out, and how many.
    """

    samples: dict[Shape, list[int]]
    refused: Counter[str]

    def for_validation(self, own: Shape) -> Shape:
        """The one shape to measure on: the model's ``own``, or the one with most samples."""
        return own if own in self.samples else max(self.samples, key=lambda shape: (len(self.samples[shape]), shape))

    def lines(self) -> list[str]:
        """For ``--dry-run``: each bucket with its share of the steps, and what is left out."""
        total = sum(map(len, self.samples.values()))
        lines = [
            f"  {describe_shape(shape)}: {len(samples)} samples, {100 * len(samples) / total:.1f}% of the steps"
            for shape, samples in self.samples.items()
        ]
        return lines + [f"  left out: {count} samples, {why}" for why, count in self.refused.items()]


def of(shards: ShardSet, sizes: AnimatorConfig) -> Buckets:
    """Every shape of a split that the model takes.

    Raises:
        InputError: the index tells no shapes, or none fits.
    """
    samples: dict[Shape, list[int]] = {}
    refused = Counter[str]()
    for i, shape in enumerate(shards.shapes):
        if shape is None:
            raise InputError(
                f"{shards.folder}: the index of sample {shards.keys[i]} tells no shape, which data.buckets=true goes by; run "
                f"launchers/index.py input={shards.folder} again=true"
            )
        why = misfit(shape, sizes)
        if why is None:
            samples.setdefault(shape, []).append(i)
        else:
            refused[f"{describe_shape(shape)}: {why}"] += 1
    if not samples:
        raise InputError(
            f"{shards.folder}: no sample of split `{shards.split}` fits the model ({'; '.join(refused)}); preprocess with the "
            "model's size, or give the model another"
        )
    return Buckets(dict(sorted(samples.items())), refused)


def misfit(shape: Shape, sizes: AnimatorConfig) -> str | None:
    """Why a model cannot take a video of this shape; None when it can.

    Its positions were made for its own height, width and frames. A smaller video takes the first of them.
    """
    step = sizes.latent_stride * sizes.denoiser.patch * sizes.retargeter.grid_stride
    if not clock.is_clip_length(shape[0]):
        return "frames are not 4n+1"
    if shape[1] % step or shape[2] % step:
        return f"height or width is not a multiple of {step}"
    own = (sizes.frames, sizes.height, sizes.width)
    if any(n > most for n, most in zip(shape, own)) and not sizes.retargeter.interpolate_positions:
        return f"larger than the model's {describe_shape(own)}"
    return None
