"""Makes WebDataset tars that somebody else's tool wrote ready to train on: an index beside each, and the set's manifest.

The tars are only read. A sample is what stands together under one key, as the ``webdataset`` package has it: the name up to the
first dot of its last part. What breaks the sample contract (imanim.data.sample) is left out of the index and named in
``index_report.json``; a tar that cannot be read whole is left out altogether.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from imanim.config import opt, req
from imanim.data.files import read_json, sha256_file, write_json
from imanim.data.latents import MEMBER
from imanim.data.sample import OPTIONAL, REQUIRED, SCHEMA_VERSION, decode, read_meta
from imanim.data.shards import MANIFEST, Shape, index_path, shape_of, write_manifest
from imanim.data.video import read_video
from imanim.errors import InputError

REPORT = "index_report.json"
BLOCK = tarfile.BLOCKSIZE
KNOWN = {*REQUIRED, *OPTIONAL, MEMBER}


@dataclass
class IndexConfig:
    """Which tars to index, and how closely to look at them."""

    input: str = req("folder of WebDataset tars (input=FOLDER)")
    split: str | None = opt(
        None, "split that all tars belong to; null = each one's name up to its last hyphen (train-00000.tar: train)"
    )
    decode: bool = opt(
        False,
        "decode every sample and leave out the damaged ones; false: read meta.json, and the video where that tells no size",
    )
    again: bool = opt(False, "read tars again whose index is there and fits")
    workers: int = opt(1, "tars read at once, each by a process")

    def problems(self) -> list[str]:
        return [] if self.workers >= 1 else [f"workers: {self.workers} must be at least 1"]


class Outcome(NamedTuple):
    """Lines for people, and how many tars and samples were left out."""

    lines: list[str]
    left_out: int


class Indexed(NamedTuple):
    """One tar: how many samples its index has, what was left out of it by key, and why the tar itself was (or None)."""

    samples: int
    dropped: dict[str, str]
    problem: str | None = None


class Entry(NamedTuple):
    """A member of a tar: key, extension, place and size in bytes."""

    key: str
    extension: str
    offset: int
    size: int


def run(cfg: IndexConfig, *, progress: bool = True, dry_run: bool = False) -> Outcome:
    """Indexes a folder. The same command again reads only what is new or has changed.

    Raises:
        InputError: no folder, no tars, a name without a split, nothing that could be used, or the disk is full.
    """
    folder = Path(cfg.input)
    splits = find(cfg, folder)
    todo = [name for name in splits if cfg.again or not fits(folder / name)]
    counts = ", ".join(f"{count} {split}" for split, count in sorted(Counter(splits.values()).items()))
    if dry_run:
        return Outcome([f"{folder}: {len(splits)} tars ({counts}), {len(todo)} to read; would write {MANIFEST}"], 0)
    report = _earlier(folder, [name for name in splits if name not in todo])
    with ProcessPoolExecutor(cfg.workers) as pool:
        found = pool.map(_index, [folder / name for name in todo], [cfg.decode] * len(todo))
        bar = tqdm(zip(todo, found), total=len(todo), unit="tar", disable=None if progress else True)
        for name, tar in bar:
            report[name] = {"samples": tar.samples, "dropped": tar.dropped, "problem": tar.problem}
    write_json(folder / REPORT, {"tars": report})
    good = {name: split for name, split in splits.items() if report[name]["samples"]}
    if not good:
        why = next((str(tar["problem"] or next(iter(tar["dropped"].values()), "empty")) for tar in report.values()), "")
        raise InputError(
            f"{folder}: not one sample that could be trained on (the first: {why}); read {folder / REPORT}"
        )
    before = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    manifest = write_manifest(folder, before, good)
    return _outcome(folder, manifest, report)


def _outcome(folder: Path, manifest: Mapping[str, Any], report: Mapping[str, Mapping[str, Any]]) -> Outcome:
    splits = ", ".join(f"{split['samples']} {name}" for name, split in manifest["splits"].items())
    lines = [f"{folder}: {manifest['samples']} samples ({splits}), {manifest['bytes'] / 1e6:.1f} MB"]
    reasons = Counter(reason for tar in report.values() for reason in tar["dropped"].values())
    lines += [f"  left out: {count} samples, {reason}" for reason, count in reasons.most_common()]
    bad = {name: tar["problem"] for name, tar in report.items() if tar["problem"]}
    lines += [f"  left out: {name}, {problem}" for name, problem in bad.items()]
    if reasons or bad:
        lines.append(f"  every one by name: {folder / REPORT}")
    return Outcome(lines, sum(reasons.values()) + len(bad))


def find(cfg: IndexConfig, folder: Path) -> dict[str, str]:
    """The folder's tars in order, each with its split. Raises InputError when there are none, or a name tells no split."""
    if not folder.is_dir():
        raise InputError(f"input: {folder}: no such folder")
    names = sorted(path.name for path in folder.glob("*.tar"))
    if not names:
        packed = sorted(path.name for path in folder.glob("*.tar.*"))
        remedy = (
            f"unpack {packed[0]} and its like (gunzip, zstd -d): a sample cannot be read out of a compressed tar"
            if packed
            else "give the folder of the tars"
        )
        raise InputError(f"input: {folder}: holds no .tar; {remedy}")
    splits = {name: cfg.split or name.removesuffix(".tar").rpartition("-")[0] for name in names}
    nameless = next((name for name, split in splits.items() if not split), None)
    if nameless is not None:
        raise InputError(f"{folder / nameless}: its name tells no split (as train-00000.tar would); give split=train")
    return splits


