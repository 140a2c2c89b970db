"""The one pass over a video that all looking steps share: every frame is decoded once, and every step sees it then.

Steps whose results are there already are not run again; the frame goes past them. Memory does not grow with the video: a
frame waits only until the shot finder is sure of it.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import decode, shot_finders
from data_pipeline.config import VideosConfig
from data_pipeline.faces.base import FaceDetector
from data_pipeline.identity.base import FaceEmbedder
from data_pipeline.pose.base import PoseNetwork
from data_pipeline.quality.text import TextFinder
from data_pipeline.video.artefacts import Artefact
from data_pipeline.video.face_track import FaceTrack, RememberedFaces
from data_pipeline.video.people import PeopleFinder, Remembered
from data_pipeline.video.person_faces import PersonFaces
from data_pipeline.video.quality_track import QualityTrack

LOOKING = ("shots", "people", "face", "quality", "identity")
"""The steps that need the video's frames."""
SMALL_SIDE = 64
Beat = Callable[[], None]


@dataclass
class Networks:
    """What a process loads once."""

    pose: PoseNetwork
    faces: FaceDetector
    embedder: FaceEmbedder | None = None
    text: TextFinder | None = None
    shot_models: dict[str, str] = field(default_factory=dict)
    """The shot finder's; a finder itself is made anew for each video."""

    def models(self) -> dict[str, dict[str, str]]:
        """Step -> file name -> sha256 of the networks it runs."""
        used: dict[str, Any] = {
            "people": self.pose,
            "face": self.faces,
            "quality": self.text,
            "identity": self.embedder,
        }
        named = {step: dict(network.models) for step, network in used.items() if network is not None}
        return {"shots": self.shot_models, **named}


@dataclass
class StageClock:
    """CPU seconds and frames of each stage."""

    cpu_sec: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    frames: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def stage(self, name: str, frames: int = 1) -> Iterator[None]:
        """Counts what runs inside for a stage."""
        begun = time.process_time()
        yield
        self.cpu_sec[name] += time.process_time() - begun
        self.frames[name] += frames


def analyse(
    path: Path,
    probe: decode.Probe,
    config: VideosConfig,
    networks: Networks,
    have: Mapping[str, Artefact],
    clock: StageClock,
    beat: Beat = lambda: None,
) -> dict[str, Artefact]:
    """Runs the looking steps that ``have`` lacks, in one pass over the video.

    Args:
        have: results of earlier runs by step; a step is there only when the steps it needs are.
        clock: is told what each stage took.
        beat: called at every frame, so that whoever watches knows that this is alive.

    Returns:
        step -> result, those of ``have`` included.

    Raises:
        Unusable: the video is damaged, or of no use; with the reason.
    """
    if all(step in have for step in LOOKING):
        return dict(have)
    looking = _Looking(config, networks, have, clock, probe)
    finder = None if "shots" in have else shot_finders.build(config.shots)
    cuts: list[int] = [] if finder is not None else have["shots"]["cuts"].tolist()
    times: list[float] = []
    picks: list[tuple[int, list[int]]] = []
    waiting: deque[tuple[decode.Frame, list[int]]] = deque()

    def watched(frames: Iterable[decode.Frame]) -> Iterator[decode.Frame]:
        """Frames on their way to the clock of ticks, each shown to the shot finder."""
        for frame in frames:
            beat()
            times.append(frame.time_sec)
            if finder is not None:
                with clock.stage("shots"):
                    finder.push(frame.index, frame.time_sec, frame.gap_sec, frame.small(SMALL_SIDE, SMALL_SIDE))
            yield frame

    def settled(frame: decode.Frame) -> bool:
        return finder is None or len(times) > frame.index + finder.delay_frames

    begun, others = time.process_time(), sum(clock.cpu_sec.values())
    frames = watched(decode.frames(path, probe))
    for frame, ticks in decode.ticks(frames, config.clip.fps, max_gap_sec=config.shots.max_gap_sec):
        waiting.append((frame, ticks))
        picks.append((frame.index, ticks))
        while waiting and settled(waiting[0][0]):
            looking.at(*waiting.popleft(), finder.cuts() if finder is not None else cuts)
    cuts = finder.close() if finder is not None else cuts
    for frame, ticks in waiting:
        looking.at(frame, ticks, cuts)
    # Whatever no stage took is the decoder's.
    clock.cpu_sec["decode"] += time.process_time() - begun - (sum(clock.cpu_sec.values()) - others)
    clock.frames["decode"] += len(times)
    shots = have.get("shots") or _shots(cuts, times, picks)
    return {**looking.results(), "shots": shots}


def _shots(cuts: list[int], times: list[float], picks: list[tuple[int, list[int]]]) -> Artefact:
    """cuts: decode indices of the first frames of new shots; times_sec [F]; picks [N] decode index shown at each tick."""
    shown = {tick: index for index, ticks in picks for tick in ticks}
    pick = np.array([shown[tick] for tick in range(len(shown))], np.int32)
    return Artefact(
        {"frames": len(times)},
        {"cuts": np.array(cuts, np.int32), "times_sec": np.array(times, np.float64), "picks": pick},
    )


class _Looking:
    """The steps after the shot finder, fed tick by tick."""

    def __init__(
        self,
        config: VideosConfig,
        networks: Networks,
        have: Mapping[str, Artefact],
        clock: StageClock,
        probe: decode.Probe,
    ):
        self._have, self._clock = dict(have), clock
        self._shot = 0
        self._ticks = 0
        people, faces = have.get("people"), have.get("face")
        self._people = PeopleFinder(networks.pose, config.people) if people is None else Remembered(people)
        self._faces = FaceTrack(networks.faces) if faces is None else RememberedFaces(faces)
        self._quality = None if "quality" in have else QualityTrack(config.quality, networks.text, config.clip.fps)
        self._identity = (
            None if "identity" in have else PersonFaces(networks.embedder, config.identity, config.clip.fps)
        )
        self._parts = [part for part in (self._people, self._faces, self._quality, self._identity) if part is not None]

    def at(self, frame: decode.Frame, ticks: list[int], cuts: list[int]) -> None:
        """One frame that is shown at some ticks; ``cuts`` are all those up to it."""
        shot = int(np.searchsorted(cuts, frame.index, side="right"))
        if shot != self._shot:
            self._shot = shot
            for part in self._parts:
                part.new_shot()
        with self._clock.stage("decode", 0):
            image = frame.rgb()
        for tick in ticks:
            # A frame shown twice was looked at once: what was found in it holds for both ticks, at the price of a second look.
            self._look(image, tick)

    def _look(self, image: np.ndarray, tick: int) -> None:
        with self._clock.stage("people"):
            people = self._people.step(image, tick)
        with self._clock.stage("face"):
            faces = self._faces.step(image, people)
        if self._quality is not None:
            with self._clock.stage("quality"):
                self._quality.step(image, tick, [person.box for person in people])
        if self._identity is not None:
            with self._clock.stage("identity"):
                self._identity.step(image, tick, people, faces)

    def results(self) -> dict[str, Artefact]:
        """What came out, by step."""
        out = dict(self._have)
        for part in self._parts:
            with self._clock.stage(part.name, 0):
                out[part.name] = part.artefact()
        return out
