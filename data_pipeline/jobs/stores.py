"""Samples of one tar, by key."""

from __future__ import annotations

from pathlib import Path

from imanim.data.files import read_json
from imanim.data.shards import index_path
from imanim.errors import InputError, from_os_error


class TarSamples:
    """Reads samples of a tar through its index. Raises InputError when either is missing or damaged."""

    def __init__(self, tar: Path):
        self._tar = tar
        self._places = {entry["key"]: entry["members"] for entry in read_json(index_path(tar))["samples"]}

    def read(self, key: str) -> dict[str, bytes]:
        """A sample's members, extension to bytes. Raises InputError when the tar lacks it or is cut short."""
        if key not in self._places:
            raise InputError(f"{self._tar}: has no sample {key}; run `imanim preprocess repair`")
        out = {}
        try:
            with open(self._tar, "rb") as stream:
                for name, (offset, size) in self._places[key].items():
                    stream.seek(offset)
                    out[name] = stream.read(size)
                    if len(out[name]) != size:
                        raise InputError(f"{self._tar}: cut short at sample {key}; run `imanim preprocess repair`")
        except OSError as error:
            raise from_os_error(error, self._tar) from None
        return out
