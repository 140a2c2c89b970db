"""A batch of videos: workers, failures that stay with their file, and the packing of samples into shards."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline import ledger as books
from data_pipeline import report
from data_pipeline.config import VideosConfig, fingerprint
from data_pipeline.face import FaceFinder
from data_pipeline.ledger import Ledger, Row
from data_pipeline.one_video import Networks, process
from data_pipeline.pose import backends
from data_pipeline.sources import Unusable, find_files
from imanim.config import to_dict
from imanim.data.files import sha256_file
from imanim.data.shards import write_manifest, write_shard
from imanim.errors import InputError

TOOLS = ("av", "numpy", "pillow", "ai-edge-litert")
Task = tuple[Path, str, VideosConfig, frozenset[str]]


@dataclass
class Outcome:
    """What a run made, or with ``dry_run`` would make. ``manifest`` is None for a dry run."""

    manifest: dict[str, Any] | None
    text: list[str]

    def lines(self) -> list[str]:
        """For people."""
        return self.text


def run(config: VideosConfig, *, progress: bool = True, dry_run: bool = False) -> Outcome:
    """Turns a folder of videos into shards, a manifest and a report.

    Videos that are in the output folder already are not redone. A file that cannot be used becomes a row of the report.

    Raises:
        InputError: no videos, an unusable output folder, missing networks, a full disk; or not one video gave a clip
            (the report is written before).
    """
    files = find_files(config.input, config.extensions)
    mark = fingerprint(config)
    books_of = Ledger.read(config.output, mark)
    if dry_run:
        return Outcome(None, _plan(config, files, books_of))
    load_networks(config)  # fetches what is missing once, and refuses before any work is done
    begun = time.monotonic()
    tasks: list[Task] = [(f, str(f.relative_to(config.input)), config, frozenset(books_of.rows)) for f in files]
    rows: list[Row] = []
    with _bar(len(tasks), progress) as bar:
        for row in _rows(tasks, config.workers):
            rows.append(row)
            bar.set_postfix(refused=sum("reason" in r for r in rows), refresh=False)
            bar.update()
    rows = _finish_rows(rows, books_of)
    pack(config, books_of, rows)
    manifest = write_manifest(config.output, _about(config, mark, books_of))
    report.write(config, manifest, rows, seconds=time.monotonic() - begun)
    if not manifest["samples"]:
        raise InputError(
            f"input: none of the {len(files)} videos in {config.input} gave a clip"
            f" ({report.summary(rows)}); see {config.output / 'report.html'}"
        )
    return Outcome(manifest, _result(config, manifest, rows))


def _plan(config: VideosConfig, files: list[Path], books_of: Ledger) -> list[str]:
    clip, size = config.clip, sum(f.stat().st_size for f in files)
    return [
        f"{len(files)} videos, {size / 1e6:.0f} MB in {config.input}; {len(books_of.rows)} are in {config.output} already",
        f"clips of {clip.frames} frames, {clip.width}x{clip.height}, {clip.fps:g} fps; joints by {config.pose.backend}",
        f"would write {config.output}/{{train,val}}-*.tar, manifest.json, report.html with {config.workers} worker(s)",
    ]


def _result(config: VideosConfig, manifest: dict[str, Any], rows: list[Row]) -> list[str]:
    totals = report.totals_of(rows)
    splits = ", ".join(f"{split['samples']} {name}" for name, split in manifest["splits"].items())
    lines = [f"{config.output}: {manifest['samples']} samples ({splits}), {manifest['bytes'] / 1e6:.1f} MB"]
    lines.append(f"{totals['files_kept']} of {totals['files']} videos gave clips; see {config.output / 'report.html'}")
    if totals["refused"]:
        lines.append(f"no clip from: {report.summary(rows)}")
    return lines


def _about(config: VideosConfig, mark: str, books_of: Ledger) -> dict[str, Any]:
    settings = to_dict(config)
    # Where the footage lay is of no use to whoever gets the shards, and may tell more than they should know.
    settings.pop("input"), settings.pop("output")
    tools = {name: importlib.metadata.version(name) for name in TOOLS}
    about = {"source": "videos", "licence": config.licence, "fingerprint": mark, "settings": settings, "tools": tools}
    return {**about, "videos": sum(row.get("clips", 0) > 0 for row in books_of.rows.values())}


# ------------------------------------------------------------------------------------------------------------ workers

_NETWORKS: dict[str, Networks] = {}


def load_networks(config: VideosConfig) -> Networks:
    """This process's networks, loaded on first use. Raises InputError when files or runtimes are missing."""
    name = repr(config.pose)
    if name not in _NETWORKS:
        _NETWORKS[name] = Networks(backends.build(config.pose), FaceFinder())
    return _NETWORKS[name]


def work(task: Task) -> Row:
    """One video, wholly: its row of the report; its samples are in the works folder when this returns.

    Raises:
        InputError: the output refuses (disk full) or a network is missing: the whole batch stops.
    """
    path, name, config, finished = task
    row: Row = {"file": name}
    try:
        row["sha256"] = sha256_file(path)
    except OSError as error:
        return {**row, "reason": "unreadable", "detail": error.strerror or str(error)}
    mark = fingerprint(config)
    if row["sha256"] in finished:
        return {**row, "finished": True}
    earlier = books.load_row(config.output, mark, row["sha256"])
    if earlier is not None:
        return {**earlier, "file": name}
    samples: list[Any] = []
    try:
        samples, facts = process(path, name, row["sha256"], config, load_networks(config))
        row.update(facts)
        if not samples:
            left = facts["left_out"]
            row.update(reason=max(left, key=lambda r: left[r]), detail="no clip could be made")
    except Unusable as error:
        row.update(reason=error.reason, detail=error.detail)
    except InputError:
        raise
    except Exception as error:
        # A defect of ours met by one strange file must not cost a batch of thousands; the report keeps the place.
        place = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(place.filename).name}:{place.lineno}"
        return {**row, "reason": "internal_error", "detail": f"{type(error).__name__}: {error} ({at})"}
    books.save_work(config.output, mark, row["sha256"], row, samples)
    return row


