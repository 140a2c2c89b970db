"""A stage's first weights are read once, by the first rank, and are everybody's when the engine stands."""

from __future__ import annotations

from pathlib import Path

import once_ranks
import pytest
import torch
import toy
from safetensors.torch import load_file
from three_stages import settings
from torch import multiprocessing

from imanim.config import load
from imanim.distributed import free_port
from imanim.models.animator import Animator
from imanim.models.files import own_state
from imanim.training import transfer
from imanim.training.config import TrainConfig


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    model = toy.write_model(folder)
    toy.write_shards(folder / "shards")
    config = transfer.model_config(load(TrainConfig, "configs/stage1.yaml", settings(folder, "unused", model=model)))
    first = Animator(config, ("tokenizer_encoder", "codebook", "motion_decoder"))
    first.codebook.embedding.normal_()
    first.save_pretrained(folder / "stage1")
    multiprocessing.spawn(once_ranks.run, (str(folder), free_port()), nprocs=2)
    return folder


def test_every_rank_ends_with_what_the_first_one_read(ranks: Path):
    first, second = (load_file(ranks / f"after-{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    saved = Animator.from_pretrained(ranks / "stage1")
    for part in ("tokenizer_encoder", "codebook"):
        for name, value in own_state(saved.part(part)).items():
            assert torch.equal(second[f"{part}.{name}"], value), name


def test_the_second_rank_has_read_nothing_before(ranks: Path):
    first, second = (load_file(ranks / f"before-{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first if first[name].std() > 0)


def test_what_the_first_rank_could_not_read_is_said_by_all(ranks: Path):
    assert {(ranks / f"said-{rank}").read_text() for rank in (0, 1)} == {"init_from: broken: fetch it again"}
