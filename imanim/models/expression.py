"""Expression: the driver's face, read into a few tokens a frame, and the blocks that bring them into the DiT.

See docs/method.md, "Stage 3". Shapes: B batch, T pixel frames, F latent frames, s side of a face crop, Ke expression tokens a
frame, E their width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imanim import clock
from imanim.errors import InputError
from imanim.models.config import ExpressionConfig
from imanim.models.layers import Attention, table
from imanim.models.tokenizer import stem


def crop_faces(frames: Tensor, faces: Tensor, size: int, enlarge: float) -> tuple[Tensor, Tensor]:
    """Square crops around face boxes, enlarged.

    Args:
        frames: [M,3,H,W].
        faces: [M,4] x0,y0,x1,y1 in [0,1] of the frame; NaN where there is no face.

    Returns:
        crops [M,3,size,size] (black outside the frame; of the whole frame where there is no face) and found bool [M].
    """
    height, width = frames.shape[-2:]
    found = torch.isfinite(faces).all(-1) & (faces[:, 2] > faces[:, 0]) & (faces[:, 3] > faces[:, 1])
    whole = faces.new_tensor([0.0, 0.0, 1.0, 1.0])
    box = torch.where(found[:, None], faces, whole) * faces.new_tensor([width, height, width, height])
    centre, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]).amax(-1, keepdim=True) / 2 * enlarge
    steps = (torch.arange(size, device=frames.device, dtype=faces.dtype) + 0.5) / size * 2 - 1
    x = (centre[:, :1] + half * steps) / width * 2 - 1
    y = (centre[:, 1:] + half * steps) / height * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
    return F.grid_sample(frames, grid.to(frames.dtype), mode="bilinear", align_corners=False), found


class ExpressionEncoder(nn.Module):
    """Face crops to Ke tokens a frame. Few and narrow on purpose: they are to carry the expression, not the face."""

    def __init__(self, cfg: ExpressionConfig):
        super().__init__()
        self.cfg = cfg
        features = cfg.width * (cfg.crop_size // cfg.stem_stride) ** 2
        self.stem = stem(4, cfg.stem_convs, cfg.width)
        self.norm = nn.LayerNorm(features)
        self.to_tokens = nn.Linear(features, cfg.tokens * cfg.width)

    def forward(self, driving: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [B,T,3,H,W] in [0,1] and boxes [B,T,4] to tokens [B,T,Ke,E] and found bool [B,T]."""
        crops, found = crop_faces(driving.flatten(0, 1), faces.flatten(0, 1), self.cfg.crop_size, self.cfg.enlarge)
        batch = driving.shape[:2]
        return self.encode_crops(crops.unflatten(0, batch), found.unflatten(0, batch))

    def encode_crops(self, crops: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """The same from crops made elsewhere, e.g. of a video larger than the model's.

        Args:
            crops: [B,T,3,s,s] in [0,1], s = ``expression.crop_size``. What stands in a frame without a face is not looked at.
            found: bool [B,T].

        Returns:
            tokens [B,T,Ke,E] and ``found``.

        Raises:
            InputError: crops of another size, or not one ``found`` a crop.
        """
        side = self.cfg.crop_size
        if crops.shape[2:] != (3, side, side) or found.shape != crops.shape[:2]:
            raise InputError(
                f"face crops: {list(crops.shape)} with found {list(found.shape)} instead of [B, T, 3, {side}, {side}] and "
                "[B, T]; make the crops of expression.crop_size"
            )
        seen = torch.where(found[..., None, None, None], crops, 0.5)  # mid-grey, which is 0 below
        seen = (seen.flatten(0, 1) * 2 - 1).to(self.to_tokens.weight.dtype)
        features = F.gelu(self.stem(seen))
        tokens = self.to_tokens(self.norm(features.flatten(1))).unflatten(-1, (self.cfg.tokens, -1))
        return tokens.unflatten(0, crops.shape[:2]), found


class ExpressionBlock(nn.Module):
    """Gated cross-attention of a latent frame's DiT tokens to the expression tokens of its own pixel frames.

    The gate starts at zero, so that a pretrained DiT is untouched at first.
    """

    def __init__(self, width: int, cfg: ExpressionConfig):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(cfg.width)
        self.slot = table(clock.STRIDE * cfg.tokens, cfg.width)
        self.nothing = table(cfg.width)
        self.attention = Attention(width, cfg.heads, cfg.width)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, tokens: Tensor, found: Tensor, frames: range | None = None) -> Tensor:
        """DiT tokens [B,F,P,width], expression tokens [B,T,Ke,E], found [B,T]; returns the new DiT tokens.

        A latent frame hears its own pixel frames' tokens, as the clock says, and nothing of those without a face.

        ``frames``: which latent frames ``x`` are, where they are not all of the clip's.
        """
        batch, latents, per_frame = x.shape[0], x.shape[1], tokens.shape[2]
        slots = clock.slots(tokens.shape[1])
        index = torch.tensor(slots if frames is None else slots[frames.start : frames.stop], device=x.device)  # [F,4]
        there = (index >= 0) & found[:, index]
        context = (tokens[:, index].flatten(2, 3) + self.slot).to(x.dtype)
        # One learned token is always there to attend to: a latent frame without any face has a defined answer.
        nothing = self.nothing.to(x.dtype).expand(batch, latents, 1, -1)
        context = self.norm_context(torch.cat([nothing, context], 2)).flatten(0, 1)
        mask = F.pad(there.repeat_interleave(per_frame, -1), (1, 0), value=True).flatten(0, 1)[:, None, None]
        change = self.attention(self.norm(x).flatten(0, 1), context, mask).unflatten(0, (batch, latents))
        return x + (self.gate * change).to(x.dtype)


class Expression(nn.Module):
    """The part ``expression``: encoder and blocks. ``blocks["i"]`` follows the DiT's block i."""

    def __init__(self, cfg: ExpressionConfig, dit_width: int, dit_layers: int):
        super().__init__()
        self.encoder = ExpressionEncoder(cfg)
        after = range(cfg.every - 1, dit_layers, cfg.every)
        self.blocks = nn.ModuleDict({str(i): ExpressionBlock(dit_width, cfg) for i in after})

    def forward(self, driving: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ExpressionEncoder`."""
        return self.encoder(driving, faces)
