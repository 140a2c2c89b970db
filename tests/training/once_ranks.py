"""Run by test_once.py in two processes: the weights a stage starts with, read by the first rank alone."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from three_stages import settings

from imanim import distributed
from imanim.config import load
from imanim.errors import InputError
from imanim.models.animator import Animator
from imanim.training import curriculum, transfer
from imanim.training import engine as engines
from imanim.training.config import TrainConfig
from imanim.training.objective import TrainingModule


def run(rank: int, folder: str, port: int) -> None:
    """One rank: what it holds before the engine is built and after, and what it says when the first one fails."""
    here = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()})
    os.chdir(Path(__file__).resolve().parents[2])
    torch.set_num_threads(1)
    distributed.start(timeout_sec=600)
    where = Path(folder)
    words = settings(where, "run", init_from=where / "stage1", model=where / "toy.yaml", **{"deepspeed.zero_stage": 0})
    cfg = load(TrainConfig, "configs/stage2.yaml", words)
    sizes = transfer.model_config(cfg)
    if rank:
        Animator.load_parts = None  # type: ignore[assignment, method-assign]  # whoever reads weights fails
    animator, origin = transfer.once(cfg, sizes, lambda: transfer.build(cfg, sizes, None))
    before = {name: value.detach().clone() for name, value in animator.named_parameters()}
    assert origin["tokenizer_encoder"] == str(where / "stage1") and origin["retargeter"] == "new"
    engines.build(
        TrainingModule(animator, 2, cfg.objective, total_steps=1, vae=torch.nn.Identity()),
        curriculum.parameter_groups(animator, cfg),
        cfg,
    )
    save_file(before, where / f"before-{rank}.safetensors")
    save_file(dict(animator.state_dict()), where / f"after-{rank}.safetensors")

    def fails() -> tuple[Animator, dict[str, str]]:
        raise InputError("init_from: broken: fetch it again")

    try:
        transfer.once(cfg, sizes, fails)
    except InputError as error:
        (where / f"said-{rank}").write_text(str(error))
    distributed.stop()
