"""Makes the latent cache: copies shards and adds to every sample what the frozen autoencoder says of it (docs/data.md).

What is encoded, and how, is what training would do: the same tensors from the same decoder, mirrored before they are encoded, the
same functions. The job needs no process group: each rank takes every so-manieth shard, and whoever finds all of them done writes
the manifest. So ranks may start and end when they like, and the same command goes on after any interruption, shard by shard.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from imanim import config, distributed
from imanim.config import opt, req
from imanim.data import latents as caches
from imanim.data import shards as tars
from imanim.data.files import read_json, write_json
from imanim.data.latents import Cache
from imanim.data.sample import TARGET_DROPPED, decode
from imanim.data.shards import ShardSet
from imanim.data.stream import Batch, collate, to_tensors
from imanim.errors import InputError
from imanim.inference import find_model
from imanim.models import files, fingerprint, sizes
from imanim.models.autoencoder import VideoAutoencoder, encode_image, encode_video, load_autoencoder
from imanim.models.conditioning import ImageEncoder, autoencoder_folder, image_condition, image_encoder
from imanim.models.config import AnimatorConfig

SETTINGS, REPORT = "cache.json", "report.json"
FAILED = ".failed.json"
"""Behind a shard's name: the samples that could not be encoded. Such a shard is made again by the next run."""


@dataclass
class CacheConfig:
    """What to cache, and of which model."""

    input: str = req("folder of shards (input=FOLDER)")
    output: str = req("folder for the shards with latents")
    model: str = req(
        "whose autoencoder: a run or model folder, or sizes as training takes them (names in configs/model, YAML files)"
    )
    model_settings: dict[str, Any] = opt({}, "laid over the model's sizes: model_settings.base=FOLDER")
    dtype: Literal["fp32", "bf16"] = opt(
        "fp32", "of the stored latents: fp32 is what training computes, bf16 half of it"
    )
    mirror: bool = opt(True, "also the mirrored pictures' latents, which training with data.augment.mirror needs")
    drop_targets: bool = opt(
        False, "leave target.mp4 out: smaller shards, for stages 2 and 3 only and not to measure on"
    )
    batch: int = opt(1, "samples encoded at once; with convolutions the last bits depend on it")
    workers: int = opt(2, "decoding threads")
    device: str = opt("auto", "cpu, cuda or auto (this rank's GPU, if there is one)")

    def problems(self) -> list[str]:
        return [f"{n}: {getattr(self, n)} must be at least 1" for n in ("batch", "workers") if getattr(self, n) < 1]


class Encoders(NamedTuple):
    """The frozen networks and the model that they are for."""

    sizes: AnimatorConfig
    vae: VideoAutoencoder
    image: ImageEncoder | None
    device: torch.device


class Shard(NamedTuple):
    """One shard to make. ``first``: the number of its first sample in its split."""

    source: ShardSet
    number: int
    first: int
    samples: int

    def done(self, output: Path) -> bool:
        """Whether it is there whole, with no sample missing."""
        there = tars.is_complete(output, self.source.split, self.number)
        return there and not failures_file(output, self.source.split, self.number).exists()


class Outcome(NamedTuple):
    """Lines for people, and how many samples could not be encoded."""

    lines: list[str]
    failed: int


def run(cfg: CacheConfig, *, progress: bool = True, dry_run: bool = False) -> Outcome:
    """Makes this rank's part of the cache; with ``dry_run`` only says what there is to do.

    A sample that cannot be decoded or encoded is left out and named in ``report.json``; the rest goes on.

    Raises:
        InputError: input, model or output cannot be used, or the disk is full (what is finished is kept).
    """
    model = model_sizes(cfg)
    shards = work(cfg)
    cache = describe(cfg, model)
    output, here = Path(cfg.output), distributed.place()
    _check_output(cfg, shards, cache, write=not dry_run)
    mine = shards[here.rank :: here.world_size]
    todo = [shard for shard in mine if not shard.done(output)]
    if dry_run:
        return Outcome(_plan(cfg, model, cache, shards, todo), 0)
    if todo:
        encoders = load(cfg, model)
        with _bar(todo, progress) as bar:
            for shard in todo:
                _make(cfg, shard, encoders, cache, bar)
    return _finish(cfg, shards, cache)


