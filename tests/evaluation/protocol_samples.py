"""Constructed samples and a random model, as shards and as a folder: what the tests of the benchmark measure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from evaluation.benchmark import EvalConfig
from evaluation.protocols.config import ProtocolConfig, SourceConfig
from imanim.data.sample import JOINTS, Sample, encode
from imanim.data.shards import write_manifest, write_shard

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference"))

from small_model import moving_square, save_model

__all__ = ["config_for", "protocol_for", "sample", "save_model", "write_data"]


def sample(i: int, frames: int = 9, person: str | None = None) -> Sample:
    """A square that moves; its truth is the same played backwards."""
    rng = np.random.default_rng(i)
    joints = np.concatenate([rng.uniform(0.2, 0.8, (frames, len(JOINTS), 2)), np.ones((frames, len(JOINTS), 1))], -1)
    parts = np.zeros((frames, 64, 48), np.uint8)
    parts[:, 20:40, 10:30] = 7
    clip = np.roll(moving_square(frames, 64, 48), 3 * i, axis=1)
    meta = {
        "level": f"L{3 + i % 2}",
        "motion": {"kind": "walk", "seed": i // 2, "id": f"walk-{i // 2}"},
        "person": person or f"p{i}",
        "driver_person": "driver",
    }
    return Sample(
        key=f"s{i}",
        driving=clip,
        fps=12.0,
        identity=clip[0],
        joints=joints.astype(np.float32),
        faces=np.full((frames, 4), np.nan, np.float32),
        meta=meta,
        target=clip[::-1].copy(),
        driving_joints=joints[::-1].astype(np.float32).copy(),
        identity_joints=joints[0].astype(np.float32),
        parts=parts,
    )


def write_data(folder: Path, samples: list[Sample] | None = None) -> Path:
    """Four samples (or these) as the split `test` of a folder of shards."""
    made = [sample(i) for i in range(4)] if samples is None else samples
    write_shard(folder, "test", 0, [(s.key, encode(s)) for s in made])
    write_manifest(folder, {})
    return folder


def protocol_for(**more) -> ProtocolConfig:
    """A protocol of cross pairs with PSNR and SSIM and every baseline."""
    source = more.pop("source", {})
    settings = {
        "metrics": ["psnr", "ssim"],
        "joints": True,
        "steps": 1,
        "baselines": ["hold", "hold_autoencoder", "driver", "autoencoder"],
        "bootstrap": 20,
    }
    return ProtocolConfig("test", 1, SourceConfig("shards", **source), **{**settings, **more})  # type: ignore[arg-type]


def config_for(data: Path, model: Path | None, output: Path, **more) -> EvalConfig:
    """Measures ``model`` with a cache of its own."""
    protocol = more.pop("protocol", None) or protocol_for()
    named = {"model": None if model is None else str(model), "features": str(output / "features")}
    return EvalConfig(
        protocol, data=str(data), output=str(output), **{**named, "batch_size": 2, "saved_videos": 1, **more}
    )
