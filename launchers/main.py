"""The console command `imanim`: every launcher under one name, as in `imanim train --config configs/stage1.yaml ...`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli
from imanim.errors import InputError

COMMANDS = {
    "train": "trains one stage of the model",
    "preprocess": "makes shards of videos or of rendered people",
    "index": "makes other people's WebDataset tars ready to train on",
    "cache": "adds the latents of targets to shards, once for all steps",
    "animate": "makes a character perform the motion of a video",
    "evaluate": "measures a model, or anybody's videos, under a protocol; compares results",
    "export": "writes a trained model as a folder to hand on",
    "weights": "lists, fetches and checks the published networks that data and metrics need",
    "ablate": "trains and measures variants of the method under one budget",
    "evidence": "renders the benchmark, measures, probes, and writes the page of evidence; compares two",
    "demo": "data, three stages of training, animation and a report",
    "plan": "forecasts memory, operations and GPUs of a training run",
    "benchmark": "measures steps, loading and memory against plain alternatives",
    "doctor": "examines this machine, its data and links, and says what to fix",
}
"""Launcher to what it does."""


def main(argv: list[str]) -> int | None:
    """Runs the launcher that the first word names with the rest of the words."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise InputError(f"imanim {name}: no such command; use one of {', '.join(COMMANDS)}")
    sys.argv = [f"imanim {name}", *rest]  # what the launcher's own --help calls itself
    return importlib.import_module(f"launchers.{name}").main(rest)


def usage() -> str:
    """The commands, one line each."""
    lines = [f"  imanim {name:<11} {what}" for name, what in COMMANDS.items()]
    return "usage: imanim COMMAND ...\n\n" + "\n".join(lines) + "\n\n`imanim COMMAND --help` says more."


def run() -> None:
    """The console script's entry point."""
    cli.run(main)


if __name__ == "__main__":
    run()
