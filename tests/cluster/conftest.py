"""One cluster, one toy model and its data for all tests here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm

sys.path.insert(0, str(slurm.ROOT / "tests" / "training"))

import toy


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cluster")
    toy.write_model(path)
    toy.write_shards(path / "shards")
    return path


@pytest.fixture(scope="session")
def env(folder: Path) -> Iterator[dict[str, str]]:
    with slurm.cluster(folder / "slurm") as found:
        # Two nodes on one machine: their names do not resolve, and there is no GPU to see.
        alone = {"MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        yield {**found, **alone, "IMANIM_PYTHON": sys.executable}
