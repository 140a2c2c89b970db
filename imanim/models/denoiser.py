"""The denoiser: Wan's video DiT, a reference frame, retargeted tokens and expression coming in (docs/method.md, stage 3).

The inlets start at zero, so a pretrained Wan computes at step 0 exactly what it did.

Shapes: B batch, T pixel frames = 4n+1, F latent frames = n+1, h,w latent grid, C latent channels, gh,gw DiT tokens of a latent
frame (h/2, w/2), Wb width of the retargeted tokens, E width of the DiT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from imanim import clock
from imanim.errors import InputError
from imanim.models import wan
from imanim.models.conditioning import ImageCondition, prompt_embedding
from imanim.models.config import AnimatorConfig
from imanim.models.layers import ConvBlock
from imanim.sequence import Team

TIMESTEPS = 1000.0
"""Wan's timestep for sigma = 1."""

# What the network's output means, as (velocity from output, x0 from output) given the noisy latents and sigma [B,1,1,1,1].
# x_t = (1-sigma) x0 + sigma eps, velocity = eps - x0 = (x_t - x0) / sigma. Sampling never asks for sigma = 0.
Convert = Callable[[Tensor, Tensor, Tensor], Tensor]
PREDICTIONS: dict[str, tuple[Convert, Convert]] = {
    "velocity": (lambda out, noisy, sigma: out, lambda out, noisy, sigma: noisy - sigma * out),
    "x0": (lambda out, noisy, sigma: (noisy - out) / sigma, lambda out, noisy, sigma: out),
}


