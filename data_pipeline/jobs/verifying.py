"""Is the set what it says it is, and making good what is not."""

from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path
from typing import Any

from data_pipeline.config import VideosConfig
from data_pipeline.jobs import isolation, plan_file, unit
from data_pipeline.jobs import ledger as books
from data_pipeline.jobs.job import Outcome, workers_of
from data_pipeline.jobs.ledger import Entry, Ledger
from data_pipeline.jobs.merging import SampleStore
from data_pipeline.jobs.stores import TarSamples
from data_pipeline.jobs.unit import VideoTask
from data_pipeline.video import steps
from data_pipeline.video.artefacts import WORK, VideoFolder, known_sha256
from imanim.data.files import read_json, sha256_file, write_json
from imanim.data.sample import decode
from imanim.data.shards import index_path, read_manifest
from imanim.errors import InputError

RESULT = "verify.json"
Problem = dict[str, Any]


def verify(config: VideosConfig, *, quick: bool = False, progress: bool = True) -> Outcome:
    """Reads the whole set: bytes against the manifest's sha256, every sample decoded and checked, splits disjoint.

    Args:
        quick: bytes alone, nothing decoded.

    Returns:
        what was found, by line; exit code 1 when anything is wrong. All of it is in ``verify.json``.

    Raises:
        InputError: the folder has no manifest.
    """
    problems, samples = examine(config.output, quick=quick, workers=workers_of(config), progress=progress)
    write_json(config.output / RESULT, {"ok": not problems, "quick": quick, "samples": samples, "problems": problems})
    if not problems:
        how = "bytes compared" if quick else "bytes compared, every sample decoded, splits disjoint by person and video"
        return Outcome([f"{config.output}: {samples} samples are whole ({how})"])
    lines = [f"{p['shard']}: {p['key'] + ': ' if p.get('key') else ''}{p['problem']}" for p in problems[:20]]
    lines.append(
        f"{len(problems)} problem(s), all in {config.output / RESULT}; `imanim preprocess repair` makes damaged shards again"
    )
    return Outcome(lines, exit_code=1)


def examine(folder: Path, *, quick: bool, workers: int, progress: bool) -> tuple[list[Problem], int]:
    """The problems of a set, shard by shard, and how many samples it has."""
    from tqdm import tqdm

    manifest = read_manifest(folder)
    todo = [(split, shard) for split, entry in manifest["splits"].items() for shard in entry["shards"]]
    problems: list[Problem] = []
    homes: dict[tuple[str, str], set[str]] = {}
    keys: dict[str, str] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:  # decoding lets other threads run
        found = pool.map(lambda item: _shard(folder, item[1], quick), todo)
        bar = tqdm(found, total=len(todo), desc="verify", unit="shard", disable=not progress)
        for (split, shard), (wrong, metas) in zip(todo, bar):
            problems += wrong
            for key, meta in metas:
                if key in keys:
                    problems.append({"shard": shard["name"], "key": key, "problem": f"is in {keys[key]} too"})
                keys[key] = shard["name"]
                for kind, who in (("person", meta.get("person")), ("video", meta.get("video", {}).get("sha256"))):
                    homes.setdefault((kind, str(who)), set()).add(split)
    for (kind, who), splits in sorted(homes.items()):
        if len(splits) > 1:
            problems.append({"shard": "manifest.json", "problem": f"{kind} {who} is in {' and '.join(sorted(splits))}"})
    return problems, manifest["samples"]


