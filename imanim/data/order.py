"""The order of samples: a pure function of (seed, epoch, number of samples).

Position p of the endless stream of samples is ``permutation(seed, p // n)[p % n]``; step s of a global batch of G takes
positions s*G .. (s+1)*G-1, and a rank its slice of them. So the loader's whole state is one integer, resume is exact, and
the number of ranks may change as long as the global batch stays (docs/data.md).
"""

from __future__ import annotations

import functools

import numpy as np

from imanim.errors import InputError


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, samples: int) -> np.ndarray:
    """int64 [samples]: the order of one epoch. Each sample stands in it exactly once."""
    return np.random.default_rng((seed, epoch, 0x0DA7A)).permutation(samples)


def sample_at(position: int, seed: int, samples: int) -> int:
    """The sample at a position of the endless stream."""
    return int(permutation(seed, position // samples, samples)[position % samples])


def batch(step: int, seed: int, samples: int, global_batch: int, rank: int = 0, ranks: int = 1) -> list[int]:
    """The samples that ``rank`` of ``ranks`` takes at a step.

    Raises InputError unless the ranks divide the global batch.
    """
    if samples < 1 or global_batch % ranks:
        raise InputError(
            f"global batch {global_batch} on {ranks} ranks over {samples} samples: must divide evenly, samples > 0"
        )
    share = global_batch // ranks
    first = step * global_batch + rank * share
    return [sample_at(p, seed, samples) for p in range(first, first + share)]
