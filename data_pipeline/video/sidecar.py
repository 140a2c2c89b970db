"""What the user knows about a video: ``NAME.json`` beside ``NAME.mp4`` (or ``NAME.mp4.json``, or yt-dlp's ``NAME.info.json``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.sources import Unusable
from imanim.data.files import read_json
from imanim.errors import InputError

ENDINGS = (".json", ".info.json")
NAMES = {"licence": ("licence", "license"), "source": ("source", "webpage_url"), "caption": ("caption", "description")}


@dataclass(frozen=True)
class Sidecar:
    """Empty strings where nothing is said."""

    licence: str = ""
    source: str = ""
    caption: str = ""


def read(video: Path) -> Sidecar:
    """The sidecar of a video; an empty one where there is no file.

    Raises:
        Unusable: sidecar: it is there and is not JSON of the expected form; a wrong licence is worse than none.
    """
    places = [video.with_name(video.name + ".json"), *(video.with_name(video.stem + ending) for ending in ENDINGS)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return Sidecar()
    try:
        stored: Any = read_json(path)
    except InputError as error:
        raise Unusable("sidecar", str(error)) from None
    if not isinstance(stored, dict):
        raise Unusable("sidecar", f"{path.name} holds {type(stored).__name__}, not an object")
    values = {}
    for name, names in NAMES.items():
        value = next((stored[n] for n in names if stored.get(n)), "")
        if not isinstance(value, str):
            raise Unusable("sidecar", f"{path.name}: {name} is {type(value).__name__}, not text")
        values[name] = value
    return Sidecar(**values)
