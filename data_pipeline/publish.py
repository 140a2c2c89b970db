"""Copies a finished set of shards to another place: a bucket, or whatever else fsspec reaches (docs/data.md "Shards elsewhere").

    TO/publishing.json          whose copy this is, while it is unfinished: goes first, is taken away at the end
    TO/train-00000.tar
    TO/train-00000.index.json   after its tar
    TO/manifest.json            last, so that a place without it is unfinished there too

An index names its tar's SHA-256 and is written after it. So a tar whose index is there, equal to ours, is the tar we have, and is
not sent again; where a tar is replaced, its index is taken away first. The same command goes on after any interruption.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec

from imanim.config import opt, req
from imanim.data import storage
from imanim.data.files import parse_json, read_json, sha256_file
from imanim.data.shards import MANIFEST, index_path, read_manifest
from imanim.errors import InputError

Result = TypeVar("Result")
PUBLISHING = "publishing.json"
BUCKETS = ("s3fs", "gcsfs", "adlfs")
"""Packages of stores that have no folders; making one there would make a bucket."""


@dataclass
class PublishConfig:
    """What to copy, and whereto."""

    input: Path = req("folder of a finished set of shards (input=FOLDER)")
    to: str = req("where it is to lie: s3://bucket/set, or anything fsspec reaches, or a folder (to=URL)")
    workers: int = opt(8, "shards copied at once")
    replace: bool = opt(False, "put it in the place of another set that lies there")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        return [] if self.workers >= 1 else [f"workers: {self.workers} must be at least 1"]


class Outcome(NamedTuple):
    """Lines for people."""

    lines: list[str]


class Shard(NamedTuple):
    """A shard as the manifest lists it, with its index's name and bytes."""

    tar: str
    tar_bytes: int
    sha256: str
    index_name: str
    index_content: bytes


def run(config: PublishConfig, *, progress: bool = True, dry_run: bool = False) -> Outcome:
    """See :func:`publish`."""
    settings: dict[str, Any] = {"workers": config.workers, "replace": config.replace}
    return publish(config.input, config.to, progress=progress, dry_run=dry_run, **settings)


def publish(
    folder: str | Path,
    url: str,
    *,
    workers: int = 8,
    replace: bool = False,
    progress: bool = True,
    dry_run: bool = False,
) -> Outcome:
    """Copies the shards that a folder's manifest lists, their indexes and the manifest; nothing else.

    What is there already and the same is left. A set that has grown is completed; another set is not touched unless
    ``replace``. Every tar's SHA-256 is compared with the manifest before it is sent, its size after, and all sizes once more
    before the manifest goes.

    Args:
        url: any place for fsspec, or a local folder.
        workers: shards copied at once.
        dry_run: only say what there is to do.

    Raises:
        InputError: the folder is unfinished or damaged, the place holds another set, or it cannot be reached or written to.
            What has been copied stays.
    """
    manifest, shards = read_set(Path(folder))
    place = Place(url)
    if place.url == Place(str(folder)).url:
        raise InputError(f"to: {url}: is the input; choose another place")
    there, begun = place.json(MANIFEST), place.json(PUBLISHING)
    whole = place.whole(shards)
    todo = [shard for shard in shards if shard.tar not in whole]
    if not replace:
        _refuse_others(place, manifest, there, begun, todo)
    size = sum(shard.tar_bytes for shard in todo)
    if dry_run:
        finished = "" if there is None else "; a finished set lies there"
        return Outcome(
            [f"{place.url}: {len(todo)} of {len(shards)} shards to copy, {size / 1e6:.1f} MB of tars{finished}"]
        )
    if there != manifest or begun is not None or todo:
        stale = _stale(manifest, there, begun)
        _open(place, manifest, there, stale)
        _copy(Path(folder), place, todo, workers, progress)
        _verify(place, shards)
        _close(place, (Path(folder) / MANIFEST).read_bytes(), stale)
    else:
        _verify(place, shards)
    return Outcome(
        [
            f"{place.url}: {manifest['samples']} samples, {manifest['bytes'] / 1e6:.1f} MB in {len(shards)} shards; "
            f"{len(todo)} copied now ({size / 1e6:.1f} MB), {len(shards) - len(todo)} were there",
            f"train on it: data.train={place.shown}",
        ]
    )


