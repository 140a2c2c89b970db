"""Randomness that belongs to a sample: what a sample meets does not depend on how many ranks or micro-batches share the work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Dice:
    """The random numbers of one micro-batch, on the CPU: sample i's come from a source of its own.

    Args:
        seed, step: of the run.
        places: each sample's place in the global batch of that step.

    Attributes:
        shared: a source that is the same on every rank, for what is no sample's own (which vectors start and revive codes).
    """

    def __init__(self, seed: int, step: int, places: Sequence[int]):
        self._sources = [_source(seed, step, place) for place in places]
        self.shared = _source(seed, step)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._sources)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0,1), [samples, *shape]."""
        return torch.stack([torch.rand(shape, generator=source) for source in self._sources])

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers, [samples, *shape]."""
        return torch.stack([torch.randn(shape, generator=source) for source in self._sources])


def _source(*numbers: int) -> torch.Generator:
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & ((1 << 63) - 1))
