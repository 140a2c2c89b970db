"""The authors' released motion encoder: read, run and written bit-faithfully (docs/method.md, "Stage 1"; arXiv 2602.07498).

Shapes: M frames, S side of the padded square (256), K motion tokens (32), D their dimension (12), N codes (4096), E width (1024).

The release is one safetensors file (`motion_encoder_latest.safetensors`, 301 tensors): `encoder.*` and `latent_tokens` are
:class:`~imanim.models.titok.TiTokEncoder` without a patch head, `quantize.embedding.weight` is the codebook, there of any length.

    python -m imanim.models.released motion_encoder_latest.safetensors --output runs/released
    python -m imanim.models.released mine.safetensors --from-model runs/stage1

The first writes a model folder that `init_from=` and `Animator.from_pretrained` take, the second a tokenizer of ours in the
release's layout.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from imanim import cli
from imanim.errors import InputError
from imanim.models import files
from imanim.models.animator import Animator
from imanim.models.config import AnimatorConfig, TokenizerConfig
from imanim.models.joints import pad_to_square
from imanim.models.quantizer import Codebook
from imanim.models.titok import TiTokEncoder

CODES = "quantize.embedding.weight"
HEAD_WIDTH = 64
"""Width of an attention head at every size of TiTok; the file does not say it."""
PADDING = (4, 2)
"""Padding of the release's patch convolution; the file does not say it either."""

_RELEASE = (1024, 16, 16, 32, 4096, 12, 24)
"""Width, patch, grid, tokens, codes, their dimension and layers of the release itself."""

_PARTS = ("tokenizer_encoder", "codebook")

Shapes = Mapping[str, tuple[int, ...]]


class Encoded(NamedTuple):
    """Quantised tokens [M,D,1,K], unit length along D, and code indices [M,1,K]: the release's own layout."""

    tokens: Tensor
    indices: Tensor


