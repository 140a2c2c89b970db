"""Self-reenactment on a folder of clips (TikTok as the field measures it): one frame shows the character, all are the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.protocols import footage
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item, Material
from evaluation.protocols.sizes import resized
from imanim.errors import InputError


def items(protocol: ProtocolConfig, data: str) -> list[Item]:
    """A sample a clip. Raises InputError when a clip that the protocol names is not there."""
    folder = Path(data)
    found = footage.listed(folder)
    wanted = protocol.source.clips or sorted(found)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"{folder}: lacks {len(missing)} of the {len(wanted)} clips that {protocol.name} measures: {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}; each is a video or a folder of frames of that name"
        )
    return [_item(protocol, name, found[name], i) for i, name in enumerate(wanted)]


def _item(protocol: ProtocolConfig, name: str, path: Path, number: int) -> Item:
    return Item(
        key=name,
        load=lambda: _load(protocol, path),
        content={"clip": footage.hash_of(path)},
        number=number,
        labels={"person": name, "driver_person": name},
    )


def _load(protocol: ProtocolConfig, path: Path) -> Material:
    frames, fps = footage.read_as(path, protocol.fps, protocol.frames)
    if protocol.source.character_frame >= len(frames):
        raise InputError(
            f"{path}: {len(frames)} frames, the character is to be frame {protocol.source.character_frame}"
        )
    truth = resized(frames, protocol.size)
    character = np.ascontiguousarray(truth[protocol.source.character_frame])
    return Material(driving=truth, character=character, fps=fps, truth=truth)
