"""The latent cache: made as training would encode, used instead of encoding, refused when it is another model's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy

from imanim import config
from imanim.data import latents as caches
from imanim.data.sample import encode
from imanim.data.shards import ShardSet, read_manifest, shard_name, write_manifest, write_shard
from imanim.data.stream import SampleDataset
from imanim.errors import ConfigError, InputError
from imanim.inference import latent_cache
from imanim.models import files, sizes
from imanim.models.animator import Animator
from imanim.models.autoencoder import encode_image, encode_video, load_autoencoder
from imanim.models.conditioning import autoencoder_folder, image_condition, image_encoder
from imanim.training import batches, plan, transfer, validation
from imanim.training.config import TrainConfig
from imanim.training.objective import TrainingModule

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS = 3


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, untrained weights to start from, cross pairs in two splits, and a cache of them in float32."""
    path = tmp_path_factory.mktemp("latents")
    toy.write_model(path)
    write_pairs(path / "shards")
    animator = Animator(sizes.load(str(path / "toy.yaml")))
    animator.save_pretrained(path / "start")
    made = latent_cache.run(job(path, path / "cached"), progress=False)
    assert made.failed == 0
    return path


def write_pairs(folder: Path) -> None:
    """Pairs of two people: the target is another clip than the driver's."""
    random = np.random.default_rng(0)
    for split, counts in (("train", (4, 3, 3)), ("val", (4,))):
        for number, count in enumerate(counts):
            samples = []
            for i in range(count):
                key = f"{split}-{number}-{i}"
                sample, other = toy.make_sample(key, random), toy.make_sample(key, random)
                sample.target, sample.driving_joints, sample.joints = other.driving, sample.joints, other.joints
                sample.identity = other.identity
                samples.append((key, encode(sample)))
            write_shard(folder, split, number, samples)
    write_manifest(folder, {"licence": "toy"})


def job(folder: Path, output: Path, **changed: Any) -> latent_cache.CacheConfig:
    given = {"input": folder / "shards", "output": output, "model": folder / "toy.yaml", "device": "cpu", **changed}
    return config.load(latent_cache.CacheConfig, None, [f"{k}={v}" for k, v in given.items()])


def training(folder: Path, data: Path, stage: int = 3, **changed: Any) -> TrainConfig:
    given = {"data.train": data, "init_from": folder / "start", "output": folder / "run", "batch.global_size": 4}
    given |= {"data.workers": 0, "monitor.validation_batches": 1, "monitor.sampling_steps": 1, **changed}
    return config.load(TrainConfig, REPOSITORY / f"configs/stage{stage}.yaml", [f"{k}={v}" for k, v in given.items()])


def losses(cfg: TrainConfig, steps: int = 2) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, Any]]]:
    """The losses of the first steps, without an optimizer, and the augmented batches they came from."""
    planned = plan.make(cfg)
    animator, _ = transfer.build(cfg, planned.sizes, planned.train)
    vae: Any = load_autoencoder(autoencoder_folder(planned.sizes))
    frozen = {"vae": vae, "image_encoder": image_encoder(planned.sizes) if cfg.stage == 3 else None}
    module = TrainingModule(animator, cfg.stage, cfg.objective, total_steps=10, **frozen)
    feed = batches.training_batches(cfg, planned.sizes, planned.train, 0)
    found, seen = [], []
    for step in range(steps):
        dice = batches.dice(cfg, step)
        batch = batches.augment(next(feed), cfg.data.augment, dice)
        result = module.train()(batch, dice, step)
        found.append({"total": result.total.detach(), **result.terms})
        seen.append(batch)
    return found, seen


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("mirror", ["true", "false"])
def test_the_loss_with_a_float32_cache_is_the_loss_without_bit_for_bit(folder, stage, mirror):
    options = {"data.augment.mirror": mirror}
    plain, seen = losses(training(folder, folder / "shards", stage, **options))
    cached, taken = losses(training(folder, folder / "cached", stage, **options))
    assert all("target" in batch for batch in seen) and not any("target" in batch for batch in taken)
    for one, other in zip(plain, cached):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), (one, other)


