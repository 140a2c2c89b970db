"""The leakage report of a model: what its motion tokens tell about the driver's person, and whether they still tell the motion.

Result (JSON): ``protocol``; ``clips``, ``persons``, ``motions``; ``labels``: {name: {words, dims, by, n, groups, left_out,
scores: {reader: {representation: Score}}, verdicts: [Verdict]}} or {name: {words, reason}} where it cannot be probed;
``joints``: {by: Carried or {reason}}; ``swap``: {codes, cosine} or {reason}; ``videos``: likewise, None when not asked for;
``warnings``. Scores are those of :class:`evaluation.leakage.probes.Score`.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from evaluation.leakage import swap
from evaluation.leakage.carried import read_joints
from evaluation.leakage.features import REPRESENTATIONS, Features, extract
from evaluation.leakage.labels import LABELS, Table, table
from evaluation.leakage.planted import PLANTED, plant
from evaluation.leakage.probes import READERS, ProbeSettings, Score, probe
from evaluation.leakage.words import sentences as sentences
from imanim.config import opt, to_dict
from imanim.data.shards import ShardSet
from imanim.errors import InputError

if TYPE_CHECKING:
    from imanim.inference.pipeline import AnimationPipeline

PROTOCOL = "leakage-1"
"""Name and version; numbers of different protocols do not belong side by side."""
CONTROLS, UPPER = ("joints", "joints_centred"), "pixels"
"""What motion itself betrays (the better of the two counts), and what there was to see: every verdict names both."""
NEGLIGIBLE = 0.02
"""Less than this of R2 or accuracy above knowing nothing is a trace: with enough clips anything is found."""
JUDGED = ("tokens", "tokens_flat", "codes", "retargeted")
FEW_PEOPLE = 30


@dataclass
class LeakageConfig:
    """What to probe, and how."""

    representations: list[str] = opt(
        [r for r in REPRESENTATIONS if r != "tokens_flat"],
        "what is probed; joints and pixels are what verdicts lean on",
    )
    labels: list[str] = opt(
        list(LABELS), "properties of the driver; those that the data lack are named with the reason"
    )
    readers: list[str] = opt(list(READERS), "kinds of probe: linear, mlp")
    folds: int = opt(5, "folds of the cross-validation, apart by motion or by person")
    permutations: int = opt(200, "draws of the permutation test")
    bootstrap: int = opt(1000, "draws of the intervals")
    hidden: int = opt(32, "hidden units of the small network")
    joint_frames: int = opt(4, "frames a clip from which joints are read")
    planted: float = opt(
        0.1,
        "share of a token's squared length given to the label, to test the probes themselves; 0 = they are not tested",
    )
    centred: bool = opt(
        True,
        "take the mean over a motion's drivers out of the features, where motions have several: what differs is theirs",
    )
    video_motions: int = opt(0, "motions for which videos are made under two drivers (slow; needs Doubles); 0 = none")
    steps: int | None = opt(None, "sampling steps of these videos; null = what suits the model")

    def problems(self) -> list[str]:
        """What is wrong with it."""
        found = []
        for name, known in (("representations", REPRESENTATIONS), ("labels", LABELS), ("readers", READERS)):
            unknown = [v for v in getattr(self, name) if v not in known]
            if unknown or not getattr(self, name):
                found.append(f"{name}: {', '.join(unknown) or 'empty'}; known: {', '.join(known)}")
        lowest = {"folds": 2, "permutations": 100, "bootstrap": 40, "hidden": 1, "joint_frames": 1, "video_motions": 0}
        found += [f"{n}: {getattr(self, n)} must be at least {m}" for n, m in lowest.items() if getattr(self, n) < m]
        if not 0 <= self.planted <= 1:
            found.append(f"planted: {self.planted} must lie in 0 to 1")
        if self.steps is not None and self.steps < 1:
            found.append(f"steps: {self.steps} must be at least 1")
        return found


def probe_leakage(
    pipeline: AnimationPipeline,
    shards: ShardSet,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    settings: LeakageConfig | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Probes a model on the drivers of a split.

    Args:
        limit: about so many clips (whole motions, evenly spread); None: all. One clip a driver and motion is read.
        seed: of folds, permutations, bootstrap, networks and noise.

    Returns:
        the result that the module describes, JSON-able; :func:`sentences` says it in words.

    Raises:
        InputError: the clips do not fit the model, or not one label can be probed.
    """
    _require_scikit_learn()
    cfg = settings or LeakageConfig()
    features = extract(
        pipeline,
        shards,
        limit,
        batch_size=batch_size,
        names=cfg.representations,
        joint_frames=cfg.joint_frames,
        progress=progress,
    )
    result = probe_features(features, seed=seed, settings=cfg, progress=progress)
    if cfg.video_motions:
        result["videos"] = _or_reason(
            lambda: swap.swap_videos(
                pipeline, shards, motions=cfg.video_motions, steps=cfg.steps, seed=seed, bootstrap=cfg.bootstrap,
                progress=progress,
            )
        )  # fmt: skip
    return plain(result)


