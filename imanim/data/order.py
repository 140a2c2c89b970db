"""The order of samples: a pure function of (seed, step, the numbers of samples).

Position p of the endless stream of samples is ``permutation(seed, p // n)[p % n]``; step s of a global batch of G takes
positions s*G .. (s+1)*G-1, and a rank its slice of them. So the loader's whole state is one integer, resume is exact, and
the number of ranks may change as long as the global batch stays (docs/data.md).

Samples of different shapes cannot stand in one batch. Each shape is a bucket with a stream of its own, and a step takes its
batch from one of them: the same on every rank, each as often as it has samples, spread evenly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from imanim.errors import InputError


@functools.lru_cache(maxsize=16)
def permutation(seed: int, epoch: int, samples: int, bucket: int = 0) -> np.ndarray:
    """int64 [samples]: the order of one epoch of a bucket. Each sample stands in it exactly once."""
    # The first bucket's numbers are those from before there were buckets: runs with one shape keep their order.
    return np.random.default_rng((seed, epoch, 0x0DA7A, *([bucket] if bucket else []))).permutation(samples)


@functools.lru_cache(maxsize=2)
def schedule(seed: int, cycle: int, shares: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """One cycle of sum(shares) steps, in which bucket b has exactly ``shares[b]``, evenly spread.

    Returns:
        int64 [sum(shares)] each: the bucket of each step, and how many steps of the cycle it had before.
    """
    random = np.random.default_rng((seed, cycle, 0xB0C7E7))
    # Bucket b's j-th step falls somewhere in the j-th of its equal parts of the cycle.
    times = np.concatenate([(np.arange(share) + random.random(share)) / share for share in shares])
    order = np.argsort(times, kind="stable")
    buckets, earlier = np.repeat(np.arange(len(shares)), shares), np.concatenate([np.arange(share) for share in shares])
    return buckets[order], earlier[order]


class Order:
    """Which samples a step takes.

    Args:
        seed: of the run.
        global_batch: samples a step, over all ranks.
        buckets: the samples of each shape; none is empty.

    Raises:
        InputError: there is no sample, or a bucket without one.
    """

    def __init__(self, seed: int, global_batch: int, buckets: Sequence[Sequence[int]]):
        if global_batch < 1 or not buckets or not all(len(samples) for samples in buckets):
            raise InputError(
                f"global batch {global_batch} over {len(buckets)} buckets: each needs samples, the batch too"
            )
        self.seed, self.global_batch, self.buckets = seed, global_batch, buckets
        sizes = [len(samples) for samples in buckets]
        self.shares = tuple(size // math.gcd(*sizes) for size in sizes)

    def bucket(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps it had before."""
        cycle, at = divmod(step, sum(self.shares))
        buckets, earlier = schedule(self.seed, cycle, self.shares)
        bucket = int(buckets[at])
        return bucket, cycle * self.shares[bucket] + int(earlier[at])

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> list[int]:
        """The samples that ``rank`` of ``ranks`` takes at a step. Raises InputError unless the ranks divide the global batch."""
        if self.global_batch % ranks:
            raise InputError(f"global batch {self.global_batch} on {ranks} ranks: must divide evenly")
        bucket, earlier = self.bucket(step)
        samples, share = self.buckets[bucket], self.global_batch // ranks
        first = earlier * self.global_batch + rank * share
        places = [divmod(position, len(samples)) for position in range(first, first + share)]
        return [samples[permutation(self.seed, epoch, len(samples), bucket)[at]] for epoch, at in places]
