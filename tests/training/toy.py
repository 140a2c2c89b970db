"""A data set and a model small enough that three stages run in seconds: a bright dot that swims over a coloured ground."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from imanim.data.sample import JOINTS, Sample, encode
from imanim.data.shards import write_manifest, write_shard

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

HEIGHT, WIDTH, FRAMES, FPS = 48, 32, 5, 12.0

MODEL = f"""\
height: {HEIGHT}
width: {WIDTH}
frames: {FRAMES}
fps: {FPS}
autoencoder: AUTOENCODER
"""

PARTS = """\
tokenizer:
  {image_size: 32, width: 32, layers: 1, heads: 2, tokens: 4, codes: 16,
   decoder_width: 32, decoder_layers: 1, decoder_grid: 2, heatmap: 8}
retargeter: {width: 32, identity_layers: 1, layers: 1, heads: 2, bottleneck: 16, joint_hidden: 32}
expression: {crop_size: 16, width: 16, tokens: 1, heads: 2, every: 1}
denoiser: {heads: 2, head_dim: 16, layers: 2, ffn_dim: 64, text_dim: 8, freq_dim: 16}
"""


def write_model(folder: Path, **changed: str) -> Path:
    """The toy model's YAML and an untrained autoencoder; ``changed`` replaces top-level lines, e.g. ``width="64"``."""
    write_autoencoder(folder / "autoencoder")
    lines = MODEL.replace("AUTOENCODER", str(folder / "autoencoder")).splitlines()
    lines = [line for line in lines if line.split(":")[0] not in changed]
    path = folder / "toy.yaml"
    path.write_text("\n".join(lines + [f"{key}: {value}" for key, value in changed.items()]) + "\n" + PARTS)
    return path


WAN = "wan2.1-i2v-14b"
"""The family that asks for most: adapters, a prompt, still video and image features."""


def write_wan(folder: Path) -> None:
    """``wan.yaml``, to be laid over the family's sizes, and its pipeline ``base/``; the tokenizer is the toy's."""
    from base_pipeline import small, write_base
    from omegaconf import OmegaConf

    from imanim.models import sizes

    tokenizer = OmegaConf.to_container(OmegaConf.create(PARTS))["tokenizer"]
    conv = {"encoder": "conv", "stem_patch": 4, "stem_convs": 2, "stem_padding": [0, 0], "token_dim": 12}
    settings = small(WAN, lora_rank=2) | {
        "height": HEIGHT,
        "width": WIDTH,
        "frames": FRAMES,
        "base": str(folder / "base"),
    }
    settings["retargeter"]["grid_stride"] = 1
    settings["tokenizer"] = {**tokenizer, **conv}
    (folder / "wan.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    write_base(sizes.load(f"{WAN},{folder / 'wan.yaml'}"), folder / "base")


def write_autoencoder(folder: Path) -> None:
    """A patch autoencoder with random orthonormal bases: fast, and its latents depend on the video."""
    import torch

    from imanim.models.autoencoder import PatchAutoencoder

    random = torch.Generator().manual_seed(0)
    vae = PatchAutoencoder(hidden_dim=8, num_blocks=1, pixel_dim=4)
    still, clip = (torch.linalg.qr(torch.randn(n, 48, generator=random))[0].T for n in (192, 768))
    vae.set_bases(torch.zeros(192), still.contiguous(), clip.contiguous())
    vae.save_pretrained(folder)


def write_shards(folder: Path, train: int = 12, val: int = 4) -> Path:
    """Shards of self pairs with splits ``train`` and ``val``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 0), ("val", val, 1)):
        random = np.random.default_rng(seed)
        samples = [(f"{split}-{i:03d}", encode(make_sample(f"{split}-{i:03d}", random))) for i in range(count)]
        write_shard(folder, split, 0, samples)
    write_manifest(folder, {"config": "toy"})
    return folder


def make_sample(key: str, random: np.random.Generator, shape: tuple[int, int, int] = (FRAMES, HEIGHT, WIDTH)) -> Sample:
    """A dot on a straight path; every joint lies at its own small offset from the dot."""
    count, height, width = shape
    start, stop = random.uniform(0.25, 0.75, (2, 2))
    path = start + (stop - start) * np.linspace(0, 1, count)[:, None]
    offsets = 0.15 * np.stack([np.cos(np.arange(len(JOINTS))), np.sin(np.arange(len(JOINTS)))], -1)
    joints = np.ones((count, len(JOINTS), 3), np.float32)
    joints[..., :2] = path[:, None] + offsets
    ground = random.integers(0, 160, 3)
    y, x = np.mgrid[:height, :width]
    frames = np.empty((count, height, width, 3), np.uint8)
    for t, (cx, cy) in enumerate(path):
        near = np.exp(-(((x + 0.5) / width - cx) ** 2 + ((y + 0.5) / height - cy) ** 2) / 0.02)[..., None]
        frames[t] = (ground * (1 - near) + 255 * near).astype(np.uint8)
    faces = np.full((count, 4), np.nan, np.float32)
    faces[1:] = np.concatenate([path - 0.1, path + 0.1], -1)[1:].astype(np.float32)
    return Sample(key, frames, FPS, frames[0], joints, faces, {"source": "toy"})
