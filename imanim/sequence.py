"""Sequence parallelism: several ranks, a team, share the tokens of a sample (Ulysses: Jacobs et al. 2023, arXiv 2309.14509).

Everything outside the cut parts of the model runs on every rank of a team alike, on the same samples and the same random numbers.
Cut parts take their frames of a tensor, swap what is cut where tokens must meet, and join the frames again at the end. Each of the
three hands gradients back as its exact transpose, and the loss is the same on every rank of a team. So the mean of all ranks'
gradients, which is what data parallelism takes anyway, is the gradient of the mean over samples: the engine need not know of teams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imanim.errors import InputError

Cut = tuple[int, Sequence[int]]
"""A dimension, and how much of it each rank of the team holds."""


@dataclass(frozen=True)
class Team:
    """The ranks that share a sample; by default one rank alone, for which all methods give back what they get.

    Attributes:
        size: ranks of a team.
        rank: this one's place in it.
        group: their process group; None when alone.
    """

    size: int = 1
    rank: int = 0
    group: Any = None

    def lengths(self, total: int) -> list[int]:
        """``total`` things cut over the team as evenly as can be, the longer pieces first."""
        share, rest = divmod(total, self.size)
        return [share + (rank < rest) for rank in range(self.size)]

    def span(self, total: int) -> range:
        """This rank's piece of them."""
        lengths = self.lengths(total)
        start = sum(lengths[: self.rank])
        return range(start, start + lengths[self.rank])

    def swap(self, x: Tensor, *, cut: Cut, join: Cut) -> Tensor:
        """Cuts a whole dimension and makes a cut one whole: a tensor cut over one dimension becomes cut over another.

        Args:
            x: whole in ``cut``'s dimension; of ``join``'s, the length that its list has for this rank.
            cut: the dimension to cut, and the lengths of the pieces; they add up to its size.
            join: the dimension to make whole, and what each rank holds of it.

        Returns:
            this rank's piece of ``cut``'s dimension, all of ``join``'s.
        """
        if self.size == 1:
            return x
        (cut_dim, pieces), (join_dim, held) = cut, join
        shape = list(x.shape)
        shape[cut_dim] = pieces[self.rank]
        shapes = [[*shape[:join_dim], length, *shape[join_dim + 1 :]] for length in held]
        sent = [piece.flatten() for piece in x.split(list(pieces), cut_dim)]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        got = self.exchange(torch.cat(sent), [len(piece) for piece in sent], sizes)
        return torch.cat([piece.view(shape) for piece, shape in zip(got.split(sizes), shapes)], join_dim)

    def exchange(self, x: Tensor, sent: list[int], got: list[int]) -> Tensor:
        """Consecutive pieces of ``x`` [sum(sent)], one to each rank; theirs to this one [sum(got)]. Gradients go the way back."""
        return _Exchange.apply(x, sent, got, self.group)

    def join(self, x: Tensor, dim: int, total: int) -> Tensor:
        """The whole of a dimension on every rank, from pieces of :meth:`lengths`."""
        if self.size == 1:
            return x
        # As many copies as ranks, one for each: the transpose of copying is to add up what they were good for.
        copies = x.unsqueeze(0).expand(self.size, *x.shape)
        return self.swap(copies, cut=(0, [1] * self.size), join=(dim + 1, self.lengths(total))).squeeze(0)


ALONE = Team()


def form(size: int) -> Team:
    """Cuts the world into teams of ``size`` neighbouring ranks. A collective; the process group must stand.

    Raises:
        InputError: the world is no multiple of ``size``.
    """
    if size == 1:
        return ALONE
    ranks = torch.distributed.get_world_size()
    if ranks % size:
        raise InputError(
            f"sequence_parallel: {size}: {ranks} ranks are no multiple of it; start another number of ranks"
        )
    group, _ = torch.distributed.new_subgroups(group_size=size)
    return Team(size, torch.distributed.get_rank() % size, group)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], got: list[int], group: Any) -> Tensor:
        ctx.sent, ctx.got, ctx.group = sent, got, group
        return _exchange(x, sent, got, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchange(gradients[0].contiguous(), ctx.got, ctx.sent, ctx.group), None, None, None


def _exchange(x: Tensor, sent: list[int], got: list[int], group: Any) -> Tensor:
    out = x.new_empty(sum(got))
    torch.distributed.all_to_all_single(out, x, got, sent, group=group)
    return out
