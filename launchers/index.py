"""Makes WebDataset tars ready to train on: `python launchers/index.py input=FOLDER [key=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli

DESCRIPTION = """Writes an index beside every tar of a folder, and manifest.json; the tars are only read.

  python launchers/index.py input=tars/                          # train-00000.tar belongs to split train
  python launchers/index.py input=tars/ split=train workers=8
  python launchers/index.py input=tars/ decode=true              # decodes every sample, and leaves out the damaged ones

The samples must hold the members of docs/data.md. What cannot be used is left out, named in FOLDER/index_report.json, and makes
the exit code 1. The same command again reads only new and changed tars. `--settings` lists every key=value."""


def main(argv: list[str]) -> int:
    """Parses, runs, prints what came out."""
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    args = cli.parse(parser, argv)
    from imanim import config
    from imanim.data import indexing

    if args.settings:
        print(config.help_text(indexing.IndexConfig))
        return 0
    cfg = config.load(indexing.IndexConfig, args.config, args.overrides)
    made = indexing.run(cfg, dry_run=args.dry_run)
    print("\n".join(made.lines))
    return 1 if made.left_out else 0


if __name__ == "__main__":
    cli.run(main)
