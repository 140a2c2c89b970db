"""Measures imanim against plain alternatives, as ratios within one run: `python launchers/benchmark.py step`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli
from imanim.errors import InputError

BENCHMARKS = {
    "step": "a training step and its memory against a plain diffusers + accelerate loop; the time to the first step",
    "zero": "a training step under ZeRO 3 against ZeRO 0, on one rank and on two",
    "compile": "a training step compiled (torch.compile) against one as it is; what compiling costs at the start",
    "loader": "clips read and decoded per CPU-second against the webdataset package",
    "preprocess": "frames per CPU-second through each stage of preprocessing, against plain loops of the same libraries",
    "latents": "what the latent cache gains, and reading it against the webdataset package",
    "features": "the feature networks of set metrics (FID) against published extractors",
    "features_video": "features of video for FVD against a plain loop, one clip at a time",
    "storage": "clips and latents read from a bucket against a local folder, without and with workers",
}
"""Name, which is a module of launchers/benchmarks with a function ``run``, to what it measures."""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in BENCHMARKS:
        raise InputError(f"benchmark {name}: no such benchmark; use one of {', '.join(BENCHMARKS)}")
    sys.argv = [f"{sys.argv[0]} {name}", *rest]  # what the benchmark's own --help calls itself
    importlib.import_module(f"launchers.benchmarks.{name}").run(rest)
    return 0


def usage() -> str:
    """The benchmarks, one line each."""
    lines = [f"  {name:<14} {what}" for name, what in BENCHMARKS.items()]
    return (
        f"usage: {Path(sys.argv[0]).name} NAME [--json FILE] ...\n\n"
        + "\n".join(lines)
        + "\n\n`NAME --help` says more. Leave the machine alone meanwhile; docs/performance.md has our figures."
    )


if __name__ == "__main__":
    cli.run(main)
