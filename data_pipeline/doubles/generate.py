"""Doubles: the same motion on different bodies, filmed apart, written as samples whose true answer is known.

The unit of work is a group (splits.Group). Groups are made in any order by any number of processes and written in their
own order, so the bytes depend on the settings alone. A finished shard is never made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline.doubles import sheet
from data_pipeline.doubles.config import DoublesConfig, SplitConfig
from data_pipeline.doubles.splits import Group, Pose, group_indices, plan_group
from imanim.config import to_dict
from imanim.data.files import read_json, write_json
from imanim.data.sample import Sample, encode
from imanim.data.shards import is_complete, write_manifest, write_shard
from imanim.errors import InputError

LICENCE = "Apache-2.0, made by imanim Doubles from CC0 assets"
GENERATOR_VERSION = 2  # raised when the same settings give other samples
CONFIG_FILE, REPORT_FILE = "config.json", "report.json"
_FREE_SETTINGS = ("output", "workers", "device")  # they do not change what is made
# Settings younger than the generator's version: at their defaults they are not written, so that older folders stay good.
_YOUNG_SETTINGS = ("pairs", "details")
_YOUNG_SPLIT_SETTINGS = (
    "level_counts", "in_turn", "framing", "strong_faces", "only", "may_share_bodies", "may_share_kinds",
)  # fmt: skip

# One core of a 2020s server at 128x80, supersample 2; only for the plan's estimate.
_SEC_PER_FRAME, _SEC_PER_PERSON, _BYTES_PER_PIXEL_FRAME = 0.02, 0.05, 0.16

Members = dict[str, bytes]
Made = tuple[list[tuple[str, Members]], list[dict[str, str]]]  # (key, members) of a group, {key, error} of failures


@dataclass
class Report:
    """What a run made, or with `dry_run` would make."""

    output: str
    samples: dict[str, int] = field(default_factory=dict)  # per split
    shards: int = 0
    reused_shards: int = 0  # found finished
    failures: list[dict[str, str]] = field(default_factory=list)  # {key, error}
    seconds: float = 0.0
    dry_run: bool = False
    plan: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        what = "would make" if self.dry_run else "made"
        counts = ", ".join(f"{n} {split}" for split, n in self.samples.items())
        out = [f"{self.output}: {what} {sum(self.samples.values())} samples ({counts}) in {self.shards} shards"]
        if self.reused_shards:
            out.append(f"{self.reused_shards} shards were already finished")
        if self.plan:
            p = self.plan
            out.append(f"{p['frames']} frames to render, about {p['seconds']:.0f} s on {p['workers']} processes")
            out.append(f"about {p['bytes'] / 1e6:.0f} MB")
        if self.failures:
            out.append(
                f"{len(self.failures)} samples failed, the first: {self.failures[0]['key']}: {self.failures[0]['error']}"
            )
        if not self.dry_run:
            out.append(f"{self.seconds:.0f} s")
        return out


# ---------------------------------------------------------------------------------------------------- one group


class GroupMaker:
    """Makes the samples of groups; one a process."""

    def __init__(self, config: DoublesConfig):
        from data_pipeline.doubles.takes import Studio  # brings in Warp: not for a dry run

        self.config = config
        self.studio = Studio(config.width, config.height, supersample=config.supersample, device=config.device)

    def make(self, group: Group) -> Made:
        """(key, members) of every pair, and {key, error} of those that failed."""
        samples, failures = [], []
        made: dict[Any, Any] = {}
        for driver, target in group.pairs:
            key = group.key(driver, target)
            try:
                samples.append((key, encode(self._sample(group, driver, target, made), crf=self.config.crf)))
            except Exception as error:  # one sample must not stop a day's batch: it goes to the report
                failures.append({"key": key, "error": f"{type(error).__name__}: {error}"})
        return samples, failures

    def _sample(self, group: Group, driver: int, target: int, made: dict[Any, Any]) -> Sample:
        self_pair = driver == target
        film = self._film(group, target, "target", made)
        drive = film if self_pair else self._film(group, driver, "driver", made)
        still = self._still(group, target, made)
        return Sample(
            key=group.key(driver, target),
            driving=drive.frames,
            fps=self.config.fps,
            identity=still.frames[0],
            joints=film.joints,
            faces=drive.faces,
            meta=self._meta(group, drive.parameters, film.parameters, still.parameters, self_pair),
            target=None if self_pair else film.frames,
            driving_joints=None if self_pair else drive.joints,
            identity_joints=still.joints[0],
            parts=film.parts,
            driving_parts=None if self_pair else drive.parts,
            expression=film.expressions.astype(np.float16) if self.config.details else None,
        )

    def _views(self, group: Group) -> Any:
        from data_pipeline.doubles.camera import plan_cameras

        return plan_cameras(np.random.default_rng(group.camera_seed), group.level, group.framing)

    def _person(self, group: Group, body: int, role: str) -> Any:
        return self.studio.person(body, exaggerated=group.exaggerated and role == "target")

    def _performance(self, group: Group, person: Any, made: dict[Any, Any]) -> Any:
        """The group's motion on a person, performed once a group."""
        from data_pipeline.doubles.motions import Motion

        at = (person.body_id, "performance", person.exaggerated)
        if at not in made:
            c = self.config
            motion = Motion(group.kind, group.motion_seed, c.fps, c.frames, group.portrait, group.strong_faces)
            made[at] = person.performer.perform(motion)
        return made[at]

    def _film(self, group: Group, body: int, role: str, made: dict[Any, Any]) -> Any:
        """The take of a body in a role, filmed once a group."""
        from data_pipeline.doubles.takes import make_scene, place_camera

        if (body, role) not in made:
            person = self._person(group, body, role)
            performance = self._performance(group, person, made)
            views = self._views(group)
            camera = place_camera(views.driver if role == "driver" else views.target, person, performance)
            take = self.studio.film(person, performance, make_scene(group.scene_seeds[body, role]), camera)
            if self.config.details:
                take.parameters["measures"] = person.performer.body.measures()
            made[body, role] = take
        return made[body, role]

    def _still(self, group: Group, body: int, made: dict[Any, Any]) -> Any:
        """The identity image: another moment of the person, in the target's view and scene."""
        from data_pipeline.doubles.takes import make_scene, place_camera

        if (body, "still") not in made:
            person, pose = self._person(group, body, "target"), group.poses[body]
            performance = person.performer.rest() if pose.kind is None else self._moment(person.performer, pose, group)
            camera = place_camera(self._views(group).target, person, performance)
            scene = make_scene(group.scene_seeds[body, "target"])
            take = self.studio.film(person, performance, scene, camera)
            take.parameters["motion"] = dataclasses.asdict(pose)
            made[body, "still"] = take
        return made[body, "still"]

    def _moment(self, performer: Any, pose: Pose, group: Group) -> Any:
        from data_pipeline.doubles.motions import Motion

        frame = round(pose.time_sec * self.config.fps)
        assert pose.kind is not None
        motion = Motion(pose.kind, pose.seed, self.config.fps, frame + 1, group.portrait)
        return performer.perform(motion).frame(frame)

    def _meta(
        self, group: Group, driver: dict[str, Any], target: dict[str, Any], still: dict[str, Any], self_pair: bool
    ) -> dict[str, Any]:
        return {
            "source": "doubles",
            "licence": LICENCE,
            "generator": GENERATOR_VERSION,
            "split": group.split,
            "person": f"doubles-{target['body']}",
            "driver_person": f"doubles-{driver['body']}",
            "pair": "self" if self_pair else "cross",
            "level": f"L{group.level}",
            "framing": group.framing,
            "motion": {
                "kind": group.kind,
                "seed": group.motion_seed,
                "id": f"doubles-{group.kind}-{group.motion_seed}",
            },
            "driver": driver,
            "target": target,
            "identity": {"motion": still["motion"], "camera": still["camera"]},
        }


