"""Sizes of the model's parts. The defaults are the size ``tiny``; other sizes are settings (configs/model/*.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imanim import clock
from imanim.config import opt
from imanim.errors import InputError

WAN_TEXT_TOKENS = 512
"""Text tokens every Wan DiT was trained with."""


def _divides(name: str, value: int, by_name: str, by: int) -> list[str]:
    return (
        []
        if by > 0 and value % by == 0
        else [f"{name}: {value} is not a multiple of {by_name} ({by}); change one of them"]
    )


def _positive(cfg: object, *names: str) -> list[str]:
    return [f"{n}: {getattr(cfg, n)} must be at least 1" for n in names if getattr(cfg, n) < 1]


@dataclass
class TokenizerConfig:
    """Motion tokenizer and motion decoder (docs/method.md, stage 1)."""

    encoder: Literal["conv", "titok", "grid"] = opt(
        "conv",
        "conv: a small ViT on a convolutional stem; titok: the paper's, laid out as the authors released it; grid: conv without "
        "latent tokens, every patch is a motion token (an ablation)",
    )
    image_size: int = opt(96, "side S of the padded square frame the encoder sees, in pixels")
    stem_patch: int = opt(
        4, "kernel and stride of the first convolution; 16 with stem_convs=0 is a plain ViT patch embedding"
    )
    stem_convs: int = opt(2, "3x3 stride-2 convolutions after it; a patch is stem_patch * 2**stem_convs pixels")
    stem_blocks: int = opt(0, "conv: residual 3x3 convolutions before each of them")
    stem_padding: tuple[int, int] = opt((0, 0), "titok: zeros above/below and beside the frame; the release has [4, 2]")
    antialias: bool = opt(True, "smooth a frame that shrinks to image_size; the release does not")
    patch_head: bool = opt(
        True, "heatmaps straight from the patch tokens, stage 1's second teacher; the release has none"
    )
    gradient_checkpointing: bool = opt(
        False, "titok: recompute the blocks in the backward pass: less memory, more time"
    )
    width: int = opt(128, "width E of the encoder")
    layers: int = opt(3, "transformer layers of the encoder")
    heads: int = opt(4, "attention heads of encoder and decoder")
    tokens: int = opt(16, "motion tokens a frame, K")
    token_dim: int = opt(12, "dimension of a motion token, D")
    codes: int = opt(512, "codebook entries, N")
    quantise: bool = opt(
        True, "motion tokens become codes; false: they stay continuous and the codebook is not used (an ablation)"
    )
    commitment: float = opt(0.25, "weight of the commitment loss")
    code_decay: float = opt(0.98, "decay of the codebook's moving averages, per training step")
    code_revive_below: float = opt(0.1, "a code used less than this fraction of the mean use is revived from data")
    decoder_width: int = opt(128, "width of the motion decoder")
    decoder_layers: int = opt(2, "transformer layers of the motion decoder")
    decoder_grid: int = opt(6, "mask tokens a side in the motion decoder")
    heatmap: int = opt(
        24, "heatmap cells a side on the padded square, R; a multiple of decoder_grid and of the patch grid"
    )

    @property
    def grid(self) -> int:
        """Patch tokens a side."""
        return self.image_size // (self.stem_patch * 2**self.stem_convs)

    def problems(self) -> list[str]:
        found = _positive(self, "image_size", "stem_patch", "width", "layers", "heads", "tokens", "token_dim", "codes")
        if found:
            return found
        found += _divides("image_size", self.image_size, "the patch", self.stem_patch * 2**self.stem_convs)
        found += self._encoder_problems()
        if self.stem_blocks < 0:
            found.append(f"stem_blocks: {self.stem_blocks} must not be negative")
        found += _divides("width", self.width, "heads", self.heads)
        found += _divides("decoder_width", self.decoder_width, "heads", self.heads)
        found += _divides("heatmap", self.heatmap, "decoder_grid", self.decoder_grid)
        found += _divides("heatmap", self.heatmap, "the patch grid", self.grid) if not found else []
        if not 0 < self.code_decay < 1:
            found.append(f"code_decay: {self.code_decay} must lie between 0 and 1")
        return found

    def _encoder_problems(self) -> list[str]:
        if self.encoder != "titok":
            found = [] if not any(self.stem_padding) else ["stem_padding: only the encoder titok pads its patches"]
            if self.encoder == "grid" and self.tokens != self.grid**2:
                found.append(f"tokens: {self.tokens}, but the encoder grid has a token a patch; set {self.grid**2}")
            return found
        found = [
            f"{n}: {getattr(self, n)}, but titok's patches are one layer; set 0"
            for n in ("stem_convs", "stem_blocks")
            if getattr(self, n)
        ]
        if not 0 <= 2 * max(self.stem_padding) < self.stem_patch:
            found.append(f"stem_padding: {list(self.stem_padding)} must stay below half a patch ({self.stem_patch})")
        return found


@dataclass
class RetargeterConfig:
    """Mask-token retargeter and the joint decoder that reads what leaves it (docs/method.md, stage 2)."""

    kind: Literal["mask_tokens", "identity_tokens", "skeleton"] = opt(
        "mask_tokens",
        "what leaves: mask tokens; or, as ablations, the identity tokens themselves, or the driver's joint heatmaps as they are",
    )
    width: int = opt(192, "width of the retargeter")
    identity_layers: int = opt(2, "layers on the identity tokens alone, run once a clip, before they meet the motion")
    layers: int = opt(
        4, "factorised layers: attention within a latent frame, attention over time per position, feed-forward"
    )
    heads: int = opt(6, "attention heads")
    bottleneck: int = opt(64, "width Wb of the retargeted tokens: all that leaves")
    grid_stride: int = opt(1, "DiT tokens a side that share one mask token; 2 is four times cheaper")
    modulation: bool = opt(True, "scale and shift the mask tokens by their latent frame's motion: learns much sooner")
    reference_tokens: bool = opt(
        False,
        "the character image gets tokens of its own pose from the same bottleneck, which the DiT adds to its reference frame: "
        "what belongs where is then said in one language for the image and the clip",
    )
    temporal: bool = opt(True, "attention over time; off only to study one latent frame at a time")
    sub: int = opt(4, "heatmap cells a side in one retargeted token")
    joint_hidden: int = opt(192, "hidden width of the joint decoder")
    gradient_checkpointing: bool = opt(False, "recompute the layers in the backward pass: less memory, more time")
    interpolate_positions: bool = opt(
        False, "stretch positions over a larger grid or a longer clip than configured; false refuses these"
    )

    @property
    def ahead(self) -> int:
        """Latent frames of retargeted tokens ahead of the clip's: the character image's own, or none."""
        return int(self.reference_tokens)

    def problems(self) -> list[str]:
        found = _positive(self, "width", "layers", "heads", "bottleneck", "grid_stride", "sub", "joint_hidden")
        return found or _divides("width", self.width, "heads", self.heads)


@dataclass
class ExpressionConfig:
    """Expression encoder and the expression blocks between the DiT's (docs/method.md, stage 3)."""

    crop_size: int = opt(32, "side of the face crop, in pixels")
    stem_convs: int = opt(2, "3x3 stride-2 convolutions after one of stride 4; 4 suit crops of 512 pixels")
    enlarge: float = opt(1.3, "the face box is made square and enlarged by this factor before it is cropped")
    width: int = opt(64, "width of the expression tokens")
    tokens: int = opt(2, "expression tokens a frame, Ke")
    every: int = opt(2, "an expression block follows every n-th DiT block")
    heads: int = opt(4, "attention heads of an expression block")

    @property
    def stem_stride(self) -> int:
        """Pixels a side in one of the stem's features."""
        return 4 * 2**self.stem_convs

    def problems(self) -> list[str]:
        found = _positive(self, "crop_size", "width", "tokens", "every", "heads")
        if self.stem_convs < 0:
            return [*found, f"stem_convs: {self.stem_convs} must not be negative"]
        return found + _divides("crop_size", self.crop_size, "its stem's stride", self.stem_stride)


