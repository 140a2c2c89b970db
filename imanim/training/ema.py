"""Exponential moving average of the trained weights, kept over the optimizer's float32 copy (ZeRO-3: this rank's shards only)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from imanim.errors import InputError
from imanim.training.engine import local_master


class Ema:
    """Averages what the optimizer holds, so it costs a shard of memory and no communication, and equals a full-precision average.

    Attributes:
        shards: name of a trained parameter -> float32 average of this rank's piece of it (see ``engine.local_master``).
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.shards: dict[str, Tensor] = {name: local_master(p).detach().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step ``step`` (0 = the first). Early steps forget faster: (1+n)/(10+n)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self._trained.items():
            self.shards[name].lerp_(local_master(parameter).detach(), 1 - decay)

    def save(self, folder: Path, rank: int) -> None:
        """Writes this rank's shards into a checkpoint."""
        from safetensors.torch import save_file

        save_file({name: t.contiguous() for name, t in self.shards.items()}, _path(folder, rank))

    def load(self, folder: Path, rank: int) -> None:
        """Reads this rank's shards from a checkpoint of the same world size.

        Raises:
            InputError: the checkpoint was made without a moving average.
        """
        from safetensors.torch import load_file

        path = _path(folder, rank)
        if not path.is_file():
            raise InputError(f"{path}: missing, the checkpoint was made without a moving average; set ema_decay=0")
        for name, value in load_file(path).items():
            self.shards[name].copy_(value)


def _path(folder: Path, rank: int) -> Path:
    return folder / f"ema-rank-{rank:05d}.safetensors"
