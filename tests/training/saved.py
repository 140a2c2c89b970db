"""What a checkpoint holds, whatever the ranks that wrote it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from imanim.training.fragments import Reader


def optimized(folder: Path, step: int) -> dict[str, Tensor]:
    """All that a checkpoint holds of the trained parameters, put together: weights, AdamW's averages, moving averages."""
    path = folder / "checkpoints" / f"step-{step:06d}"
    reader = Reader([*path.glob("optimizer-rank-*"), *path.glob("average-rank-*")])
    out: dict[str, list[Tensor]] = {}
    for name, what in sorted(reader.pieces):
        out.setdefault(what, []).append(reader.read(name, what, 0, reader.size(name, what)))
    return {what: torch.cat(pieces) for what, pieces in out.items()}
