"""Exponential moving average of the trained weights, kept over the optimizer's float32 copy (ZeRO-3: this rank's shards only)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from imanim.training.engine import local_master
from imanim.training.fragments import Fragment, Reader

AVERAGE = "average"


class Ema:
    """Averages what the optimizer holds, so it costs a shard of memory and no communication, and equals a full-precision average.

    Attributes:
        shards: name of a trained parameter -> float32 average of this rank's piece of it (see ``engine.local_master``).
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self._trained: dict[str, Any] = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.shards: dict[str, Tensor] = {name: local_master(p).detach().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step ``step`` (0 = the first). Early steps forget faster: (1+n)/(10+n)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self._trained.items():
            self.shards[name].lerp_(local_master(parameter).detach(), 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self, engine: Any) -> Iterator[None]:
        """While the context lasts, the model computes with the averages. Not for training steps. A collective."""
        engine.empty_partition_cache()
        held = {name: _computed(p) for name, p in self._trained.items()}
        weights = {name: here.detach().to("cpu", copy=True) for name, here in held.items()}
        for name, here in held.items():
            here.copy_(self.shards[name].view(-1)[: here.numel()].view(here.shape))
        try:
            yield
        finally:
            engine.empty_partition_cache()
            for name, p in self._trained.items():
                _computed(p).copy_(weights[name])

    @property
    def is_cut(self) -> bool:
        """Whether each rank holds a piece of every average (ZeRO-3), not the whole."""
        return any(hasattr(p, "ds_id") for p in self._trained.values())

    def fragments(self) -> list[Fragment]:
        """The averages that this rank holds, as a checkpoint writes them."""
        return [Fragment(name, start, {AVERAGE: here}) for name, start, here in self._pieces()]

    def load(self, reader: Reader) -> None:
        """Reads this rank's averages from a checkpoint of any number of ranks. Raises InputError when some are missing."""
        for name, start, here in self._pieces():
            here.copy_(reader.read(name, AVERAGE, start, len(here)))

    def _pieces(self) -> Iterator[tuple[str, int, Tensor]]:
        """(name, first element, flat view), without what ZeRO-3 fills the last ranks' pieces up with."""
        for name, p in self._trained.items():
            flat, whole = self.shards[name].view(-1), int(getattr(p, "ds_numel", p.numel()))
            start = torch.distributed.get_rank(p.ds_process_group) * len(flat) if hasattr(p, "ds_id") else 0
            if start < whole:
                yield name, start, flat[: whole - start]


def _computed(p: Any) -> Tensor:
    """What the model computes with of a parameter: this rank's shard in ZeRO-3, else all of it."""
    return p.ds_tensor.data if hasattr(p, "ds_id") else p.data
