"""Measures a model or anybody's videos: `python launchers/evaluate.py --config configs/eval/doubles_cross.yaml model=RUN`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli
from imanim.errors import InputError

if TYPE_CHECKING:
    from evaluation.benchmark import EvalConfig

DESCRIPTION = """Measures under a protocol: a model's videos (made here, resumable), or anybody's.

  python launchers/evaluate.py --config configs/eval/doubles_cross.yaml model=runs/stage3
  python launchers/evaluate.py --config configs/eval/doubles_cross.yaml --predictions FOLDER     no model is loaded
  torchrun --nproc_per_node 8 launchers/evaluate.py --config ...      (Slurm: launchers/slurm/evaluate.sbatch)

  python launchers/evaluate.py compare RUN_A RUN_B        paired differences; refused across protocols
  python launchers/evaluate.py table RUN ... [--latex]    a table for a paper
  python launchers/evaluate.py metrics                    what can be measured, and with which weights
  python launchers/evaluate.py sanity --config ...        do the metrics order blurred, noisy, shuffled, late videos?

Writes results.json, report.html, a Markdown and a LaTeX table row, and some videos into `output`. The same command again goes
on where it stopped. `--settings` lists every key=value. Exit code 1: some samples could not be measured (the report says which
and why)."""

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str]) -> int:
    verbs: dict[str, Callable[[list[str]], int]] = {
        "compare": _compare,
        "table": _table,
        "metrics": _metrics,
        "sanity": _sanity,
    }
    if argv and argv[0] in verbs:
        return verbs[argv[0]](argv[1:])
    args = cli.parse(_parser(), argv)

    from evaluation.benchmark import EvalConfig
    from imanim import config

    if args.settings:
        print(config.help_text(EvalConfig))
        return 0
    if args.config is None:
        raise InputError("--config: not given; e.g. --config configs/eval/doubles_cross.yaml model=runs/stage3")
    given = {"predictions": args.predictions} if args.predictions is not None else {}
    cfg = config.load(EvalConfig, args.config, args.overrides, settings=given)
    return _dry_run(cfg) if args.dry_run else _evaluate(cfg)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--predictions", metavar="FOLDER", help="measure these videos: KEY.mp4 or KEY/ a sample")
    parser.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    return parser


def _evaluate(cfg: EvalConfig) -> int:
    from imanim import distributed

    place = distributed.prepare_environment()
    started = time.monotonic()
    data = cfg.data or _generated(cfg, place.is_first)

    from evaluation.benchmark import evaluate

    result = evaluate(cfg, data)
    if place.is_first:
        from evaluation.outputs import write_outputs

        for line in write_outputs(cfg, data, result):
            print(line)
        print(f"measured in {time.monotonic() - started:.0f} s")
    # The first rank alone says it, last of all: a launcher ends everybody when one ends badly.
    return 1 if result["refused"] and place.is_first else 0


def _dry_run(cfg: EvalConfig) -> int:
    from evaluation.benchmark import check_measured
    from evaluation.metrics import registry
    from evaluation.protocols import guard, sources

    protocol = cfg.protocol
    measured = check_measured(cfg)
    registry.check({name: protocol.metric_settings.get(name, {}) for name in protocol.metrics})
    what = f"the videos in {measured}" if cfg.predictions else str(measured)
    data = cfg.data or _place_of_generated(cfg)
    if Path(data).is_dir() or cfg.data is not None:
        items = sources.items(protocol, data)
        guard.check(protocol, items)
        filmed = sum(item.filmed for item in items)
        print(f"would measure {what} on {len(items)} samples ({filmed} with video) of {data} and write {cfg.output}")
    else:
        print(f"would make the samples of {protocol.source.generate} in {data}, measure {what} and write {cfg.output}")
    print(f"protocol {protocol.name} {protocol.version}: {', '.join(protocol.metrics)}")
    return 0


def _generation_file(cfg: EvalConfig) -> Path:
    """The protocol's own configuration of samples: relative to here, as protocol files write it."""
    named = Path(str(cfg.protocol.source.generate))
    return named if named.is_file() else ROOT / named


