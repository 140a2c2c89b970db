"""The verbs of a preprocessing job: plan, run (a task of it), merge, retry-failed, report; and all of them one after another."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data_pipeline.config import VideosConfig
from data_pipeline.jobs import isolation, merging, plan_file, unit
from data_pipeline.jobs.plan_file import PlannedFile
from data_pipeline.jobs.unit import VideoTask
from data_pipeline.reporting.reasons import in_words
from data_pipeline.video import steps
from data_pipeline.video.artefacts import Row, VideoFolder, known_sha256

RETRIED = ("crashed", "stalled", "out_of_time", "out_of_memory", "internal_error")
"""Reasons that may be another one next time: more memory, a mended defect, a machine that is less busy."""


@dataclass
class Outcome:
    """What a verb made, or would make."""

    text: list[str]
    exit_code: int = 0

    def lines(self) -> list[str]:
        """For people."""
        return self.text


def run(config: VideosConfig, *, progress: bool = True, dry_run: bool = False) -> Outcome:
    """Turns a folder of videos into shards, a manifest and a report: plan, run, merge.

    What is finished is not redone. A file that cannot be used becomes a row of the report.

    Raises:
        InputError: no videos, an unusable output folder, missing networks, a full disk, people in two splits; or not one video
            gave a clip (the report is written before).
    """
    if dry_run:
        return Outcome(_forecast(config, plan_file.look(config)))
    plan(config)
    run_task(config, 1, 1, progress=progress)
    return merge(config)


def plan(config: VideosConfig) -> Outcome:
    """Lists the files of the input folder for the tasks of a job.

    Raises:
        InputError: there are none, networks are missing, or the output folder holds somebody else's shards.
    """
    merging.refuse_foreign(config.output)
    files = plan_file.look(config)
    unit.load_networks(config)  # what is missing is missing for every task: say it now
    plan_file.write(config.output, files)
    lines = _forecast(config, files)[:2]
    lines.append(f"planned in {config.output}; next: imanim preprocess run --task I/N, I from 1 to N, then merge")
    return Outcome(lines)


def run_task(config: VideosConfig, task: int, tasks: int, *, progress: bool = True, ray: str | None = None) -> Outcome:
    """Works on the files of one task of a plan; those that are finished are not touched.

    Args:
        task, tasks: from 1 to N.
        ray: work on a Ray cluster: its address, or ``auto`` / ``local``; None: on this machine.
    """
    files = plan_file.share(plan_file.read(config.output), task, tasks)
    unit.load_networks(config)
    work = [VideoTask(config.input / f.name, f.name, config) for f in files]
    rows = list(_watched(_rows(work, config, ray), files, progress))
    return Outcome([f"task {task}/{tasks}: {_summary(rows)}"])


def merge(config: VideosConfig) -> Outcome:
    """Packs the samples of all finished videos into shards, splits them by person, writes manifest and report.

    Raises:
        InputError: files of the plan are not finished; people in two splits; not one clip (the report is written before).
    """
    made = merging.merge(config)
    return Outcome(made)


def report(config: VideosConfig) -> Outcome:
    """Writes report.json and report.html anew from what is there."""
    return Outcome(merging.report(config))


def retry_failed(config: VideosConfig, *, only: Iterable[str] = (), progress: bool = True) -> Outcome:
    """Works again on the videos that failed, and on no others.

    Args:
        only: reasons; by default those that may turn out otherwise (:data:`RETRIED`). ``all`` = every video without a clip.
    """
    wanted = set(only) or set(RETRIED)
    keys = steps.keys(config, unit.load_networks(config).models())
    again = []
    for file in plan_file.read(config.output):
        sha = known_sha256(config.output, file.name)
        row = None if sha is None else VideoFolder(config.output, sha).row(keys["samples"])
        if sha is not None and row is not None and "reason" in row and (row["reason"] in wanted or "all" in wanted):
            VideoFolder(config.output, sha).drop_row(keys["samples"])
            again.append(file)
    if not again:
        return Outcome(["nothing to try again"])
    work = [VideoTask(config.input / f.name, f.name, config) for f in again]
    rows = list(_watched(_rows(work, config, None), again, progress))
    return Outcome([f"tried again: {_summary(rows)}", "next: imanim preprocess merge"])


# ------------------------------------------------------------------------------------------------------------- working


def workers_of(config: VideosConfig) -> int:
    """How many videos are worked on at a time: as told, else one for each core this process may use."""
    return config.workers or len(os.sched_getaffinity(0))


def _rows(tasks: list[VideoTask], config: VideosConfig, ray: str | None) -> Iterator[Row]:
    if ray is not None:
        from data_pipeline.jobs import on_ray

        ended: Iterator[isolation.Ended[VideoTask]] = on_ray.run(unit.work, tasks, config, ray)
    else:
        ended = isolation.run(unit.work, tasks, workers_of(config), config.limits)
    for each in ended:
        yield each.result if each.reason is None else _killed(each, config)


def _killed(ended: isolation.Ended[VideoTask], config: VideosConfig) -> Row:
    """The row of a video whose process did not live to write one."""
    row: Row = {"file": ended.task.name, "reason": ended.reason, "detail": ended.detail, "quarantined": True}
    sha = known_sha256(config.output, ended.task.name)
    if sha is None:
        return row
    row |= {"sha256": sha, "bytes": ended.task.path.stat().st_size, "sidecar": unit.sidecar_mark(ended.task.path)}
    keys = steps.keys(config, unit.load_networks(config).models())
    VideoFolder(config.output, sha).save_row(keys["samples"], row)
    return row


def _watched(rows: Iterator[Row], files: list[PlannedFile], progress: bool) -> Iterator[Row]:
    """A live line: videos, rate, time left, seconds of footage per second, drops by reason."""
    from tqdm import tqdm

    begun, footage, drops = time.monotonic(), 0.0, Counter[str]()
    with tqdm(total=len(files), desc="preprocess", unit="video", disable=not progress, dynamic_ncols=True) as bar:
        for row in rows:
            if not row.get("finished"):
                footage += row.get("seconds", 0.0)
            drops.update([row["reason"]] if "reason" in row else [])
            rate = footage / max(time.monotonic() - begun, 1e-3)
            bar.set_postfix_str(
                f"{rate:.2f}x real time" + (f", dropped: {in_words(drops)}" if drops else ""), refresh=False
            )
            bar.update()
            yield row


def _summary(rows: list[Row]) -> str:
    drops = Counter(row["reason"] for row in rows if "reason" in row)
    done = sum(not row.get("finished") for row in rows)
    clips = sum(row.get("clips", 0) for row in rows)
    return f"{len(rows)} videos, {done} worked on now, {clips} clips" + (
        f"; no clip from: {in_words(drops)}" if drops else ""
    )


def _forecast(config: VideosConfig, files: list[PlannedFile]) -> list[str]:
    clip, size = config.clip, sum(f.bytes for f in files)
    done = sum(known_sha256(config.output, f.name) is not None for f in files)
    return [
        f"{len(files)} videos, {size / 1e6:.0f} MB in {config.input}; {done} of them were worked on in {config.output} before",
        f"clips of {clip.frames} frames, {clip.width}x{clip.height}, {clip.fps:g} fps; joints by {config.pose.backend},"
        f" faces by {config.face.backend}, identity by {config.identity.backend}, shots by {config.shots.backend}",
        f"would write {config.output}/{{train,val,test}}-*.tar, manifest.json, report.html with {workers_of(config)} process(es)",
    ]
