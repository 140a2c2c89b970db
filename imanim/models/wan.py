"""Wan's video DiT: diffusers' WanTransformer3DModel with inlets, of any family, from a base or from scratch (docs/method.md).

Shapes: B batch, F latent frames, h,w latent grid, C latent channels, L = F*h*w/4 DiT tokens, E width.

What tells the families apart are settings (configs/model/wan*.yaml), not classes: sizes, the channels and the image encoder of
image-to-video, one timestep a sample or one a token, one DiT or two halves.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from diffusers.models import attention_dispatch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imanim import clock
from imanim.errors import InputError
from imanim.models.config import AnimatorConfig, DenoiserConfig
from imanim.sequence import ALONE, Team

ADAPTER = "lora_"
"""What the names of peft's adapter weights hold and no others."""
_SAMPLE_BYTES = 1 << 16


class InletTransformer(WanTransformer3DModel):
    """WanTransformer3DModel whose forward lets something in after the patch embedding and between the blocks.

    A subclass, not a wrapper that reaches into it: under ZeRO-3 the table of this module's last modulation is only there while this
    module's own forward runs.
    """

    team: Team = ALONE

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        inlet: Tensor | None = None,
        between: Callable[[int, Tensor], Tensor] | None = None,
        place: tuple[int, int] | None = None,
    ) -> Tensor:
        """Runs the DiT.

        Args:
            hidden_states: latents [B,in_channels,F,h,w].
            timestep: [B], or [B,L]: one a token (0 for clean tokens).
            encoder_hidden_states: text [B,N,text_dim].
            encoder_hidden_states_image: the image encoder's output [B,M,image_dim] (Wan 2.1 image-to-video).
            inlet: [B,L,E], added to the embedded patches.
            between: called with a block's number and its output [B,L,E]; returns the next block's input.
            place: where a team's rank has its frames: the first one's number, and how many the clip has. None: all of them.

        Returns:
            [B,C,F,h,w].
        """
        frames, height, width = hidden_states.shape[2:]
        p_t, p_h, p_w = self.config["patch_size"]
        rotary = self._rotary(hidden_states, *(place or (0, frames)))
        x = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()
        if inlet is not None:
            x = x + inlet.to(x.dtype)
        per_token = timestep.ndim == 2
        temb, modulation, text, image = self.condition_embedder(
            timestep.flatten(),
            encoder_hidden_states,
            encoder_hidden_states_image,
            timestep_seq_len=timestep.shape[1] if per_token else None,
        )
        modulation = modulation.unflatten(-1, (6, -1))
        context = text if image is None else torch.cat([image, text], 1)

        def run(i: int, x: Tensor) -> Tensor:
            x = self.blocks[i](x, context, modulation, rotary)
            return x if between is None else between(i, x)

        for i in range(len(self.blocks)):
            recompute = torch.is_grad_enabled() and self.gradient_checkpointing
            x = checkpoint(run, i, x, use_reentrant=False) if recompute else run(i, x)
        temb = temb if per_token else temb.unsqueeze(1)
        shift, scale = (self.scale_shift_table.unsqueeze(0) + temb.unsqueeze(2)).unbind(2)
        x = self.proj_out((self.norm_out(x.float()) * (1 + scale) + shift).type_as(x))
        x = x.unflatten(1, (frames // p_t, height // p_h, width // p_w)).unflatten(-1, (p_t, p_h, p_w, -1))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _rotary(self, mine: Tensor, first: int, total: int) -> tuple[Tensor, Tensor] | CutRotary:
        """Rotary embeddings of these frames' tokens, [1,L,1,head_dim] each."""
        cos, sin = self.rope(mine[:, :, :1].expand(-1, -1, total, -1, -1))
        if self.team.size == 1:
            return cos, sin
        tokens = cos.shape[1] // total
        here = slice(first * tokens, (first + mine.shape[2]) * tokens)
        return CutRotary(cos[:, here], sin[:, here], [n * tokens for n in self.team.lengths(total)])

    def share(self, team: Team) -> None:
        """From now on the ranks of ``team`` share a clip's tokens, cut by latent frames."""
        self.team = team
        for block in cast(Any, self.blocks) if team.size > 1 else ():
            block.attn1.set_processor(SharedAttention(team, block.attn1.processor._attention_backend))


class CutRotary(NamedTuple):
    """Rotary embeddings of a rank's tokens, and how many tokens each rank of the team has."""

    cos: Tensor
    sin: Tensor
    lengths: list[int]


class SharedAttention(WanAttnProcessor):
    """Self-attention of a block whose tokens lie on several ranks: each computes some heads, of all tokens (Ulysses)."""

    def __init__(self, team: Team, backend: Any):
        super().__init__()
        self.team, self._attention_backend = team, backend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """A rank's tokens [B,L,E] to [B,L,E]; ``rotary_emb`` is a :class:`CutRotary`, the other two are not for self-attention."""
        assert encoder_hidden_states is None and attention_mask is None
        cos, sin, lengths = rotary_emb
        heads = self.team.lengths(attn.heads)
        q = _rotate(attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)), cos, sin)
        k = _rotate(attn.norm_k(attn.to_k(hidden_states)).unflatten(2, (attn.heads, -1)), cos, sin)
        v = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1)).type_as(q)
        # [3,B,L,heads,head_dim]: one exchange for all three.
        q, k, v = self.team.swap(torch.stack([q, k, v]), cut=(3, heads), join=(2, lengths)).unbind()
        out = attention_dispatch.dispatch_attention_fn(q, k, v, backend=self._attention_backend)
        out = self.team.swap(out, cut=(1, lengths), join=(2, heads)).flatten(2).type_as(q)
        return attn.to_out[1](attn.to_out[0](out))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of neighbouring channels of [B,L,heads,head_dim], turned."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., ::2], sin[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(x)


