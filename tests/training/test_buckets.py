"""Samples of several shapes in one run (``data.buckets``): what is taken, what is left out, and that three stages train on them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import toy
from launching import launch
from three_stages import CONFIGS, STEPS

from imanim.config import load
from imanim.data.sample import encode
from imanim.data.shards import ShardSet, index_path, write_manifest, write_shard
from imanim.errors import InputError
from imanim.training import batches, buckets, plan, transfer
from imanim.training.config import TrainConfig
from imanim.training.monitor import read_metrics

OWN, SQUARE, STILL = (toy.FRAMES, toy.HEIGHT, toy.WIDTH), (toy.FRAMES, 32, 32), (1, toy.HEIGHT, toy.WIDTH)
MISFITS = [(toy.FRAMES, 64, 32), (toy.FRAMES, 40, 32), (3, 48, 32)]
COUNTS = {OWN: 6, SQUARE: 4, STILL: 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples of three shapes that the toy model takes, three that it does not."""
    path = tmp_path_factory.mktemp("buckets")
    toy.write_model(path)
    (path / "shards").mkdir()
    random = np.random.default_rng(0)
    shapes = [*(shape for shape, count in COUNTS.items() for _ in range(count)), *MISFITS]
    samples = [(f"s{i:03d}", encode(toy.make_sample(f"s{i:03d}", random, shape))) for i, shape in enumerate(shapes)]
    for split in ("train", "val"):
        write_shard(path / "shards", split, 0, samples)
    write_manifest(path / "shards", {"config": "toy"})
    return path


def config(folder: Path, *overrides: str) -> TrainConfig:
    always = [f"data.train={folder / 'shards'}", f"model={folder / 'toy.yaml'}", f"output={folder / 'run'}"]
    return load(TrainConfig, CONFIGS / "stage1.yaml", [*always, "data.workers=0", "batch.global_size=2", *overrides])


@pytest.fixture
def shards(folder: Path) -> ShardSet:
    return ShardSet(folder / "shards", "train")


def test_samples_are_sorted_by_shape_and_what_does_not_fit_is_named(folder: Path, shards: ShardSet) -> None:
    cfg = config(folder, "data.buckets=true")
    found = buckets.of(shards, transfer.model_config(cfg))
    assert {shape: len(samples) for shape, samples in found.samples.items()} == COUNTS
    assert list(found.samples) == sorted(COUNTS) and sum(found.refused.values()) == len(MISFITS)
    text = plan.describe(plan.make(cfg))
    for line in (
        "5 of 48x32: 6 samples, 50.0% of the steps",
        "left out: 1 samples, 5 of 64x32: larger than the model's 5 of 48x32",
        "left out: 1 samples, 5 of 40x32: height or width is not a multiple of 16",
        "left out: 1 samples, 3 of 48x32: frames are not 4n+1",
    ):
        assert line in text, text


def test_a_run_without_buckets_takes_only_the_models_own_size(folder: Path) -> None:
    cfg = config(folder)
    feed = batches.training_batches(cfg, transfer.model_config(cfg), ShardSet(folder / "shards", "train"), 0)
    with pytest.raises(InputError, match="preprocess with the model's size"):
        for _ in range(8):
            next(feed)


def test_a_batch_is_of_one_shape_and_each_shape_has_its_share(folder: Path, shards: ShardSet) -> None:
    cfg = config(folder, "data.buckets=true")
    feed = batches.training_batches(cfg, transfer.model_config(cfg), shards, 0)
    shapes = [batches.shape(next(feed)) for _ in range(12)]
    assert {shape: shapes.count(shape) for shape in COUNTS} == COUNTS


def test_validation_is_on_the_models_own_size_or_on_the_most_frequent(folder: Path, shards: ShardSet) -> None:
    cfg = config(folder, "data.buckets=true")
    sizes = transfer.model_config(cfg)
    assert {batches.shape(batch) for batch in batches.validation_batches(cfg, sizes, shards)} == {OWN}
    found = buckets.of(shards, sizes)
    del found.samples[OWN]
    assert found.for_validation(OWN) == SQUARE


def test_an_index_without_shapes_or_with_a_wrong_one_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for file in (folder / "shards").iterdir():
        (tmp_path / "shards" / file.name).write_bytes(file.read_bytes())
    path = next((tmp_path / "shards").glob("train-*.index.json"))
    index = json.loads(path.read_text())
    cfg = config(folder, "data.buckets=true", f"data.train={tmp_path / 'shards'}")
    index["samples"][0]["shape"] = list(SQUARE)
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match="its index says 5 of 32x32"):
        plan.make(cfg)
    del index["samples"][0]["shape"]
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match="tells no shape"):
        plan.make(cfg)
    assert path == index_path(tmp_path / "shards" / "train-00000.tar")


def test_nothing_that_fits_is_refused_before_anything_starts(folder: Path) -> None:
    with pytest.raises(InputError, match="no sample of split `train` fits the model"):
        plan.make(config(folder, "data.buckets=true", "model_settings.height=16", "model_settings.frames=1"))


def test_three_stages_train_on_several_shapes_and_go_on_bit_for_bit(folder: Path) -> None:
    launch(Path(__file__).with_name("shapes.py"), 2, folder)
    for stage in (1, 2, 3):
        rows = [row for row in read_metrics(folder / f"stage{stage}") if "loss" in row]
        assert len(rows) == STEPS and all(math.isfinite(row["loss"]) for row in rows)
        # Six steps of half a cycle of twelve: more than one shape.
        assert len({round(row["tokens_per_sec"] / row["samples_per_sec"]) for row in rows}) > 1
    whole, cut = (
        {row["step"]: row["loss"] for row in read_metrics(folder / name) if "loss" in row} for name in ("stage3", "cut")
    )
    assert whole == cut
