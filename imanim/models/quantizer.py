"""Vector quantisation of motion tokens (METHOD.md, stage 1).

The codebook is a *buffer* updated by moving averages, not a parameter: it trained well in minutes where a gradient codebook loss
leaves most codes unused, ZeRO-3 does not partition buffers, and a frozen codebook stays the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class Codebook(nn.Module):
    """N codes of dimension D on the unit sphere; a token becomes the nearest one (van den Oord et al. 2017; L2-normalised).

    Attributes:
        updates: whether training moves the codes. Off (frozen), the buffers never change.
        embedding: [N,D] float32, unit length.
        uses, sums: moving averages of how many tokens a code takes and of their sum, in multiples of the mean use.
        ready: 1 once started from data.
    """

    embedding: Tensor
    uses: Tensor
    sums: Tensor
    ready: Tensor

    def __init__(self, codes: int, dim: int, *, decay: float = 0.98, revive_below: float = 0.1):
        super().__init__()
        self.decay, self.revive_below, self.updates = decay, revive_below, True
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
        dead = self.uses < self.revive_below
        if bool(dead.any()):
            fresh = self._candidates(flat, int(dead.sum()), generator)
            self.embedding[dead], self.sums[dead], self.uses[dead] = fresh, fresh, 1.0

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
    counts = torch.bincount(indices.flatten(), minlength=codes).float()
    share = counts / counts.sum().clamp(min=1.0)
    perplexity = torch.exp(-(share * share.clamp(min=1e-9).log()).sum())
    return 100 * (counts > 0).float().mean(), perplexity
