"""The evidence from seeds to a page: `python launchers/evidence.py --config configs/evidence.yaml` (or `make evidence`)."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from imanim import cli
from imanim.errors import InputError
from launchers import steps

if TYPE_CHECKING:
    from evaluation.evidence.config import CommandConfig, EvidenceConfig

DESCRIPTION = """Renders the benchmark from its seeds, measures the model, probes its tokens, and writes a page of what came out.

  python launchers/evidence.py --config configs/evidence.yaml           everything: docs/evidence.md
  python launchers/evidence.py --config configs/evidence_quick.yaml     smaller, compared with the kept full result
  python launchers/evidence.py page --config configs/evidence.yaml      writes the page again from the kept files; measures nothing.
                                                                        ablation=, replications=, gap_arms=, curves= replace theirs
  python launchers/evidence.py compare FULL QUICK                       two folders of kept files: do they order things alike?

The same command again continues: finished steps are skipped. `--dry-run` lists the steps and how long they take, `--settings`
every key=value. Exit code 1: an ordering of this run surely contradicts the kept full result (`reference`)."""


@dataclass(frozen=True)
class Step:
    """A command of the run. ``program``: words that start Python; ``told``: how the page names the command."""

    name: str
    words: list[str]
    minutes: float
    program: list[str] = field(default_factory=lambda: [sys.executable])
    told_program: str = "python"

    @property
    def command(self) -> list[str]:
        """What is started, with launchers by their place in this checkout."""
        return [*self.program, *(str(ROOT / w) if w.startswith("launchers/") else w for w in self.words)]

    @property
    def told(self) -> str:
        """The same for people, to be run from the repository's root."""
        return f"{self.told_program} {shlex.join(_relative(word) for word in self.words)}"


def main(argv: list[str]) -> int:
    if argv[:1] == ["compare"]:
        return _compare(argv[1:])
    only_page = argv[:1] == ["page"]
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    args = cli.parse(parser, argv[only_page:])

    from evaluation.evidence.config import EvidenceConfig
    from imanim import config

    if args.settings:
        print(config.help_text(EvidenceConfig))
        return 0
    if args.config is None:
        raise InputError("--config: not given; e.g. --config configs/evidence.yaml")
    cfg = config.load(EvidenceConfig, args.config, args.overrides)
    if args.dry_run:
        return _dry_run(cfg)
    from evaluation.evidence import build

    _check(cfg)
    if only_page:
        for path in build.keep_named(cfg):
            print(f"{path} written")
    else:
        build.named(cfg)  # what is wrong with them is said before the long run, not after it
        _measure(cfg, _given(args.config, args.overrides))
    print(f"{build.write_page(cfg)} written")
    return _compared(cfg) if cfg.reference is not None else 0


# -------------------------------------------------------------------------------------------------------- the steps


def _plan(cfg: EvidenceConfig) -> list[Step]:
    """Every step that is a command, in order; the tokens are read in this process, after these."""
    data, output = cfg.data.output, Path(cfg.output)
    plan = [Step("data", ["launchers/preprocess.py", *_settings(cfg.data), f"output={data}"], cfg.data.minutes)]
    if cfg.data.verify:
        plan.append(Step("checksums", [word.replace("{data}", data) for word in cfg.data.verify], 0.0))
    model = [f"model={cfg.model}"] if cfg.model is not None else []
    measure = ["launchers/evaluate.py", *_settings(cfg.scores), f"data={data}", *model, f"output={output / 'scores'}"]
    plan.append(Step("scores", measure, cfg.scores.minutes, *_ranks(cfg.ranks)))
    if cfg.leakage is not None:
        # Probes are fitted by the first rank alone.
        probe = ["launchers/evaluate.py", *_settings(cfg.leakage), *model, f"output={output / 'leakage'}"]
        plan.append(Step("leakage", probe, cfg.leakage.minutes))
    return plan


def _settings(step: CommandConfig) -> list[str]:
    named = Path(step.config)
    return ["--config", str(named if named.is_file() else ROOT / named), *step.overrides]


def _ranks(count: int) -> tuple[list[str], str]:
    if count == 1:
        return [sys.executable], "python"
    how = ["--standalone", "--nproc_per_node", str(count)]
    return [sys.executable, "-m", "torch.distributed.run", *how], " ".join(["torchrun", *how])


def _given(file: str, overrides: list[str]) -> str:
    """This command's own settings, as a shell takes them."""
    return shlex.join(["--config", _relative(file), *overrides])


def _relative(word: str) -> str:
    """A word of a command without the place of this checkout."""
    return word.replace(f"{ROOT}/", "")


def _dry_run(cfg: EvidenceConfig) -> int:
    output = Path(cfg.output)
    total = 0.0
    for name, minutes, words in [
        *((s.name, s.minutes, s.told) for s in _plan(cfg)),
        ("tokens", cfg.tokens.minutes, "joints and codes, in this process"),
    ]:
        before = steps.seconds_before(name, output)
        state = f"about {60 * minutes:.0f} s" if before is None else f"finished before in {before:.0f} s"
        total += 60 * minutes if before is None else 0.0
        print(f"{name}: {words}  ({state})")
    print(f"then {cfg.keep.results}/*.json, {cfg.keep.pictures}/evidence_*.png and {cfg.keep.page} are written")
    if cfg.reference is not None:
        print(f"and orderings are compared with {cfg.reference}")
    print(f"about {total:.0f} s to do on two cores")
    return 0


