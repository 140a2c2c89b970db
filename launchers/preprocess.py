"""Makes shards: `python launchers/preprocess.py --config configs/data/videos.yaml input=VIDEOS output=SHARDS`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli
from imanim.errors import InputError

DESCRIPTION = """Makes shards: from a folder of videos, or from rendered Doubles, as the configuration's `source` says.

  python launchers/preprocess.py --config configs/data/videos.yaml input=videos/ output=shards/
  python launchers/preprocess.py --config configs/data/doubles.yaml output=shards/

The same command again continues: finished work is not redone. `--settings` lists every key=value of the source."""


def main(argv: list[str]) -> int:
    """Parses, runs, prints what came out. Exit code 0 when at least one sample was made."""
    parser = cli.parser(DESCRIPTION)
    parser.add_argument(
        "--settings", action="store_true", help="list every setting of --config's source, with its meaning"
    )
    args = cli.parse(parser, argv)
    if args.config is None:
        raise InputError("--config: not given; e.g. --config configs/data/videos.yaml input=videos/ output=shards/")
    from data_pipeline import preprocess

    if args.settings:
        print(preprocess.describe(args.config))
        return 0
    made = preprocess.run(args.config, args.overrides, progress=True, dry_run=args.dry_run)
    print("\n".join(made.lines()))
    return 0


if __name__ == "__main__":
    cli.run(main)