class ReleasedMotionEncoder(nn.Module):
    """The released encoder and its codebook. Frozen use; to train it, bring it into an Animator (:func:`to_animator`)."""

    def __init__(self, cfg: TokenizerConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = TiTokEncoder(cfg, joints=0)
        self.codebook = Codebook(cfg.codes, cfg.token_dim, decay=cfg.code_decay, revive_below=cfg.code_revive_below)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Encoded:
        """Tokens of preprocessed frames [M,3,S,S], RGB in [0,1] (see :func:`preprocess`). Raises InputError for other sizes."""
        side = self.cfg.image_size
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (3, side, side):
            raise InputError(f"frames: {list(frames.shape)} instead of [M, 3, {side}, {side}]; use released.preprocess")
        z, indices, _ = self.codebook(self.encoder(frames)[0])
        return Encoded(z.transpose(1, 2).unsqueeze(2), indices.unsqueeze(1))


def preprocess(frames: Tensor, size: int = 256) -> Tensor:
    """Frames [M,3,H,W] as the release was trained on them: the short side padded with black to a square, bilinear, no antialias.

    The release pads the width alone, which would cut landscape frames; here whichever side is short is padded.
    """
    return pad_to_square(frames, size, antialias=False)


def load_motion_encoder(path: str | Path, dtype: torch.dtype = torch.float32) -> ReleasedMotionEncoder:
    """Reads a file in the release's layout, of any of TiTok's sizes.

    Args:
        path: safetensors.
        dtype: of the weights; the codebook stays float32.

    Returns:
        the encoder, in evaluation mode.

    Raises:
        InputError: no such file, not safetensors, or tensors missing, unknown or of another shape (listed).
    """
    path = Path(path)
    tensors = _read(path)
    cfg = _sizes(path, {name: tuple(value.shape) for name, value in tensors.items()})
    model = ReleasedMotionEncoder(cfg)
    codes = tensors.pop(CODES).float()
    model.encoder.load_state_dict(tensors)
    model.codebook.embedding.copy_(F.normalize(codes, dim=-1))
    model.codebook.sums.copy_(model.codebook.embedding)
    model.codebook.ready.fill_(1.0)
    return model.to(dtype).eval().requires_grad_(False)


def save_motion_encoder(
    encoder: TiTokEncoder, codebook: Codebook, path: str | Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Writes an encoder of ours in the release's layout; a patch head is left out. Raises InputError when it cannot be written."""
    tensors = {name: value for name, value in encoder.state_dict().items() if not name.startswith("patch_head.")}
    files.write_tensors({**tensors, CODES: codebook.embedding}, Path(path), dtype)


def to_animator(released: ReleasedMotionEncoder, sizes: AnimatorConfig | None = None) -> Animator:
    """The encoder and codebook as parts of an Animator, to save, to start a stage from, or to train.

    Args:
        sizes: the rest of the model's configuration (None: the defaults); its ``tokenizer`` is replaced by the file's.
    """
    config = dataclasses.replace(sizes or AnimatorConfig(), tokenizer=released.cfg)
    animator = Animator(config, _PARTS)
    animator.part("tokenizer_encoder").load_state_dict(released.encoder.state_dict())
    animator.part("codebook").load_state_dict(released.codebook.state_dict())
    return animator.eval()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the release's motion_encoder_latest.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); fetch the file again") from None


def _sizes(path: Path, found: Shapes) -> TokenizerConfig:
    """The configuration that a file's shapes describe. Raises InputError listing every tensor that does not fit it."""
    try:
        width, _, patch, _ = found["encoder.patch_embed.weight"]
        grid = math.isqrt(found["encoder.positional_embedding"][0] - 1)
        tokens, (codes, dim) = found["latent_tokens"][0], found[CODES]
        layers = 1 + max(int(n.split(".")[2]) for n in found if n.startswith("encoder.transformer."))
    except (KeyError, ValueError, IndexError):
        width, patch, grid, tokens, codes, dim, layers = _RELEASE  # then say what the release has and this has not
    cfg = _config(width, patch, grid, tokens, codes, dim, layers)
    if cfg.problems():
        raise InputError(f"{path}: sizes that TiTok does not have: {'; '.join(cfg.problems())}")
    with torch.device("meta"):
        state = TiTokEncoder(cfg, joints=0).state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items()} | {CODES: (codes, dim)}
    _compare(path, found, wanted)
    return cfg


def _config(width: int, patch: int, grid: int, tokens: int, codes: int, dim: int, layers: int) -> TokenizerConfig:
    return TokenizerConfig(
        encoder="titok", image_size=grid * patch, stem_patch=patch, stem_convs=0, stem_padding=PADDING, antialias=False,
        patch_head=False, width=width, layers=layers, heads=max(1, width // HEAD_WIDTH), tokens=tokens, token_dim=dim,
        codes=codes, decoder_width=width, heatmap=grid * 4, decoder_grid=grid,
    )  # fmt: skip


def _compare(path: Path, found: Shapes, wanted: Shapes) -> None:
    missing = [f"missing {n} {list(wanted[n])}" for n in wanted if n not in found]
    unknown = [f"unknown {n} {list(found[n])}" for n in found if n not in wanted]
    other = [f"{n} is {list(found[n])}, not {list(wanted[n])}" for n in wanted if n in found and found[n] != wanted[n]]
    problems = missing + unknown + other
    if problems:
        raise InputError(
            f"{path}: not a motion encoder in the release's layout: {len(problems)} of {len(wanted)} tensors do not fit: "
            f"{'; '.join(problems)}"
        )


def random_release() -> Animator:
    """The release's own sizes with random weights: to try the road there and back without the release."""
    width, patch, grid, tokens, codes, dim, layers = _RELEASE
    cfg = _config(width, patch, grid, tokens, codes, dim, layers)
    return Animator(AnimatorConfig(tokenizer=cfg), _PARTS)


def main(argv: list[str]) -> int:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("file", metavar="FILE", help="safetensors file in the release's layout")
    way = p.add_mutually_exclusive_group(required=True)
    way.add_argument("--output", metavar="DIR", help="read FILE, write this model folder")
    way.add_argument("--from-model", metavar="DIR", help="write FILE from this model's tokenizer encoder and codebook")
    way.add_argument("--random", action="store_true", help="write FILE with random weights of the release's sizes")
    args = cli.parse(p, argv)
    if args.output:
        to_animator(load_motion_encoder(args.file)).save_pretrained(
            args.output, record={"released": Path(args.file).name}
        )
        print(f"{args.output}: tokenizer_encoder and codebook of {args.file}")
        return 0
    animator = random_release() if args.random else Animator.from_pretrained(args.from_model, _PARTS)
    encoder = animator.part("tokenizer_encoder")
    if not isinstance(encoder, TiTokEncoder):
        raise InputError(
            f"{args.from_model}: tokenizer.encoder is {animator.config.tokenizer.encoder}, the layout is titok's"
        )
    save_motion_encoder(encoder, animator.part("codebook"), args.file)
    print(f"{args.file}: {Path(args.file).stat().st_size:,} bytes in the release's layout")
    return 0


if __name__ == "__main__":
    cli.run(main)
