"""The video DiT with its inlets: diffusers' WanTransformer3DModel, a reference frame, retargeted tokens, expression (METHOD.md).

The inlets start at zero, so a pretrained Wan computes at step 0 exactly what it did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imanim.errors import InputError
from imanim.models.config import AnimatorConfig, DenoiserConfig

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

TIMESTEPS = 1000.0
"""Wan's timestep for sigma = 1."""

# What the network's output means, as (velocity from output, x0 from output) given the noisy latents and sigma [B,1,1,1,1].
# x_t = (1-sigma) x0 + sigma eps, velocity = eps - x0 = (x_t - x0) / sigma. Sampling never asks for sigma = 0.
Convert = Callable[[Tensor, Tensor, Tensor], Tensor]
PREDICTIONS: dict[str, tuple[Convert, Convert]] = {
    "velocity": (lambda out, noisy, sigma: out, lambda out, noisy, sigma: noisy - sigma * out),
    "x0": (lambda out, noisy, sigma: (noisy - out) / sigma, lambda out, noisy, sigma: out),
}


class InletTransformer(WanTransformer3DModel):
    """WanTransformer3DModel whose forward lets something in after the patch embedding and between the blocks.

    A subclass, not a wrapper that reaches into it: under ZeRO-3 the table of this module's last modulation is only there while this
    module's own forward runs.
    """

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        inlet: Tensor | None = None,
        between: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Runs the DiT.

        Args:
            hidden_states: latents [B,C,F,h,w].
            timestep: [B,L], one a token (0 for clean tokens).
            encoder_hidden_states: text [B,N,text_dim].
            inlet: [B,L,E], added to the embedded patches.
            between: called with a block's number and its output [B,L,E]; returns the next block's input.

        Returns:
            [B,C,F,h,w].
        """
        frames, height, width = hidden_states.shape[2:]
        p_t, p_h, p_w = self.config["patch_size"]
        rotary = self.rope(hidden_states)
        x = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()
        if inlet is not None:
            x = x + inlet.to(x.dtype)
        temb, modulation, text, _ = self.condition_embedder(
            timestep.flatten(), encoder_hidden_states, None, timestep_seq_len=timestep.shape[1]
        )
        modulation = modulation.unflatten(2, (6, -1))
        for i, block in enumerate(self.blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = checkpoint(block, x, text, modulation, rotary, use_reentrant=False)
            else:
                x = block(x, text, modulation, rotary)
            if between is not None:
                x = between(i, x)
        shift, scale = (self.scale_shift_table.unsqueeze(0) + temb.unsqueeze(2)).unbind(2)
        x = self.proj_out((self.norm_out(x.float()) * (1 + scale) + shift).type_as(x))
        x = x.unflatten(1, (frames // p_t, height // p_h, width // p_w)).unflatten(-1, (p_t, p_h, p_w, -1))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class Denoiser(nn.Module):
    """Predicts a clip's clean latents or velocity from noisy ones, the character and the retargeted tokens."""

    def __init__(self, cfg: AnimatorConfig):
        super().__init__()
        dn = cfg.denoiser
        self.grid, self.stride, self.text_dim = cfg.token_grid, cfg.retargeter.grid_stride, dn.text_dim
        self.transformer = load_wan(dn, cfg.latent_channels) if dn.pretrained else build_wan(dn, cfg.latent_channels)
        if dn.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.token_inlet = _zero(nn.Linear(cfg.retargeter.bottleneck, dn.width))
        self.reference_inlet = (
            _zero(nn.Conv2d(cfg.latent_channels, dn.width, dn.patch, dn.patch)) if dn.reference_inlet else None
        )
        self.reference_skip = nn.Parameter(torch.ones(cfg.latent_channels)) if dn.reference_skip else None

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        identity_latents: Tensor,
        tokens: Tensor | None = None,
        after_block: Callable[[int, Tensor], Tensor] | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """Runs the DiT on the reference frame and the clip.

        Args:
            noisy: latents [B,C,F,h,w] at noise level ``sigma``.
            sigma: [B] in [0,1].
            identity_latents: the character image's latents [B,C,h,w]: a clean latent frame ahead of the clip (time position 0,
                timestep 0; dropped from the output).
            tokens: retargeted tokens [B,F,gh,gw,Wb].
            after_block: called with a block's number and the clip's tokens [B,F,gh*gw,width] after it, returns them changed: where
                the expression blocks come in. The reference frame's tokens are not shown.
            text: text encoder's output [B,N,text_dim]; None is a single zero vector.

        Returns:
            The network's output [B,C,F,h,w]; see ``PREDICTIONS`` for what it means.
        """
        batch, _, frames = noisy.shape[:3]
        per_frame = self.grid[0] * self.grid[1]
        dtype = self.transformer.proj_out.weight.dtype
        latents = torch.cat([identity_latents.unsqueeze(2), noisy], 2).to(dtype)
        timestep = (sigma.float() * TIMESTEPS)[:, None].expand(-1, frames * per_frame)
        timestep = torch.cat([timestep.new_zeros(batch, per_frame), timestep], 1)
        if text is None:
            text = noisy.new_zeros(batch, 1, self.text_dim)

        def between(i: int, x: Tensor) -> Tensor:
            if after_block is None:
                return x
            clip = after_block(i, x[:, per_frame:].unflatten(1, (frames, per_frame)))
            return torch.cat([x[:, :per_frame], clip.flatten(1, 2)], 1)

        inlet = self._inlet(identity_latents.to(dtype), tokens, frames)
        out = self.transformer(latents, timestep, text.to(dtype), inlet, between)[:, :, 1:]
        if self.reference_skip is not None:
            out = out + (self.reference_skip.view(-1, 1, 1) * identity_latents).unsqueeze(2)
        return out

    def _inlet(self, identity_latents: Tensor, tokens: Tensor | None, frames: int) -> Tensor | None:
        """What is added to the embedded patches [B,(1+F)*gh*gw,E]; nothing to the reference frame's."""
        added: Tensor | None = None
        if tokens is not None:
            wide = tokens.to(identity_latents.dtype)
            if self.stride > 1:
                wide = wide.repeat_interleave(self.stride, 2).repeat_interleave(self.stride, 3)
            added = self.token_inlet(wide.flatten(2, 3))
        if self.reference_inlet is not None:
            still = (
                self.reference_inlet(identity_latents).flatten(2).transpose(1, 2)[:, None].expand(-1, frames, -1, -1)
            )
            added = still if added is None else added + still
        if added is None:
            return None
        return torch.cat([torch.zeros_like(added[:, :1]), added], 1).flatten(1, 2)