def test_half_of_the_samples_really_were_mirrored(folder):
    """Otherwise the test above would say nothing of mirrored latents."""
    _, cached = losses(training(folder, folder / "cached", 2), steps=4)
    sides = [
        torch.equal(a, b)
        for batch in cached
        for a, b in zip(batch["identity_latents"], batch["identity_latents" + caches.MIRRORED])
    ]
    assert 3 < sum(sides) < 13


def test_the_cache_holds_what_training_would_encode_and_every_other_member_unchanged(folder):
    vae = load_autoencoder(folder / "autoencoder")
    before, after = ShardSet(folder / "shards", "train"), ShardSet(folder / "cached", "train")
    assert after.keys == before.keys and read_manifest(folder / "cached")["licence"] == "toy"
    size = {"frames": toy.FRAMES, "height": toy.HEIGHT, "width": toy.WIDTH}
    cache = caches.of(after.manifest, "")
    plain, cached = SampleDataset(before, **size), SampleDataset(after, **size, latents=caches.Use(cache, True, True))
    for i in (0, 9):
        old, new = before.read(i)[1], after.read(i)[1]
        assert {**new} == {**old, caches.MEMBER: new[caches.MEMBER]}
        pixels, item = plain[i], cached[i]
        assert torch.equal(item["target"], pixels["target"])
        assert torch.equal(item["target_latents"], encode_video(vae, pixels["target"][None])[0])
        mirrored = encode_video(vae, pixels["target"][None].flip(-1))[0]
        assert torch.equal(item["target_latents_mirrored"], mirrored)
        assert not torch.equal(mirrored.flip(-1), item["target_latents"])
        assert torch.equal(item["identity_latents"], encode_image(vae, pixels["identity"][None])[0])


def test_bf16_latents_are_the_float32_ones_rounded_and_the_loss_moves_little(folder, tmp_path):
    latent_cache.run(job(folder, tmp_path / "half", dtype="bf16"), progress=False)
    exact, _ = losses(training(folder, folder / "cached"))
    rounded, seen = losses(training(folder, tmp_path / "half"))
    assert seen[0]["target_latents"].dtype == torch.bfloat16
    for one, other in zip(exact, rounded):
        assert not torch.equal(one["flow"], other["flow"])
        torch.testing.assert_close(one["total"], other["total"], rtol=2e-3, atol=0)


def test_without_target_pixels_training_goes_on_and_pictures_show_what_the_latents_hold(folder, tmp_path):
    latent_cache.run(job(folder, tmp_path / "small", drop_targets="true"), progress=False)
    whole, small = (
        sum(s["bytes"] for s in read_manifest(f)["splits"]["train"]["shards"])
        for f in (folder / "cached", tmp_path / "small")
    )
    assert small < whole
    one, _ = losses(training(folder, folder / "cached"))
    other, _ = losses(training(folder, tmp_path / "small"))
    assert all(torch.equal(a["total"], b["total"]) for a, b in zip(one, other))
    sample = SampleDataset(ShardSet(tmp_path / "small", "train"), frames=toy.FRAMES, height=toy.HEIGHT, width=toy.WIDTH)
    with pytest.raises(InputError, match=r"train-0-0: the target's pixels are not here"):
        sample[0]
    with pytest.raises(InputError, match=r"no target pixels, but data\.latents is encode"):
        plan.make(training(folder, tmp_path / "small", **{"data.latents": "encode"}))
    with pytest.raises(InputError, match="no target pixels, but stage 1 learns from them"):
        plan.make(training(folder, tmp_path / "small", stage=1))
    with pytest.raises(InputError, match="target pixels were dropped"):
        latent_cache.run(job(folder, tmp_path / "again", input=tmp_path / "small"), progress=False)


