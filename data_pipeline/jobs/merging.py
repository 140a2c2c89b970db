"""Finished videos -> shards: who is who, which split, which shard; then manifest and report."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline import reporting
from data_pipeline.config import VideosConfig
from data_pipeline.jobs import ledger as books
from data_pipeline.jobs import plan_file, unit
from data_pipeline.jobs.ledger import Entry, Ledger
from data_pipeline.jobs.people_of_set import Cast, cast
from data_pipeline.jobs.stores import TarSamples
from data_pipeline.reporting import in_one_line, sheets
from data_pipeline.video import steps
from data_pipeline.video.artefacts import WORK, Artefact, Row, VideoFolder, known_sha256
from data_pipeline.video.cutting import Strip
from data_pipeline.video.one_video import strips_of
from imanim.config import to_dict
from imanim.data.files import read_json, write_json
from imanim.data.shards import MANIFEST, write_manifest
from imanim.errors import InputError

TOOLS = ("av", "numpy", "pillow", "scenedetect-headless")
LEAKAGE = "leakage.json"


@dataclass
class Finished:
    """Everything that the tasks of a job left behind.

    Attributes:
        rows: of all planned files, by name; a second copy of the same bytes is a `duplicate`.
        clips: sha256 -> the clips step. identities: sha256 -> the identity step; of videos with clips.
    """

    keys: dict[str, str]
    models: dict[str, dict[str, str]]
    rows: list[Row] = field(default_factory=list)
    clips: dict[str, Artefact] = field(default_factory=dict)
    identities: dict[str, Artefact] = field(default_factory=dict)

    def kept(self) -> list[Row]:
        """Rows of the videos that have clips."""
        return [row for row in self.rows if row.get("clips")]


def merge(config: VideosConfig) -> list[str]:
    """Packs what is finished. See :func:`data_pipeline.jobs.job.merge`."""
    refuse_foreign(config.output)
    books.finish(config.output)
    done = gather(config)
    tracks = {row["sha256"]: _tracks(done.clips[row["sha256"]]) for row in done.kept()}
    people = cast(done.kept(), tracks, done.identities, config.split)
    write_json(config.output / WORK / LEAKAGE, people.leakage)
    if people.leakage and not people.leakage["ok"]:
        (config.output / MANIFEST).unlink(missing_ok=True)
        _write_report(config, done, people, {"splits": {}, "samples": 0, "bytes": 0})
        raise InputError(_leak(config, people.leakage))
    _pack(config, done, people)
    shards = sorted(Ledger.read(config.output).shards)
    gone = [name for name in shards if not (config.output / name).is_file()]
    if gone:
        raise InputError(f"{config.output / gone[0]}: is gone ({len(gone)} shard(s)); run `imanim preprocess repair`")
    about = _about(config, done, people)
    manifest = write_manifest(config.output, about, {name: name.rpartition("-")[0] for name in shards})
    _write_report(config, done, people, manifest)
    for row in done.kept():
        VideoFolder(config.output, row["sha256"]).drop_samples(done.keys["samples"])
    for left in (config.output / WORK).rglob("*.part"):  # by processes that were killed while they wrote
        left.unlink(missing_ok=True)
    if not manifest["samples"]:
        raise InputError(
            f"input: none of the {len(done.rows)} videos in {config.input} gave a clip ({in_one_line(done.rows)});"
            f" see {config.output / 'report.html'}"
        )
    return _lines(config, done, manifest)


def report(config: VideosConfig) -> list[str]:
    """Writes the report of a merged folder anew."""
    done = gather(config)
    tracks = {row["sha256"]: _tracks(done.clips[row["sha256"]]) for row in done.kept()}
    people = cast(done.kept(), tracks, done.identities, config.split)
    if not (config.output / MANIFEST).is_file():
        raise InputError(f"output: {config.output} has no {MANIFEST}; run `imanim preprocess merge` first")
    _write_report(config, done, people, read_json(config.output / MANIFEST))
    return [f"{config.output / 'report.html'}"]


def refuse_foreign(output: Path) -> None:
    """Refuses a folder that holds shards which this job did not make. Raises InputError."""
    foreign = next(output.glob("*-[0-9][0-9][0-9][0-9][0-9].tar"), None) if output.is_dir() else None
    if foreign is not None and not (output / WORK).is_dir():
        raise InputError(f"output: {output} holds shards of another source ({foreign.name}); choose another folder")


def gather(config: VideosConfig) -> Finished:
    """Reads what the tasks left behind. Raises InputError when files of the plan are not finished."""
    models = unit.load_networks(config).models()
    done = Finished(steps.keys(config, models), models)
    first: dict[str, str] = {}
    missing = []
    for file in plan_file.read(config.output):
        sha = known_sha256(config.output, file.name)
        folder = VideoFolder(config.output, sha or "")
        row = folder.row(done.keys["samples"]) if sha is not None else None
        if sha is None or row is None:
            missing.append(file.name)
            continue
        row = {**row, "file": file.name}
        if sha in first:
            row = {"file": file.name, "sha256": sha, "reason": "duplicate", "detail": f"the same bytes as {first[sha]}"}
        elif "clips" in row:
            done.clips[sha], done.identities[sha] = (
                _load(folder, "clips", done.keys),
                _load(folder, "identity", done.keys),
            )
        first.setdefault(sha, file.name)
        done.rows.append(row)
    if missing:
        raise InputError(
            f"output: {len(missing)} of {len(missing) + len(done.rows)} planned videos are not finished under these settings"
            f" (the first: {missing[0]}); run every task (`imanim preprocess run --task I/N`), or `plan` again if files are gone"
        )
    return done


def _load(folder: VideoFolder, step: str, keys: dict[str, str]) -> Artefact:
    found = folder.load(step, keys[step])
    if found is None:
        folder.drop_row(keys["samples"])
        raise InputError(f"{folder.path}: the result of step {step} is gone or damaged; run its task again")
    return found


def _tracks(clips: Artefact) -> list[int]:
    return sorted({clip["track"] for clip in clips.facts["clips"]})


def _pack(config: VideosConfig, done: Finished, people: Cast) -> None:
    entries = []
    for row in done.kept():
        sha = row["sha256"]
        for clip in done.clips[sha].facts["clips"]:
            who = (sha, clip["track"])
            entry = Entry(
                clip["key"],
                people.split[who],
                people.person[who],
                sha,
                done.keys["samples"],
                row["sidecar"],
                row["file"],
            )
            entries.append(entry)
    old = Ledger.read(config.output)
    layout = books.arrange(entries, old, config.samples_per_shard)
    books.clear_stage(config.output)
    if not layout.new and not layout.remove:
        return
    store = SampleStore(config, old)
    after = {name: old.shards[name] for name in layout.keep}
    for name, wanted in layout.new.items():
        books.stage(config.output, name, [store.read(entry) for entry in wanted])
        after[name] = [[entry.key, entry.stamp] for entry in wanted]
    books.commit(config.output, layout, Ledger(after))


class SampleStore:
    """Finds a sample's bytes: fresh from its video, or in a shard of the set."""

    def __init__(self, config: VideosConfig, old: Ledger):
        self._output = config.output
        self._places = {(key, *stamp[:3]): name for name, samples in old.shards.items() for key, stamp in samples}
        self._open: dict[Path, TarSamples] = {}

    def read(self, entry: Entry) -> tuple[str, dict[str, bytes]]:
        """The sample, with person and file name written into ``meta.json``. Raises InputError when it is nowhere."""
        tar = VideoFolder(self._output, entry.sha256).samples_tar(entry.made)
        if not tar.is_file():
            name = self._places.get((entry.key, *entry.stamp[:3]))
            if name is None:
                VideoFolder(self._output, entry.sha256).drop_row(entry.made)
                raise InputError(f"{tar}: gone, and {entry.key} is in no shard; run its task again")
            tar = self._output / name
        if tar not in self._open:
            self._open.clear()  # a merge may read thousands of tars; one is open at a time
            self._open[tar] = TarSamples(tar)
        members = self._open[tar].read(entry.key)
        meta = json.loads(members["meta.json"])
        meta |= {"person": entry.person, "video": {**meta["video"], "name": meta["video"].get("name", entry.name)}}
        return entry.key, {**members, "meta.json": json.dumps(meta, sort_keys=True, allow_nan=False).encode()}


