"""What the latent cache gains: steps of stage 3 with it and without, and reading it against the `webdataset` package.

    python launchers/benchmark.py latents                       # clips that it makes itself, on one core
    python launchers/benchmark.py latents --data shards/ --steps 30 --json latents.json

Both sides of every ratio are measured in turns, in one run, on one thread, in CPU time, so that a busy machine
matters little; a figure is the median of its turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imanim import cli
from imanim.data import latents as caches
from imanim.data.files import write_json
from imanim.data.shards import ShardSet
from launchers.benchmarks import clips
from launchers.benchmarks.loader import compared, cpu_rates

ROOT = Path(__file__).resolve().parents[2]


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns the figures: ``encoding`` (samples/s), ``rounding`` (of bf16), and, in samples per CPU-second,
    ``training``, ``reading`` and ``loading``."""
    args = _parser().parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="imanim-latents-") as folder:
        data = Path(args.data) if args.data else clips.write_tiny(Path(folder) / "shards", args.clips)
        made, encoding = _cached(data, Path(folder) / "cached", "fp32")
        half, _ = _cached(data, Path(folder) / "half", "bf16")
        found = {
            "encoding": encoding,
            "training": training(data, made, args.steps, args.turns, args.batch),
            "rounding": rounding(made, half, args.steps, args.batch),
            "reading": reading(_small(Path(folder) / "small", args.small), args.turns),
            "loading": loading(data, made, args.turns),
        }
    _print(found)
    if args.json:
        write_json(args.json, found)
    return found


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--data", metavar="DIR", help="shards of the size `tiny` (default: clips of noise, made for this)")
    p.add_argument("--clips", type=int, default=32, help="clips to make (default 32)")
    p.add_argument("--small", type=int, default=2000, help="samples of small latents to read (default 2000)")
    p.add_argument("--steps", type=int, default=8, help="training steps a turn (default 8)")
    p.add_argument("--batch", type=int, default=4, help="samples a training step (default 4)")
    p.add_argument("--turns", type=int, default=5, help="turns of each side (default 5)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p


# ------------------------------------------------------------------------------------------------------------- training


def training(plain: Path, cached: Path, steps: int, turns: int, batch: int) -> dict[str, Any]:
    """Samples per CPU-second of stage 3 at the size `tiny`: reading, augmentation, loss, gradients, AdamW; float32, one process."""
    sides = {"encoded": _steps(plain, batch), "cached": _steps(cached, batch)}
    for side in sides.values():
        next(side)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            begun = time.process_time()
            losses[name] += [next(side) for _ in range(steps)]
            rates[name].append(steps * batch / (time.process_time() - begun))
    out: dict[str, Any] = {f"{name}_samples_per_cpu_s": statistics.median(rate) for name, rate in rates.items()}
    pairs = [a / b for a, b in zip(rates["cached"], rates["encoded"])]
    # Same dice, same samples: were the losses not the same, two different things would have been timed.
    return {
        **out,
        "gain": statistics.median(pairs),
        "gains": pairs,
        "equal_losses": losses["cached"] == losses["encoded"],
    }


def rounding(exact: Path, half: Path, steps: int, batch: int) -> dict[str, Any]:
    """How far bf16 latents move the loss of the packaged weights, which stay: relative differences over ``steps`` batches."""
    one, other = ([loss for _, loss in zip(range(steps), _steps(data, batch, lr=0.0))] for data in (exact, half))
    moved = [abs(b / a - 1) for a, b in zip(one, other)]
    return {"largest": max(moved), "mean_loss_moved": abs(sum(other) / sum(one) - 1)}


def _steps(data: Path, batch: int, lr: float = 1e-5) -> Iterator[float]:
    """Endless training steps of the packaged model; each gives its loss."""
    import torch

    from imanim import config
    from imanim.inference import PACKAGED_MODEL
    from imanim.models.autoencoder import load_autoencoder
    from imanim.training import batches, transfer
    from imanim.training.config import TrainConfig
    from imanim.training.objective import TrainingModule

    words = [f"data.train={data}", f"init_from={PACKAGED_MODEL}", "data.workers=0", f"batch.global_size={batch}"]
    cfg = config.load(TrainConfig, ROOT / "configs" / "stage3.yaml", words)
    sizes = transfer.model_config(cfg)
    animator, _ = transfer.build(cfg, sizes, None)
    vae = load_autoencoder(sizes.autoencoder)
    module = TrainingModule(animator, 3, cfg.objective, total_steps=1000, vae=vae)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    feed = batches.training_batches(cfg, sizes, ShardSet(data, clips.SPLIT), 0)
    for step in range(1 << 30):
        dice = batches.dice(cfg, step)
        loss = module(batches.augment(next(feed), cfg.data.augment, dice), dice, step).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss.detach())


# -------------------------------------------------------------------------------------------------------------- reading


