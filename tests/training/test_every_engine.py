"""ZeRO 0 to 3 times three precisions, some offloaded, on one rank and on two: gradients, averages, bad steps, checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import every_engine
import pytest
import toy
from launching import launch

SCRIPT = Path(__file__).with_name("every_engine.py")
ENGINES = list(every_engine.engines_by_name())


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder, ranks = tmp_path_factory.mktemp("engines"), request.param
    toy.write_model(folder)
    toy.write_shards(folder / "shards")
    launch(SCRIPT, ranks, folder)
    return json.loads((folder / f"found-{ranks}.json").read_text())


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_keeps_its_promises(found: dict[str, dict[str, Any]], engine: str):
    seen = found[engine]
    assert seen["parts_over_all"] == pytest.approx(1, abs=2e-5), (
        "the parts' gradient norms do not make up the whole one"
    )
    assert seen["norm_of_the_spoilt"] == "not finite"
    assert seen["unchanged"], "a step with a NaN on one rank changed weights or codebook"
    assert seen["average_off"] < 2e-7, "the moving average is not that of the whole float32 weights"
    assert seen["swapped"], "the averages are not what the model computes with while they are in place"
    assert seen["back"], "the weights did not come back bit for bit"
    assert seen["started"] == 2 and seen["skipped"] == 1
    assert seen["resumed"], "the resumed run went another way than the uninterrupted one"