def _check(cfg: EvidenceConfig) -> None:
    """What would fail at the end of a long run, before it starts. Raises InputError."""
    from evaluation.evidence import build, page

    page.check_words(page.read_words(cfg.keep.words), cfg.keep.words)
    named = (cfg.ablation, *cfg.replications.values(), *cfg.curves.values(), *cfg.gap_arms.values())
    for name in named:
        if name is not None and not Path(name).exists():
            raise InputError(f"{name}: no such file or folder; check ablation, replications, gap_arms and curves")
    if cfg.reference is not None:
        if not Path(cfg.reference).is_dir():
            raise InputError(
                f"{cfg.reference}: holds no kept full result to compare with; run `make evidence` first, or give reference=null"
            )
        build.load(cfg.reference)


def _measure(cfg: EvidenceConfig, given: str) -> None:
    """All steps, then the kept files. ``given``: this command's own settings, for the page."""
    from evaluation import results
    from evaluation.evidence import build, tokens, trim
    from evaluation.generation import weights_of
    from imanim.data.files import read_json, sha256_file, write_json
    from imanim.inference import find_model
    from imanim.revision import revision

    output, plan, model = Path(cfg.output), _plan(cfg), find_model(cfg.model)
    depends = {"weights": weights_of(model), "code": revision()}
    run: dict[str, Any] = {"steps": {}, "verified": None}
    total = len(plan) + 1
    for i, step in enumerate(plan):
        seconds = steps.run(
            step.name,
            step.command,
            output,
            f"{i + 1}/{total}",
            depends=depends,
            forget=False,  # the launchers notice by themselves what of it still holds
            cwd=Path.cwd(),
            finished=_finished(step, output),
        )
        run["steps"][step.name] = {"command": step.told, "seconds": round(seconds, 1)}
        if step.name == "checksums":
            run["verified"] = _last_line(output / steps.FOLDER / "checksums.log")
    kept = output / "tokens.json"

    def read_tokens() -> None:
        found = tokens.measure(model, cfg.data.output, trim.scopes(cfg), batch_size=cfg.tokens.batch_size)
        write_json(kept, found)

    samples = sha256_file(Path(cfg.data.output) / "manifest.json")
    asked = {**depends, "samples": samples, "scopes": trim.scopes(cfg)}
    seconds = steps.once(
        "tokens", asked, output, f"{total}/{total}", read_tokens, words="joints and codes", forget=False
    )
    own = "python launchers/evidence.py"
    run["steps"]["tokens"] = {"command": f"{own} {given}", "seconds": round(seconds, 1)}
    run["steps"]["page"] = {"command": f"{own} page {given}", "seconds": 0.0}
    found = {"scores": results.load(output / "scores"), "tokens": read_json(kept)}
    if cfg.leakage is not None:
        found["leakage"] = results.load(output / "leakage")
    for path in build.keep(cfg, run, found, _frames(cfg, output)):
        print(f"{path} written")


def _finished(step: Step, output: Path) -> Callable[[int, float], bool]:
    """Whether an exit code means that a step is done. An evaluation that could not measure some samples says 1, as does one that
    failed; the first has written its tables before."""
    from evaluation.outputs import LATEX

    def finished(code: int, began: float) -> bool:
        last = output / step.name / LATEX
        return code == 0 or (code == 1 and last.is_file() and last.stat().st_mtime >= began)

    return finished


def _last_line(log: Path) -> str:
    """What a command said last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _frames(cfg: EvidenceConfig, output: Path) -> Any:
    """The pictures of a measured sample, for filmstrips."""
    from evaluation.benchmark import EvalConfig
    from evaluation.outputs import Frames
    from imanim import config

    data = cfg.data.output
    settings = [*cfg.scores.overrides, f"data={data}", f"output={output / 'scores'}"]
    return Frames(config.load(EvalConfig, _settings(cfg.scores)[1], settings), data)


# ----------------------------------------------------------------------------------------------------------- compare


def _compared(cfg: EvidenceConfig) -> int:
    from imanim.data.files import write_atomic

    lines, code = _agreement(str(cfg.reference), cfg.keep.results, cfg.scopes.headline_levels)
    path = Path(cfg.output) / "agreement.txt"
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))
    print(f"{path} written")
    return code


def _compare(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="evidence compare",
        description="Orderings (ours against each baseline) of two folders of kept files: agree, disagree, or too close to call."
        " Exit code 1: one that is sure in both disagrees.",
    )
    parser.add_argument("full", metavar="FULL", help="folder of kept files, e.g. docs/evidence")
    parser.add_argument("quick", metavar="QUICK", help="the same of another run")
    parser.add_argument("--levels", metavar="NAMES", default="L3,L4", help="separated by commas (default: L3,L4)")
    args = parser.parse_args(argv)
    lines, code = _agreement(args.full, args.quick, args.levels.split(","))
    print("\n".join(lines))
    return code


def _agreement(full: str, quick: str, levels: list[str]) -> tuple[list[str], int]:
    """What to say of two folders' orderings, and the exit code."""
    from evaluation.evidence import agree, build

    one, other = build.load(full), build.load(quick)
    found = agree.orderings(one["scores"], other["scores"], levels)
    if "ablation" in one and "ablation" in other:
        found += agree.arm_orderings(one["ablation"], other["ablation"])
    lines = [ordering.line for ordering in found]
    lines += [f"note: {note}" for note in agree.notes(one["scores"], other["scores"])]
    lines.append(f"orderings: {agree.summary(found)}")
    return lines, 1 if any(o.verdict == agree.DISAGREE for o in found) else 0


if __name__ == "__main__":
    cli.run(main)
