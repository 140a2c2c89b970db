"""Run by test_teams.py in processes of their own: retargeter and denoiser of every family, a clip's tokens cut over a team."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from base_pipeline import TEXT_DIM, family
from safetensors.torch import save_file
from torch import Tensor

from imanim import distributed, sequence
from imanim.models.animator import Animator
from imanim.models.conditioning import ImageCondition

SIZES = (1, 2, 3)
PARTS = ("retargeter", "expression", "denoiser")
CASES = {
    "wan2.1-1.3b": {"outlet_blocks": 1, "outlet_width": 8},
    "wan2.1-i2v-14b": {},
    "wan2.2-5b": {"gradient_checkpointing": True, "reference_tokens": True},
    "wan2.2-i2v-a14b-low": {"expression_every": 1},
}
"""One of each kind: plain, with convolutions behind; image features; a timestep a token, tokens for the reference frame; a still
video without features."""


def build(name: str) -> Animator:
    """A family with four heads and 1 + 3 latent frames, so that neither divides by three, and no inlet closed."""
    settings = dict(CASES[name])
    every, reference = settings.pop("expression_every", 2), settings.pop("reference_tokens", False)
    config = family(name, heads=4, **settings)
    config.expression.every = every
    config.retargeter.gradient_checkpointing = settings.get("gradient_checkpointing", False)
    config.retargeter.reference_tokens = reference
    torch.manual_seed(0)
    animator = Animator(config, PARTS)
    for parameter in animator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return animator.train()


def pass_through(animator: Animator) -> dict[str, Tensor]:
    """What comes out, and the gradient of every parameter and of the inputs, of a clip that is the same on every rank."""
    cfg, random = animator.config, torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=random)

    frames, (h, w), c = cfg.frames, cfg.latent_size, cfg.latent_channels
    z, identity = noise(frames, cfg.tokenizer.tokens, cfg.tokenizer.token_dim), noise(c, h, w)
    noisy, sigma = noise(c, cfg.latent_frames, h, w), torch.tensor([0.3, 0.8])
    expression = noise(frames, cfg.expression.tokens, cfg.expression.width)
    found = torch.rand(2, frames, generator=random) < 0.7
    still = noise(c, 1 + cfg.latent_frames, h, w)
    features = noise(5, cfg.denoiser.image_dim) if cfg.denoiser.image_dim else None
    image = ImageCondition(still, features) if cfg.denoiser.image_condition else None
    inputs = {"z": z, "identity": identity, "expression": expression}
    for value in inputs.values():
        value.requires_grad_()
    tokens, own = animator.retarget_with_identity(z, identity)
    out = animator.denoise(noisy, sigma, identity, tokens, (expression, found), image, noise(64, TEXT_DIM))
    ((out * noise(*out.shape[1:])).sum() + (tokens * noise(*tokens.shape[1:])).sum() + own.square().sum()).backward()
    gradients = {name: value.grad for name, value in (*animator.named_parameters(), *inputs.items())}
    return {"tokens": tokens, "out": out} | {f"grad.{n}": g for n, g in gradients.items() if g is not None}


def run(rank: int, folder: str) -> None:
    """One process: it is a rank of every team large enough for it, one after the other."""
    torch.set_num_threads(1)
    for size in SIZES:
        if rank >= size:
            continue
        meet = f"file://{folder}/meet-{size}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size, timeout=timedelta(seconds=60))
        for name in CASES:
            animator = build(name)
            animator.share(sequence.form(size))
            found = pass_through(animator)
            for key, value in found.items():
                if key.startswith("grad."):  # what data parallelism makes of them
                    dist.all_reduce(value)
                    value /= size
            save_file(
                {key: value.detach().contiguous() for key, value in found.items()},
                Path(folder) / f"{name}-{size}-{rank}.safetensors",
            )
        distributed.stop()
