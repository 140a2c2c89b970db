"""The first losses of each stage at toy size, as they were recorded: whoever changes what is learned sees it here.

The same seed, data and arithmetic as a run of one rank, with PyTorch's own AdamW instead of the engine. When a change of these
numbers is meant, record the new ones (``python tests/training/test_golden_losses.py``) in the commit that changes them.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path

import pytest
import torch
import toy
from three_stages import settings

from imanim.config import load
from imanim.models.autoencoder import load_autoencoder
from imanim.training import batches, curriculum, transfer
from imanim.training.config import TrainConfig
from imanim.training.objective import TrainingModule

GOLDEN = {
    1: [8.89069, 9.78516, 10.11673, 9.20396],
    2: [6.00764, 6.77136, 7.4867, 6.35612],
    3: [1.30608, 1.07292, 1.44273, 1.23426],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("golden"))


def prepare(folder: Path) -> Path:
    """Data, and a whole toy model for the stages that start from one."""
    toy.write_model(folder)
    toy.write_shards(folder / "shards")
    cfg = config(folder, 1)
    animator = transfer.build_empty(cfg, transfer.model_config(cfg))
    animator.codebook.embedding.copy_(torch.nn.functional.normalize(torch.randn(16, 12), dim=-1))
    animator.codebook.ready.fill_(1)
    animator.save_pretrained(folder / "stage1")
    return folder


def config(folder: Path, stage: int) -> TrainConfig:
    start = {} if stage == 1 else {"init_from": folder / "stage1"}
    words = settings(folder, "unused", model=folder / "toy.yaml", **start, **{"objective.vq_start_fraction": 0.3})
    return load(TrainConfig, f"configs/stage{stage}.yaml", words)


def losses(folder: Path, stage: int) -> list[float]:
    """Of four steps."""
    cfg = config(folder, stage)
    sizes, shards = transfer.model_config(cfg), batches.open_train(cfg)
    animator, _ = transfer.build(cfg, sizes, shards)
    vae = load_autoencoder(sizes.autoencoder)
    module = TrainingModule(animator, stage, cfg.objective, total_steps=cfg.max_steps, vae=vae).train()
    optimizer = torch.optim.AdamW(
        curriculum.parameter_groups(animator, cfg), betas=cfg.optimizer.betas, eps=cfg.optimizer.eps
    )
    found = []
    for step, batch in enumerate(islice(batches.training_batches(cfg, sizes, shards, 0), 4)):
        curriculum.set_learning_rates(optimizer.param_groups, cfg, step)
        dice = batches.dice(cfg, step)
        total = module(batches.augment(batch, cfg.data.augment, dice), dice, step).total
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), cfg.optimizer.grad_clip)
        optimizer.step()
        found.append(float(total.detach()))
    return found


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_first_losses_are_the_recorded_ones(folder: Path, stage: int):
    assert losses(folder, stage) == pytest.approx(GOLDEN[stage], rel=2e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        prepare(Path(made))
        for number in (1, 2, 3):
            sys.stdout.write(f"    {number}: {[round(x, 5) for x in losses(Path(made), number)]},\n")