@dataclass
class DenoiserConfig:
    """The video DiT: diffusers' WanTransformer3DModel with our inlets (docs/method.md, stage 3)."""

    heads: int = opt(4, "attention heads")
    head_dim: int = opt(48, "width of a head; the DiT's width is heads * head_dim")
    layers: int = opt(8, "DiT blocks")
    ffn_dim: int = opt(768, "hidden width of the feed-forward layers")
    freq_dim: int = opt(128, "sinusoids of the timestep embedding")
    patch: int = opt(2, "latents a side in one DiT token; the temporal patch is 1")
    text_dim: int = opt(32, "width of the text encoder's output")
    text_tokens: int = opt(1, "text tokens the DiT is given, the rest of a prompt filled up with zeros; Wan: 512")
    prompt: str | None = opt(
        None, 'embedded once by base\'s text encoder ("" is the empty prompt); null: zeros, no text'
    )
    image_condition: bool = opt(
        False, "Wan image-to-video: 4 mask channels and the still video's latents join the noisy"
    )
    image_dim: int | None = opt(None, "Wan 2.1 image-to-video: width of base's image encoder (1280)")
    expand_timesteps: bool = opt(
        True, "a timestep for every token, the reference's 0 (Wan 2.2 5B); false: one for all (Wan 2.1, A14B)"
    )
    sigma_range: tuple[float, float] = opt(
        (0.0, 1.0), "noise levels these weights are for; Wan 2.2 A14B has two halves"
    )
    prediction: Literal["velocity", "x0"] = opt(
        "x0", "the network's output: velocity (Wan) or x0 (small models from scratch)"
    )
    reference_inlet: bool = opt(
        True,
        "also add the reference's patches to every clip token at the same place (zero at the start): quick copying",
    )
    reference_skip: bool = opt(
        True,
        "prediction x0: the network answers with the difference to the reference's latents, so it starts at the still character",
    )
    outlet_blocks: int = opt(
        0,
        "residual 3x3 convolutions over the output's latents, which see across the DiT's tokens: a small DiT paints a token by "
        "itself, in blocks",
    )
    outlet_width: int = opt(96, "their width")
    gradient_checkpointing: bool = opt(
        False, "recompute the DiT blocks in the backward pass: less memory, a third more time"
    )
    attention: str = opt(
        "native", "attention kernel by diffusers' name: native, flash, xformers, sage (no training), ..."
    )
    lora_rank: int = opt(
        0, "above 0, low-rank adapters (peft) train instead of the DiT's own weights, which stay base's"
    )
    lora_alpha: float | None = opt(None, "adapters are scaled by lora_alpha / lora_rank; null = lora_rank")
    lora_targets: list[str] = opt(
        ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"],
        "layers that get adapters, by their names' ends",
    )
    subfolder: str = opt("transformer", "the DiT's folder in base; Wan 2.2 A14B's half for low noise: transformer_2")
    sampling_steps: int = opt(
        12, "denoising steps that suit these weights; animate and evaluate take them unless told otherwise"
    )
    sampling_shift: float = opt(1.0, "shift of the sampling noise levels towards 1, as objective.shift (Wan: 3 to 5)")

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def is_half(self) -> bool:
        """Whether these weights are for a part of the noise levels only."""
        return self.sigma_range != (0.0, 1.0)

    def problems(self) -> list[str]:
        found = _positive(
            self,
            "heads",
            "head_dim",
            "layers",
            "ffn_dim",
            "text_dim",
            "text_tokens",
            "freq_dim",
            "patch",
            "sampling_steps",
        )
        if self.reference_skip and self.prediction != "x0":
            found.append(f"reference_skip: true, but prediction is {self.prediction}; it needs prediction x0")
        if self.image_dim is not None and self.text_tokens != WAN_TEXT_TOKENS:
            found.append(
                f"text_tokens: {self.text_tokens}, but a DiT with image_dim takes everything beyond {WAN_TEXT_TOKENS} for the "
                f"image's; set {WAN_TEXT_TOKENS}"
            )
        if self.outlet_blocks < 0:
            found.append(f"outlet_blocks: {self.outlet_blocks} must not be negative")
        if self.outlet_width < 1:
            found.append(f"outlet_width: {self.outlet_width} must be at least 1")
        if self.sampling_shift <= 0:
            found.append(f"sampling_shift: {self.sampling_shift} must be above 0")
        low, high = self.sigma_range
        if not 0 <= low < high <= 1:
            found.append(f"sigma_range: {[low, high]} must be two rising numbers in [0, 1]")
        if self.lora_rank < 0:
            found.append(f"lora_rank: {self.lora_rank} must not be negative; 0 trains the DiT itself")
        if self.lora_rank and not self.lora_targets:
            found.append("lora_targets: empty, but lora_rank is above 0; name layers")
        return found + _divides("head_dim", self.head_dim, "the rotary embedding's pairs", 2)