def fits(tar: Path) -> bool:
    """Whether a tar's index is there, of this version with shapes, and not older than the tar."""
    path = index_path(tar)
    if not path.is_file() or path.stat().st_mtime_ns < tar.stat().st_mtime_ns:
        return False
    index = read_json(path)
    shaped = all("shape" in entry for entry in index.get("samples", ()))
    return shaped and index.get("schema") == SCHEMA_VERSION and index.get("bytes") == tar.stat().st_size


def _earlier(folder: Path, kept: list[str]) -> dict[str, dict[str, Any]]:
    """What an earlier run said of tars that are not read again; of those that other tools indexed, their numbers of samples."""
    told = read_json(folder / REPORT)["tars"] if (folder / REPORT).is_file() else {}
    plain = {name: len(read_json(index_path(folder / name))["samples"]) for name in kept if name not in told}
    return {
        name: told[name] if name in told else {"samples": plain[name], "dropped": {}, "problem": None} for name in kept
    }


def _index(tar: Path, thorough: bool) -> Indexed:
    """Reads one tar and writes its index, if it holds any sample."""
    try:
        entries = list(members(tar))
    except InputError as error:
        return Indexed(0, {}, str(error))
    groups, dropped = _samples(entries)
    samples = []
    with open(tar, "rb", buffering=0) as stream:
        for key, places in groups.items():
            try:
                shape = _check(key, places, stream.fileno(), thorough)
            except InputError as error:
                dropped[key] = str(error).removeprefix(f"sample {key}: ")
                continue
            samples.append(
                {"key": key, "members": {name: list(place) for name, place in places.items()}, "shape": shape}
            )
    if samples:
        index = {"schema": SCHEMA_VERSION, "bytes": tar.stat().st_size, "sha256": sha256_file(tar)}
        write_json(index_path(tar), {**index, "samples": samples})
    return Indexed(len(samples), dropped)


def members(tar: Path) -> Iterator[Entry]:
    """The files of a tar that are members of samples, in the order they stand.

    Directories and ``__names__`` (webdataset's own notes) are passed over.

    Raises:
        InputError: truncated, damaged, compressed or not a tar, or it holds links or sparse files.
    """
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                folder, _, name = info.name.removeprefix("./").rpartition("/")
                if info.isdir() or (name.startswith("__") and name.endswith("__")):
                    continue
                if not info.isreg() or info.issparse():
                    raise InputError(f"{tar}: {info.name} is a link or a sparse file; write the tar with plain files")
                base, _, extension = name.partition(".")
                yield Entry(f"{folder}/{base}" if folder else base, extension, info.offset_data, info.size)
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{tar}: not a whole, uncompressed tar ({error}); make or copy it again") from None
    with open(tar, "rb") as stream:
        # tarfile takes a file that stops between two members for whole; what is missing then is the mark at the end.
        stream.seek(max(0, min(end, tar.stat().st_size) - BLOCK))
        if not stream.read().endswith(bytes(BLOCK)):
            raise InputError(f"{tar}: has no end mark, so it was cut off; make or copy it again")


def _samples(entries: list[Entry]) -> tuple[dict[str, dict[str, tuple[int, int]]], dict[str, str]]:
    """Members by key, those of the contract only; and keys that stand in several places or hold a member twice."""
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    dropped: dict[str, str] = {}
    last = None
    for entry in entries:
        if entry.key in groups and entry.key != last:
            dropped[entry.key] = "its members do not stand together"
        places = groups.setdefault(entry.key, {})
        if entry.extension in places:
            dropped[entry.key] = f"two members {entry.extension}"
        if entry.extension in KNOWN:
            places[entry.extension] = (entry.offset, entry.size)
        last = entry.key
    return {key: places for key, places in groups.items() if key not in dropped}, dropped


def _check(key: str, places: Mapping[str, tuple[int, int]], handle: int, thorough: bool) -> Shape:
    """Frames, height and width of a sample. Raises InputError when it breaks the contract."""
    missing = [name for name in REQUIRED if name not in places]
    if missing:
        raise InputError(f"sample {key}: no {', '.join(missing)}")

    def content(name: str) -> bytes:
        offset, size = places[name][0], places[name][1]
        return os.pread(handle, size, offset)

    if thorough:
        frames, height, width = decode(key, {name: content(name) for name in places}).driving.shape[:3]
        return frames, height, width
    told = shape_of(read_meta(key, content("meta.json")))
    if told is not None:
        return told
    frames, height, width = read_video(content("driving.mp4"), name=f"sample {key}: driving.mp4").frames.shape[:3]
    return frames, height, width