@pytest.mark.parametrize("drop", ["true", "false"])
@pytest.mark.parametrize("stage", [2, 3])
def test_filmstrips_show_the_truth_and_leave_the_autoencoder_on_the_cpu(folder, tmp_path, stage, drop, monkeypatch):
    latent_cache.run(job(folder, tmp_path / "cache", drop_targets=drop), progress=False)
    cfg = training(folder, tmp_path / "cache", stage)
    planned = plan.make(cfg)
    animator, _ = transfer.build(cfg, planned.sizes, planned.train)
    vae = load_autoencoder(folder / "autoencoder")
    placed: list[str] = []
    monkeypatch.setattr(vae, "to", lambda device: placed.append(str(device)))
    module = TrainingModule(animator, stage, cfg.objective, total_steps=10, vae=vae)
    held_out = batches.validation_batches(cfg, planned.sizes, planned.validation)
    module(held_out[0], batches.validation_dice(cfg, 0), 0)
    assert placed == []
    run: Any = Run(cfg, module, held_out)
    sheets = validation.filmstrips(run)
    assert placed == ["cpu", "cpu"] and len(sheets) == 2
    rows = validation.ROWS[stage](module, held_out[0], cfg)
    pixels = SampleDataset(ShardSet(folder / "shards", "val"), frames=toy.FRAMES, height=toy.HEIGHT, width=toy.WIDTH)
    true = torch.stack([pixels[planned.validation.keys.index(key)]["target"] for key in held_out[0]["keys"]])
    shown = validation.truth(vae, held_out[0])
    assert torch.equal(shown, true) is (drop == "false") and (shown - true).abs().mean() < 0.2
    assert set(rows) >= {"driver", "truth"}


class Run:
    """What ``filmstrips`` asks of a run."""

    def __init__(self, cfg: TrainConfig, module: TrainingModule, held_out: list[Any]):
        self.cfg, self.module, self.engine, self.validation = cfg, module, module, held_out
        self.device = torch.device("cpu")


def test_an_image_to_video_base_finds_still_video_and_features_in_the_cache(tmp_path):
    """Wan 2.1 image-to-video: still video and image features too, and the same loss."""
    toy.write_wan(tmp_path)
    write_pairs(tmp_path / "shards")
    model = f"{toy.WAN},{tmp_path / 'wan.yaml'}"
    wan = sizes.load(model)
    Animator(wan, ("tokenizer_encoder", "codebook", "motion_decoder")).save_pretrained(tmp_path / "start")
    latent_cache.run(job(tmp_path, tmp_path / "cached", model=model), progress=False)
    cache = caches.of(read_manifest(tmp_path / "cached"), "")
    assert cache.names == caches.NAMES
    # One sample at a time, as the cache was made: convolutions of several differ in the last bits (5e-7 here).
    options = {"model": model, "batch.global_size": 1}
    plain, _ = losses(training(tmp_path, tmp_path / "shards", **options), steps=4)
    cached, seen = losses(training(tmp_path, tmp_path / "cached", **options), steps=4)
    assert seen[0]["still_latents"].shape[2] == 1 + wan.latent_frames and seen[0]["image_features"].ndim == 3
    assert all(torch.equal(a["total"], b["total"]) for a, b in zip(plain, cached))
    held = SampleDataset(ShardSet(tmp_path / "shards", "val"), frames=wan.frames, height=wan.height, width=wan.width)[0]
    again = image_condition(
        wan, load_autoencoder(autoencoder_folder(wan)), image_encoder(wan), held["identity"][None], wan.latent_frames
    )
    item = SampleDataset(
        ShardSet(tmp_path / "cached", "val"),
        frames=wan.frames,
        height=wan.height,
        width=wan.width,
        latents=caches.Use(cache, False, False),
    )[0]
    assert torch.equal(item["still_latents"], again.still[0]) and torch.equal(
        item["image_features"], again.embedding[0]
    )


# -------------------------------------------------------------------------------------------------- what is refused