# -------------------------------------------------------------------------------------------------------- building


def build(cfg: AnimatorConfig, *, from_base: bool) -> InletTransformer:
    """The DiT, with adapters when ``denoiser.lora_rank`` is above 0.

    Args:
        from_base: with the weights of ``base``; otherwise random ones (a DiT that is going to be loaded, or trained from scratch).

    Raises:
        InputError: ``base`` is missing, damaged or of other sizes, or the attention kernel is not available.
    """
    dn = cfg.denoiser
    model = load_base(cfg) if from_base else InletTransformer(**settings(cfg))
    if not from_base:
        # Nothing is predicted at first; the small models trained from scratch need no unlearning of noise.
        zero(model.proj_out)
    if dn.lora_rank:
        add_adapters(model, dn)
    if dn.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    choose_attention(model, dn.attention)
    return model


def load_base(cfg: AnimatorConfig) -> InletTransformer:
    """``base``'s DiT in float32. Raises InputError when it is not there or its sizes are not the configured ones."""
    folder = base_folder(cfg, cfg.denoiser.subfolder)
    try:
        found = InletTransformer.load_config(folder)
        _compare(folder, found, settings(cfg))
        model = InletTransformer.from_pretrained(folder, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"base: {folder}: not readable as a Wan DiT ({_first_line(error)}); fetch the folder again"
        ) from None
    return model


