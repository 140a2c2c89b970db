"""A model of the real architecture, as small as it goes, with random weights: for what does not depend on what it learned."""

from pathlib import Path

import numpy as np
import torch

from imanim.models.animator import Animator
from imanim.models.autoencoder import PATCH_VALUES, PatchAutoencoder
from imanim.models.config import AnimatorConfig, DenoiserConfig, ExpressionConfig, RetargeterConfig, TokenizerConfig


def small_config(**over) -> AnimatorConfig:
    tokenizer = TokenizerConfig(
        image_size=32,
        width=16,
        layers=1,
        heads=2,
        tokens=4,
        codes=16,
        decoder_width=16,
        decoder_layers=1,
        decoder_grid=2,
        heatmap=8,
    )
    retargeter = RetargeterConfig(width=16, identity_layers=1, layers=1, heads=2, bottleneck=8, joint_hidden=16)
    denoiser = DenoiserConfig(heads=2, head_dim=12, layers=2, ffn_dim=24, text_dim=8, freq_dim=16)
    expression = ExpressionConfig(crop_size=16, width=16, heads=2)
    defaults = {"height": 64, "width": 48, "frames": 9, "latent_channels": 6}
    return AnimatorConfig(
        **{**defaults, **over}, tokenizer=tokenizer, retargeter=retargeter, denoiser=denoiser, expression=expression
    )


def small_vae() -> PatchAutoencoder:
    """Random bases; the decoder is not the encoder's inverse, but its colours depend on the latents."""
    vae = PatchAutoencoder(z_dim=6, shared_dim=4, hidden_dim=8, num_blocks=1, pixel_dim=4)
    still = torch.linalg.qr(torch.randn(PATCH_VALUES, 6))[0].T
    clip = torch.linalg.qr(torch.randn(4 * PATCH_VALUES, 6))[0].T / 2
    vae.set_bases(torch.zeros(PATCH_VALUES), still, clip)
    vae.set_statistics(torch.zeros(6), torch.full((6,), 4.0))
    return vae.requires_grad_(False).eval()


def small_animator(**over) -> Animator:
    animator = Animator(small_config(**over))
    # Inlets and output start at zero by design, and small weights hardly see their input: here something must flow.
    for parameter in animator.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    state = animator.codebook.state_dict()
    animator.codebook.load_state_dict(
        {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}
    )
    return animator.eval()


def save_model(folder: Path, *, seed: int = 0, **over) -> Path:
    """Saves a model (random weights) whose config names its own autoencoder beside it; returns the model's folder."""
    torch.manual_seed(seed)
    small_vae().save_pretrained(folder / "vae")
    small_animator(autoencoder=str(folder / "vae"), **over).save_pretrained(folder / "animator", record={"stage": 3})
    return folder / "animator"


def moving_square(frames: int, height: int = 96, width: int = 64) -> np.ndarray:
    """uint8 [T,H,W,3]: a bright square crossing a gradient."""
    y, x = np.mgrid[:height, :width]
    ground = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1).astype(np.uint8)
    out = np.repeat(ground[None], frames, 0)
    for t in range(frames):
        left = t * (width - 16) // max(1, frames - 1)
        out[t, height // 3 : height // 3 + 16, left : left + 16] = (250, 240, 60)
    return out
