"""Trains the reader of Doubles renders: `python launchers/train_reader.py --config configs/reader.yaml data.train=shards/`."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.instruments.fit import Schedule
from imanim import cli, config
from imanim.config import opt, req
from imanim.errors import InputError

if TYPE_CHECKING:
    from evaluation.instruments.frames import FrameSet

DESCRIPTION = """Trains the instrument that reads joints, parts and facial actions from frames of Doubles renders, and
measures it on people and motions it never saw, on true frames and on frames made worse.

  python launchers/train_reader.py --config configs/reader.yaml data.train=data/doubles output=runs/reader

Writes reader.safetensors and record.json to `output`. The same command continues where it stopped.
`measure_only=shipped` measures the weights of this package instead. `--settings` lists every key=value."""


@dataclass
class DataSettings:
    train: str = req("folder of Doubles shards to train on")
    train_split: str = opt("train", "its split")
    test: str | None = opt(None, "folder of shards to measure on; default: data.train")
    test_splits: list[str] = opt(["test", "test_seen_kinds"], "its splits; none of them chooses anything")
    samples: int = opt(1110, "samples to train on at most, evenly spread; each gives one or two different takes")
    portraits: str | None = opt(None, "folder of shards whose portraits teach facial actions; default: data.train")
    portrait_samples: int = opt(508, "samples of those at most, evenly spread")
    frames_per_clip: int = opt(8, "evenly spread frames of each take; they are kept in memory, 41 kB each")
    test_samples: int = opt(48, "samples of each test split at most")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        names = ("samples", "portrait_samples", "frames_per_clip", "test_samples")
        return [f"{n}: {getattr(self, n)}; give 1 or more" for n in names if getattr(self, n) < 1]


@dataclass
class Settings:
    data: DataSettings
    output: str = opt("runs/reader", "folder for weights, checkpoint and record")
    frame: Schedule = opt(Schedule(), "of the network that reads joints and parts")
    face: Schedule = opt(Schedule(), "of the network that reads facial actions, from portraits")
    measure_only: str | None = opt(None, "a weights file (or `shipped`): measure it, train nothing")


def main(argv: list[str]) -> int:
    """Parses, trains, measures, writes. Exit code 0."""
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--settings", action="store_true", help="list every setting with its meaning")
    args = cli.parse(parser, argv)
    if args.settings:
        print(config.help_text(Settings))
        return 0
    cfg = config.load(Settings, args.config, args.overrides)
    if args.dry_run:
        what = (
            f"train {cfg.frame.steps} + {cfg.face.steps} steps on {cfg.data.train}"
            if cfg.measure_only is None
            else "measure"
        )
        print(config.to_yaml(cfg) + f"# would {what} and write {cfg.output}")
        return 0
    record: dict[str, Any] = {"command": shlex.join(["python", "launchers/train_reader.py", *argv])}
    weights = train(cfg, record) if cfg.measure_only is None else _given(cfg.measure_only)
    measure(cfg, weights, record)
    return 0


def train(cfg: Settings, record: dict[str, Any]) -> Path:
    """Trains and writes the weights; returns their path."""
    from evaluation.instruments import fit, frames
    from imanim.data.files import read_json, write_atomic, write_json

    folder = Path(cfg.output)
    wanted = {"data": _deciding(cfg.data), "frame": _deciding(cfg.frame), "face": _deciding(cfg.face)}
    known = folder / "settings.json"
    if known.is_file() and read_json(known) != wanted:
        raise InputError(f"output: {folder} holds a reader of other settings; give another folder")
    write_json(known, wanted)
    data = frames.load(cfg.data.train, cfg.data.train_split, cfg.data.samples, cfg.data.frames_per_clip)
    teaching, count = cfg.data.portraits or cfg.data.train, cfg.data.portrait_samples
    portraits = frames.load(teaching, cfg.data.train_split, count, cfg.data.frames_per_clip, framing="portrait")
    started, cpu = time.monotonic(), time.process_time()
    networks = fit.train_both(data, portraits, cfg.frame, cfg.face, folder, log=lambda line: print(line, flush=True))
    record |= {
        "settings": config.to_dict(cfg),
        "trained_on": {name: _counts(part) for name, part in (("all", data), ("portraits", portraits))},
        "parameters": sum(p.numel() for p in networks.parameters()),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes": round((time.process_time() - cpu) / 60, 1),
    }
    path = folder / "reader.safetensors"
    write_atomic(path, fit.weights_bytes(networks))
    return path


def measure(cfg: Settings, weights: Path, record: dict[str, Any]) -> None:
    """Measures weights on every test split, as they are and made worse in each way; prints and writes record.json."""
    from evaluation.instruments import accuracy, degrade, frames
    from evaluation.instruments.reader import Reader
    from imanim.data.files import write_json

    reader = Reader(weights)
    record |= {"reader_sha256": reader.sha256, "errors": {}}
    for split in cfg.data.test_splits:
        data = frames.load(cfg.data.test or cfg.data.train, split, cfg.data.test_samples, cfg.data.frames_per_clip)
        started, count = time.process_time(), data.frames.shape[0] * data.frames.shape[1]
        reader(data.frames.reshape(-1, *data.frames.shape[2:]))
        record["frames_per_cpu_second"] = round(count / (time.process_time() - started), 1)
        ways = {"true": None, **{way: way for way in degrade.WAYS}}
        record["errors"][split] = {n: _rounded(accuracy.measure(reader, data, way)) for n, way in ways.items()}
        for name, errors in record["errors"][split].items():
            print(f"{split}, {name}: " + ", ".join(f"{k} {v}" for k, v in errors.items()), flush=True)
    write_json(Path(cfg.output) / "record.json", record)


def _counts(data: FrameSet) -> dict[str, int]:
    return {"clips": len(data), "frames": data.frames.shape[0] * data.frames.shape[1]}


def _deciding(settings: Any) -> dict[str, Any]:
    """The settings that a checkpoint depends on; the number of steps may still change, see Schedule.steps."""
    free = ("steps", "checkpoint_steps", "test", "test_splits", "test_samples")
    return {name: value for name, value in config.to_dict(settings).items() if name not in free}


def _given(name: str) -> Path:
    from evaluation.instruments.reader import WEIGHTS

    return WEIGHTS if name == "shipped" else Path(name)


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {name: round(value, 3) if value == value else None for name, value in values.items()}


if __name__ == "__main__":
    cli.run(main)