def build_wan(cfg: DenoiserConfig, channels: int) -> InletTransformer:
    """A Wan transformer with random weights."""
    model = InletTransformer(**_wan_settings(cfg, channels))
    # Nothing is predicted at first; the small models trained from scratch need no unlearning of noise.
    _zero(model.proj_out)
    return model


def load_wan(cfg: DenoiserConfig, channels: int) -> InletTransformer:
    """The weights of a diffusers folder (``cfg.pretrained``). Raises InputError when its sizes are not the configured ones."""
    assert cfg.pretrained is not None
    try:
        model = InletTransformer.from_pretrained(cfg.pretrained)
    except (OSError, ValueError) as error:
        raise InputError(
            f"denoiser.pretrained: {cfg.pretrained}: {error}; give a WanTransformer3DModel folder"
        ) from None
    for name, value in _wan_settings(cfg, channels).items():
        found = model.config[name]
        if (tuple(found) if isinstance(found, (list, tuple)) else found) != value:
            raise InputError(
                f"denoiser.pretrained: {cfg.pretrained} has {name} = {found}, the model configuration {value}; use the "
                "configuration of that size (configs/model)"
            )
    return model


def _wan_settings(cfg: DenoiserConfig, channels: int) -> dict[str, object]:
    return {
        "patch_size": (1, cfg.patch, cfg.patch),
        "num_attention_heads": cfg.heads,
        "attention_head_dim": cfg.head_dim,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": cfg.text_dim,
        "freq_dim": cfg.freq_dim,
        "ffn_dim": cfg.ffn_dim,
        "num_layers": cfg.layers,
    }


def _zero(layer: Layer) -> Layer:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
