"""Filmstrips: what the model sees, says and should have said, as one picture a sample."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from imanim.models.joints import joint_weight, target_heatmap

COLUMNS = 6
"""Frames of a clip that a filmstrip shows, spread evenly."""

MARGIN_PX = 4
LABEL_PX = 14


def chosen_frames(total: int, columns: int = COLUMNS) -> list[int]:
    """Frame numbers spread evenly over a clip, first and last among them."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(columns, total)).round()})


def heat_over(frames: Tensor, heat: Tensor) -> Tensor:
    """Heatmaps drawn over dimmed grey frames, every joint in its own hue.

    Args:
        frames: [N,3,H,W] in [0,1].
        heat: [N,J,rows,cols], any positive scale a joint; over the same area as the frame.

    Returns:
        [N,3,H,W] in [0,1].
    """
    heat = heat.float() / heat.float().amax((-2, -1), keepdim=True).clamp(min=1e-9)
    heat = F.interpolate(heat, frames.shape[-2:], mode="bilinear", align_corners=False)
    hues = torch.linspace(0, 2 * torch.pi, heat.shape[1] + 1, device=heat.device)[:-1]
    thirds = torch.tensor([0.0, 2.0944, 4.1888], device=heat.device)
    colours = 0.5 + 0.5 * torch.cos(hues[:, None] - thirds)  # [J,3]
    glow = (heat[:, :, None] * colours[None, :, :, None, None]).amax(1)
    return (0.35 * frames.mean(1, keepdim=True) + glow).clamp(0, 1)


def true_heat(joints: Tensor, rows: int, cols: int) -> Tensor:
    """The heatmaps [N,J,rows,cols] of true joints [N,J,3]; all zero where a joint is unknown or outside the frame."""
    heat = target_heatmap(joints[..., :2], rows, cols).unflatten(-1, (rows, cols))
    return heat * joint_weight(joints)[..., None, None]


def square_to_frame_area(heat: Tensor, height: int, width: int) -> Tensor:
    """Cuts heatmaps [N,J,R,R] on the padded square down to the frame's area, at the frame's resolution [N,J,H,W]."""
    side = max(height, width)
    heat = F.interpolate(heat.float(), (side, side), mode="bilinear", align_corners=False)
    top, left = (side - height) // 2, (side - width) // 2
    return heat[..., top : top + height, left : left + width]


def filmstrip(
    rows: Mapping[str, Tensor], still: Tensor | None = None, columns: Sequence[int] | None = None
) -> np.ndarray:
    """Rows of frames under their names.

    Args:
        rows: name -> clip [T,3,H,W] in [0,1]; all of one size.
        still: [3,H,W], shown to the left of the first row (the character).
        columns: frame numbers to show; ``chosen_frames`` of the clip when None.

    Returns:
        uint8 [height,width,3].
    """
    clip = next(iter(rows.values()))
    frames = list(columns) if columns is not None else chosen_frames(len(clip))
    height, width = clip.shape[-2:]
    start = 1 if still is not None else 0
    size = (
        (len(frames) + start) * (width + MARGIN_PX) + MARGIN_PX,
        len(rows) * (height + LABEL_PX + MARGIN_PX) + MARGIN_PX,
    )
    sheet = Image.new("RGB", size, (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for r, (name, row) in enumerate(rows.items()):
        top = MARGIN_PX + r * (height + LABEL_PX + MARGIN_PX)
        draw.text((MARGIN_PX + start * (width + MARGIN_PX), top), name, fill=(230, 230, 230))
        for c, t in enumerate(frames):
            sheet.paste(_image(row[t]), (MARGIN_PX + (c + start) * (width + MARGIN_PX), top + LABEL_PX))
    if still is not None:
        draw.text((MARGIN_PX, MARGIN_PX), "character", fill=(230, 230, 230))
        sheet.paste(_image(still), (MARGIN_PX, MARGIN_PX + LABEL_PX))
    return np.asarray(sheet)


def side_by_side(rows: Sequence[Tensor]) -> np.ndarray:
    """Clips [T,3,H,W] in [0,1], of one size, beside each other: uint8 [T,H,W',3], its sides even as video files want them."""
    joined = torch.cat([row.detach().float().cpu() for row in rows], -1)
    joined = F.pad(joined, (0, joined.shape[-1] % 2, 0, joined.shape[-2] % 2))
    return (joined.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def as_gif(clip: np.ndarray, fps: float) -> bytes:
    """A clip uint8 [T,H,W,3] as an animated GIF, which is what TensorBoard plays."""
    frames = [Image.fromarray(frame) for frame in clip]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)
    return out.getvalue()


def _image(frame: Tensor) -> Image.Image:
    array = (frame.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)