def test_a_cache_of_another_autoencoder_is_refused_before_training_naming_both(folder, tmp_path):
    other = toy.write_model(tmp_path)
    vae = load_autoencoder(tmp_path / "autoencoder")
    mine = caches.of(read_manifest(folder / "cached"), "").autoencoder
    vae.patch_mean[0] += 1e-6
    vae.save_pretrained(tmp_path / "autoencoder")
    with pytest.raises(InputError) as error:
        plan.make(training(folder, folder / "cached", model=other))
    from imanim.models import fingerprint

    theirs = fingerprint.autoencoder(sizes.load(str(other)))
    assert mine in str(error.value) and theirs in str(error.value) and mine != theirs
    assert "data.latents=encode" in str(error.value)
    plan.make(training(folder, folder / "cached", model=other, **{"data.latents": "encode"}))


def test_mirroring_without_mirrored_latents_is_refused(folder, tmp_path):
    latent_cache.run(job(folder, tmp_path / "plain", mirror="false"), progress=False)
    with pytest.raises(InputError, match=r"no mirrored latents.*mirror=true"):
        plan.make(training(folder, tmp_path / "plain"))
    plan.make(training(folder, tmp_path / "plain", **{"data.augment.mirror": "false"}))


def test_use_refuses_shards_without_a_cache_and_a_stage_without_an_autoencoder(folder):
    with pytest.raises(InputError, match=r"use, but .*shards has none"):
        plan.make(training(folder, folder / "shards", **{"data.latents": "use"}))
    with pytest.raises(ConfigError, match="stage 1 has no autoencoder"):
        training(folder, folder / "cached", stage=1, **{"data.latents": "use"})


def test_the_plan_says_where_the_latents_come_from(folder):
    text = plan.describe(plan.make(training(folder, folder / "cached")))
    assert "latents: cached, fp32, autoencoder" in text
    text = plan.describe(plan.make(training(folder, folder / "cached", **{"data.latents": "encode"})))
    assert "latents: encoded in every step" in text


def test_damaged_foreign_and_missing_latents_are_named(folder):
    shards = ShardSet(folder / "cached", "train")
    cache = caches.of(shards.manifest, "")
    key, members = shards.read(0)
    data, video = members[caches.MEMBER], (2, toy.HEIGHT, toy.WIDTH)
    assert caches.unpack(key, data, cache, video, mirrored=True).keys() == {
        n + m for n in cache.names for m in ("", caches.MIRRORED)
    }
    for bad, words in ((None, "is missing"), (data[:-5], "damaged"), (b"x", "damaged"), (b"", "damaged")):
        with pytest.raises(InputError, match=rf"sample {key}.*{words}"):
            caches.unpack(key, bad, cache, video, mirrored=True)
    import dataclasses

    with pytest.raises(InputError, match=r"its manifest says .*0000"):
        caches.unpack(key, data, dataclasses.replace(cache, autoencoder="0000"), video, mirrored=True)
    with pytest.raises(InputError, match=r"target_latents is F32 \[48, 2, 6, 4\], not of this clip and cache"):
        caches.unpack(key, data, cache, (3, toy.HEIGHT, toy.WIDTH), mirrored=True)
    half = caches.pack(caches.unpack(key, data, cache, video, mirrored=True), dataclasses.replace(cache, dtype="bf16"))
    with pytest.raises(InputError, match=r"its manifest says .*fp32"):
        caches.unpack(key, half, cache, video, mirrored=True)
    with pytest.raises(InputError, match="schema 2, this version reads 1"):
        caches.of({"latents": {**caches.describe(cache), "schema": 2}}, "x")


# -------------------------------------------------------------------------------------------------------- the job


