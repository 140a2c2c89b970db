"""Cross-identity pairs of the user's own pictures and videos: nobody knows the truth, so only what needs none is measured.

FOLDER holds ``characters/`` (pictures) and ``drivers/`` (videos or folders of frames), and optionally ``pairs.json``::

    [{"character": "anna.png", "driver": "dance.mp4", "person": "anna", "driver_person": "bob"}, ...]

``key`` names a pair's made video; by default CHARACTER--DRIVER. Without the file characters and drivers are paired in the order of
their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.protocols import footage
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item, Material
from evaluation.protocols.sizes import resized
from imanim.data.files import read_json, sha256_file
from imanim.data.video import read_image
from imanim.errors import InputError

PAIRS, CHARACTERS, DRIVERS = "pairs.json", "characters", "drivers"
_KEYS = ("character", "driver", "key", "person", "driver_person")


def items(protocol: ProtocolConfig, data: str) -> list[Item]:
    """A sample a pair. Raises InputError when the folder or its pairs.json is not as described."""
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    listed = _from_file(folder) if (folder / PAIRS).is_file() else _from_folders(folder, protocol.source.grid)
    keys = [_key(pair) for pair in listed]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise InputError(f"{folder}: two pairs are called {sorted(twice)[0]}; give each its own `key` in {PAIRS}")
    return [_item(protocol, folder, pair, i) for i, pair in enumerate(listed)]


def _from_file(folder: Path) -> list[dict[str, Any]]:
    pairs = read_json(folder / PAIRS)
    if not isinstance(pairs, list) or not pairs:
        raise InputError(f"{folder / PAIRS}: holds no list of pairs; see docs/evaluation.md")
    for i, pair in enumerate(pairs):
        if not isinstance(pair, dict) or not {"character", "driver"} <= set(pair) or set(pair) - set(_KEYS):
            raise InputError(
                f"{folder / PAIRS}: pair {i} is {pair!r}; give character and driver, and of {', '.join(_KEYS[2:])}"
            )
    return pairs


def _from_folders(folder: Path, grid: bool) -> list[dict[str, Any]]:
    pictures = folder / CHARACTERS
    characters = (
        sorted(p.name for p in pictures.iterdir() if p.suffix.lower() in footage.PICTURES) if pictures.is_dir() else []
    )
    if not characters:
        raise InputError(f"{folder}: has no {PAIRS} and no pictures in {CHARACTERS}/; see docs/evaluation.md")
    drivers = [path.name for path in footage.listed(folder / DRIVERS).values()]
    if not grid and len(characters) != len(drivers):
        raise InputError(
            f"{folder}: {len(characters)} characters and {len(drivers)} drivers cannot be paired one by one;"
            f" set protocol.source.grid=true (each with each), or write a {PAIRS}"
        )
    chosen = [(c, d) for c in characters for d in drivers] if grid else list(zip(characters, drivers))
    return [{"character": c, "driver": d} for c, d in chosen]


def _key(pair: dict[str, Any]) -> str:
    return str(pair.get("key") or f"{Path(pair['character']).stem}--{Path(pair['driver']).stem}")


def _item(protocol: ProtocolConfig, folder: Path, pair: dict[str, Any], number: int) -> Item:
    character, driver = folder / CHARACTERS / pair["character"], folder / DRIVERS / pair["driver"]
    for path in (character, driver):
        if not path.exists():
            raise InputError(f"{path}: no such file; check {folder / PAIRS}")
    # Who is who matters to the leakage measures: without names, each file is its own person.
    person, other = (
        pair.get("person", f"character {character.stem}"),
        pair.get("driver_person", f"driver {driver.stem}"),
    )
    return Item(
        key=_key(pair),
        load=lambda: _load(protocol, character, driver),
        content={"character": sha256_file(character), "driver": footage.hash_of(driver)},
        number=number,
        unit=driver.stem,
        labels={"person": person, "driver_person": other},
    )


def _load(protocol: ProtocolConfig, character: Path, driver: Path) -> Material:
    frames, fps = footage.read_as(driver, protocol.fps, protocol.frames)
    picture = resized(read_image(character)[None], protocol.size)[0]
    return Material(driving=frames, character=picture, fps=fps)