def _place_of_generated(cfg: EvalConfig) -> str:
    from imanim.config import read_yaml

    return str(read_yaml(_generation_file(cfg))["output"])


def _generated(cfg: EvalConfig, first: bool) -> str:
    """Makes the protocol's samples (nothing to do when they are there); the other ranks wait for the manifest."""
    from data_pipeline import preprocess

    data = _place_of_generated(cfg)
    if first:
        print(f"samples of {cfg.protocol.name}: {data}", flush=True)
        preprocess.run(_generation_file(cfg), [], progress=True, dry_run=False)
        return data
    while not (Path(data) / "manifest.json").is_file():
        time.sleep(1.0)
    return data


# ----------------------------------------------------------------------------------------------------- other verbs


def _compare(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="evaluate compare",
        description="Paired differences of two results, A minus B, with 95 % intervals. Results of different protocols or samples"
        " are refused.",
    )
    parser.add_argument("a", metavar="A", help="results.json, or the folder that holds it")
    parser.add_argument("b", metavar="B", help="the same of the other")
    parser.add_argument("--html", metavar="FILE", help="also write a page")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a terminal table")
    args = parser.parse_args(argv)

    from evaluation import compare_tables, results
    from evaluation.compare import compare
    from evaluation.markup import page

    found = compare(results.load(args.a), results.load(args.b))
    print(compare_tables.render(found, "markdown" if args.markdown else "terminal"))
    if args.html:
        from imanim.data.files import write_atomic

        whole = page(" and ".join(found["names"]), found["verdict"], [("Paired", compare_tables.render(found, "html"))])
        write_atomic(args.html, whole.encode())
        print(f"{args.html} written")
    return 0


def _table(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="evaluate table", description="Results of one protocol as a table for a paper."
    )
    parser.add_argument("results", nargs="+", metavar="RESULT", help="results.json, or the folder that holds it")
    parser.add_argument("--latex", action="store_true", help="LaTeX instead of Markdown")
    parser.add_argument("--published", action="store_true", help="put published numbers beneath, as not comparable")
    parser.add_argument(
        "--values", metavar="NAMES", help="columns, separated by commas (default: the protocol's headline)"
    )
    args = parser.parse_args(argv)

    from evaluation import results, tables

    loaded = [results.load(path) for path in args.results]
    chosen = args.values.split(",") if args.values else tables.columns(loaded)
    print((tables.latex if args.latex else tables.markdown)(loaded, chosen, published=args.published), end="")
    return 0


def _sanity(argv: list[str]) -> int:
    parser = cli.parser(
        "Makes a protocol's true videos worse in known ways (blur, noise, shuffle, late, freeze), three strengths each, measures\n"
        "them like anybody's, and says which values order what. Exit code 1: a value does not order what it is there to order."
    )
    parser.add_argument("--ways", metavar="NAMES", help="separated by commas (default: all)")
    args = cli.parse(parser, argv)

    from evaluation import sanity
    from evaluation.benchmark import EvalConfig
    from imanim import config
    from imanim.data.files import write_atomic

    if args.config is None:
        raise InputError("--config: not given; e.g. --config configs/eval/doubles_cross.yaml")
    cfg = config.load(EvalConfig, args.config, args.overrides, settings={"output": "runs/sanity"})
    data = cfg.data or _generated(cfg, True)
    report = sanity.check(cfg, data, ways=args.ways.split(",") if args.ways else tuple(sanity.WAYS))
    table = sanity.markdown(report)
    write_atomic(Path(cfg.output) / "sanity.md", table.encode())
    print(table, end="")
    for line in report["failed"]:
        print(f"FAILED {line}")
    print(f"{cfg.output}/sanity.json and sanity.md written")
    return 1 if report["failed"] else 0


def _metrics(argv: list[str]) -> int:
    argparse.ArgumentParser(
        prog="evaluate metrics", description="Every metric by name: its settings and the weights it needs."
    ).parse_args(argv)

    from evaluation.metrics import registry

    print(registry.describe())
    return 0


if __name__ == "__main__":
    cli.run(main)