# -------------------------------------------------------------------------------------------------- what there is to do


def model_sizes(cfg: CacheConfig) -> AnimatorConfig:
    """The model whose encoders are meant. Raises InputError when it is neither a folder nor a name."""
    if not Path(cfg.model).is_dir():
        return sizes.load(cfg.model, cfg.model_settings)
    saved = files.read_index(find_model(cfg.model))
    merged = config.merge(config.to_dict(saved.config), cfg.model_settings)
    return config.from_dict(AnimatorConfig, merged, name=str(saved.folder))


def work(cfg: CacheConfig) -> list[Shard]:
    """Every shard of the input, split by split, in the manifest's order. Raises InputError when the input cannot be used."""
    manifest = tars.read_manifest(cfg.input)
    before = caches.of(manifest, cfg.input)
    if before is not None and before.targets_dropped:
        raise InputError(f"{cfg.input}: its target pixels were dropped; give the shards it was made from")
    out = []
    for split, entry in sorted(manifest["splits"].items()):
        if not entry["samples"]:
            continue
        source, first = ShardSet(cfg.input, split), 0
        for number, shard in enumerate(entry["shards"]):
            out.append(Shard(source, number, first, shard["samples"]))
            first += shard["samples"]
    if not out:
        raise InputError(f"{cfg.input}: holds no samples; make some with launchers/preprocess.py")
    return out


def describe(cfg: CacheConfig, model: AnimatorConfig) -> Cache:
    """The cache that is going to be made."""
    return Cache(
        autoencoder=fingerprint.autoencoder(model),
        image_encoder=fingerprint.image_encoder(model),
        channels=model.latent_channels,
        stride=model.latent_stride,
        still=model.denoiser.image_condition,
        mirrored=cfg.mirror,
        dtype=cfg.dtype,
        targets_dropped=cfg.drop_targets,
    )


def _check_output(cfg: CacheConfig, shards: list[Shard], cache: Cache, *, write: bool) -> None:
    """Refuses a folder that holds something else; otherwise notes there what is being made."""
    output = Path(cfg.output)
    if output.resolve() == Path(cfg.input).resolve():
        raise InputError(f"output: {output}: is the input; choose another folder")
    made_of = {s.source.split: s.source.manifest["splits"][s.source.split]["shards"] for s in shards}
    mark = json.loads(json.dumps({"cache": asdict(cache), "batch": cfg.batch, "input": made_of}))
    if (output / SETTINGS).is_file():
        if read_json(output / SETTINGS) != mark:
            raise InputError(
                f"output: {output}: holds a cache of other shards, another model or other settings; choose another"
            )
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output: {output}: holds something else; choose an empty or new folder")
    elif write:
        write_json(output / SETTINGS, mark)


def latent_bytes(cache: Cache, model: AnimatorConfig) -> int:
    """Bytes of one sample's tensors at the model's size, beside the image encoder's features (a few hundred tokens)."""
    (h, w), f = model.latent_size, model.latent_frames
    grid = cache.channels * h * w * caches.DTYPES[cache.dtype].itemsize
    return grid * (f + 1 + (1 + f) * cache.still) * (2 if cache.mirrored else 1)


