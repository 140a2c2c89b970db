"""The order of samples: exact, whatever the ranks, the workers and the shapes."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imanim.data import order
from imanim.data.order import Order
from imanim.errors import InputError

RANKS = (1, 2, 3, 4)
BUCKETS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def cut(sizes: list[int]) -> list[list[int]]:
    """Buckets of these sizes over samples that are numbered across them in turn."""
    every = np.random.default_rng(0).permutation(sum(sizes)).tolist()
    return [sorted(every[sum(sizes[:b]) : sum(sizes[: b + 1])]) for b in range(len(sizes))]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 5), st.integers(1, 3))
def test_every_sample_comes_once_an_epoch_whatever_the_ranks(samples: int, seed: int, per: int) -> None:
    one, epochs = Order(seed, per * 12, [range(samples)]), 3
    steps = -(-epochs * samples // one.global_batch)
    alone = [i for s in range(steps) for i in one.batch(s)]
    for ranks in RANKS:
        assert alone == [i for s in range(steps) for r in range(ranks) for i in one.batch(s, r, ranks)]
    for epoch in range(epochs):
        assert sorted(alone[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


@settings(deadline=None, max_examples=60)
@given(BUCKETS, st.integers(0, 5), st.integers(1, 2))
def test_each_buckets_samples_come_once_an_epoch_of_it(sizes: list[int], seed: int, per: int) -> None:
    buckets = cut(sizes)
    stream = Order(seed, per * 12, buckets)
    seen: list[list[int]] = [[] for _ in buckets]
    for step in range(2 * sum(stream.shares)):
        bucket, earlier = stream.bucket(step)
        assert earlier * stream.global_batch == len(seen[bucket])
        seen[bucket] += stream.batch(step)
    for samples, came in zip(buckets, seen):
        for first in range(0, len(came) - len(samples) + 1, len(samples)):
            assert sorted(came[first : first + len(samples)]) == samples


@settings(deadline=None, max_examples=60)
@given(BUCKETS, st.integers(0, 5), st.integers(0, 30))
def test_after_any_step_any_number_of_ranks_goes_on_with_the_same_samples(
    sizes: list[int], seed: int, start: int
) -> None:
    buckets = cut(sizes)
    whole = [Order(seed, 12, buckets).batch(step) for step in range(start + 5)]
    for ranks in RANKS:
        resumed = Order(seed, 12, buckets)
        shared = [[i for r in range(ranks) for i in resumed.batch(step, r, ranks)] for step in range(start, start + 5)]
        assert shared == whole[start:]
        # One shape a step, on every rank.
        assert all(any(set(batch) <= set(samples) for samples in buckets) for batch in shared)


@settings(deadline=None, max_examples=60)
@given(BUCKETS, st.integers(0, 5))
def test_a_bucket_has_its_share_of_steps_exactly_in_a_cycle_and_nearly_at_any_time(sizes: list[int], seed: int) -> None:
    stream = Order(seed, 4, cut(sizes))
    cycle = sum(sizes) // math.gcd(*sizes)
    had: Counter[int] = Counter()
    for step in range(3 * cycle):
        had[stream.bucket(step)[0]] += 1
        for bucket, size in enumerate(sizes):
            assert abs(had[bucket] - (step + 1) * size / sum(sizes)) < 1 + len(sizes)
        if (step + 1) % cycle == 0:
            assert [had[b] for b in range(len(sizes))] == [(step + 1) // cycle * n // math.gcd(*sizes) for n in sizes]


def test_one_shape_keeps_the_order_that_it_had_before_there_were_buckets() -> None:
    epochs = np.concatenate([np.random.default_rng((7, epoch, 0x0DA7A)).permutation(10) for epoch in range(3)])
    stream = Order(7, 4, [range(10)])
    assert [i for step in range(7) for i in stream.batch(step)] == epochs[:28].tolist()


def test_seeds_epochs_and_buckets_are_ordered_differently() -> None:
    first = order.permutation(0, 0, 50)
    for other in (order.permutation(1, 0, 50), order.permutation(0, 1, 50), order.permutation(0, 0, 50, 1)):
        assert (first != other).any()


@pytest.mark.parametrize(
    "batch, buckets, ranks", [(4, [range(5)], 3), (4, [], 1), (4, [range(3), []], 1), (0, [[1]], 1)]
)
def test_what_cannot_be_cut_is_refused(batch: int, buckets: list, ranks: int) -> None:
    with pytest.raises(InputError, match="global batch"):
        Order(0, batch, buckets).batch(0, 0, ranks)
