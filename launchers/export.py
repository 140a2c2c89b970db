"""Writes a trained model as a folder to hand on: `python launchers/export.py --model runs/stage3 --output my_model`."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli
from imanim.errors import InputError

DESCRIPTION = """Writes the weights of a training run as a model folder to hand on, by default at half the size (bfloat16).

  python launchers/export.py --model runs/stage3 --output my_model
  python launchers/export.py --checkpoint runs/stage3/checkpoints/step-000500 --output my_model

The second takes any checkpoint, whatever number of ranks wrote it, on a machine without a GPU. The folder loads like any model:
animate.py --model my_model, train.py init_from=my_model. What trained it is kept inside."""

DTYPES = ("bfloat16", "float32")


def main(argv: list[str]) -> int:
    """Parses, copies, says what was written."""
    parser = cli.parser(DESCRIPTION, config=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="training run or model folder")
    source.add_argument("--checkpoint", metavar="DIR", help="a run's checkpoint: its moving average, if it has one")
    parser.add_argument("--raw", action="store_true", help="with --checkpoint: the weights, not their moving average")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights; the codebook stays float32")
    parser.add_argument("--sampling-steps", type=int, help="record that so many denoising steps suit these weights")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    args = parser.parse_args(argv)
    if args.sampling_steps is not None and args.sampling_steps < 1:
        raise InputError(f"--sampling-steps {args.sampling_steps}: must be at least 1")
    if Path(args.output).exists() and not args.overwrite:
        raise InputError(f"{args.output}: exists; choose another --output or add --overwrite")
    sizes = _write(args)
    for part, size in sizes.items():
        print(f"{part:20} {size / 1e6:8.2f} MB")
    print(f"{args.output}: {sum(sizes.values()) / 1e6:.2f} MB in {args.dtype}")
    return 0


def _write(args: argparse.Namespace) -> dict[str, int]:
    """Writes the folder. Returns the size of each part in bytes."""
    import torch

    from imanim.inference import find_model
    from imanim.models import files

    output, dtype = Path(args.output), getattr(torch, args.dtype)
    if args.checkpoint is None:
        return files.convert(find_model(args.model), output, dtype, sampling_steps=args.sampling_steps)
    from imanim.training.checkpoint import model_in

    whole = output.with_name(output.name + ".float32")
    try:
        files.save(whole, *model_in(args.checkpoint, raw=args.raw))
        return files.convert(whole, output, dtype, sampling_steps=args.sampling_steps)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


if __name__ == "__main__":
    cli.run(main)