def _rows(tasks: list[Task], workers: int) -> Iterator[Row]:
    """Rows as they come, from ``workers`` processes; 0 means this very process (for a debugger)."""
    if workers == 0:
        yield from map(work, tasks)
        return
    queue = deque(tasks)
    while queue:
        flying: dict[Future[Row], Task] = {}
        try:
            with _pool(min(workers, len(queue))) as pool:
                yield from _work_off(pool, queue, flying, workers)
        except BrokenProcessPool:
            # A file killed its worker (a crash inside a decoder, or out of memory), and the pool with it. It is one of the
            # few in flight: each of those gets a process of its own, the others a new pool.
            yield from (_alone(task) for task in flying.values())


def _work_off(
    pool: ProcessPoolExecutor, queue: deque[Task], flying: dict[Future[Row], Task], workers: int
) -> Iterator[Row]:
    """Takes tasks from ``queue``, at most ``workers`` at once; ``flying`` are those not finished."""
    try:
        while queue or flying:
            while queue and len(flying) < workers:
                future = pool.submit(
                    work, queue[0]
                )  # refused when the pool broke meanwhile: the task stays in the queue
                flying[future] = queue.popleft()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                row = future.result()
                del flying[future]
                yield row
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _alone(task: Task) -> Row:
    try:
        with _pool(1) as pool:
            return pool.submit(work, task).result()
    except BrokenProcessPool:
        return {
            "file": task[1],
            "reason": "crashed",
            "detail": "the process that decoded it died (memory, or a decoder)",
        }


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned: forking after the networks' threads have started can hang.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="preprocess", unit="video", disable=not progress)


# ------------------------------------------------------------------------------------------------------------ packing


def _finish_rows(rows: list[Row], books_of: Ledger) -> list[Row]:
    """Rows in order of the file names; finished ones from the ledger; second copies of the same bytes marked."""
    out: list[Row] = []
    first: dict[str, str] = {}
    for row in sorted(rows, key=lambda r: r["file"]):
        sha = row.get("sha256")
        if sha in first:
            row = {
                "file": row["file"],
                "sha256": sha,
                "reason": "duplicate",
                "detail": f"the same bytes as {first[sha]}",
            }
        elif row.pop("finished", False):
            row = {**books_of.rows[sha], "file": row["file"]} if sha else row
        if sha:
            first.setdefault(sha, row["file"])
        out.append(row)
    return out


def pack(config: VideosConfig, books_of: Ledger, rows: list[Row]) -> None:
    """Moves the samples of newly finished videos into shards, then enters them into the ledger."""
    unfinished = ("internal_error", "crashed", "unreadable", "duplicate")
    new = [r for r in rows if r.get("sha256") not in books_of.rows and r.get("reason") not in unfinished]
    books.drop_unlisted_shards(config.output, books_of)
    assign_splits([r for r in new if r.get("clips")], config.val_fraction, have=set(books_of.shards))
    for split in ("train", "val"):
        mine = [r["sha256"] for r in new if r.get("split") == split]
        _write_shards(config, books_of, split, mine)
    books_of.rows.update({r["sha256"]: r for r in new})
    books_of.write(config.output)
    for row in new:
        books.drop_work(config.output, books_of.fingerprint, row["sha256"])
    books.drop_empty_work(config.output, books_of.fingerprint)


def _write_shards(config: VideosConfig, books_of: Ledger, split: str, videos: list[str]) -> None:
    waiting: list[Any] = []

    def flush(least: int) -> None:
        while len(waiting) >= least and waiting:
            number = books_of.shards.get(split, 0)
            write_shard(config.output, split, number, waiting[: config.samples_per_shard])
            del waiting[: config.samples_per_shard]
            books_of.shards[split] = number + 1

    for sha256 in videos:
        waiting += books.load_samples(config.output, books_of.fingerprint, sha256)
        flush(config.samples_per_shard)
    flush(1)


def assign_splits(rows: list[Row], val_fraction: float, *, have: set[str]) -> None:
    """Gives each new video's row its ``split``: all clips of a video go together, by a hash of its bytes.

    So a video stays where it is whatever else is added. Two exceptions keep small sets usable: the first batch has at least
    one training video, and (from two videos on, when ``val_fraction`` > 0) at least one for validation.

    Args:
        have: the splits that have shards already.
    """
    for row in rows:
        row["split"] = "val" if _fraction(row["sha256"]) < val_fraction else "train"
    by_hash = sorted(rows, key=lambda r: _fraction(r["sha256"]))
    if by_hash and "train" not in have and all(r["split"] == "val" for r in rows):
        by_hash[-1]["split"] = "train"
    if len(by_hash) > 1 and val_fraction > 0 and "val" not in have and all(r["split"] == "train" for r in rows):
        by_hash[0]["split"] = "val"


def _fraction(sha256: str) -> float:
    return int(sha256[:8], 16) / 2**32