def read_set(folder: Path) -> tuple[dict[str, Any], list[Shard]]:
    """A local folder's manifest and shards. Raises InputError when it is no finished set."""
    manifest, shards = read_manifest(folder), []
    for split in manifest["splits"].values():
        for listed in split["shards"]:
            tar = folder / listed["name"]
            index = read_json(index_path(tar))
            if not tar.is_file() or tar.stat().st_size != listed["bytes"] or index["sha256"] != listed["sha256"]:
                raise InputError(f"{tar}: missing or not the shard that the manifest lists; make the folder again")
            name = index_path(tar).name
            shards.append(Shard(tar.name, listed["bytes"], listed["sha256"], name, index_path(tar).read_bytes()))
    if not shards:
        raise InputError(f"input: {folder}: holds no samples; make some with launchers/preprocess.py")
    return manifest, shards


# ------------------------------------------------------------------------------------------------------------- the work


def _listed(manifest: Mapping[str, Any] | None) -> dict[str, str]:
    """Tars that a manifest lists, each with its SHA-256; none when it is no manifest of ours."""
    try:
        splits = [] if manifest is None else manifest["splits"].values()
        return {shard["name"]: shard["sha256"] for split in splits for shard in split["shards"]}
    except (AttributeError, KeyError, TypeError):
        return {}


def _refuse_others(place: Place, manifest: dict[str, Any], there: Any, begun: Any, todo: Sequence[Shard]) -> None:
    """Raises InputError unless the place is empty, or all that is published there or was begun belongs to this set."""
    ours = _listed(manifest)
    found = {"a finished copy": there, "an unfinished copy": None if begun is None else begun.get("manifest", {})}
    for what, other in found.items():
        if other is None:
            continue
        marks = manifest.get("fingerprint"), other.get("fingerprint")
        if marks[0] != marks[1] or not _listed(other) or not _listed(other).items() <= ours.items():
            of = f"(fingerprint {marks[1]}, this one is {marks[0]})" if marks[0] != marks[1] else "(other shards)"
            raise InputError(
                f"to: {place.url}: holds {what} of another set {of}; choose another place, or replace it: replace=true"
            )
    if there is None and begun is None:
        names = [name for shard in todo for name in (shard.tar, shard.index_name)]
        foreign = next((name for name, size in zip(names, place.sizes(names)) if size is not None), None)
        if foreign is not None:
            raise InputError(
                f"to: {place.path(foreign)}: is there, and not of this set; choose another place, or replace=true"
            )


def _stale(manifest: dict[str, Any], there: Any, begun: Any) -> list[str]:
    """Files of a set that is being replaced which the new one has not."""
    old = [
        *_listed(there),
        *(_listed(begun.get("manifest")) if begun else ()),
        *(begun.get("stale", ()) if begun else ()),
    ]
    tars = {Path(str(name)).name for name in old if str(name).endswith(".tar")} - set(_listed(manifest))
    return sorted(tars)


def _open(place: Place, manifest: dict[str, Any], there: Any, stale: list[str]) -> None:
    """Notes whose copy this is. A set that is replaced is unfinished from now on; one that only grows can be read meanwhile."""
    place.prepare()
    place.send(PUBLISHING, json.dumps({"manifest": manifest, "stale": stale}, sort_keys=True).encode())
    if there is not None and not _listed(there).items() <= _listed(manifest).items():
        place.remove(MANIFEST)


def _copy(folder: Path, place: Place, todo: Sequence[Shard], workers: int, progress: bool) -> None:
    """Sends shards, ``workers`` at once. The first refusal ends it, once those in flight are through."""
    from tqdm import tqdm

    total = sum(shard.tar_bytes for shard in todo)
    there = place.sizes([shard.index_name for shard in todo])
    with tqdm(total=total, desc="publish", unit="B", unit_scale=True, disable=not progress) as bar:
        with ThreadPoolExecutor(workers) as pool:
            flying = {pool.submit(_send, folder, place, s, size is not None): s for s, size in zip(todo, there)}
            try:
                for future in as_completed(flying):
                    future.result()
                    bar.update(flying[future].tar_bytes)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _send(folder: Path, place: Place, shard: Shard, replaced: bool) -> None:
    """One shard: its tar, then its index. ``replaced``: an index of that name is there."""
    tar = folder / shard.tar
    if sha256_file(tar) != shard.sha256:
        raise InputError(f"{tar}: its bytes differ from the manifest's sha256; make the shard again")
    if replaced:
        place.remove(shard.index_name)  # with it there, a tar half replaced would pass for whole
    place.send(shard.tar, tar)
    place.send(shard.index_name, shard.index_content)


