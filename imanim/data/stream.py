"""The loader: batches of decoded samples in the order of :mod:`imanim.data.order`."""

from __future__ import annotations

import itertools
import signal
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from imanim import clock
from imanim.data import latents as caches
from imanim.data.order import Order
from imanim.data.sample import JOINTS, OPTIONAL, REQUIRED, Sample, decode
from imanim.data.shards import Shape, ShardSet
from imanim.errors import InputError

Batch = dict[str, Any]
"""driving, target float32 [B,T,3,H,W] in [0,1]; identity float32 [B,3,H,W]; joints, driving_joints float32 [B,T,J,3];
identity_joints float32 [B,J,3]; faces float32 [B,T,4] (NaN = none); keys list[str]; parts uint8 [B,T,H,W] when asked for.
With a latent cache its tensors (imanim.data.latents, as stored), and no target unless asked for.
An unknown joint is (-1, -1, 0): finite, and outside the frame, so that every in-frame test leaves it out."""

OUTSIDE = -1.0
"""The coordinates that unknown joints get: outside the frame, finite."""


class SampleDataset(Dataset):
    """A split as tensors. ``dataset[i]`` is one sample of the batch contract without the batch axis.

    Args:
        frames, height, width: what every sample must have.
        own_shapes: each sample must have the shape that its index tells instead (buckets).
        parts: with part labels.
        latents: what to take of a latent cache.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        frames: int,
        height: int,
        width: int,
        own_shapes: bool = False,
        parts: bool = False,
        latents: caches.Use | None = None,
    ):
        self.shards, self.shape, self.own_shapes = shards, (frames, height, width), own_shapes
        self.parts, self.latents = parts, latents

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, i: int) -> Batch:
        truth = self.latents is None or self.latents.truth
        skip = (() if self.parts else ("parts.png", "driving_parts.png")) + (() if truth else ("target.mp4",))
        cached = () if self.latents is None else (caches.MEMBER,)
        key, members = self.shards.read(i, [name for name in (*REQUIRED, *OPTIONAL, *cached) if name not in skip])
        sample = decode(key, members, skip=skip)
        frames, height, width = sample.driving.shape[:3]
        wanted = self.shards.shapes[i] if self.own_shapes else self.shape
        if (frames, height, width) != wanted:
            whose = "its index says" if self.own_shapes else "the model takes"
            remedy = (
                "index the shards again (launchers/index.py)" if self.own_shapes else "preprocess with the model's size"
            )
            raise InputError(
                f"sample {key}: {frames} frames of {height}x{width} (height x width), {whose} {describe_shape(wanted)}; {remedy}"
            )
        item = to_tensors(sample, parts=self.parts, truth=truth)
        if self.latents is not None:
            video = (clock.latent_frames(frames), height, width)
            cache, mirrored = self.latents.cache, self.latents.mirrored
            item |= caches.unpack(key, members.get(caches.MEMBER), cache, video, mirrored=mirrored)
        return item


def describe_shape(shape: Shape | None) -> str:
    """``17 of 256x192``: frames, height and width for people."""
    return "nothing" if shape is None else f"{shape[0]} of {shape[1]}x{shape[2]}"


def to_tensors(sample: Sample, *, parts: bool = False, truth: bool = True) -> Batch:
    """One decoded sample as the batch contract's tensors (no batch axis); without ``target`` unless ``truth``."""
    nobody = np.full((len(JOINTS), 3), np.nan, np.float32)
    nobody[:, 2] = 0
    identity_joints = nobody if sample.identity_joints is None else sample.identity_joints
    item: Batch = {
        "key": sample.key,
        "driving": _video(sample.driving),
        "identity": _video(sample.identity[None])[0],
        "joints": _known(sample.joints),
        "driving_joints": _known(sample.joints_of_driver),
        "identity_joints": _known(identity_joints),
        "faces": torch.from_numpy(sample.faces),
    }
    if truth:
        item["target"] = _video(sample.truth)
    if parts:
        if sample.parts is None:
            raise InputError(f"sample {sample.key}: has no part mask (parts.png); measure without masks or use Doubles")
        item["parts"] = torch.from_numpy(sample.parts)
    return item


def _video(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().div_(255.0)


def _known(joints: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(np.isnan(joints), np.float32(OUTSIDE), joints).astype(np.float32))


def collate(items: Sequence[Batch]) -> Batch:
    """Stacks samples; ``key`` becomes the list ``keys``."""
    batch: Batch = {name: torch.stack([item[name] for item in items]) for name in items[0] if name != "key"}
    batch["keys"] = [item["key"] for item in items]
    return batch


class _MicroBatches(Sampler[list[int]]):
    """The endless micro-batches of one rank from a step on: each step's share in ``micro_batches`` equal pieces."""

    def __init__(self, order: Order, rank: int, ranks: int, start_step: int, micro: int):
        self.order, self.rank, self.ranks = order, rank, ranks
        self.start_step, self.micro_batches = start_step, micro

    def __iter__(self) -> Iterator[list[int]]:
        for step in itertools.count(self.start_step):
            share = self.order.batch(step, self.rank, self.ranks)
            size = len(share) // self.micro_batches
            for start in range(0, len(share), size):
                yield share[start : start + size]


class Loader:
    """Endless batches of one rank, from ``start_step`` on.

    Args:
        dataset: the split.
        global_batch: samples a step over all ranks and micro-batches.
        micro_batches: a rank's share of a step comes in that many equal batches (gradient accumulation).
        workers: decoding processes; 0 decodes in this process.
        buckets: the samples of each shape, when there are several; a step's batch is of one shape. None: all are of one.

    Raises:
        InputError: when ranks times micro-batches do not divide the global batch.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        *,
        global_batch: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        start_step: int = 0,
        micro_batches: int = 1,
        workers: int = 0,
        buckets: Sequence[Sequence[int]] | None = None,
    ):
        if global_batch < 1 or global_batch % (ranks * micro_batches):
            raise InputError(
                f"global batch {global_batch}: must be a multiple of {ranks} ranks x {micro_batches} micro-batches"
            )
        order = Order(seed, global_batch, [range(len(dataset))] if buckets is None else buckets)
        self._loader = DataLoader(
            dataset,
            batch_sampler=_MicroBatches(order, rank, ranks, start_step, micro_batches),
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None,
            worker_init_fn=_quiet_worker if workers else None,
        )

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)


def close(feed: Iterator[Batch]) -> None:
    """Ends the workers behind ``iter(Loader)``, once they have decoded what they are at; without workers does nothing."""
    # PyTorch raises in the main thread when a worker dies that it watches: it must be told first. It has no public way.
    stop = getattr(feed, "_shutdown_workers", None)
    if stop is not None:
        stop()


def lost_worker(error: BaseException | None) -> str | None:
    """What to say when an error means that a worker behind ``iter(Loader)`` was killed (out of memory, most often); else None."""
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return str(error).strip()
    if not isinstance(error, (ConnectionError, EOFError)):
        return None
    loader = torch.utils.data.dataloader.__file__
    if not any(frame.filename == loader for frame in traceback.extract_tb(error.__traceback__)):
        return None
    # It was handing a batch over: its connection broke before PyTorch noticed that it is gone.
    return f"a DataLoader worker ended while it handed a batch over ({type(error).__name__})."


def _quiet_worker(worker: int) -> None:
    # A preempted job's signal reaches the whole process group: only the training process acts on it, a worker that died
    # of it would end the step in flight. One thread each: the cores belong to the model.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
