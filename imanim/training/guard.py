"""What happens when a loss or a gradient is not finite, or a loss leaps: agreed by all ranks, written down, never silent."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from imanim import distributed
from imanim.data.files import write_json
from imanim.data.stream import Batch
from imanim.errors import NotFiniteError
from imanim.training import checkpoint
from imanim.training.config import FailureConfig
from imanim.training.objective import Losses

FOLDER = "failures"


class Guard:
    """Watches the losses and gradients of a run.

    A step with a loss or gradient that is not finite does not reach the optimizer on any rank, its keys and numbers are written to
    ``OUTPUT/failures/step-N.json``, and what its forward pass has changed (the codebook's averages) is put back. Up to
    ``skip_in_a_row`` such steps are left out one after the other; one more ends the run.

    Attributes:
        fine: whether the last micro-batch's losses were finite on all ranks.
        skipped: steps left out since the run began, also before it was resumed.
        in_a_row: those since the last good step.
        spikes: losses above ``spike_factor`` times the median of the last ones.
    """

    def __init__(self, cfg: FailureConfig, output: str | Path, moving: Mapping[str, Tensor]):
        """``moving``: the buffers that a forward pass changes."""
        self.cfg, self.output = cfg, Path(output)
        self.skipped = self.in_a_row = self.spikes = 0
        self._moving = dict(moving)
        self.fine = True
        self._before: dict[str, Tensor] = {}
        self._seen: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._recent: deque[float] = deque(maxlen=cfg.spike_window)

    def begin(self) -> None:
        """Before a step's first forward pass."""
        self._before = {name: buffer.clone() for name, buffer in self._moving.items()}
        self._seen, self._losses = [], []

    def look(self, batch: Batch, losses: Losses, everybodys: list[float]) -> Tensor:
        """Takes in a micro-batch. Returns the loss to run backward from: not finite on every rank when it was on one.

        ``everybodys``: the loss of each rank, in their order. Every rank then takes the same path through the engine, and the
        engine drops the gradient.
        """
        mine, self.fine = float(losses.total.detach()), all(map(math.isfinite, everybodys))
        self._losses += everybodys
        self._seen.append({"keys": list(batch["keys"]), "loss": _number(mine)})
        if self.fine:
            return losses.total
        self._seen[-1] |= {"terms": _numbers(losses.terms), "batch": _statistics(batch)}
        return losses.total * math.nan

    def passes(self, step: int, norm: float) -> bool:
        """Whether the optimizer has taken step ``step`` (0 = the first), given the gradient's norm. The same on every rank.

        Raises:
            NotFiniteError: too many steps in a row were not finite.
        """
        if math.isfinite(norm) and all(map(math.isfinite, self._losses)):
            self.in_a_row = 0
            return True
        for name, buffer in self._moving.items():
            buffer.copy_(self._before[name])
        self.skipped += 1
        self.in_a_row += 1
        where = self._write_down(step, norm)
        if self.in_a_row > self.cfg.skip_in_a_row:
            raise NotFiniteError(
                f"step {step + 1}, {self.in_a_row} in a row: {where}; {_newest(self.output)}, no weight has changed since step "
                f"{step + 1 - self.in_a_row}; look at these samples, lower optimizer.lr or set optimizer.grad_clip"
            )
        if distributed.place().is_first:
            print(f"warning: step {step + 1} was left out: {where}", flush=True)
        return False

    def spike(self, step: int) -> str | None:
        """A warning when the loss of a step that passed leaps; on every rank the same."""
        loss, usual = statistics.fmean(self._losses), list(self._recent)
        self._recent.append(loss)
        if self.cfg.spike_factor == 0 or len(usual) < self.cfg.spike_window // 2:
            return None
        median = statistics.median(usual)
        if loss <= self.cfg.spike_factor * median or median <= 0:
            return None
        self.spikes += 1
        worst = max(range(len(self._losses)), key=self._losses.__getitem__)
        rank = worst % distributed.place().world_size
        return (
            f"warning: step {step + 1}: loss {loss:.4g} is {loss / median:.1f} times the median of the last {len(usual)} steps "
            f"({median:.4g}); highest on rank {rank} ({self._losses[worst]:.4g})"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "spikes": self.spikes, "recent": list(self._recent)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on where a checkpoint was made."""
        self.skipped, self.in_a_row, self.spikes = state["skipped"], state["in_a_row"], state["spikes"]
        self._recent.extend(state["recent"])

    def _write_down(self, step: int, norm: float) -> str:
        """Writes the file of a bad step. Returns in words what was not finite, and where it is written. A collective."""
        mine = {"rank": distributed.place().rank, "micro_batches": self._seen}
        ranks = distributed.gather(mine)
        bad = [r for r in ranks if any(m["loss"] is None for m in r["micro_batches"])]
        path = self.output / FOLDER / f"step-{step + 1:06d}.json"
        if distributed.place().is_first:
            # Without a bad loss the gradient itself went wrong: any sample may have done it.
            write_json(path, {"step": step + 1, "gradient_norm": _number(norm), "ranks": bad or ranks})
        if not bad:
            return f"the gradient is not finite though the loss was; the samples are in {path}"
        keys = {r["rank"]: [k for m in r["micro_batches"] if m["loss"] is None for k in m["keys"]] for r in bad}
        named = "; ".join(f"rank {rank}: samples {', '.join(found[:8])}" for rank, found in list(keys.items())[:4])
        return f"the loss is not finite ({named}); all of it is in {path}"


def _newest(output: Path) -> str:
    found = checkpoint.newest(output)
    return f"the newest checkpoint is step {found.step}" if found else "nothing was saved yet"


def _statistics(batch: Batch) -> dict[str, Any]:
    """Range and finite share of each tensor of a batch."""
    found = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            finite = value.float().isfinite()
            good = value[finite].float()
            extremes = [float(good.min()), float(good.max())] if len(good) else None
            found[name] = {"shape": list(value.shape), "finite": float(finite.float().mean()), "range": extremes}
    return found


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, float | None]:
    return {name: _number(float(value)) for name, value in terms.items()}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