def probe_features(
    features: Features, *, seed: int = 0, settings: LeakageConfig | None = None, progress: bool = True
) -> dict[str, Any]:
    """As :func:`probe_leakage`, from features that are there already; no videos."""
    _require_scikit_learn()
    cfg = settings or LeakageConfig()
    how = ProbeSettings(cfg.folds, cfg.permutations, cfg.bootstrap, cfg.hidden, seed)
    drivers = features.drivers
    labels = _probe_labels(features, cfg, how, progress)
    if all("reason" in found for found in labels.values()):
        raise InputError("leakage: no label can be probed: " + "; ".join(str(f["reason"]) for f in labels.values()))
    return plain(
        {
            "protocol": {
                "name": PROTOCOL,
                "settings": to_dict(cfg),
                "seed": seed,
                "character": features.character,
                "folds": "apart by person; the person's id: apart by motion (real video: by source video)",
                "centred": _centred(features, cfg),
                "control": list(CONTROLS),
                "upper": UPPER,
                "scikit_learn": metadata.version("scikit-learn"),
            },
            "clips": len(drivers),
            "persons": len({d.person for d in drivers if d.person}),
            "motions": len({d.motion for d in drivers}),
            "labels": labels,
            "joints": _probe_joints(features, how),
            "swap": _or_reason(lambda: _swap(features, how)),
            "videos": None,
            "warnings": _warnings(features, cfg),
        }
    )


