"""Clips read and decoded per CPU-second: our loader by index in its own order, and `webdataset` from first to last.

    python launchers/benchmark.py loader
    python launchers/benchmark.py loader --data shards/ --json loader.json

Both read the same tars, decode the same members with the same decoder into the same tensors, on one core, in turns. What
differs is how they come to the bytes: ours reads a sample anywhere by its place in the index, which is what makes
an exact order and an exact continuation possible; `webdataset` reads on and shuffles in a buffer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imanim import cli
from imanim.data.files import write_json
from launchers.benchmarks import clips

BUFFER = 64
"""Samples that webdataset shuffles among."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns clips per CPU-second of both sides, and ours over the other's."""
    args = _parser().parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="imanim-loader-") as folder:
        if args.data:
            data = Path(args.data)
        else:
            size = {"frames": args.frames, "height": args.size, "width": args.size}
            data = clips.write(Path(folder) / "shards", args.clips, fps=16.0, cross=False, shards=2, **size)
        rates = cpu_rates({"ours": ours(data), "webdataset": by_webdataset(data)}, args.turns)
    out = compared(rates, "ours", "webdataset")
    print(
        f"clips per CPU-second: {out['ours_clips_per_cpu_s']:,.1f} ours, {out['webdataset_clips_per_cpu_s']:,.1f} by "
        f"webdataset: x{out['ratio']:.2f} ({min(out['ratios']):.2f} to {max(out['ratios']):.2f})"
    )
    if args.json:
        write_json(args.json, out)
    return out


def ours(data: Path) -> Callable[[], int]:
    """One epoch of the training loader's samples, in its order, as tensors."""
    from imanim.data.order import Order
    from imanim.data.sample import decode
    from imanim.data.shards import ShardSet
    from imanim.data.stream import to_tensors

    shards = ShardSet(data, clips.SPLIT)

    def epoch() -> int:
        seen = 0
        for i in Order(0, len(shards), [range(len(shards))]).batch(0):
            seen += bool(to_tensors(decode(*shards.read(i))))
        return seen

    return epoch


def by_webdataset(data: Path) -> Callable[[], int]:
    """One epoch of the same through `webdataset`."""
    import webdataset

    from imanim.data.sample import decode
    from imanim.data.stream import to_tensors

    urls = [str(path) for path in sorted(data.glob(f"{clips.SPLIT}-*.tar"))]

    def tensors(found: dict[str, Any]) -> Any:
        members = {name: value for name, value in found.items() if not name.startswith("__")}
        return to_tensors(decode(found["__key__"], members))

    def epoch() -> int:
        read = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(BUFFER).map(tensors)
        return sum(1 for _ in read)

    return epoch


def cpu_rates(sides: dict[str, Callable[[], int]], turns: int) -> dict[str, list[float]]:
    """Clips per CPU-second of each side, a figure a turn, in turns, after one turn that does not count."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(turns):
        for name, side in sides.items():
            begun = time.process_time()
            rates[name].append(side() / (time.process_time() - begun))
    return rates


def compared(rates: dict[str, list[float]], one: str, other: str) -> dict[str, Any]:
    """Medians of both, and the ratio turn by turn."""
    pairs = [a / b for a, b in zip(rates[one], rates[other])]
    medians = {f"{name}_clips_per_cpu_s": statistics.median(rate) for name, rate in rates.items()}
    return {**medians, "ratio": statistics.median(pairs), "ratios": pairs}


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--data", metavar="DIR", help="shards (default: moving patterns, made for this)")
    p.add_argument("--clips", type=int, default=48, help="clips to make (default 48)")
    p.add_argument("--frames", type=int, default=17, help="frames of a clip (default 17)")
    p.add_argument("--size", type=int, default=256, help="height and width (default 256)")
    p.add_argument("--turns", type=int, default=5, help="turns of each side (default 5)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p
