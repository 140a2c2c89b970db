"""Training from a bucket: pixels and cached latents give the losses and the weights that a local folder gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import toy
from test_latent_cache import job, losses, training, write_pairs

from data_pipeline.jobs.publish import publish
from imanim.data.shards import ShardSet
from imanim.inference import latent_cache
from imanim.models import sizes
from imanim.models.animator import Animator

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "data"))

from s3_server import BUCKET, Server  # noqa: E402

URL = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model, weights to start from, and cross pairs with a cache of their latents, here and in a bucket."""
    path, server = tmp_path_factory.mktemp("bucket"), Server()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        server.environment(patch)
        server.client().create_bucket(Bucket=BUCKET)
        toy.write_model(path)
        write_pairs(path / "shards")
        Animator(sizes.load(str(path / "toy.yaml"))).save_pretrained(path / "start")
        latent_cache.run(job(path, path / "cached"), progress=False)
        for name in ("shards", "cached"):
            publish(path / name, f"{URL}/{name}", progress=False)
        yield path
    server.stop()


def test_the_cache_arrives_whole(folder: Path) -> None:
    for split in ("train", "val"):
        there, here = ShardSet(f"{URL}/cached", split), ShardSet(folder / "cached", split)
        there.verify()
        assert there.manifest == here.manifest and there.manifest["latents"]
        assert [there.read(i) for i in range(len(here))] == [here.read(i) for i in range(len(here))]


@pytest.mark.parametrize("name", ["shards", "cached"])
def test_losses_are_those_of_the_local_folder_bit_for_bit(folder: Path, name: str) -> None:
    def found(place: object) -> list[dict[str, torch.Tensor]]:
        use = "use" if name == "cached" else "encode"
        return losses(training(folder, place, 3, **{"data.latents": use, "data.workers": 1}))[0]  # type: ignore[arg-type]

    for there, here in zip(found(f"{URL}/{name}"), found(folder / name), strict=True):
        assert there.keys() == here.keys() and all(torch.equal(there[n], here[n]) for n in here)


@pytest.mark.slow
def test_a_run_of_the_launcher_ends_with_the_weights_of_a_local_one(folder: Path, tmp_path: Path) -> None:
    settings = {"data.latents": "use", "data.workers": 2, "init_from": folder / "start", "batch.global_size": 2}
    settings |= {"max_steps": 2, "optimizer.warmup_steps": 1, "monitor.tensorboard": "false"}
    settings |= {"monitor.validation_batches": 1, "monitor.sampling_steps": 1}
    for name, place in (("there", f"{URL}/cached"), ("here", folder / "cached")):
        words = [f"{k}={v}" for k, v in {**settings, "data.train": place, "output": tmp_path / name}.items()]
        command = [sys.executable, "launchers/train.py", "--config", "configs/stage3.yaml", *words]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr
    weights = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.safetensors"))
    assert len(weights) > 5
    for path in weights:
        assert (tmp_path / "there" / path).read_bytes() == (tmp_path / "here" / path).read_bytes(), path