def _probe_labels(features: Features, cfg: LeakageConfig, how: ProbeSettings, progress: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    tables: dict[str, Table] = {}
    for name in cfg.labels:
        try:
            tables[name] = table(name, features.drivers)
        except InputError as error:
            out[name] = {"words": LABELS[name].words, "reason": str(error)}
    scores: dict[str, dict[str, dict[str, Score]]] = {name: {r: {} for r in cfg.readers} for name in tables}
    names = [*cfg.representations, *([PLANTED] if cfg.planted else [])]
    total = len(tables) * len(cfg.readers) * len(names)
    motions = [d.motion for d in features.drivers]

    def centre(x: np.ndarray) -> np.ndarray:
        return within_motions(x, motions) if _centred(features, cfg) else x

    vectors = {name: centre(features.vectors[name]) for name in cfg.representations}
    with tqdm(total=total, desc="probe", unit="probe", disable=not progress) as bar:
        for representation in names:
            shared: dict[Any, Any] = {}
            for name, label in tables.items():
                bar.update(len(cfg.readers))
                if name in out:
                    continue
                if representation == PLANTED:
                    x, cache = centre(plant(features, label, cfg.planted, how.seed)), {}
                else:
                    x, cache = vectors[representation], shared
                try:
                    for reader in cfg.readers:
                        scores[name][reader][representation] = probe(x, label, reader, how, cache)
                except InputError as error:
                    out[name] = {"words": LABELS[name].words, "reason": str(error)}
    for name, label in tables.items():
        if name not in out:
            out[name] = _label_result(label, scores[name])
    return {name: out[name] for name in cfg.labels}


def _centred(features: Features, cfg: LeakageConfig) -> bool:
    """Whether features are compared within motions: asked for, and most clips share theirs with another driver."""
    counts = Counter(d.motion for d in features.drivers)
    shared = sum(n for n in counts.values() if n > 1)
    return cfg.centred and 2 * shared >= len(features.drivers)


def within_motions(x: np.ndarray, motions: Sequence[str]) -> np.ndarray:
    """Features [n,D] less the mean over the clips of their motion.

    No label takes part in this, and the permutation test refits on features that were made alike.
    """
    which = np.unique(motions, return_inverse=True)[1]
    sums = np.zeros((which.max() + 1, x.shape[1]))
    np.add.at(sums, which, x)
    return x - (sums / np.bincount(which)[:, None])[which]


def _label_result(label: Table, scores: Mapping[str, Mapping[str, Score]]) -> dict[str, Any]:
    spec = LABELS[label.name]
    return {
        "words": spec.words,
        "dims": list(spec.dims),
        "measure": "accuracy" if label.is_class else "R2",
        "by": label.by,
        "n": len(label.rows),
        "groups": len(np.unique(label.groups)),
        "classes": len(np.unique(label.y)) if label.is_class else None,
        "left_out": label.left_out,
        "scores": {reader: {r: s.to_json() for r, s in found.items()} for reader, found in scores.items()},
        "verdicts": [
            asdict(judge(reader, name, found))
            for reader, found in scores.items()
            for name in JUDGED
            if name in found and set(CONTROLS) & set(found)
        ],
    }


def _require_scikit_learn() -> None:
    """Said before clips are read, not after."""
    if importlib.util.find_spec("sklearn") is None:
        raise InputError('leakage: scikit-learn is not installed; run pip install "imanim[eval]"')


# ---------------------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdict:
    """One representation's reading of one label beside the control's.

    leakage: the representation's score less the control's, neither below knowing nothing; low, high: 95 %, paired. outcome:
    ``leaks`` (tells surely more than the joints), ``motion`` (tells, but not surely more than the joints), ``trace`` (tells,
    but less than NEGLIGIBLE), ``none`` (tells nothing that these probes find), ``blind`` (nor was found what had been
    planted in the tokens, or, when nothing was, what joints and pixels hold: too weak a probe, or too few clips, to say).
    """

    reader: str
    representation: str
    value: float
    control: float
    control_name: str
    upper: float | None
    leakage: float
    low: float
    high: float
    outcome: str


def judge(reader: str, name: str, scores: Mapping[str, Score]) -> Verdict:
    """Judges ``scores[name]`` beside those of the control and, where it was probed, of the pixels."""
    own, upper = scores[name], scores.get(UPPER)
    control_name = max((c for c in CONTROLS if c in scores), key=lambda c: scores[c].value)
    control = scores[control_name]
    gap = np.maximum(own.draws, own.floor) - np.maximum(control.draws, control.floor)
    low, high = (float(v) for v in np.percentile(gap, [2.5, 97.5]))
    if own.found:
        outcome = "trace" if own.value - own.floor < NEGLIGIBLE else "leaks" if low > 0 else "motion"
    else:
        sees = [scores[PLANTED]] if PLANTED in scores else [s for s in (control, upper) if s is not None]
        outcome = "none" if any(s.found for s in sees) else "blind"
    seen = None if upper is None else upper.value
    leakage = own.told - control.told
    return Verdict(reader, name, own.value, control.value, control_name, seen, leakage, low, high, outcome)


# ------------------------------------------------------------------------------------------------------------- parts


def _probe_joints(features: Features, how: ProbeSettings) -> dict[str, Any]:
    tokens = features.tokens[:, features.frame_numbers].reshape(len(features.tokens), len(features.frame_numbers), -1)
    groups = {"motion": [d.motion for d in features.drivers], "person": [d.person or d.key for d in features.drivers]}
    return {
        by: _or_reason(
            lambda names=names, by=by: read_joints(tokens, features.frame_joints, np.asarray(names), how, by).to_json()
        )
        for by, names in groups.items()
    }


def _swap(features: Features, how: ProbeSettings) -> dict[str, Any]:
    motions, persons = [d.motion for d in features.drivers], [d.person or d.key for d in features.drivers]
    kept = swap.spread_motions(motions)
    names = [motions[i] for i in kept], [persons[i] for i in kept]
    codes = {} if features.codebook is None else {"codes": swap.agreement(features.codes[kept])}
    tables = {**codes, "cosine": swap.cosine(features.tokens[kept])}
    return {
        name: swap.swap_tokens(alike, *names, bootstrap=how.bootstrap, seed=how.seed) for name, alike in tables.items()
    }


def _warnings(features: Features, cfg: LeakageConfig) -> list[str]:
    drivers = features.drivers
    out = []
    if cfg.centred and not _centred(features, cfg):
        out.append(
            "few motions have several drivers, so motions were not taken out of the features: only coarse leaks show"
        )
    if any(d.scene != d.motion for d in drivers):
        out.append(
            "real video: a person's id goes with their room, clothes and light, so what tells the person may be the place"
        )
    people = {d.person for d in drivers if d.person}
    if len(people) < FEW_PEOPLE:
        out.append(
            f"{len(people)} people are few to tell a body or its colours by: what is not found may still be there"
        )
    if features.codebook is not None and len(np.unique(features.codes)) < 2:
        out.append("the tokenizer uses one code for everything; its tokens carry nothing at all")
    return out


def _or_reason(work: Any) -> dict[str, Any]:
    """What ``work`` gives, or {reason} when the data do not allow it."""
    try:
        return work()
    except InputError as error:
        return {"reason": str(error)}


def plain(value: Any) -> Any:
    """Numbers for JSON: NaN and infinity become None, numpy's numbers Python's."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