def _about(config: VideosConfig, done: Finished, people: Cast) -> dict[str, Any]:
    settings = to_dict(config)
    # Where the footage lay is of no use to whoever gets the shards, and may tell more than they should know.
    for name in ("input", "output", "workers", "limits"):
        settings.pop(name)
    return {
        "source": "videos",
        "licence": config.licence,
        "fingerprint": done.keys["samples"],
        "steps": done.keys,
        "settings": _names_only(settings),
        "tools": {name: importlib.metadata.version(name) for name in TOOLS},
        "models": done.models,
        "videos": len(done.kept()),
        "persons": len(set(people.person.values())),
        "leakage": {
            key: people.leakage[key]
            for key in ("ok", "threshold", "distances", "without_vector")
            if key in people.leakage
        },
    }


def _names_only(settings: Any) -> Any:
    """Settings in which a network's file is named, not where it lies."""
    if isinstance(settings, dict):
        return {k: Path(v).name if k in steps.PATHS and v else _names_only(v) for k, v in settings.items()}
    return settings


def _leak(config: VideosConfig, leakage: dict[str, Any]) -> str:
    near = next((pair for pair in leakage["nearest"] if pair["distance"] < leakage["threshold"]), None)
    what = "a person or a video is in two splits"
    if near is not None:
        what = (
            f"{near['a']['video']} ({near['a']['split']}) and {near['b']['video']} ({near['b']['split']}) show faces"
            f" {near['distance']:.3f} apart, nearer than the threshold {leakage['threshold']:g}"
        )
    return f"split: {what}; pin both to one split or to none (split.pinned); all pairs: {config.output / 'report.html'}"


