"""Ranks that share a sample (sequence parallelism) train as one rank does: losses, gradient norms, weights; and go on alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy
from launching import launch
from safetensors.torch import load_file
from saved import optimized
from teams import ENGINES, FRAMES, HEADS
from three_stages import STEPS

from imanim.config import load
from imanim.data.sample import encode
from imanim.data.shards import write_manifest, write_shard
from imanim.errors import InputError
from imanim.models import conditioning
from imanim.models.animator import Animator
from imanim.training import plan
from imanim.training.config import TrainConfig
from imanim.training.monitor import read_metrics
from imanim.training.transfer import model_config

SCRIPT = Path(__file__).with_name("teams.py")
WORLDS = {"1-ranks-teams-of-1": (1, 1), "2-ranks-teams-of-2": (2, 2), "4-ranks-teams-of-2": (4, 2)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teams")
    write(folder)
    for ranks, team in WORLDS.values():
        launch(SCRIPT, ranks, folder, team, **{conditioning.CACHE_VARIABLE: folder / "cache"})
    return folder


def write(folder: Path) -> None:
    """Clips of three latent frames, a random model to start from, a small Wan base."""
    model = toy.write_model(folder, frames=str(FRAMES))
    random = np.random.default_rng(0)
    (folder / "shards").mkdir()
    for split, count in (("train", 12), ("val", 4)):
        keys = [f"{split}-{i}" for i in range(count)]
        shape = (FRAMES, toy.HEIGHT, toy.WIDTH)
        write_shard(folder / "shards", split, 0, [(k, encode(toy.make_sample(k, random, shape))) for k in keys])
    write_manifest(folder / "shards", {"config": "toy"})
    words = [f"model={model}", f"data.train={folder / 'shards'}", "output=unused"]
    words += [f"{key}={value}" for key, value in HEADS.items()]
    config = model_config(load(TrainConfig, "configs/stage1.yaml", words))
    Animator(config, ("tokenizer_encoder", "codebook", "motion_decoder")).save_pretrained(folder / "stage1")
    toy.write_wan(folder)
    (folder / "wan.yaml").write_text((folder / "wan.yaml").read_text().replace("frames: 5", f"frames: {FRAMES}"))


def rows(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder) if "loss" in row]


@pytest.mark.parametrize("name", list(WORLDS)[1:])
@pytest.mark.parametrize("stage", ["stage2", "stage3", "wan"])
def test_a_team_trains_as_a_rank_alone(runs: Path, stage: str, name: str):
    alone, shared = rows(runs / f"{stage}-1-ranks-teams-of-1"), rows(runs / f"{stage}-{name}")
    assert len(alone) == len(shared) == STEPS
    for one, other in zip(alone, shared):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    # Before the first step the weights are the same: the gradients must be, to rounding.
    assert shared[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-5)
    assert shared[0]["grad_norm"] == pytest.approx(alone[0]["grad_norm"], rel=1e-4)
    assert shared[0]["grad_norms"] == pytest.approx(alone[0]["grad_norms"], rel=1e-4)


@pytest.mark.parametrize("engine", [f"zero-{zero}-{precision}" for zero, precision in ENGINES])
def test_every_engine_trains_teams(runs: Path, engine: str):
    alone, shared = (rows(runs / f"{engine}-{name}") for name in list(WORLDS)[:2])
    near = 1e-4 if engine.endswith("fp32") else 2e-2
    assert [row["loss"] for row in shared] == pytest.approx([row["loss"] for row in alone], rel=near)
    assert shared[0]["grad_norms"] == pytest.approx(alone[0]["grad_norms"], rel=3 * near)


@pytest.mark.parametrize("name", list(WORLDS)[1:])
def test_validation_and_exported_weights_are_the_same_too(runs: Path, name: str):
    alone, shared = runs / "stage3-1-ranks-teams-of-1", runs / f"stage3-{name}"
    first, second = ([row["validation"] for row in read_metrics(f) if "validation" in row] for f in (alone, shared))
    assert len(first) == len(second) == 2
    if name.startswith("2"):  # a validation takes a micro-batch of every team: more teams, more samples
        for one, other in zip(first, second):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    for part in ("retargeter", "denoiser", "expression"):
        file = Path("model") / part / "diffusion_pytorch_model.safetensors"
        one, other = load_file(alone / file), load_file(shared / file)
        assert one.keys() == other.keys()
        whole = sum(float(value.square().sum()) for value in one.values()) ** 0.5
        assert sum(float((other[key] - one[key]).square().sum()) for key in one) ** 0.5 < 1e-3 * whole


@pytest.mark.parametrize("name", WORLDS)
def test_what_a_team_or_one_rank_saved_goes_on_with_a_sample_on_every_rank(runs: Path, name: str):
    """On as many ranks as the team's; what one rank saved, on two."""
    whole, cut = runs / f"stage3-{name}", runs / f"stage3-{name}-then-alone"
    assert [row["step"] for row in rows(cut)] == list(range(1, STEPS + 1))
    for one, other in zip(rows(whole)[3:], rows(cut)[3:]):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    start, end = optimized(whole, 3), optimized(whole, STEPS)
    found = optimized(cut, STEPS)
    for what in ("weight", "exp_avg", "exp_avg_sq", "average"):
        moved = (end[what] - start[what]).norm()
        assert moved > 0 and (found[what] - end[what]).norm() < 0.02 * moved, what


def config(folder: Path, stage: int, **changed: object) -> TrainConfig:
    values = {"model": folder / "toy.yaml", "init_from": folder / "stage1", "output": folder / "refused"}
    values |= {"data.train": folder / "shards", **changed}
    return load(TrainConfig, f"configs/stage{stage}.yaml", [f"{k}={v}" for k, v in values.items()])


def test_what_cannot_be_shared_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path)
    with pytest.raises(Exception, match="stage 1 reads single frames"):
        config(tmp_path, 1, sequence_parallel=2)
    with pytest.raises(Exception, match="sequence_parallel: a codebook that trains"):
        config(tmp_path, 2, sequence_parallel=2, **{"parts.codebook.mode": "train"})
    with pytest.raises(Exception, match="compile: blocks whose tokens lie on several ranks"):
        config(tmp_path, 3, sequence_parallel=2, compile="true")
    with pytest.raises(InputError, match="sequence_parallel: 2: 1 ranks are no multiple of it"):
        plan.make(config(tmp_path, 3, sequence_parallel=2))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(InputError, match="global_size: 3 does not divide over 2 teams of 4 ranks; use a multiple of 2"):
        plan.make(config(tmp_path, 3, sequence_parallel=4, **{"batch.global_size": 3}))
    with pytest.raises(InputError, match="sequence_parallel: 4: each rank needs one of the 3 latent frames of a clip"):
        plan.make(config(tmp_path, 3, sequence_parallel=4))
    found = plan.describe(plan.make(config(tmp_path, 3, sequence_parallel=2)))
    assert "a step: 8 samples = 4 teams of 2 ranks x 1 micro-batches x 2" in found
    assert json.dumps(plan.make(config(tmp_path, 3, sequence_parallel=2)).identity).count("sequence_parallel") == 0
