"""The benchmark of the latent cache, at a size that says nothing of speed: what it compares must be comparable."""

from __future__ import annotations

import json
from pathlib import Path

from launchers.benchmarks import latents


def test_both_sides_do_the_same_work_and_every_figure_is_written(tmp_path: Path, capsys):
    file = tmp_path / "figures.json"
    words = ["--clips", "2", "--small", "20", "--steps", "1", "--batch", "1", "--turns", "2", "--json", str(file)]
    found = latents.run(words)
    assert found["training"]["equal_losses"] is True and len(found["training"]["gains"]) == 2
    assert json.loads(file.read_text()) == found and 0 < found["rounding"]["largest"] < 0.01
    # 16 channels, 5 + 1 frames of 16x10, two bytes, mirrored too; and a header.
    assert 61_440 < found["reading"]["latent_bytes_a_sample"] < 62_500
    said = capsys.readouterr().out
    assert "losses equal: yes" in said and said.count(": x") == 3