def _lines(config: VideosConfig, done: Finished, manifest: dict[str, Any]) -> list[str]:
    splits = ", ".join(f"{split['samples']} {name}" for name, split in manifest["splits"].items())
    size = f"{manifest['bytes'] / 1e6:.1f} MB"
    lines = [f"{config.output}: {manifest['samples']} samples ({splits}) of {manifest['persons']} persons, {size}"]
    lines.append(f"{len(done.kept())} of {len(done.rows)} videos gave clips; see {config.output / 'report.html'}")
    refused = [row for row in done.rows if not row.get("clips")]
    return [*lines, f"no clip from: {in_one_line(refused)}"] if refused else lines


# -------------------------------------------------------------------------------------------------------------- report


def _write_report(config: VideosConfig, done: Finished, people: Cast, manifest: dict[str, Any]) -> None:
    rows = [dict(row) for row in done.rows]
    records: list[dict[str, Any]] = []
    strips: list[tuple[str, str, bytes]] = []
    for row in rows:
        sha = row.get("sha256", "")
        if row.get("reason") == "duplicate" or sha not in done.clips:
            continue
        about = {"file": row["file"], "size": row["size"], "licence": row["licence"], "source": row["source"]}
        facts = done.clips[sha].facts
        for clip in facts["clips"]:
            who = (sha, clip["track"])
            records.append({**about, **clip, "person": people.person[who], "split": people.split[who]})
        records += [{**about, **gone} for gone in facts["dropped"]]
        row["split"] = people.split[sha, facts["clips"][0]["track"]] if facts["clips"] else None
        stored = VideoFolder(config.output, sha).load("strips", done.keys["samples"])
        found: list[Strip] = strips_of(stored) if stored is not None else []
        strips += [(s.reason, s.key, s.jpeg) for s in found]
    samples = sheets.pick_samples(config.output, sorted(manifest["splits"])) if manifest["samples"] else []
    seconds = sum(row.get("wall_sec", 0.0) for row in rows)
    reporting.write(config.output, rows, records, manifest, people.leakage or None, strips, samples, seconds)
