"""Shards: ordinary WebDataset tars, an index beside each, and the set's manifest.

A shard ``SPLIT-00000.tar`` has ``SPLIT-00000.index.json``: for every sample its key, the frames, height and width of its
video, and its members' offsets and sizes inside the tar, so that a reader fetches one sample with one read instead of walking
the tar; and the tar's size and SHA-256. ``manifest.json`` lists splits, shards and totals; it is written last, so a
folder without it is unfinished. Writing goes aside and is renamed: a shard that bears its name is whole.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from imanim.data import storage
from imanim.data.files import read_json, sha256, write_atomic, write_json
from imanim.data.sample import SCHEMA_VERSION
from imanim.errors import InputError

MANIFEST = "manifest.json"
Members = Mapping[str, bytes]
Shape = tuple[int, int, int]
"""Frames, height and width of a sample's video."""
GAP_BYTES = 1 << 16
"""Members nearer to each other than this are read together: reading so much costs less than asking twice."""


def shard_name(split: str, number: int) -> str:
    """``train-00012.tar``."""
    return f"{split}-{number:05d}.tar"


def index_path(tar: Path) -> Path:
    """The index that belongs to a tar."""
    return tar.with_suffix(".index.json")


def write_shard(folder: str | Path, split: str, number: int, samples: Sequence[tuple[str, Members]]) -> Path:
    """Writes one shard and its index, both whole or not at all; the same samples give the same bytes.

    Args:
        samples: (key, {extension: bytes}) in the order they are to stand; keys hold no dot (WebDataset splits there).

    Raises:
        InputError: an unusable or repeated key, or the system refuses to write.
    """
    entries, buffer = [], io.BytesIO()
    seen: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            if not key or "." in key or "/" in key or key in seen:
                raise InputError(f"sample key `{key}`: empty, repeated, or holds a dot or slash; choose another key")
            seen.add(key)
            places = {}
            for extension, data in sorted(members.items()):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                places[extension] = [tar.offset - padded, len(data)]
            entries.append({"key": key, "members": places, **shape_entry(members)})
    path = Path(folder) / shard_name(split, number)
    write_atomic(path, buffer.getvalue())
    index = {"schema": SCHEMA_VERSION, "bytes": len(buffer.getvalue()), "sha256": sha256(buffer.getvalue())}
    write_json(index_path(path), {**index, "samples": entries})
    return path


def shape_entry(members: Members) -> dict[str, list[int]]:
    """``{"shape": [frames, height, width]}`` for the index, as ``meta.json`` tells it; empty when it does not."""
    try:
        shape = shape_of(json.loads(members["meta.json"]))
    except (KeyError, ValueError):
        return {}
    return {} if shape is None else {"shape": list(shape)}


def shape_of(meta: Any) -> Shape | None:
    """Frames, height and width as a sample's ``meta.json`` tells them; None when it does not."""
    try:
        frames, (height, width) = int(meta["frames"]), map(int, meta["size"])
    except (KeyError, TypeError, ValueError):
        return None
    return frames, height, width


def is_complete(folder: str | Path, split: str, number: int) -> bool:
    """True when the shard and its index are both there and agree on the size (a killed job may have left only the tar)."""
    tar = Path(folder) / shard_name(split, number)
    if not (tar.is_file() and index_path(tar).is_file()):
        return False
    return tar.stat().st_size == read_json(index_path(tar)).get("bytes")