def _compare(folder: Path, found: Any, wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        there = found.get(name)
        if (tuple(there) if isinstance(there, (list, tuple)) else there) != value:
            raise InputError(
                f"base: {folder} has {name} = {there}, the model configuration {value}; use the configuration of that size "
                "(configs/model)"
            )


def base_folder(cfg: AnimatorConfig, part: str) -> Path:
    """A folder of the base pipeline. Raises InputError when ``base`` is not set or has no such folder."""
    if cfg.base is None:
        raise InputError(
            f"base: not set, but its {part} is needed; give the folder of a Wan pipeline in diffusers' format"
        )
    folder = Path(cfg.base) / part
    if not folder.is_dir():
        what = "no such folder" if not Path(cfg.base).exists() else f"has no folder {part}"
        raise InputError(f"base: {cfg.base}: {what}; give the folder of a Wan pipeline in diffusers' format")
    return folder


def settings(cfg: AnimatorConfig) -> dict[str, Any]:
    """The model's configuration as WanTransformer3DModel's arguments."""
    dn, channels = cfg.denoiser, cfg.latent_channels
    return {
        "patch_size": (1, dn.patch, dn.patch),
        "num_attention_heads": dn.heads,
        "attention_head_dim": dn.head_dim,
        # Image-to-video: the noisy latents, a mask of the 4 pixel frames in each latent frame, the still video's latents.
        "in_channels": 2 * channels + clock.STRIDE if dn.image_condition else channels,
        "out_channels": channels,
        "text_dim": dn.text_dim,
        "freq_dim": dn.freq_dim,
        "ffn_dim": dn.ffn_dim,
        "num_layers": dn.layers,
        "image_dim": dn.image_dim,
        "added_kv_proj_dim": dn.width if dn.image_dim is not None else None,
    }


def zero(layer: nn.Linear | nn.Conv2d) -> Any:
    """The layer with weights and bias set to 0: an inlet that is closed at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


# -------------------------------------------------------------------------------------------------------- adapters


def add_adapters(model: InletTransformer, cfg: DenoiserConfig) -> None:
    """Low-rank adapters (LoRA, Hu et al. 2021) by peft; they start at zero. Raises InputError when no layer has such a name."""
    from peft import LoraConfig

    alpha: Any = cfg.lora_alpha if cfg.lora_alpha is not None else cfg.lora_rank
    try:
        model.add_adapter(LoraConfig(r=cfg.lora_rank, lora_alpha=alpha, target_modules=list(cfg.lora_targets)))
    except ValueError as error:
        raise InputError(
            f"denoiser.lora_targets: {', '.join(cfg.lora_targets)}: {_first_line(error)}; name layers of the DiT, e.g. to_q"
        ) from None


def fingerprint(folder: Path) -> bytes:
    """Tells weights apart without reading all of them: sha256 of every safetensors file's size, header and samples of its data."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(8 + int.from_bytes(file.read(8), "little")))
            for at in range(0, size, max(_SAMPLE_BYTES, size // 64)):
                file.seek(at)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


# ------------------------------------------------------------------------------------------------------- attention


def choose_attention(model: InletTransformer, name: str) -> None:
    """Sets the attention kernel of every block. Raises InputError when its package is not installed."""
    registry = attention_dispatch._AttentionBackendRegistry
    before, _ = registry.get_active_backend()
    loudness = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # it warns at every call that the interface may change; the version is pinned
    try:
        model.set_attention_backend(name)
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"denoiser.attention: {name}: {_first_line(error)}; or use native") from None
    finally:
        diffusers_logging.set_verbosity(loudness)
        # diffusers also makes it the default of every other model in the process, which is not ours to change.
        registry.set_active_backend(before)


@functools.lru_cache
def check_attention(name: str, device: torch.device, dtype: torch.dtype, training: bool) -> None:
    """Tries a kernel on a few numbers. Raises InputError when it does not run there, or passes no gradient in training."""
    with torch.enable_grad():
        q = torch.ones(1, 8, 1, 64, device=device, dtype=dtype, requires_grad=training)
        try:
            out = attention_dispatch.dispatch_attention_fn(
                q, q, q, backend=attention_dispatch.AttentionBackendName(name)
            )
            if training:
                out.float().sum().backward()
        except Exception as error:  # a kernel fails in its own ways
            what = (
                f"{'training' if training else 'inference'} with {str(dtype).removeprefix('torch.')} on {device.type}"
            )
            raise InputError(
                f"denoiser.attention: {name}: does not do {what} ({type(error).__name__}: {_first_line(error)}); use native"
            ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".:")
