"""Names for frozen encoders by content: what computed a latent cache must be what a model was made for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from imanim.errors import InputError
from imanim.models import wan
from imanim.models.autoencoder import BUILT_IN
from imanim.models.conditioning import autoencoder_folder
from imanim.models.config import AnimatorConfig

CONFIGS = ("config.json", "preprocessor_config.json")


def autoencoder(cfg: AnimatorConfig) -> str:
    """The fingerprint of a model's autoencoder. Raises InputError when its folder is missing or damaged."""
    name = autoencoder_folder(cfg)
    return of_folders(BUILT_IN.get(name, Path(name)))


def image_encoder(cfg: AnimatorConfig) -> str | None:
    """The fingerprint of the image encoder and its preprocessing; None for a base without one."""
    if cfg.denoiser.image_dim is None:
        return None
    return of_folders(wan.base_folder(cfg, "image_encoder"), wan.base_folder(cfg, "image_processor"))


def of_folders(*folders: Path) -> str:
    """Hash over configs and every tensor in these folders' safetensors files: 16 hexadecimal digits.

    How the tensors are spread over files, and what the writing library noted about itself, does not count.

    Raises:
        InputError: no config there, or a damaged file.
    """
    digest, configs = hashlib.sha256(), 0
    for folder in folders:
        for name in CONFIGS:
            if (folder / name).is_file():
                digest.update(_config(folder / name))
                configs += 1
        _add_tensors(digest, folder)
    if not configs:
        raise InputError(f"{folders[0]}: no encoder there (no config.json); give a folder in diffusers' format")
    return digest.hexdigest()[:16]


def _config(path: Path) -> bytes:
    try:
        tree = json.loads(path.read_text())
        kept = {k: v for k, v in tree.items() if not k.startswith("_") or k == "_class_name"}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); copy the folder again") from None
    kept.pop("transformers_version", None)
    return json.dumps(kept, sort_keys=True).encode()


def _add_tensors(digest: hashlib._Hash, folder: Path) -> None:
    where: dict[str, Path] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                where.update(dict.fromkeys(file.keys(), path))
        opened = {path: safe_open(path, framework="pt") for path in set(where.values())}
        for name in sorted(where):
            tensor = opened[where[name]].get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    except SafetensorError as error:
        raise InputError(f"{folder}: damaged weights ({error}); copy the folder again") from None