def _plan(cfg: CacheConfig, model: AnimatorConfig, cache: Cache, shards: list[Shard], todo: list[Shard]) -> list[str]:
    samples, each = sum(s.samples for s in shards), latent_bytes(cache, model)
    sources = {s.source.split: s.source for s in shards}.values()
    copied = sum(shard["bytes"] for s in sources for shard in s.manifest["splits"][s.split]["shards"])
    copied -= sum(s.member_bytes("target.mp4") for s in sources) if cfg.drop_targets else 0
    parent = next(p for p in (Path(cfg.output).absolute(), *Path(cfg.output).absolute().parents) if p.exists())
    what = ", ".join(cache.names) + (", each mirrored too" if cache.mirrored else "")
    return [
        f"{samples} samples in {len(shards)} shards; this rank has {sum(s.samples for s in todo)} in {len(todo)} to do",
        f"autoencoder {cache.autoencoder} ({autoencoder_folder(model)}); {what}, {cache.dtype}",
        f"{each / 1e6:.3f} MB of latents a sample at {model.frames} frames of {model.height}x{model.width}",
        f"would write about {(copied + samples * each) / 1e6:.0f} MB to {cfg.output}; "
        f"{shutil.disk_usage(parent).free / 1e6:.0f} MB are free there",
    ]


# ------------------------------------------------------------------------------------------------------------- the work


def load(cfg: CacheConfig, model: AnimatorConfig) -> Encoders:
    """The encoders on this rank's device, in float32, as training holds them. Raises InputError."""
    name = cfg.device
    if name == "auto":
        name = f"cuda:{distributed.place().local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {name}: not usable ({str(error).splitlines()[0]}); use cpu, cuda or auto") from None
    encoder = image_encoder(model)
    vae = load_autoencoder(autoencoder_folder(model)).to(device)
    return Encoders(model, vae, None if encoder is None else encoder.to(device), device)


@torch.no_grad()
def encode(batch: Batch, encoders: Encoders, cache: Cache) -> dict[str, Tensor]:
    """A batch's tensors by the names in ``cache``, float32 (see imanim.data.latents)."""
    pictures = {name: batch[name].to(encoders.device) for name in ("target", "identity")}
    out = _encode(pictures, encoders)
    if cache.mirrored:
        flipped = {name: value.flip(-1) for name, value in pictures.items()}
        out |= {name + caches.MIRRORED: value for name, value in _encode(flipped, encoders).items()}
    return out


def _encode(pictures: Mapping[str, Tensor], encoders: Encoders) -> dict[str, Tensor]:
    target = encode_video(encoders.vae, pictures["target"])
    out = {"target_latents": target, "identity_latents": encode_image(encoders.vae, pictures["identity"])}
    image = image_condition(encoders.sizes, encoders.vae, encoders.image, pictures["identity"], target.shape[2])
    if image is not None:
        out["still_latents"] = image.still
        if image.embedding is not None:
            out["image_features"] = image.embedding
    return out


class Read(NamedTuple):
    """A sample read and decoded; ``item`` is the reason as text when that failed."""

    key: str
    members: dict[str, bytes]
    item: Batch | str


def _read(source: ShardSet, i: int) -> Read:
    try:
        key, members = source.read(i)
        sample = decode(key, members, skip=("parts.png", "driving_parts.png"))
        return Read(key, members, to_tensors(sample))
    except InputError as error:
        return Read(source.keys[i], {}, str(error))


