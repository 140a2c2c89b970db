"""Trains the tiny autoencoder: `python launchers/train_autoencoder.py --config configs/autoencoder_tiny.yaml`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli, config
from imanim.config import opt, req
from imanim.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from imanim.models.autoencoder import PatchAutoencoder

DESCRIPTION = """Fits the tiny autoencoder's encoder in closed form, then trains its decoder.

  python launchers/train_autoencoder.py --config configs/autoencoder_tiny.yaml data.train=shards/ output=runs/autoencoder

The encoder is written to `output` within the first minutes and never changes again: latents may be used from then on,
while the decoder goes on training. `init_from` keeps the encoder of an earlier run and trains its decoder further.
`--settings` lists every key=value."""


@dataclass
class DataSettings:
    train: str = req("folder of shards to fit and train on")
    val: str | None = opt(None, "folder of shards to measure on; default: data.train")
    train_split: str = opt("train", "split of data.train")
    val_split: str = opt("val", "split of data.val: bodies and motions that the training split does not hold")
    max_clips: int = opt(1600, "training clips at most, spread over the split; 17x128x80 frames take 0.5 MB each")
    max_val_clips: int = opt(40, "clips to measure on at most")
    window_frames: int = opt(17, "frames of a clip that are used, 4n+1")

    def problems(self) -> list[str]:
        from imanim.clock import is_clip_length

        found = [f"{n}: must be at least 1" for n in ("max_clips", "max_val_clips") if getattr(self, n) < 1]
        if not is_clip_length(self.window_frames) or self.window_frames < 5:
            found.append(f"window_frames: {self.window_frames} is not 4n+1 from 5 on; use e.g. 17")
        return found


@dataclass
class ModelSettings:
    z_dim: int = opt(48, "latent channels C")
    shared_dim: int = opt(32, "channels that a still picture fills; the rest hold motion")
    hidden_dim: int = opt(48, "channels of the decoder's learned correction at half resolution")
    num_blocks: int = opt(2, "its residual convolutions; the n-th has dilation 2^n")
    pixel_dim: int = opt(8, "its channels at full resolution")

    def problems(self) -> list[str]:
        ok = 0 < self.shared_dim < self.z_dim and self.shared_dim <= 192
        return [] if ok else [f"shared_dim: {self.shared_dim} must lie between 1 and z_dim ({self.z_dim}), at most 192"]


@dataclass
class Settings:
    data: DataSettings
    output: str = opt("runs/autoencoder", "folder for config.json, weights and training_record.json")
    model: ModelSettings = opt(ModelSettings(), "sizes; unused with init_from")
    init_from: str | None = opt(None, "folder of a PatchAutoencoder: its encoder is kept, its decoder trains further")
    minutes: float = opt(12.0, "minutes of gradient training after the closed form; 0 = closed form alone")
    steps: int | None = opt(None, "stop after this many steps, if minutes have not run out before")
    batch_clips: int = opt(2, "clips a step")
    train_frames: int = opt(9, "frames of each, 4n+1")
    learning_rate: float = opt(2e-3, "peak learning rate, cosine to 1 %")
    report_minutes: float = opt(
        1.0, "minutes between measurements on held-out clips; the best so far is written to output"
    )
    seed: int = opt(0, "of data order and initial weights")

    def problems(self) -> list[str]:
        from imanim.clock import is_clip_length

        found = [] if self.minutes >= 0 else [f"minutes: {self.minutes} must not be negative"]
        if not is_clip_length(self.train_frames):
            found.append(f"train_frames: {self.train_frames} is not 4n+1; use e.g. 9")
        return found


def main(argv: list[str]) -> int:
    """Parses, trains, writes. Exit code 0."""
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--settings", action="store_true", help="list every setting with its meaning")
    args = cli.parse(parser, argv)
    if args.settings:
        print(config.help_text(Settings))
        return 0
    cfg = config.load(Settings, args.config, args.overrides)
    if args.dry_run:
        print(config.to_yaml(cfg) + f"# would read {cfg.data.train}, train {cfg.minutes:g} min and write {cfg.output}")
        return 0
    command = shlex.join(["python", "launchers/train_autoencoder.py", *argv])
    train(cfg, command)
    return 0


def train(cfg: Settings, command: str) -> dict[str, Any]:
    """Fits, trains and writes ``cfg.output``; returns the record."""
    import torch

    from imanim.data.files import read_json
    from imanim.training import autoencoder as fitting

    torch.manual_seed(cfg.seed)
    clips = load_clips(cfg.data.train, cfg.data.train_split, cfg.data.max_clips, cfg.data.window_frames)[0]
    held_out = (cfg.data.val or cfg.data.train, cfg.data.val_split, cfg.data.max_val_clips, cfg.data.window_frames)
    val, masks = load_clips(*held_out)
    print(f"{len(clips)} training clips, {len(val)} held-out clips of {list(clips.shape[1:])}", flush=True)
    model = _start(cfg, clips)
    record: dict[str, Any] = {
        "command": command,
        "settings": config.to_dict(cfg),
        "clips": {"train": len(clips), "held_out": len(val), "shape": list(clips.shape[1:])},
        "encoder_sha256": fitting.encoder_fingerprint(model),
        "held_out_psnr_db": {p: round(fitting.psnr(model, val, part=p), 3) for p in ("linear", "context")},
        "progress": [],
    }
    if cfg.init_from is not None and (earlier := Path(cfg.init_from) / "training_record.json").is_file():
        record["started_from"] = read_json(earlier)
    print(f"closed form, held-out PSNR in dB: {record['held_out_psnr_db']}", flush=True)
    fitting.export(model, cfg.output, record)
    if cfg.minutes > 0:
        _refine(cfg, model, clips, val, record)
    return _finish(cfg, val, masks, record)


def _start(cfg: Settings, clips: np.ndarray) -> PatchAutoencoder:
    from imanim.models.autoencoder import PatchAutoencoder, load_autoencoder
    from imanim.training import autoencoder as fitting

    if cfg.init_from is not None:
        model = load_autoencoder(cfg.init_from)
        if not isinstance(model, PatchAutoencoder):
            raise InputError(f"init_from: {cfg.init_from} holds a {type(model).__name__}, not a PatchAutoencoder")
        model.requires_grad_(True)
        return model
    model = PatchAutoencoder(**config.to_dict(cfg.model))
    fitting.fit_linear(model, clips, seed=cfg.seed)
    fitting.fit_context(model, clips)
    return model


def _refine(cfg: Settings, model: PatchAutoencoder, clips: np.ndarray, val: np.ndarray, record: dict[str, Any]) -> None:
    from imanim.training import autoencoder as fitting

    schedule = fitting.Schedule(
        minutes=cfg.minutes,
        steps=cfg.steps,
        batch_clips=cfg.batch_clips,
        window_frames=cfg.train_frames,
        learning_rate=cfg.learning_rate,
        report_minutes=cfg.report_minutes,
        seed=cfg.seed,
    )
    best = fitting.psnr(model, val)

    def report(step: int, minutes: float, loss: float) -> None:
        nonlocal best
        measured = fitting.psnr(model, val)
        record["progress"].append([step, round(minutes, 2), round(loss, 5), round(measured, 3)])
        print(f"{minutes:5.1f} min  step {step}  loss {loss:.5f}  held-out PSNR {measured:.3f} dB", flush=True)
        # What is written is never worse than the closed form, wherever training is stopped.
        if measured > best:
            best, record["written_at_step"] = measured, step
            fitting.export(model, cfg.output, record)

    record["steps"] = fitting.train_refiner(model, clips, schedule, report)


def _finish(cfg: Settings, val: np.ndarray, masks: np.ndarray | None, record: dict[str, Any]) -> dict[str, Any]:
    """Measures what was written, as a user would load it, and completes the record beside it."""
    from imanim.data.files import write_json
    from imanim.models.autoencoder import load_autoencoder
    from imanim.training import autoencoder as fitting

    model = load_autoencoder(cfg.output)
    assert isinstance(model, fitting.PatchAutoencoder)
    record["held_out_psnr_db"]["whole"] = round(fitting.psnr(model, val), 3)
    if masks is not None:
        record["held_out_psnr_db"]["person_only"] = round(fitting.psnr(model, val, masks=masks), 3)
    write_json(Path(cfg.output) / "training_record.json", record)
    print(f"{cfg.output}: held-out PSNR in dB: {record['held_out_psnr_db']}")
    return record


def load_clips(folder: str, split: str, limit: int, frames: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The first ``frames`` frames of up to ``limit`` driving and target clips, spread evenly over a split.

    Returns:
        uint8 [n,frames,H,W,3], and bool person masks [n,frames,H,W] where every sample has part labels.

    Raises:
        InputError: clips differ in size, or are too short or of sizes that are no multiple of 8.
    """
    import numpy as np

    from imanim.data import sample as contract
    from imanim.data.shards import ShardSet

    shards = ShardSet(folder, split)
    count = min(len(shards), -(-limit // 2))
    clips, masks = [], []
    for place in range(count):
        key, members = shards.read(place * len(shards) // count)
        sample = contract.decode(key, members)
        pairs = [(sample.driving, sample.driving_parts)]
        pairs += [(sample.target, sample.parts)] if sample.target is not None else []
        for clip, parts in pairs:
            if len(clip) < frames or clip.shape[1] % 8 or clip.shape[2] % 8:
                found = f"{len(clip)} frames of {clip.shape[1]}x{clip.shape[2]}"
                raise InputError(f"{folder}: sample {key}: {found}; needs {frames} frames, sides multiples of 8")
            clips.append(clip[:frames])
            masks.append(None if parts is None else parts[:frames] > 0)
    if any(clip.shape != clips[0].shape for clip in clips):
        raise InputError(f"{folder}: clips of different sizes; preprocess them to one size")
    known = [mask for mask in masks if mask is not None]
    return np.stack(clips), np.stack(known) if len(known) == len(clips) else None


if __name__ == "__main__":
    cli.run(main)
