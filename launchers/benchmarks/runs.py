"""Trainings that a benchmark times: each in processes of its own, one after another, the sides of a ratio in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imanim.errors import InputError
from imanim.inference import PACKAGED_MODEL

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 2
"""Steps at the start that no figure takes: memory is allocated, kernels are chosen."""
POLL_SEC = 0.02


@dataclass
class Timed:
    """One training, as its metrics.jsonl tells it.

    Args:
        step_sec: seconds of each step after the first ``WARM_UP``.
        first_sec: from starting the process to the end of the first step.
        peak_bytes: the most memory that its first rank had resident (on a GPU: allocated).
    """

    step_sec: list[float]
    first_sec: float
    peak_bytes: float


def settings(data: Path, output: Path, *, steps: int, batch: int, extra: Sequence[str] = ()) -> list[str]:
    """The words of a stage-3 training of the packaged model that only trains."""
    return [
        f"data.train={data}",
        f"init_from={PACKAGED_MODEL}",
        f"output={output}",
        f"max_steps={steps}",
        f"batch.global_size={batch}",
        "data.workers=0",
        "monitor.log_every=1",
        "monitor.tensorboard=false",
        "monitor.validate_every=0",
        "monitor.picture_every=0",
        "monitor.checkpoint_every=0",
        *extra,
    ]


def start(ranks: int = 1) -> list[str]:
    """What comes before a launcher's file to start it on so many ranks of this machine."""
    if ranks == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]


def train(command: Sequence[str], output: Path) -> Timed:
    """Runs a training to its end and reads what it wrote to ``output/metrics.jsonl``.

    Raises:
        InputError: it failed; with the last line that it printed.
    """
    metrics, began, first = output / "metrics.jsonl", time.monotonic(), None
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if first is None and metrics.is_file() and "\n" in metrics.read_text():
                first = time.monotonic() - began
            time.sleep(POLL_SEC)
        said.seek(0)
        printed = said.read().strip().splitlines() or ["no message"]
    if process.returncode or first is None:
        raise InputError(f"{' '.join(command[:6])} ...: exit code {process.returncode}: {printed[-1]}")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if "sec_per_step" in line]
    peak = max(line["memory_peak_bytes"] for line in steps)
    return Timed([line["sec_per_step"] for line in steps[WARM_UP:]], first, peak)


def in_turns(sides: Mapping[str, Any], turns: int) -> dict[str, list[Timed]]:
    """Every side's trainings, ``turns`` of each, alternating; a side is called with the number of the turn."""
    found: dict[str, list[Timed]] = {name: [] for name in sides}
    for turn in range(turns):
        for name, side in sides.items():
            found[name].append(side(turn))
    return found


def figures(found: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, float]]:
    """Medians of a side: of all its steps, and over its turns."""
    return {
        name: {
            "step_sec": statistics.median(second for run in timed for second in run.step_sec),
            "first_step_sec": statistics.median(run.first_sec for run in timed),
            "peak_gb": statistics.median(run.peak_bytes for run in timed) / 1e9,
        }
        for name, timed in found.items()
    }


def ratio(one: Sequence[Timed], other: Sequence[Timed], of: str = "step") -> dict[str, Any]:
    """``one`` over ``other``: the median of the turns, and each turn's, from which one sees how sure it is."""
    value = {
        "step": lambda t: statistics.median(t.step_sec),
        "first": lambda t: t.first_sec,
        "peak": lambda t: t.peak_bytes,
    }[of]
    turns = [value(a) / value(b) for a, b in zip(one, other, strict=True)]
    return {"ratio": statistics.median(turns), "turns": turns}


def text(found: Mapping[str, Any]) -> str:
    """A ratio as it is printed."""
    return f"x{found['ratio']:.2f} ({min(found['turns']):.2f} to {max(found['turns']):.2f})"
