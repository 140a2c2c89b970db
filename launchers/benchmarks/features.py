"""Seconds that the feature networks of set metrics take, ours against a published extractor with the same weights.

    python launchers/benchmark.py features
    python launchers/benchmark.py features --case inception --threads 1 2 --turns 7 --json features.json

Both sides get the same inputs in the same batches, in turns, in one process; a ratio is the median of its turns'. Wall time;
where others use the machine, the CPU time's ratio is the one to read. The published packages are not installed with imanim;
what is missing is named.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from imanim import cli, weights
from imanim.data.files import write_json
from imanim.errors import InputError
from launchers.benchmarks import references

Side = Callable[[np.ndarray], np.ndarray]
"""A batch of inputs to rows of features."""


@dataclass(frozen=True)
class Case:
    """One network: what goes in (a batch from a random generator), both sides by batch size, and what they need."""

    unit: str
    against: str
    package: str
    weights: tuple[str, ...]
    inputs: Callable[[np.random.Generator, int], np.ndarray]
    ours: Callable[[int], Side]
    theirs: Callable[[], Side]


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns by case and number of threads: ``ours`` and ``theirs`` (seconds per 1000), the ratios of wall and
    of CPU time, ours over theirs, and how far the features lie ``apart``."""
    args = _parser().parse_args(arguments)
    import torch

    references.without_torchvision()
    out: dict[str, Any] = {}
    for name in args.case:
        case = CASES[name]
        references.installed(case.package)
        weights.require_all(case.weights)
        inputs = case.inputs(np.random.default_rng(0), args.count)
        batches = [inputs[i : i + args.batch] for i in range(0, len(inputs), args.batch)]
        sides = {"ours": case.ours(args.batch), "theirs": case.theirs()}
        for threads in args.threads:
            torch.set_num_threads(threads)
            found = measured(sides, batches, args.turns)
            out[f"{name}, {threads} threads"] = found
            print(
                f"{name}, {threads} threads: ours {found['ours']:.1f} s per 1000 {case.unit}, {case.against} "
                f"{found['theirs']:.1f} s: x{found['ratio']:.2f} ({min(found['ratios']):.2f} to {max(found['ratios']):.2f}), "
                f"CPU time x{found['cpu_ratio']:.2f}; features {found['apart']:.0e} apart",
                flush=True,
            )
    if args.json:
        write_json(args.json, out)
    return out


def measured(sides: dict[str, Side], batches: list[np.ndarray], turns: int) -> dict[str, Any]:
    """Both sides in turns, after one turn that does not count and shows that they do the same."""
    first = {name: np.concatenate([side(batch) for batch in batches]) for name, side in sides.items()}
    if first["ours"].shape != first["theirs"].shape:
        raise InputError(f"features: ours {first['ours'].shape}, theirs {first['theirs'].shape}; compare the same ones")
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            begun = time.perf_counter(), time.process_time()
            for batch in batches:
                side(batch)
            wall[name].append(time.perf_counter() - begun[0])
            cpu[name].append(time.process_time() - begun[1])
    ratios, cpu_ratios = ([a / b for a, b in zip(t["ours"], t["theirs"], strict=True)] for t in (wall, cpu))
    thousand = 1000 / sum(map(len, batches))
    return {
        **{name: statistics.median(seconds) * thousand for name, seconds in wall.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_ratio": statistics.median(cpu_ratios),
        "apart": float(np.abs(first["ours"] - first["theirs"]).max()),
    }


def _pictures(random: np.random.Generator, count: int) -> np.ndarray:
    return random.integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)


def _inception(batch: int) -> Side:
    from evaluation.features.inception import PictureFeatures
    from evaluation.metrics.base import Machine

    return PictureFeatures("tf1", machine=Machine(batch_size=batch))


def _torch_fidelity() -> Side:
    import torch

    network = references.fidelity_network(2048)

    @torch.inference_mode()
    def features(pictures: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())[0].numpy()

    return features


CASES = {
    "inception": Case(
        "pictures", "torch-fidelity", "torch_fidelity", ("inception-2015",), _pictures, _inception, _torch_fidelity
    ),
}


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES), help="networks (default: all)")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)")
    p.add_argument("--count", type=int, default=32, help="inputs a turn (default 32)")
    p.add_argument("--batch", type=int, default=16, help="inputs at a time (default 16)")
    p.add_argument("--turns", type=int, default=5, help="turns of each side (default 5)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p