def reading(folder: Path, turns: int) -> dict[str, Any]:
    """Clips per CPU-second of latents alone: by the index in random order, and by `webdataset` from first to last."""
    import webdataset
    from safetensors.torch import load

    shards = ShardSet(folder, clips.SPLIT)
    cache = caches.of(shards.manifest, folder)
    assert cache is not None
    order = np.random.default_rng(0).permutation(len(shards))
    video = (5, 16 * cache.stride, 10 * cache.stride)

    def by_index() -> int:
        for i in order:
            key, members = shards.read(int(i), (caches.MEMBER,))
            caches.unpack(key, members.get(caches.MEMBER), cache, video, mirrored=True)
        return len(order)

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def by_webdataset() -> int:
        read = webdataset.WebDataset(urls, shardshuffle=False).map(lambda s: load(s[caches.MEMBER]))
        return sum(1 for _ in read)

    rates = cpu_rates({"index": by_index, "webdataset": by_webdataset}, turns)
    size = shards.member_bytes(caches.MEMBER) / len(shards)
    return {"latent_bytes_a_sample": size, **compared(rates, "index", "webdataset")}


def loading(plain: Path, cached: Path, turns: int) -> dict[str, Any]:
    """Clips per CPU-second of whole training samples, decoded: with the target's video, and with its latents instead."""
    from imanim.data.stream import SampleDataset
    from imanim.models import sizes

    tiny = sizes.load("tiny")
    size: dict[str, Any] = {"frames": tiny.frames, "height": tiny.height, "width": tiny.width}
    cache = caches.of(ShardSet(cached, clips.SPLIT).manifest, cached)
    assert cache is not None
    video = SampleDataset(ShardSet(plain, clips.SPLIT), **size)
    latents = SampleDataset(
        ShardSet(cached, clips.SPLIT), **size, latents=caches.Use(cache, mirrored=True, truth=False)
    )

    def all_of(data: SampleDataset) -> Callable[[], int]:
        return lambda: sum(1 for i in range(len(data)) if data[i])

    return compared(cpu_rates({"latents": all_of(latents), "video": all_of(video)}, turns), "latents", "video")


# ----------------------------------------------------------------------------------------------------------------- data


def _cached(data: Path, output: Path, dtype: str) -> tuple[Path, dict[str, Any]]:
    """The cache of the tiny autoencoder, and what making it took."""
    from imanim import config
    from imanim.inference import latent_cache

    words = [f"input={data}", f"output={output}", "model=tiny", f"dtype={dtype}", "device=cpu", "workers=1"]
    begun = time.perf_counter()
    latent_cache.run(config.load(latent_cache.CacheConfig, None, words), progress=False)
    seconds, made = time.perf_counter() - begun, ShardSet(output, clips.SPLIT)
    return output, {
        "samples_per_s": len(made) / seconds,
        "latent_bytes_a_sample": made.member_bytes(caches.MEMBER) / len(made),
    }


def _small(folder: Path, count: int) -> Path:
    """Samples of random latents (16 channels, 5 frames of 16x10, bf16, mirrored too) beside a video's worth of other bytes."""
    import torch

    from imanim.data.shards import write_manifest, write_shard

    cache = caches.Cache("0" * 16, None, 16, 8, still=False, mirrored=True, dtype="bf16", targets_dropped=False)
    random, samples = np.random.default_rng(0), []
    for i in range(count):
        shapes = {"target_latents": (16, 5, 16, 10), "identity_latents": (16, 16, 10)}
        names = [(name + side, shape) for name, shape in shapes.items() for side in ("", caches.MIRRORED)]
        tensors = {name: torch.from_numpy(random.standard_normal(shape, np.float32)) for name, shape in names}
        members = {"driving.mp4": random.bytes(20_000), "joints.npy": random.bytes(4_208), "meta.json": b"{}"}
        samples.append((f"s{i:06d}", {**members, caches.MEMBER: caches.pack(tensors, cache)}))
    half = count // 2
    for number, part in enumerate((samples[:half], samples[half:])):
        write_shard(folder, clips.SPLIT, number, part)
    write_manifest(folder, {"latents": caches.describe(cache)})
    return folder


def _print(found: dict[str, Any]) -> None:
    t, r, e, d, b = (found[name] for name in ("training", "reading", "encoding", "loading", "rounding"))
    print(
        f"the cache is made at {e['samples_per_s']:.1f} samples/s, {e['latent_bytes_a_sample'] / 1e3:.0f} kB a sample (fp32)"
    )
    print(
        f"stage 3, size tiny: {t['cached_samples_per_cpu_s']:.2f} samples/CPU-s with it, "
        f"{t['encoded_samples_per_cpu_s']:.2f} without: "
        f"x{t['gain']:.2f} (losses equal: {'yes' if t['equal_losses'] else 'NO'})"
    )
    print(f"bf16 latents move a batch's loss by {b['largest']:.1e} at most, its mean by {b['mean_loss_moved']:.1e}")
    print(
        f"whole samples: {d['latents_clips_per_cpu_s']:,.0f} clips/CPU-s with latents, {d['video_clips_per_cpu_s']:,.0f} with "
        f"the target's video: x{d['ratio']:.2f}"
    )
    print(
        f"latents alone ({r['latent_bytes_a_sample'] / 1e3:.0f} kB): {r['index_clips_per_cpu_s']:,.0f} clips/CPU-s by index, "
        f"{r['webdataset_clips_per_cpu_s']:,.0f} by webdataset: x{r['ratio']:.2f}"
    )
