"""Cutting, swapping and joining over a team, without processes: every rank of a team of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from imanim import sequence
from imanim.errors import InputError
from imanim.sequence import ALONE, Team


@dataclass(frozen=True)
class Threads(Team):
    """A rank whose team are threads: what one sends, the others take."""

    mail: dict = field(default_factory=dict)
    everybody: Barrier | None = None

    def exchange(self, x: Tensor, sent: list[int], got: list[int]) -> Tensor:
        for to, piece in enumerate(x.split(sent)):
            self.mail[self.rank, to] = piece
        self.everybody.wait(timeout=300)
        found = [self.mail[other, self.rank] for other in range(self.size)]
        self.everybody.wait(timeout=300)
        assert [len(piece) for piece in found] == got
        return torch.cat(found)


def on_every_rank(size: int, work) -> list[Tensor]:
    mail, everybody = {}, Barrier(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: work(Threads(size, rank, None, mail, everybody)), range(size)))


@settings(max_examples=60, deadline=None)
@given(total=st.integers(0, 40), size=st.integers(1, 9))
def test_pieces_are_in_order_whole_and_even(total: int, size: int):
    spans = [Team(size, rank).span(total) for rank in range(size)]
    assert [i for span in spans for i in span] == list(range(total))
    lengths = Team(size, 0).lengths(total)
    assert lengths == [len(span) for span in spans] and max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 4), cut=st.integers(1, 9), join=st.integers(1, 9), flip=st.booleans())
def test_swapping_moves_the_cut_from_one_dimension_to_the_other_and_back(size: int, cut: int, join: int, flip: bool):
    whole = torch.arange(2 * cut * join * 3.0).view(2, cut, join, 3)
    a, b = 1, 2
    if flip:  # the dimension to cut may come after the one to join
        whole, a, b = whole.transpose(1, 2).contiguous(), 2, 1

    def work(team: Team) -> tuple[Tensor, Tensor, Tensor]:
        by_a, by_b = (a, team.lengths(cut)), (b, team.lengths(join))
        mine, theirs = team.span(join), team.span(cut)
        have = whole.narrow(b, mine.start, len(mine))
        swapped = team.swap(have, cut=by_a, join=by_b)
        assert torch.equal(swapped, whole.narrow(a, theirs.start, len(theirs)))
        assert torch.equal(team.swap(swapped, cut=by_b, join=by_a), have)
        assert torch.equal(team.join(have, b, join), whole)
        return swapped

    on_every_rank(size, work)


def test_alone_nothing_is_copied():
    x = torch.ones(2, 3)
    assert ALONE.swap(x, cut=(0, [2]), join=(1, [3])) is x and ALONE.join(x, 0, 2) is x
    assert sequence.form(1) is ALONE


def test_a_world_that_is_no_multiple_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(InputError, match="sequence_parallel: 3: 4 ranks are no multiple of it"):
        sequence.form(3)