def _verify(place: Place, shards: Sequence[Shard]) -> None:
    """Raises InputError unless every file is there with its size."""
    wanted = {shard.tar: shard.tar_bytes for shard in shards}
    wanted |= {shard.index_name: len(shard.index_content) for shard in shards}
    for (name, size), found in zip(wanted.items(), place.sizes(list(wanted))):
        if found != size:
            how = "is not there" if found is None else f"has {found} bytes, not {size}"
            raise InputError(f"{place.path(name)}: {how} after it was written; does somebody else write there?")


def _close(place: Place, manifest: bytes, stale: Sequence[str]) -> None:
    """The manifest, by which the set is finished there; then what is left of a set that it replaces, and the note."""
    place.send(MANIFEST, manifest)
    for tar in stale:
        place.remove(tar)
        place.remove(index_path(Path(tar)).name)
    place.remove(PUBLISHING)


# ------------------------------------------------------------------------------------------------------------ the place


class Place:
    """A folder that fsspec reaches, to write to. Everything is tried again as ``imanim.data.storage`` does.

    Raises:
        InputError: from every method, when the place refuses for good.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/") if storage.is_remote(url) else f"file://{Path(url).resolve()}"
        self.shown = self.url.removeprefix("file://")
        self._connection = storage.connect(self.url)

    def _do(self, what: str, do: Callable[[fsspec.AbstractFileSystem], Result], verb: str = "written") -> Result:
        return storage.attempt(do, lambda: self._connection, what, verb=verb)

    def _at(self, name: str) -> str:
        return f"{self._connection.root}/{name}"

    def path(self, name: str) -> str:
        """How people call a file of this place."""
        return f"{self.url}/{name}"

    def prepare(self) -> None:
        """Makes the folder where folders are something of their own."""
        if storage.PACKAGES.get(self.url.split("://")[0]) not in BUCKETS:
            self._do(self.url, lambda files: files.makedirs(self._connection.root, exist_ok=True))

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON file's mapping; None when there is no file, ``{}`` when it holds anything else."""

        def read(files: fsspec.AbstractFileSystem) -> bytes | None:
            try:
                return files.cat_file(self._at(name))
            except FileNotFoundError as error:
                if storage.no_bucket(error):  # which is no empty place
                    raise
                return None

        content = self._do(self.path(name), read, "read")
        if content is None:
            return None
        try:
            found = parse_json(content, self.path(name))
        except InputError:
            return {}
        return found if isinstance(found, dict) else {}

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of files, by one listing; None where there is none."""

        def ask(files: fsspec.AbstractFileSystem) -> dict[str, Any]:
            files.invalidate_cache(self._connection.root)
            try:
                listed = files.ls(self._connection.root, detail=True)
            except FileNotFoundError:
                return {}
            return {entry["name"].strip("/"): entry["size"] for entry in listed}

        listed = self._do(self.url, ask, "read")
        return [listed.get(self._at(name).strip("/")) for name in names]

    def whole(self, shards: Sequence[Shard]) -> set[str]:
        """The tars that lie there as they are here: both sizes, and the index byte for byte."""
        sizes = self.sizes([shard.tar for shard in shards]), self.sizes([shard.index_name for shard in shards])
        alike = [s for s, tar, index in zip(shards, *sizes) if (tar, index) == (s.tar_bytes, len(s.index_content))]
        paths = [self._at(shard.index_name) for shard in alike]
        found: Any = self._do(self.url, lambda files: files.cat(paths, on_error="raise"), "read") if paths else {}
        contents = {paths[0]: found} if isinstance(found, bytes) else found
        return {shard.tar for shard, path in zip(alike, paths) if contents[path] == shard.index_content}

    def send(self, name: str, source: Path | bytes) -> None:
        """Writes a file and asks for its size."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size

        def put(files: fsspec.AbstractFileSystem) -> None:
            if isinstance(source, bytes):
                files.pipe_file(self._at(name), source)
            else:
                files.put_file(str(source), self._at(name))
            files.invalidate_cache(self._connection.root)
            there = files.size(self._at(name))
            if there != size:
                raise OSError(f"{there} bytes arrived of {size}")

        self._do(self.path(name), put)

    def remove(self, name: str) -> None:
        """Takes a file away, if it is there."""

        def remove(files: fsspec.AbstractFileSystem) -> None:
            try:
                files.rm_file(self._at(name))
            except FileNotFoundError:
                return
            finally:
                files.invalidate_cache(self._connection.root)

        self._do(self.path(name), remove)