def test_the_job_continues_where_it_stopped_shard_by_shard(folder, tmp_path, monkeypatch):
    output, made = tmp_path / "out", []
    write = latent_cache.tars.write_shard

    def full_disk(where, split, number, samples):
        if len(made) == 2:
            raise InputError("disk full")
        made.append((split, number))
        return write(where, split, number, samples)

    monkeypatch.setattr(latent_cache.tars, "write_shard", full_disk)
    with pytest.raises(InputError, match="disk full"):
        latent_cache.run(job(folder, output), progress=False)
    assert not (output / "manifest.json").exists() and made == [("train", 0), ("train", 1)]
    monkeypatch.setattr(latent_cache.tars, "write_shard", lambda *given: made.append(given[1:3]) or write(*given))
    assert latent_cache.run(job(folder, output), progress=False).failed == 0
    assert made == [("train", 0), ("train", 1), ("train", 2), ("val", 0)]
    for name in ("train-00000", "train-00002", "val-00000"):
        assert (output / f"{name}.tar").read_bytes() == (folder / "cached" / f"{name}.tar").read_bytes()
    with pytest.raises(InputError, match="another model or other settings"):
        latent_cache.run(job(folder, output, dtype="bf16"), progress=False)
    with pytest.raises(InputError, match="holds something else"):
        latent_cache.run(job(folder, folder / "autoencoder"), progress=False)
    with pytest.raises(InputError, match="is the input"):
        latent_cache.run(job(folder, folder / "shards"), progress=False)


def test_ranks_share_the_shards_and_the_last_one_writes_the_manifest(folder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        text = latent_cache.run(job(folder, output), progress=False).lines[0]
        assert ("still being made" in text) is (rank == 1)
        assert (output / "manifest.json").exists() is (rank == 0)
    assert (output / "manifest.json").read_bytes() == (folder / "cached" / "manifest.json").read_bytes()


def test_several_at_once_are_the_same_on_a_cpu(folder, tmp_path):
    latent_cache.run(job(folder, tmp_path / "out", batch=3), progress=False)
    one, three = read_manifest(folder / "cached"), read_manifest(tmp_path / "out")
    assert one["splits"] == three["splits"]


def test_a_bad_sample_is_left_out_and_named_and_the_job_goes_on_to_the_end(folder, tmp_path):
    source = ShardSet(folder / "shards", "train")
    samples = [source.read(i) for i in range(3)]
    samples[1] = (samples[1][0], {**samples[1][1], "target.mp4": b"junk"})
    write_shard(tmp_path / "shards", "train", 0, samples)
    write_shard(tmp_path / "shards", "train", 1, [source.read(i) for i in (3, 4)])
    write_manifest(tmp_path / "shards", {})
    words = [f"input={tmp_path / 'shards'}", f"output={tmp_path / 'out'}", f"model={folder / 'toy.yaml'}", "device=cpu"]

    dry = latent_cache.run(config.load(latent_cache.CacheConfig, None, words), dry_run=True)
    assert "5 samples in 2 shards" in dry.lines[0] and not (tmp_path / "out").exists()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "launchers/cache.py", *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 1 and "1 left out" in done.stdout and "Traceback" not in done.stderr, done.stderr
    bad = json.loads((tmp_path / "out" / "report.json").read_text())["failed"]
    assert [row["key"] for row in bad] == [samples[1][0]] and "target.mp4" in bad[0]["reason"]
    assert ShardSet(tmp_path / "out", "train").keys == [source.keys[i] for i in (0, 2, 3, 4)]
    assert "sample/s" in done.stderr and (tmp_path / "out" / shard_name("train", 1)).is_file()


def test_a_run_folder_names_its_own_autoencoder(folder, tmp_path):
    cfg = job(folder, tmp_path / "out", model=folder / "start")
    assert latent_cache.model_sizes(cfg) == files.read_index(folder / "start").config
    assert latent_cache.run(cfg, progress=False).failed == 0
    assert read_manifest(tmp_path / "out")["latents"] == read_manifest(folder / "cached")["latents"]


def test_samples_of_cached_latents_do_not_read_the_targets_bytes(folder, monkeypatch):
    """The tar is read around ``target.mp4``, the last member of a sample."""
    shards = ShardSet(folder / "cached", "train")
    cache = caches.of(shards.manifest, "")
    size = {"frames": toy.FRAMES, "height": toy.HEIGHT, "width": toy.WIDTH}
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))
    item = SampleDataset(shards, **size, latents=caches.Use(cache, True, False))[0]
    without = sum(read)
    read.clear()
    SampleDataset(shards, **size, latents=caches.Use(cache, True, True))[0]
    target = len(shards.read(0)[1]["target.mp4"])
    assert "target" not in item and sum(read[:1]) - without >= target
