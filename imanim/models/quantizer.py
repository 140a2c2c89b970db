"""Vector quantisation of motion tokens (docs/method.md, stage 1).

Shapes: N codes, D dimension of a token.

The codebook is a *buffer* updated by moving averages, not a parameter: it trained well in minutes where a gradient codebook loss
leaves most codes unused, ZeRO-3 does not partition buffers, and a frozen codebook stays the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class Health(NamedTuple):
    """A codebook's state after its last update, the same on every rank.

    alive: share of the codes in %, whose moving average of uses is at least ``revive_below`` and which were not just revived.
    perplexity: of the moving averages: how many codes, evenly used, would be as varied. A started or revived code counts as an
    average one until 1 / (1 - decay) steps have passed.
    revived: codes that the last update brought back.
    """

    alive: Tensor
    perplexity: Tensor
    revived: Tensor


class Codebook(nn.Module):
    """N codes of dimension D on the unit sphere; a token becomes the nearest one (van den Oord et al. 2017; L2-normalised).

    Attributes:
        updates: whether training moves the codes. Off (frozen), the buffers never change.
        embedding: [N,D] float32, unit length.
        uses, sums: moving averages of how many tokens a code takes and of their sum, in multiples of the mean use.
        ready: 1 once started from data.
        revived: bool [N], the codes that the last update brought back; None before it. Not saved.
    """

    embedding: Tensor
    uses: Tensor
    sums: Tensor
    ready: Tensor

    def __init__(self, codes: int, dim: int, *, decay: float = 0.98, revive_below: float = 0.1):
        super().__init__()
        self.decay, self.revive_below, self.updates = decay, revive_below, True
        self.revived: Tensor | None = None
        start = F.normalize(torch.randn(codes, dim), dim=-1)
        self.register_buffer("embedding", start)
        self.register_buffer("uses", torch.ones(codes))
        self.register_buffer("sums", start.clone())
        self.register_buffer("ready", torch.zeros(()))

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Quantises.

        Args:
            z: [...,D] of unit length.
            generator: CPU generator that picks the vectors which start and revive codes; needed while updating.

        Returns:
            tokens [...,D] (the codes, gradient straight through to ``z``), indices [...], and the commitment loss: squared distance
            of ``z`` to its code, unweighted.
        """
        flat = z.detach().reshape(-1, z.shape[-1]).float()
        updating = self.training and self.updates
        if updating and not bool(self.ready):
            self._start(flat, generator)
        with torch.autocast(z.device.type, enabled=False):  # neighbours differ by less than bfloat16 can tell
            indices = (flat @ self.embedding.T).argmax(-1)
        codes = self.embedding[indices].view(z.shape).to(z.dtype)
        commitment = (z - codes).float().pow(2).sum(-1).mean()
        if updating:
            self._update(flat, indices, generator)
        # This order leaves exactly the code, and z's gradient; z + (code - z) would leave the code up to rounding.
        return codes + (z - z.detach()), indices.view(z.shape[:-1]), commitment

    @torch.no_grad()
    def _start(self, flat: Tensor, generator: torch.Generator | None) -> None:
        self.embedding.copy_(self._candidates(flat, len(self.embedding), generator))
        self.sums.copy_(self.embedding)
        self.uses.fill_(1.0)
        self.ready.fill_(1.0)

    @torch.no_grad()
    def _update(self, flat: Tensor, indices: Tensor, generator: torch.Generator | None) -> None:
        """Moving averages over all ranks, then revival. Every rank runs the same collectives and ends with the same codes."""
        counts = torch.zeros_like(self.uses).index_add_(0, indices, torch.ones_like(flat[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, indices, flat)
        if _ranks() > 1:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        mean_use = counts.sum() / len(counts)  # the batch's size must not decide which codes count as dead
        counts, sums = counts / mean_use, sums / mean_use
        self.uses.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.embedding.copy_(F.normalize(self.sums, dim=-1))
        dead = self.revived = self.uses < self.revive_below
        if self.revive_below > 0:
            # One vector a code, wanted or not: what is sent between ranks must not hang on what a rank holds.
            fresh = self._candidates(flat, len(self.uses), generator)
            self.embedding.copy_(torch.where(dead[:, None], fresh, self.embedding))
            self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
            self.uses.masked_fill_(dead, 1.0)

    @torch.no_grad()
    def health(self) -> Health:
        """How the codebook fares, from its moving averages over all ranks. No collective, no synchronisation with the device."""
        revived = torch.zeros_like(self.uses, dtype=torch.bool) if self.revived is None else self.revived
        alive = (self.uses >= self.revive_below) & ~revived
        return Health(100 * alive.float().mean(), _perplexity(self.uses), revived.float().sum())

    def _candidates(self, flat: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        """``number`` vectors of rank 0's batch [number,D], the same on every rank."""
        picks = torch.randint(len(flat), (number,), generator=generator)
        chosen = flat[picks.to(flat.device)].contiguous()
        if _ranks() > 1:
            dist.broadcast(chosen, src=0)
        return chosen

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        """Moves with the model but stays float32: in bfloat16 a slow moving average stands still."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def usage(indices: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Share of the codebook in use (in %) and perplexity of the code distribution, of one batch of indices."""
    flat = indices.flatten()
    # Not bincount: its output's shape depends on the data, which neither tracing nor a GPU's queue likes.
    counts = torch.zeros(codes, device=flat.device).index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
    return 100 * (counts > 0).float().mean(), _perplexity(counts)


def _perplexity(counts: Tensor) -> Tensor:
    share = counts / counts.sum().clamp(min=1.0)
    return torch.exp(-(share * share.clamp(min=1e-9).log()).sum())
