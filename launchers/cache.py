"""Encodes training targets once: `python launchers/cache.py input=SHARDS output=SHARDS2 model=MODEL [key=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli, distributed

DESCRIPTION = """Copies shards and adds to every sample the latents that stages 2 and 3 would otherwise compute in every step.

  python launchers/cache.py input=shards/ output=shards_wan/ model=wan2.1-1.3b model_settings.base=Wan2.1-T2V-1.3B-Diffusers
  python launchers/cache.py input=shards/ output=shards_tiny/ model=runs/stage2 dtype=bf16
  torchrun --nproc_per_node 8 launchers/cache.py input=shards/ output=shards_wan/ model=wan2.1-i2v-14b model_settings.base=BASE

Training uses them by itself: data.train=shards_wan/. The same command again continues, on any number of ranks. A sample that
cannot be encoded is left out, named in OUTPUT/report.json, and makes the exit code 1. `--settings` lists every key=value."""


def main(argv: list[str]) -> int:
    """Parses, runs, prints what came out."""
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    args = cli.parse(parser, argv)
    distributed.prepare_environment()
    from imanim import config
    from imanim.inference import latent_cache

    if args.settings:
        print(config.help_text(latent_cache.CacheConfig))
        return 0
    cfg = config.load(latent_cache.CacheConfig, args.config, args.overrides)
    made = latent_cache.run(cfg, dry_run=args.dry_run)
    print("\n".join(made.lines))
    return 1 if made.failed else 0


if __name__ == "__main__":
    cli.run(main)