def _ahead(shard: Shard, workers: int) -> Iterator[Read]:
    """A shard's samples in order, the next few being decoded while one is encoded."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Read]] = deque()
        for i in range(shard.first, shard.first + shard.samples):
            waiting.append(pool.submit(_read, shard.source, i))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _alike(reads: Iterable[Read], size: int) -> Iterator[list[Read]]:
    """Neighbours of one shape, up to ``size``; what failed comes alone."""
    group: list[Read] = []
    for read in reads:
        if group and (len(group) == size or _shape(read) is None or _shape(read) != _shape(group[0])):
            yield group
            group = []
        group.append(read)
        if _shape(read) is None:
            yield group
            group = []
    if group:
        yield group


def _shape(read: Read) -> torch.Size | None:
    return None if isinstance(read.item, str) else read.item["target"].shape


def _make(cfg: CacheConfig, shard: Shard, encoders: Encoders, cache: Cache, bar: Any) -> None:
    """One shard, wholly: the samples with their latents, and a note of those that could not be encoded."""
    made: list[tuple[str, dict[str, bytes]]] = []
    failed: dict[str, str] = {}
    for group in _alike(_ahead(shard, cfg.workers), cfg.batch):
        for read, latents in zip(group, _latents(group, encoders, cache)):
            if isinstance(latents, str):
                failed[read.key] = latents
            else:
                made.append((read.key, _members(read, latents, cfg.drop_targets)))
        bar.update(len(group))
        bar.set_postfix(failed=len(failed), refresh=False)
    output, split = Path(cfg.output), shard.source.split
    note = failures_file(output, split, shard.number)
    if failed:
        write_json(note, failed)
    tars.write_shard(output, split, shard.number, made)
    if not failed:
        note.unlink(missing_ok=True)


def _latents(group: list[Read], encoders: Encoders, cache: Cache) -> list[bytes | str]:
    """Each sample's member, or why there is none."""
    items = [read.item for read in group if not isinstance(read.item, str)]
    if not items:
        return [str(read.item) for read in group]
    try:
        found = encode(collate(items), encoders, cache)
    except InputError as error:  # of the shape, which all of them share
        return [str(error)] * len(group)
    out: list[bytes | str] = []
    for i in range(len(items)):
        mine = {name: value[i] for name, value in found.items()}
        bad = [name for name, value in mine.items() if not bool(value.isfinite().all())]
        out.append(f"{bad[0]} are not all finite" if bad else caches.pack(mine, cache))
    return out


def _members(read: Read, latents: bytes, drop_target: bool) -> dict[str, bytes]:
    members = {**read.members, caches.MEMBER: latents}
    if drop_target and members.pop("target.mp4", None) is not None:
        # Without a word a sample without a target would be a self pair.
        meta = json.loads(members["meta.json"]) | {TARGET_DROPPED: True}
        members["meta.json"] = json.dumps(meta, sort_keys=True, allow_nan=False).encode()
    return members


# --------------------------------------------------------------------------------------------------------------- the end


def failures_file(output: Path, split: str, number: int) -> Path:
    """Where a shard's failures are noted: {key: reason}."""
    return output / (tars.shard_name(split, number) + FAILED)


def _finish(cfg: CacheConfig, shards: list[Shard], cache: Cache) -> Outcome:
    """Manifest and report, when all shards are there. Two ranks that end together write the same."""
    output = Path(cfg.output)
    notes = {s: failures_file(output, s.source.split, s.number) for s in shards}
    failed = [
        {
            "split": shard.source.split,
            "shard": tars.shard_name(shard.source.split, shard.number),
            "key": key,
            "reason": reason,
        }
        for shard, note in notes.items()
        if note.is_file()
        for key, reason in read_json(note).items()
    ]
    missing = [s for s in shards if not tars.is_complete(output, s.source.split, s.number)]
    if missing:
        return Outcome(
            [f"{output}: {len(missing)} of {len(shards)} shards are still being made by other ranks"], len(failed)
        )
    about = {k: v for k, v in shards[0].source.manifest.items() if k not in ("schema", "splits", "samples", "bytes")}
    manifest = tars.write_manifest(output, {**about, "latents": caches.describe(cache)})
    write_json(output / REPORT, {"samples": manifest["samples"], "failed": failed})
    lines = [f"{output}: {manifest['samples']} samples with latents, {manifest['bytes'] / 1e6:.1f} MB"]
    if failed:
        first = failed[0]
        lines.append(f"{len(failed)} left out, e.g. {first['key']}: {first['reason']}; all are in {output / REPORT}")
    return Outcome(lines, len(failed))


def _bar(todo: list[Shard], progress: bool) -> Any:
    from tqdm import tqdm

    here = distributed.place()
    name = "latents" if here.world_size == 1 else f"latents, rank {here.rank}"
    return tqdm(total=sum(s.samples for s in todo), desc=name, unit="sample", disable=not progress)