@dataclass
class AnimatorConfig:
    """The whole model. Shapes in docstrings use docs/method.md's letters."""

    height: int = opt(128, "video height H, in pixels")
    width: int = opt(80, "video width W, in pixels")
    frames: int = opt(17, "pixel frames of a clip, T = 4n+1")
    fps: float = opt(12.0, "frames a second the model is trained for")
    joints: int = opt(20, "joints J")
    latent_channels: int = opt(48, "channels C of the autoencoder's latents")
    latent_stride: int = opt(8, "pixels a side in one latent")
    base: str | None = opt(
        None,
        "folder of a Wan pipeline in diffusers' format: the DiT starts from its weights; VAE and encoders are its own",
    )
    autoencoder: str = opt(
        "tiny", "`tiny` (ships with the package), `wan2.1` or `wan2.2` (base's) or a folder of a diffusers autoencoder"
    )
    tokenizer: TokenizerConfig = opt(TokenizerConfig(), "motion tokenizer")
    retargeter: RetargeterConfig = opt(RetargeterConfig(), "retargeter and joint decoder")
    expression: ExpressionConfig = opt(ExpressionConfig(), "expression encoder and blocks")
    denoiser: DenoiserConfig = opt(DenoiserConfig(), "video DiT")

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.height // self.latent_stride, self.width // self.latent_stride

    @property
    def token_grid(self) -> tuple[int, int]:
        """DiT tokens (rows, columns) of one latent frame."""
        h, w = self.latent_size
        return h // self.denoiser.patch, w // self.denoiser.patch

    @property
    def mask_grid(self) -> tuple[int, int]:
        """Mask tokens (rows, columns) of one latent frame."""
        gh, gw = self.token_grid
        return gh // self.retargeter.grid_stride, gw // self.retargeter.grid_stride

    @property
    def latent_frames(self) -> int:
        """F."""
        return clock.latent_frames(self.frames)

    def check_team(self, size: int, frames: int | None = None) -> None:
        """Raises InputError unless a clip (of ``frames`` pixel frames) can be shared by so many ranks (imanim.sequence)."""
        latent_frames = self.latent_frames if frames is None else clock.latent_frames(frames)
        for what, there in (("latent frames of a clip", latent_frames), ("denoiser.heads", self.denoiser.heads)):
            if there < size:
                raise InputError(
                    f"sequence_parallel: {size}: each rank needs one of the {there} {what}; use at most {there}"
                )

    def problems(self) -> list[str]:
        found = _positive(self, "height", "width", "frames", "joints", "latent_channels", "latent_stride")
        if found:
            return found
        step = self.latent_stride * self.denoiser.patch * self.retargeter.grid_stride
        for name in ("height", "width"):
            found += _divides(
                name, getattr(self, name), "latent_stride * denoiser.patch * retargeter.grid_stride", step
            )
        if not clock.is_clip_length(self.frames):
            found.append(f"frames: {self.frames} is not 4n+1; use {max(1, (self.frames - 1) // 4 * 4 + 1)}")
        if self.fps <= 0:
            found.append(f"fps: {self.fps} must be above 0")
        return found + self._kind_problems()

    def _kind_problems(self) -> list[str]:
        """What does not go together with ``retargeter.kind``."""
        rt = self.retargeter
        heatmaps = clock.STRIDE * self.joints * (rt.sub * rt.grid_stride) ** 2
        if rt.kind == "skeleton" and rt.bottleneck != heatmaps:
            return [
                f"retargeter.bottleneck: {rt.bottleneck}, but kind skeleton hands on {clock.STRIDE} heatmaps a joint; "
                f"set {heatmaps}"
            ]
        if rt.kind == "skeleton" and rt.reference_tokens:
            return ["retargeter.reference_tokens: true, but kind skeleton knows the driver's pose alone; set false"]
        if rt.kind == "identity_tokens" and rt.grid_stride != 1:
            return [f"retargeter.grid_stride: {rt.grid_stride}, but identity tokens lie on the DiT's grid; set 1"]
        return []
