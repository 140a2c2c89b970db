"""One evaluation from the protocol to the result file, on one process or many.

1. the protocol's samples; 2. the videos that are missing are made (or somebody else's are taken); 3. every sample is measured, a
row each; 4. the first rank adds up: set metrics, means, comparisons, probes, ``results.json``.

Batches are dealt to ranks for making, samples for measuring. Whatever a rank finished is on disk, so the same command goes on where
it stopped; what is added up is read back from disk in the protocol's order, so the result does not depend on how many ranks
there were.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evaluation import results, scoring, sets, summary
from evaluation.choosing import spread
from evaluation.features.cache import FeatureCache
from evaluation.generation import AUTOENCODED, Maker, in_batches, weights_of
from evaluation.metrics import registry
from evaluation.metrics.base import Machine, SetMetric, Value
from evaluation.metrics.joints import JointMetric
from evaluation.protocols import guard
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item, fingerprint
from evaluation.protocols.sources import items as samples_of
from evaluation.scoring import Scorer
from imanim import config, distributed
from imanim.config import opt, req, to_dict
from imanim.data.files import sha256, write_json
from imanim.data.shards import ShardSet
from imanim.data.video import write_png, write_video
from imanim.errors import InputError
from imanim.inference import find_model
from imanim.revision import revision

_JOINTS = JointMetric()
RESULT = results.RESULT
VIDEOS, FILMSTRIPS = "videos", "filmstrips"
FEATURES_VARIABLE = "IMANIM_FEATURES"
WAIT_SEC = 24 * 3600.0
"""How long a rank waits for the others: samples are not equally long, and the first adds up alone."""


@dataclass
class EvalConfig:
    """What to measure, and where. Only ``protocol`` decides the numbers."""

    protocol: ProtocolConfig = req("the protocol (--config FILE of configs/eval)")
    data: str | None = opt(
        None, "the samples: a folder of shards, clips or pairs; null = what protocol.source.generate makes"
    )
    model: str | None = opt(None, "training run or model folder; null = the packaged tiny model")
    predictions: str | None = opt(
        None, "measure these videos (KEY.mp4 or a folder of frames a sample) and load no model"
    )
    name: str | None = opt(None, "what the measured method is called in tables; null = the model's or folder's name")
    output: str = opt("runs/evaluation", "folder for results.json, report.html, videos and filmstrips")
    features: str | None = opt(None, "folder of the feature cache; null = $IMANIM_FEATURES or ~/.cache/imanim/features")
    saved_videos: int = opt(
        6, "generated videos, and their filmstrips beside driver and truth, kept for people to look at"
    )
    low_noise: str | None = opt(None, "the low-noise half, when the model was trained in two (Wan 2.2 A14B)")
    base: str | None = opt(None, "Wan pipeline folder; null = where training had it")
    attention: str | None = opt(None, "attention kernel by name; null = as trained")
    batch_size: int = opt(4, "samples at a time while generating")
    metric_batch_size: int = opt(16, "pictures at a time in the metrics' networks")
    device: str = opt("auto", "cpu, cuda or auto")
    threads: int = opt(1, "CPU threads; a small model is slower with more")

    def problems(self) -> list[str]:
        found = [
            f"{n}: {getattr(self, n)} must be at least 1"
            for n in ("batch_size", "metric_batch_size", "threads")
            if getattr(self, n) < 1
        ]
        if self.saved_videos < 0:
            found.append(f"saved_videos: {self.saved_videos} must not be negative")
        if self.model is not None and self.predictions is not None:
            found.append("model, predictions: give one of them")
        if self.data is None and self.protocol.source.generate is None:
            found.append("data: required, not set; the folder of this protocol's samples (data=FOLDER)")
        return found


def evaluate(cfg: EvalConfig, data: str, *, progress: bool = True) -> dict[str, Any]:
    """Measures a model, or other people's videos, and writes ``results.json`` into ``cfg.output``.

    Args:
        data: where the protocol's samples are (``cfg.data``, or where they were generated).

    Returns:
        the result (schema in :mod:`evaluation.results`); on every rank.

    Raises:
        InputError: no such model, data or metric; weights missing; nothing could be measured; the output cannot be written.
    """
    with _ranks() as (place, device, together):
        check_measured(cfg)
        protocol = _with_what_there_is(cfg)
        wanted = {name: protocol.metric_settings.get(name, {}) for name in protocol.metrics}
        target = device if cfg.device == "auto" else cfg.device
        metrics = registry.build(wanted, Machine(target, cfg.metric_batch_size))
        _check_headline(protocol, metrics)
        items = samples_of(protocol, data)
        guard.check(protocol, items)
        mine = items[place.rank :: place.world_size]
        maker = _maker(cfg, protocol, target) if cfg.predictions is None else None
        if maker is not None:
            batches = in_batches(items, cfg.batch_size)[place.rank :: place.world_size]
            _generate(maker, batches, progress and place.is_first)
            together()
        # Of the protocol as it stands in the file: what a rival's videos cannot have (tokens, an autoencoder) changes no number
        # that both have.
        described = _protocol(cfg.protocol, metrics)
        # Rows measured by other code are not this code's.
        measured_by = f"{described['sha256']} {revision()}"
        scorer = Scorer(protocol, metrics, _folders(cfg, maker), _cache(cfg), Path(cfg.output) / "rows", measured_by)
        for item in tqdm(mine, desc="measure", unit="clip", disable=not (progress and place.is_first)):
            scorer.row(item)
        together()
        result = None
        if place.is_first:
            result = _add_up(cfg, data, scorer, items, described, maker, progress)
            write_json(Path(cfg.output) / RESULT, result)
        together()
        return result if result is not None else results.load(Path(cfg.output) / RESULT)


def check_measured(cfg: EvalConfig) -> Path:
    """The model or the folder of videos that is to be measured. Raises InputError when there is none."""
    if cfg.predictions is None:
        return find_model(cfg.model)
    folder = Path(cfg.predictions)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of made videos; check predictions=FOLDER")
    return folder


# -------------------------------------------------------------------------------------------------------- set-up


@contextmanager
def _ranks() -> Iterator[tuple[distributed.Place, str, Callable[[], None]]]:
    """This process among the others: its place, its device, and how to wait for all."""
    import torch

    place = distributed.place()
    if place.world_size == 1:
        yield place, "cuda" if torch.cuda.is_available() else "cpu", lambda: None
        return
    device = distributed.start(WAIT_SEC)
    try:
        yield place, str(device), distributed.barrier
    finally:
        distributed.stop()


def _with_what_there_is(cfg: EvalConfig) -> ProtocolConfig:
    """The protocol without what only a model can make, when there is none: its autoencoder's videos and its tokens' probes."""
    protocol = cfg.protocol
    if cfg.predictions is None:
        return protocol
    return replace(protocol, baselines=[b for b in protocol.baselines if b not in AUTOENCODED], leakage=None)


def _maker(cfg: EvalConfig, protocol: ProtocolConfig, device: str) -> Maker:
    import torch

    from imanim.inference.pipeline import AnimationPipeline

    model = find_model(cfg.model)
    torch.set_num_threads(cfg.threads)
    pipeline = AnimationPipeline.from_pretrained(
        model, low_noise=cfg.low_noise, shift=protocol.shift, base=cfg.base, attention=cfg.attention
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    low = weights_of(find_model(cfg.low_noise)) if cfg.low_noise is not None else {}
    return Maker(pipeline, protocol, Path(cfg.output), weights_of(model), low)


def _generate(maker: Maker, batches: Sequence[Sequence[Item]], progress: bool) -> None:
    with tqdm(total=sum(map(len, batches)), desc="generate", unit="clip", disable=not progress) as bar:
        for done in maker.make(batches):
            bar.update(done)


def _folders(cfg: EvalConfig, maker: Maker | None) -> dict[str, Path]:
    if maker is not None:
        return {method: maker.folder(method) for method in maker.methods}
    return {scoring.OURS: check_measured(cfg)}


def _cache(cfg: EvalConfig) -> FeatureCache:
    named = cfg.features or os.environ.get(FEATURES_VARIABLE)
    return FeatureCache(Path(named).expanduser() if named else Path.home() / ".cache" / "imanim" / "features")


# ------------------------------------------------------------------------------------------------------ the result


def _add_up(
    cfg: EvalConfig,
    data: str,
    scorer: Scorer,
    items: Sequence[Item],
    described: dict[str, Any],
    maker: Maker | None,
    progress: bool,
) -> dict[str, Any]:
    protocol = scorer.protocol
    every = [scorer.row(item) for item in items]
    rows = [row for row in every if "refused" not in row]
    refused = [{"key": row["key"], "reason": row["refused"]} for row in every if "refused" in row]
    if not rows:
        raise InputError(f"none of {len(every)} samples could be measured; the first: {refused[0]['reason']}")
    groups = {
        name: members
        for name, members in summary.group_rows(rows).items()
        if name == results.ALL or name.startswith("split ")
    }
    result: dict[str, Any] = {
        "schema": results.SCHEMA,
        "protocol": described,
        "samples": {"count": len(items), "sha256": fingerprint(list(items)), "folder": data},
        "method": _method(cfg, maker),
        "methods": scoring.methods_of(rows),
        "values": _values(protocol, scorer.metrics),
        "rows": [{name: row[name] for name in ("key", "unit", "split", "labels", "methods")} for row in rows],
        "sets": {
            name: sets.distances(members, scorer.metrics, scorer.features, bootstrap=protocol.bootstrap)
            for name, members in tqdm(groups.items(), desc="distances of sets", unit="group", disable=not progress)
        },
        "leakage": _leakage(protocol, maker, data, progress),
        "refused": refused,
        "warnings": _warnings(rows),
        "environment": environment(),
    }
    result["groups"] = summary.summarise(
        result["rows"], results.values(result), sets=result["sets"], baselines=_compared(protocol, result)
    )
    _keep_for_people(cfg, scorer, [item for item in items if item.filmed and item.key in {r["key"] for r in rows}])
    return result


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What whoever reads the numbers must know of the samples."""
    still = [row["key"] for row in rows if row.get("still")]
    if not still:
        return []
    return [f"{len(still)} samples hardly move, so holding still nearly answers them: {', '.join(still[:5])}"]