# ------------------------------------------------------------------------------------------------------ workers

_maker: GroupMaker | None = None


def _start_worker(config: DoublesConfig, parent: int) -> None:
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    global _maker
    _maker = GroupMaker(config)


def _follow(parent: int) -> None:
    """Ends this process when its parent was killed and could not end it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(group: Group) -> Made:
    assert _maker is not None
    return _maker.make(group)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """The processes share the cores: linear algebra must not start threads of its own in each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _made(config: DoublesConfig, groups: list[Group]) -> Iterator[Iterator[Made]]:
    """The samples of groups, in order: made in this process (workers 0) or in several."""
    if not config.workers or not groups:
        yield map(GroupMaker(config).make, groups) if groups else iter(())
        return
    context = multiprocessing.get_context("spawn")
    size = min(config.workers, len(groups))
    pool = ProcessPoolExecutor(size, mp_context=context, initializer=_start_worker, initargs=(config, os.getpid()))
    try:
        with _one_thread_each():  # what the processes, started now, find
            results = pool.map(_work, groups)
        yield results
    except BrokenProcessPool:
        raise InputError(
            "a worker process died (out of memory?); run the same command again with fewer workers, it continues"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------------------------------------- run


def run(config: DoublesConfig, *, progress: bool = True, dry_run: bool = False) -> Report:
    """Generates every split into `config.output`, or with dry_run only says what it would make.

    Continues where an earlier run with the same settings stopped.

    Raises:
        InputError: the folder holds samples of other settings, or cannot be written.
    """
    started, folder = time.monotonic(), Path(config.output)
    _refuse_other_settings(folder, config)
    if dry_run:
        return _plan(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG_FILE, _identity_of(config))
    shards = list(_shards_of(config))
    missing = [shard for shard in shards if not is_complete(folder, shard.split, shard.number)]
    failures = _known_failures(folder)
    groups = [plan_group(config, shard.split, i) for shard in missing for i in shard.indices]
    total = sum(len(shard.indices) for shard in shards)
    with tqdm(total=total, initial=total - len(groups), unit="motion", desc="doubles", disable=not progress) as bar:
        with _made(config, groups) as results:
            for shard in missing:
                _write(config, folder, shard, results, failures, bar)
    write_manifest(folder, _about(config))
    for split in config.splits:
        sheet.write(folder, split, folder / f"contact_sheet-{split}.png")
    report = _report(config, folder, shards, failures)
    report.reused_shards = len(shards) - len(missing)
    report.seconds = time.monotonic() - started
    return report


@dataclass(frozen=True)
class _Shard:
    """A shard to be: whole groups of one split."""

    split: str
    number: int
    indices: list[int]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


def _shards_of(config: DoublesConfig) -> Iterator[_Shard]:
    per_shard = max(1, config.samples_per_shard // config.samples_per_motion)
    for split, settings in config.splits.items():
        indices = group_indices(settings)
        for number, start in enumerate(range(0, len(indices), per_shard)):
            yield _Shard(split, number, indices[start : start + per_shard])


def _write(
    config: DoublesConfig,
    folder: Path,
    shard: _Shard,
    results: Iterator[Made],
    failures: dict[str, list[dict[str, str]]],
    bar: tqdm,
) -> None:
    """Takes the shard's share of the results and writes it."""
    samples: list[tuple[str, Members]] = []
    failures[shard.name] = []
    for made, failed in itertools.islice(results, len(shard.indices)):
        samples += made
        failures[shard.name] += failed
        bar.update()
    # The report goes first: a shard that is there has its failures on record.
    write_json(folder / REPORT_FILE, {"failures": {name: failures[name] for name in sorted(failures)}})
    write_shard(folder, shard.split, shard.number, samples)


def _known_failures(folder: Path) -> dict[str, list[dict[str, str]]]:
    path = folder / REPORT_FILE
    return read_json(path)["failures"] if path.is_file() else {}


def _report(
    config: DoublesConfig, folder: Path, shards: list[_Shard], failures: dict[str, list[dict[str, str]]]
) -> Report:
    report = Report(output=str(folder), shards=len(shards))
    for shard in shards:
        failed = failures.get(shard.name, [])
        planned = len(shard.indices) * config.samples_per_motion
        report.samples[shard.split] = report.samples.get(shard.split, 0) + planned - len(failed)
        report.failures += failed
    return report


def _plan(config: DoublesConfig, folder: Path) -> Report:
    """What is left to do, estimated."""
    shards = list(_shards_of(config))
    missing = [shard for shard in shards if not is_complete(folder, shard.split, shard.number)]
    report = _report(config, folder, shards, {})
    report.reused_shards, report.dry_run = len(shards) - len(missing), True
    motions = sum(len(shard.indices) for shard in missing)
    people = motions * config.bodies_per_motion
    frames = people * (2 * config.frames + 1)
    pixels = config.height * config.width
    sec = frames * _SEC_PER_FRAME * pixels / (128 * 80) + people * _SEC_PER_PERSON
    clips = motions * config.samples_per_motion * 2
    size = int(clips * config.frames * pixels * _BYTES_PER_PIXEL_FRAME)
    report.plan = {"frames": frames, "seconds": sec / max(1, config.workers), "bytes": size, "workers": config.workers}
    return report


def _identity_of(config: DoublesConfig) -> dict[str, Any]:
    """The settings that decide what is made."""
    kept = {k: v for k, v in to_dict(config).items() if k not in _FREE_SETTINGS}
    kept = _without_defaults(kept, _YOUNG_SETTINGS, DoublesConfig)
    kept["splits"] = {n: _without_defaults(s, _YOUNG_SPLIT_SETTINGS, SplitConfig) for n, s in kept["splits"].items()}
    return kept | {"generator": GENERATOR_VERSION}


def _without_defaults(values: dict[str, Any], names: tuple[str, ...], schema: type) -> dict[str, Any]:
    plain = schema()
    return {k: v for k, v in values.items() if k not in names or v != getattr(plain, k)}


def _refuse_other_settings(folder: Path, config: DoublesConfig) -> None:
    path, wanted = folder / CONFIG_FILE, _identity_of(config)
    if path.is_file():
        found = read_json(path)
        differing = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        if differing:
            raise InputError(
                f"{folder}: holds samples made with other settings ({', '.join(differing)}); give another output folder"
            )
    elif any(folder.glob("*.tar")):
        raise InputError(f"{folder}: holds shards that are not from this generator; give another output folder")


def _about(config: DoublesConfig) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "warp-lang", "av")}
    return {"source": "doubles", "licence": LICENCE, "config": _identity_of(config), "tools": versions}
