"""The loop that `benchmark.py step` compares with: the same module and samples in what one writes with accelerate alone.

It takes train.py's words and writes lines of metrics.jsonl that hold no more than the times and the memory.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

from imanim import cli, config
from imanim.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def main(argv: list[str]) -> int:
    args = cli.parse(cli.parser(__doc__ or ""), argv)
    import torch

    try:
        from accelerate import Accelerator
    except ImportError:
        raise InputError("accelerate: not installed; pip install imanim[dev] brings it") from None
    from torch.utils.data import DataLoader

    from imanim.data.shards import ShardSet
    from imanim.data.stream import SampleDataset, collate
    from imanim.models.autoencoder import load_autoencoder
    from imanim.training import batches, transfer
    from imanim.training.config import TrainConfig
    from imanim.training.objective import TrainingModule

    cfg = config.load(TrainConfig, args.config, args.overrides)
    sizes, shards = transfer.model_config(cfg), ShardSet(cfg.data.train, "train")
    animator, _ = transfer.build(cfg, sizes, None)
    vae = load_autoencoder(sizes.autoencoder)
    module = TrainingModule(animator, cfg.stage, cfg.objective, total_steps=cfg.max_steps, vae=vae)
    data = SampleDataset(shards, frames=sizes.frames, height=sizes.height, width=sizes.width)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=cfg.optimizer.lr, weight_decay=cfg.optimizer.weight_decay)
    accelerator = Accelerator(mixed_precision="no")
    loader = DataLoader(data, batch_size=cfg.batch.global_size, shuffle=True, drop_last=True, collate_fn=collate)
    module, optimizer, loader = accelerator.prepare(module, optimizer, loader)
    Path(cfg.output).mkdir(parents=True)
    with (Path(cfg.output) / "metrics.jsonl").open("w") as file:
        step, since = 0, time.monotonic()
        while step < cfg.max_steps:
            for batch in loader:
                dice = batches.dice(cfg, step)
                loss = module(batches.augment(batch, cfg.data.augment, dice), dice, step).total
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(trained, cfg.optimizer.grad_clip)
                optimizer.step()
                optimizer.zero_grad()
                float(loss.detach())
                step, now = step + 1, time.monotonic()
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                file.write(json.dumps({"step": step, "sec_per_step": now - since, "memory_peak_bytes": peak}) + "\n")
                file.flush()
                since = now
                if step == cfg.max_steps:
                    break
    return 0


if __name__ == "__main__":
    cli.run(main)
