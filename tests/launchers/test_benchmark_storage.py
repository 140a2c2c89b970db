"""The benchmark of bucket against folder runs, on a server that it starts and ends itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imanim.data.shards import ShardSet
from launchers import benchmark
from launchers.benchmarks import clips, storage


def test_both_places_are_read_whole_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "EPOCHS", 1)
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "left as it was")
    data = clips.write(tmp_path / "clips", 8, frames=5, height=64, width=48, fps=12.0, cross=True)
    out = tmp_path / "out.json"
    benchmark.main(["storage", "--data", str(data), "--workers", "0", "--turns", "1", "--json", str(out)])
    found = json.loads(out.read_text())
    latents = 2 * (2 + 1) * 16 * 8 * 6 * 2  # mirrored too; target's two latent frames and identity's; bf16
    assert latents < found["bytes"]["latents alone"] < latents + 1000
    assert found["bytes"]["latents"] > found["bytes"]["latents alone"] and len(found["rates"]) == 2
    assert all(rate["ratio"] > 0 and rate["bucket_clips_per_s"] > 0 for rate in found["rates"].values())
    assert "latents, 0 workers: clips/CPU-s" in capsys.readouterr().out
    assert len(ShardSet(data, clips.SPLIT)) == 8