def _shard(folder: Path, shard: dict[str, Any], quick: bool) -> tuple[list[Problem], list[tuple[str, dict[str, Any]]]]:
    """Problems of one shard, and its samples' meta."""
    tar, name = folder / shard["name"], shard["name"]
    if not tar.is_file():
        return [{"shard": name, "problem": "is missing"}], []
    if sha256_file(tar) != shard["sha256"]:
        return [{"shard": name, "problem": "its bytes differ from the manifest's sha256"}], []
    try:
        index = read_json(index_path(tar))
        if index["sha256"] != shard["sha256"] or len(index["samples"]) != shard["samples"]:
            return [{"shard": name, "problem": "its index belongs to other bytes"}], []
        samples = TarSamples(tar)
    except (InputError, KeyError) as error:
        return [{"shard": name, "problem": f"its index cannot be read: {error}"}], []
    metas, problems = [], []
    for entry in index["samples"]:
        try:
            members = samples.read(entry["key"])
            metas.append((entry["key"], json.loads(members["meta.json"])))
            if not quick:
                decode(entry["key"], members)
        except (InputError, KeyError, ValueError) as error:
            problems.append({"shard": name, "key": entry["key"], "problem": str(error)})
    return problems, metas


def repair(config: VideosConfig, *, progress: bool = True) -> Outcome:
    """Makes damaged and missing shards again, byte for byte: their samples are cut anew, nothing is looked at again.

    Raises:
        InputError: a shard is not this job's, or does not come out as it was.
    """
    books.finish(config.output)
    problems, _ = examine(config.output, quick=False, workers=workers_of(config), progress=progress)
    ledger = Ledger.read(config.output)
    broken = sorted({p["shard"] for p in problems})
    if not broken:
        return Outcome([f"{config.output}: nothing to repair"])
    unknown = [name for name in broken if name not in ledger.shards]
    if unknown:
        raise InputError(
            f"{config.output / unknown[0]}: not a shard of this job's ledger; run `imanim preprocess merge`"
        )
    manifest = read_manifest(config.output)
    wanted = {shard["name"]: shard["sha256"] for split in manifest["splits"].values() for shard in split["shards"]}
    names = {known_sha256(config.output, f.name) or "": f.name for f in reversed(plan_file.read(config.output))}
    entries = {name: [_entry(name, key, stamp, names) for key, stamp in ledger.shards[name]] for name in broken}
    # Only what lies in whole shards may be read from there.
    whole = Ledger({name: samples for name, samples in ledger.shards.items() if name not in broken})
    _cut_again(config, {e.sha256 for each in entries.values() for e in each}, progress)
    store = SampleStore(config, whole)
    books.clear_stage(config.output)
    for name in broken:
        books.stage(config.output, name, [store.read(entry) for entry in entries[name]])
        made = sha256_file(config.output / WORK / "merge" / name)
        if made != wanted[name]:
            raise InputError(
                f"{config.output / name}: made again it has other bytes; tools or settings changed: run `merge` anew"
            )
    books.commit(config.output, books.Layout(entries, [], []), ledger, same_set=True)
    keys = steps.keys(config, unit.load_networks(config).models())
    for sha in {e.sha256 for each in entries.values() for e in each}:
        VideoFolder(config.output, sha).drop_samples(keys["samples"])
    return Outcome([f"made again, byte for byte: {', '.join(broken)}"])


def _entry(shard: str, key: str, stamp: list[str], names: dict[str, str]) -> Entry:
    sha, made, beside, person = stamp
    return Entry(key, shard.rpartition("-")[0], person, sha, made, beside, names[sha])


def _cut_again(config: VideosConfig, videos: set[str], progress: bool) -> None:
    """Makes the samples of some videos again; what was found in them is remembered."""
    keys = steps.keys(config, unit.load_networks(config).models())
    tasks = []
    for file in plan_file.read(config.output):
        sha = known_sha256(config.output, file.name)
        if (
            sha in videos
            and sha is not None
            and not VideoFolder(config.output, sha).samples_tar(keys["samples"]).is_file()
        ):
            VideoFolder(config.output, sha).drop_row(keys["samples"])
            tasks.append(VideoTask(config.input / file.name, file.name, config))
            videos = videos - {sha}
    for ended in isolation.run(unit.work, tasks, workers_of(config), config.limits):
        if ended.reason is not None or "reason" in ended.result:
            why = ended.detail or ended.result.get("detail")
            raise InputError(
                f"{ended.task.path}: could not be cut again ({why}); get it again, or `plan` and `merge` without it"
            )
