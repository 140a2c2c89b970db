"""Run by test_quantizer.py in processes of their own: a codebook that trains on several ranks, each with its own tokens."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from imanim import distributed
from imanim.models.quantizer import Codebook

CODES, DIM, STEPS, WORLDS = 24, 4, 12, (3, 2, 1)
REVIVAL = {"aggressive": 0.9, "none": 0.0}


def tokens(rank: int, step: int) -> Tensor:
    """Unit tokens [30 + 5*rank,D] of one rank: around a direction of its own, so that most codes are used by one rank alone."""
    random = torch.Generator().manual_seed(100 * rank + step)
    around = torch.eye(DIM)[rank]
    return F.normalize(around + 0.3 * torch.randn(30 + 5 * rank, DIM, generator=random), dim=-1)


def new_book(revive_below: float) -> Codebook:
    torch.manual_seed(0)
    book = Codebook(CODES, DIM, decay=0.7, revive_below=revive_below).train()
    book.ready.fill_(1)
    return book


def train(rank: int, revive_below: float) -> dict[str, Tensor]:
    """The codebook's buffers at the end, codes revived in all, health, and which codes this rank's last tokens took."""
    book, revived = new_book(revive_below), torch.zeros(())
    for step in range(STEPS):
        # Every rank draws from a generator of its own, as in training: revival must not hang on them agreeing.
        _, indices, _ = book(tokens(rank, step), torch.Generator().manual_seed(1000 * rank + step))
        revived += book.health().revived
    used = torch.bincount(indices, minlength=CODES)
    return {**book.state_dict(), "revived": revived, "health": torch.stack(list(book.health())), "used": used}


def run(rank: int, folder: str) -> None:
    """One process: it is a rank of every world large enough for it, one world after the other."""
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank >= world:
            break
        meet = f"file://{folder}/meet-{world}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world, timeout=timedelta(seconds=30))
        for name, revive_below in REVIVAL.items():
            save_file(train(rank, revive_below), Path(folder) / f"{name}-{world}-{rank}.safetensors")
        distributed.stop()