class Denoiser(nn.Module):
    """Predicts a clip's clean latents or velocity from noisy ones, the character and the retargeted tokens.

    Args:
        from_base: start from the weights of ``base`` (and embed ``denoiser.prompt``); else random, to be loaded or trained.
    """

    text: Tensor | None
    base_fingerprint: Tensor | None

    def __init__(self, cfg: AnimatorConfig, *, from_base: bool = False):
        super().__init__()
        dn = cfg.denoiser
        self.cfg, self.stride, self.ahead = dn, cfg.retargeter.grid_stride, cfg.retargeter.ahead
        self.transformer = wan.build(cfg, from_base=from_base)
        self.token_inlet = wan.zero(nn.Linear(cfg.retargeter.bottleneck, dn.width))
        self.reference_inlet = (
            wan.zero(nn.Conv2d(cfg.latent_channels, dn.width, dn.patch, dn.patch)) if dn.reference_inlet else None
        )
        self.reference_skip = nn.Parameter(torch.ones(cfg.latent_channels)) if dn.reference_skip else None
        self.outlet = Outlet(cfg.latent_channels, dn.outlet_width, dn.outlet_blocks) if dn.outlet_blocks else None
        # Kept with the weights: whoever runs the model needs no text encoder.
        self.register_buffer("text", _text(cfg, from_base))
        self.register_buffer("base_fingerprint", _fingerprint(cfg, from_base))
        self.register_load_state_dict_pre_hook(_same_base)

    @property
    def unsaved(self) -> frozenset[str]:
        """Names of weights that stay ``base``'s, so that only the adapters and inlets are saved. Empty without adapters."""
        if not self.cfg.lora_rank:
            return frozenset()
        names = self.transformer.state_dict().keys()
        return frozenset(f"transformer.{name}" for name in names if wan.ADAPTER not in name)

    def requires_grad_(self, requires_grad: bool = True) -> Denoiser:
        """As every module's, but with adapters the DiT's own weights stay frozen."""
        super().requires_grad_(requires_grad)
        own = self.unsaved
        for name, parameter in self.named_parameters():
            if name in own:
                parameter.requires_grad_(False)
        return self

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        identity_latents: Tensor,
        tokens: Tensor | None = None,
        after_block: Callable[[int, Tensor, range], Tensor] | None = None,
        text: Tensor | None = None,
        image: ImageCondition | None = None,
    ) -> Tensor:
        """Runs the DiT on the reference frame and the clip.

        Args:
            noisy: latents [B,C,F,h,w] at noise level ``sigma``.
            sigma: [B] in [0,1].
            identity_latents: the character image's latents [B,C,h,w]: a clean latent frame ahead of the clip (time position 0,
                timestep 0 with ``expand_timesteps``, else the clip's; dropped from the output).
            tokens: retargeted tokens [B,F,gh,gw,Wb]; [B,1+F,gh,gw,Wb] with ``retargeter.reference_tokens``.
            after_block: called with a block's number, the clip's tokens [B,F,gh*gw,E] after it and which latent frames they are
                (all, or a team's rank's), returns them changed: where the expression blocks come in. The reference frame's
                tokens are not shown.
            text: text encoder's output [B,N,text_dim], N up to ``text_tokens``; None is the configured prompt's, or zeros.
            image: for an image-to-video base.

        Returns:
            The network's output [B,C,F,h,w]; see ``PREDICTIONS`` for what it means.

        Raises:
            InputError: an image condition is missing or not wanted, too much text, or the attention kernel does not run here.
        """
        dtype, frames = self.transformer.patch_embedding.weight.dtype, noisy.shape[2]
        self._check_attention(noisy.device, dtype)
        latents = torch.cat([identity_latents.unsqueeze(2), noisy], 2)
        per_frame = (noisy.shape[3] // self.cfg.patch) * (noisy.shape[4] // self.cfg.patch)
        # A team's rank has some of the frames; the reference frame, first of all, is the first rank's.
        mine = self.team.span(1 + frames)
        reference = mine.start == 0
        clip = range(max(mine.start - 1, 0), mine.stop - 1)

        def between(i: int, x: Tensor) -> Tensor:
            assert after_block is not None
            ahead, behind = x.tensor_split([per_frame if reference else 0], 1)
            changed = after_block(i, behind.unflatten(1, (len(clip), per_frame)), clip)
            return torch.cat([ahead, changed.flatten(1, 2)], 1)

        out = self.transformer(
            self._with_condition(latents, image)[:, :, mine.start : mine.stop].to(dtype),
            self._timestep(sigma, len(clip), per_frame, reference),
            self._text(text, noisy).to(dtype),
            None if image is None or image.embedding is None else image.embedding.to(dtype),
            inlet=self._inlet(identity_latents.to(dtype), tokens, clip, reference),
            between=None if after_block is None else between,
            place=(mine.start, 1 + frames),
        )
        out = self.team.join(out, 2, 1 + frames)[:, :, 1:]
        if self.reference_skip is not None:
            out = out + (self.reference_skip.view(-1, 1, 1) * identity_latents).unsqueeze(2)
        return out if self.outlet is None else out + self.outlet(out, noisy, identity_latents, sigma)

    @property
    def team(self) -> Team:
        """The ranks that share a clip, see :meth:`share`."""
        return self.transformer.team

    def share(self, team: Team) -> None:
        """From now on the ranks of ``team`` share a clip's tokens. They must all be given the same."""
        self.transformer.share(team)

    def _timestep(self, sigma: Tensor, frames: int, per_frame: int, reference: bool) -> Tensor:
        """[B], or a token's each [B,frames*gh*gw], after the reference frame's, which are 0."""
        timestep = sigma.float() * TIMESTEPS
        if not self.cfg.expand_timesteps:
            return timestep
        clip = timestep[:, None].expand(-1, frames * per_frame)
        return torch.cat([clip.new_zeros(len(clip), per_frame), clip], 1) if reference else clip

    def _text(self, text: Tensor | None, like: Tensor) -> Tensor:
        """[B,text_tokens,text_dim], filled up with zeros as Wan's pipelines do."""
        wanted = self.cfg.text_tokens
        if text is None:
            if self.text is None:
                return like.new_zeros(len(like), wanted, self.cfg.text_dim)
            return self.text.expand(len(like), -1, -1)
        if text.shape[1] > wanted:
            raise InputError(f"text of {text.shape[1]} tokens: the DiT takes {wanted}; shorten the prompt")
        return nn.functional.pad(text, (0, 0, 0, wanted - text.shape[1]))

    def _with_condition(self, latents: Tensor, image: ImageCondition | None) -> Tensor:
        """Latents of reference and clip [B,C,1+F,h,w], joined by mask and still video for an image-to-video base."""
        if self.cfg.image_condition != (image is not None):
            what = "needs an" if image is None else "takes no"
            raise InputError(f"denoiser.image_condition: {self.cfg.image_condition}: this DiT {what} image condition")
        if image is None:
            return latents
        if (image.embedding is None) != (self.cfg.image_dim is None):
            what = "needs an" if image.embedding is None else "takes no"
            raise InputError(f"denoiser.image_dim: {self.cfg.image_dim}: this DiT {what} image embedding")
        mask = latents.new_zeros(len(latents), clock.STRIDE, *latents.shape[2:])
        mask[:, :, 0] = 1
        return torch.cat([latents, mask, image.still.to(latents)], 1)

    def _inlet(self, identity_latents: Tensor, tokens: Tensor | None, clip: range, reference: bool) -> Tensor | None:
        """What is added to the embedded patches of some latent frames [B,f*gh*gw,E]; to the reference frame's, if it is ahead of
        them, its own pose where the retargeter says it, else nothing."""
        added: Tensor | None = None
        own: Tensor | None = None
        if tokens is not None:
            added = self._tokens_in(tokens[:, self.ahead + clip.start : self.ahead + clip.stop], identity_latents.dtype)
            own = self._tokens_in(tokens[:, : self.ahead], identity_latents.dtype) if self.ahead else None
        if self.reference_inlet is not None:
            still = (
                self.reference_inlet(identity_latents).flatten(2).transpose(1, 2)[:, None].expand(-1, len(clip), -1, -1)
            )
            added = still if added is None else added + still
        if added is None:
            return None
        own = torch.zeros_like(added[:, :1]) if own is None else own
        return (torch.cat([own, added], 1) if reference else added).flatten(1, 2)

    def _tokens_in(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Retargeted tokens [B,f,gh,gw,Wb] on the DiT's grid and at its width [B,f,P,E]."""
        wide = tokens.to(dtype)
        if self.stride > 1:
            wide = wide.repeat_interleave(self.stride, 2).repeat_interleave(self.stride, 3)
        return self.token_inlet(wide.flatten(2, 3))

    def _check_attention(self, device: torch.device, dtype: torch.dtype) -> None:
        name = self.cfg.attention
        if name != "native":
            autocast = torch.is_autocast_enabled(device.type)
            used = torch.get_autocast_dtype(device.type) if autocast else dtype
            wan.check_attention(name, device, used, self.training and torch.is_grad_enabled())


class Outlet(nn.Module):
    """What convolutions over the latents add to the DiT's output; nothing at the start (docs/method.md, "Ours").

    A DiT token answers for patch x patch latents by itself. Here neighbours see each other's answers, what is noisy there, and the
    character at the same place.
    """

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.enter = nn.Conv2d(3 * channels + 1, width, 3, 1, 1)
        self.blocks = nn.Sequential(*(ConvBlock(width) for _ in range(blocks)))
        self.leave = wan.zero(nn.Conv2d(width, channels, 3, 1, 1))

    def forward(self, out: Tensor, noisy: Tensor, identity_latents: Tensor, sigma: Tensor) -> Tensor:
        """The DiT's output [B,C,F,h,w], the noisy latents, the character's [B,C,h,w] and sigma [B] to [B,C,F,h,w]."""
        still = identity_latents.unsqueeze(2).expand_as(out)
        level = sigma.to(out).view(-1, 1, 1, 1, 1).expand(-1, 1, *out.shape[2:])
        frames = torch.cat([out, noisy.to(out), still.to(out), level], 1).transpose(1, 2)
        x = self.blocks(self.enter(frames.flatten(0, 1).to(self.enter.weight.dtype)))
        return self.leave(nn.functional.gelu(x)).unflatten(0, frames.shape[:2]).transpose(1, 2).to(out.dtype)


def _text(cfg: AnimatorConfig, from_base: bool) -> Tensor | None:
    """The configured prompt's embedding [text_tokens,text_dim]; zeros where saved weights are going to bring it."""
    dn = cfg.denoiser
    if dn.prompt is None:
        return None
    return prompt_embedding(cfg, dn.prompt) if from_base else torch.zeros(dn.text_tokens, dn.text_dim)


def _fingerprint(cfg: AnimatorConfig, from_base: bool) -> Tensor | None:
    """Which base the adapters belong to, uint8 [32]; zeros when none was loaded."""
    if not cfg.denoiser.lora_rank:
        return None
    found = wan.fingerprint(wan.base_folder(cfg, cfg.denoiser.subfolder)) if from_base else bytes(32)
    return torch.tensor(list(found), dtype=torch.uint8)


def _same_base(module: Denoiser, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Adapters on another base than they were trained on would give noise without a word."""
    theirs = state.get(f"{prefix}base_fingerprint")
    mine = module.base_fingerprint
    if theirs is None or mine is None or not theirs.any() or not mine.any() or mine.is_meta:
        return
    if not torch.equal(theirs.cpu(), mine.cpu()):
        raise InputError(
            "base: holds other weights than the ones these adapters were trained on; give base= the folder they were trained with"
        )
