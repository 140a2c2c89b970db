"""How much of a GPU's arithmetic a run uses, and how many tokens it passes."""

from __future__ import annotations

import dataclasses

import torch

from imanim import clock
from imanim.data.shards import Shape
from imanim.models.config import AnimatorConfig
from imanim.training.config import TrainConfig

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "GH200": 989.0,
    "H100": 989.0,
    "H100 PCIe": 756.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A10G": 70.0,
    "A40": 149.7,
    "L40S": 362.0,
    "L4": 121.0,
    "V100": 125.0,
}
"""Dense bfloat16 (V100: float16) arithmetic a second by the vendor's data sheets, by what the device's name holds."""


def peak_tflops(cfg: TrainConfig, device: torch.device) -> float | None:
    """The peak of this rank's GPU: ``monitor.peak_tflops``, or what is known of it; None without either, and in float32."""
    if cfg.monitor.peak_tflops is not None:
        return cfg.monitor.peak_tflops
    if device.type != "cuda" or cfg.deepspeed.precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    found = [known for known in PEAK_TFLOPS if known in name]
    return PEAK_TFLOPS[max(found, key=len)] if found else None


def tokens(stage: int, sizes: AnimatorConfig, shape: Shape) -> int:
    """Tokens of a sample of a shape: the DiT's in stage 3, the reference frame's among them; motion tokens before."""
    frames, height, width = shape
    if stage < 3:
        return frames * sizes.tokenizer.tokens
    pixels = sizes.latent_stride * sizes.denoiser.patch
    return (1 + clock.latent_frames(frames)) * (height // pixels) * (width // pixels)


def model_flops(cfg: TrainConfig, sizes: AnimatorConfig) -> float:
    """Floating point operations of a sample's forward and backward pass, without those that checkpointing does again.

    Traced as ``imanim plan`` does it: seconds for a small model, half a minute for the largest.
    """
    from imanim.training import trace

    # A team computes some of it several times over; that is no more useful than what is recomputed.
    traced = trace.run(dataclasses.replace(cfg, sequence_parallel=1), sizes, 1)
    return (traced.total_flops() - traced.total_flops("recomputed")) / traced.samples