def _compared(protocol: ProtocolConfig, result: dict[str, Any]) -> dict[str, list[str]] | None:
    """Which baselines ours must beat in which values; None: in all. Holding still keeps any face and any steadiness for nothing."""
    if not protocol.headline:
        return None
    named = [method for method in result["methods"] if results.method_name(method).baseline and method != scoring.OURS]
    return dict.fromkeys(protocol.headline, named)


def _check_headline(protocol: ProtocolConfig, metrics: Mapping[str, Any]) -> None:
    known = _values(protocol, metrics)
    for value in protocol.headline:
        if value not in known:
            raise InputError(
                f"protocol.headline: `{value}` is not measured; set protocol.headline=[], or of {', '.join(known)}"
            )


def _values(protocol: ProtocolConfig, metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    def facts(value: Value, scope: str, metric: str) -> dict[str, Any]:
        return {
            "label": value.label,
            "better": value.better,
            "digits": value.digits,
            "unit": value.unit,
            "scope": scope,
            "metric": metric,
        }

    out: dict[str, dict[str, Any]] = {}
    for name, metric in metrics.items():
        scope = "set" if isinstance(metric, SetMetric) else "clip"
        out |= {value.name: facts(value, scope, name) for value in metric.values}
    if protocol.joints:
        out |= {value.name: facts(value, "clip", "joints") for value in _JOINTS.values}
    return out


def _protocol(protocol: ProtocolConfig, metrics: Any) -> dict[str, Any]:
    """The protocol as it is hashed: its settings, and what every metric says that its numbers depend on."""
    described = to_dict(protocol)
    del described["metric_settings"], described["source"]["generate"]
    described["metrics"] = {name: metric.protocol() for name, metric in metrics.items()}
    if protocol.joints:
        described["joints"] = _JOINTS.protocol()
    import json

    return {**described, "sha256": sha256(json.dumps(described, sort_keys=True).encode())}


def _method(cfg: EvalConfig, maker: Maker | None) -> dict[str, Any]:
    folder = check_measured(cfg)
    if maker is None:
        return {
            "kind": "predictions",
            "name": cfg.name or folder.resolve().name,
            "folder": str(folder),
            "weights_sha256": {},
            "sampler": None,
        }
    return {
        "kind": "model",
        "name": cfg.name or (folder.parent if folder.name == "model" else folder).resolve().name,
        "folder": str(folder),
        "weights_sha256": maker.weights_sha256,
        "sampler": maker.sampler,
    }


def _leakage(protocol: ProtocolConfig, maker: Maker | None, data: str, progress: bool) -> dict[str, Any] | None:
    if protocol.leakage is None or maker is None:
        return None
    from evaluation.leakage import run

    settings = config.from_dict(run.LeakageConfig, protocol.leakage, name="protocol.leakage")
    shards = ShardSet(data, protocol.source.splits[0])
    found = run.probe_leakage(maker.pipeline, shards, seed=protocol.seed, settings=settings, progress=progress)
    return {**found, "split": shards.split, "sentences": run.sentences(found)}


def _keep_for_people(cfg: EvalConfig, scorer: Scorer, filmed: Sequence[Item]) -> None:
    """A few videos that every player shows, and their filmstrips."""
    from evaluation.strips import clip_strip

    for i in spread(len(filmed), cfg.saved_videos):
        clip = scorer.clip(filmed[i])
        even = clip.made[:, : clip.made.shape[1] // 2 * 2, : clip.made.shape[2] // 2 * 2]
        write_video(Path(cfg.output) / VIDEOS / f"{clip.key}.mp4", even, clip.fps)
        write_png(Path(cfg.output) / FILMSTRIPS / f"{clip.key}.png", clip_strip(clip))


def environment() -> dict[str, str]:
    """What the numbers were computed with."""
    found = {"machine": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}
    found["commit"] = revision() or "unknown"
    for package in ("imanim", "torch", "numpy", "scipy", "scikit-image", "av", "pillow", "ai-edge-litert", "dlib-bin"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found