def write_manifest(
    folder: str | Path, info: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Writes ``manifest.json`` from the indexed shards in ``folder`` and the caller's ``info`` (config, tools, licence).

    Args:
        names: the tars, each with its split; by default those that are called ``SPLIT-00000.tar``.

    Returns:
        the manifest: schema, splits {name: {shards: [{name, samples, bytes, sha256}], samples}}, samples, bytes, and info.
    """
    splits: dict[str, Any] = {}
    if names is None:
        tars = sorted(Path(folder).glob("*-[0-9][0-9][0-9][0-9][0-9].tar"))
        names = {tar.name: tar.stem.rsplit("-", 1)[0] for tar in tars}
    for name, split in names.items():
        tar = Path(folder) / name
        index = read_json(index_path(tar))
        shard = {"name": tar.name, "samples": len(index["samples"]), "bytes": index["bytes"], "sha256": index["sha256"]}
        entry = splits.setdefault(split, {"shards": [], "samples": 0})
        entry["shards"].append(shard)
        entry["samples"] += shard["samples"]
    manifest = {
        **info,
        "schema": SCHEMA_VERSION,
        "splits": splits,
        "samples": sum(s["samples"] for s in splits.values()),
        "bytes": sum(shard["bytes"] for s in splits.values() for shard in s["shards"]),
    }
    write_json(Path(folder) / MANIFEST, manifest)
    return manifest


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Reads a folder's manifest; ``folder`` may be a URL. Raises InputError when it holds none (unfinished, or not shards)."""
    place = storage.at(folder)
    if not storage.is_remote(folder):
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder of shards; make one with launchers/preprocess.py")
        if not (Path(folder) / MANIFEST).is_file():
            raise InputError(
                f"{folder}: has no {MANIFEST}; finish preprocessing (run the same command again), or index other tars "
                "with launchers/index.py"
            )
    manifest = place.json([MANIFEST])[0]
    if manifest.get("schema") != SCHEMA_VERSION:
        raise InputError(
            f"{place.path(MANIFEST)}: schema {manifest.get('schema')}, this version reads {SCHEMA_VERSION}; preprocess again"
        )
    return manifest


def _neighbours(members: Mapping[str, Sequence[int]]) -> list[list[tuple[str, int, int]]]:
    """Members (name, offset, size) in the order of the tar, in groups that are worth one read each."""
    groups: list[list[tuple[str, int, int]]] = []
    for name, (offset, size) in sorted(members.items(), key=lambda item: item[1][0]):
        if groups and offset - sum(groups[-1][-1][1:]) <= GAP_BYTES:
            groups[-1].append((name, offset, size))
        else:
            groups.append([(name, offset, size)])
    return groups


class ShardSet:
    """One split of a folder of shards: random access to samples by index.

    ``len(set)`` samples; ``set.keys[i]`` their keys in the manifest's order; ``set.read(i)`` one sample's members.
    Opens files on use, so it may be sent to worker processes.

    Args:
        folder: a local folder, or a URL for fsspec (imanim.data.storage).

    Attributes:
        shapes: each sample's (frames, height, width) as its index tells it; None where an older index does not.
    """

    def __init__(self, folder: str | Path, split: str):
        self.folder: str | Path = str(folder) if storage.is_remote(folder) else Path(folder)
        self.split, self.manifest = split, read_manifest(folder)
        splits = self.manifest["splits"]
        if split not in splits or not splits[split]["samples"]:
            have = ", ".join(sorted(splits)) or "none"
            raise InputError(f"{folder}: no samples in split `{split}`; this folder has: {have}")
        self._storage = storage.at(folder)
        self.keys: list[str] = []
        self.shapes: list[Shape | None] = []
        self._places: list[tuple[int, dict[str, list[int]]]] = []
        self._tars: list[str] = []
        listed = splits[split]["shards"]
        sizes = self._storage.sizes([shard["name"] for shard in listed])
        indexes = self._storage.json([index_path(Path(shard["name"])).name for shard in listed])
        for shard, size, index in zip(listed, sizes, indexes):
            self._add(shard, size, index)

    def _add(self, shard: Mapping[str, Any], size: int | None, index: Mapping[str, Any]) -> None:
        if index["sha256"] != shard["sha256"] or size != shard["bytes"]:
            tar = self._storage.path(shard["name"])
            raise InputError(f"{tar}: missing or not the shard that the manifest lists; make the folder again")
        self._tars.append(shard["name"])
        for entry in index["samples"]:
            self.keys.append(entry["key"])
            shape = entry.get("shape")
            self.shapes.append(None if shape is None else (shape[0], shape[1], shape[2]))
            self._places.append((len(self._tars) - 1, entry["members"]))

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, i: int, wanted: Collection[str] | None = None) -> tuple[str, dict[str, bytes]]:
        """Sample ``i`` as (key, {extension: bytes}). Raises InputError when the file refuses.

        Args:
            wanted: members to read of those that it has; all when None. What lies between them is skipped where it is large.
        """
        number, members = self._places[i]
        if wanted is not None:
            members = {name: place for name, place in members.items() if name in wanted}
        groups = _neighbours(members)
        spans = [(group[0][1], group[-1][1] + group[-1][2]) for group in groups]
        out: dict[str, bytes] = {}
        for group, (start, stop), block in zip(groups, spans, self._storage.ranges(self._tars[number], spans)):
            if len(block) != stop - start:
                tar = self._storage.path(self._tars[number])
                raise InputError(f"{tar}: truncated at sample {self.keys[i]}; make the shard again")
            out |= {name: block[o - start : o - start + size] for name, o, size in group}
        return self.keys[i], {name: out[name] for name in members}

    def member_bytes(self, name: str) -> int:
        """Bytes of all samples' members of a name."""
        return sum(members[name][1] for _, members in self._places if name in members)

    def verify(self) -> None:
        """Reads every shard whole and compares its SHA-256. Raises InputError naming the first that differs."""
        for name, shard in zip(self._tars, self.manifest["splits"][self.split]["shards"]):
            if self._storage.sha256(name) != shard["sha256"]:
                raise InputError(
                    f"{self._storage.path(name)}: its bytes differ from the manifest's sha256; make the shard again"
                )
