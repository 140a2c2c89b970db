"""What it costs to train from a bucket: clips and latents read from a local folder and from an S3 server, without and with workers.

    python launchers/benchmark.py storage                                   # moto's server, in a process of its own
    python launchers/benchmark.py storage --data shards/ --url s3://bucket/measured     # a real one; stays there

Both places hold the same shards, and are read in turns, in the loader's order. CPU time is the reader's and its workers';
a server on the same machine takes its share of the cores, so clips per second say little there, and clips per CPU-second more.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imanim import cli
from imanim.data import latents as caches
from imanim.data.files import write_json
from imanim.data.shards import ShardSet, write_manifest, write_shard
from imanim.errors import InputError
from launchers.benchmarks import clips

BATCH, EPOCHS = 4, 4
FRAMES, SIZE, CHANNELS, STRIDE = 17, 256, 16, 8
"""Of the clips that it makes, and of the latents of Wan's autoencoder."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns ``bytes`` a clip and, by kind (pixels, latents) and workers, clips/s and clips/CPU-s of both
    places and their ratio."""
    args = _parser().parse_args(arguments)
    import torch

    from data_pipeline.jobs.publish import publish

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="imanim-storage-") as folder, contextlib.ExitStack() as stack:
        data = with_latents(
            Path(args.data) if args.data else _clips(Path(folder) / "made", args.clips), Path(folder) / "set"
        )
        url = args.url or stack.enter_context(server())
        publish(data, url, progress=False)
        places = {"local": ShardSet(data, clips.SPLIT), "bucket": ShardSet(url, clips.SPLIT)}
        found: dict[str, Any] = {"bytes": sizes_of(places["local"]), "rates": {}}
        for kind in ("pixels", "latents"):
            for workers in args.workers:
                found["rates"][f"{kind}, {workers} workers"] = measured(places, kind, workers, args.turns)
    _print(found)
    if args.json:
        write_json(args.json, found)
    return found


def measured(places: dict[str, ShardSet], kind: str, workers: int, turns: int) -> dict[str, Any]:
    """Medians of the turns, after one that does not count; ``ratio`` is the bucket's clips/CPU-s over the local ones."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
    for turn in range(turns + 1):
        for name, shards in places.items():
            rate = rate_of(shards, kind, workers)
            rates[name] += [rate] if turn else []
    by_cpu = {name: [cpu for _, cpu in rate] for name, rate in rates.items()}
    pairs = [there / here for there, here in zip(by_cpu["bucket"], by_cpu["local"])]
    out: dict[str, Any] = {f"{name}_clips_per_cpu_s": statistics.median(rate) for name, rate in by_cpu.items()}
    out |= {f"{name}_clips_per_s": statistics.median(wall for wall, _ in rate) for name, rate in rates.items()}
    return {**out, "ratio": statistics.median(pairs), "ratios": pairs}


def rate_of(shards: ShardSet, kind: str, workers: int) -> tuple[float, float]:
    """Clips per second and per CPU-second of a few epochs in the loader's order, the start of workers included."""
    from torch.utils.data import DataLoader

    from imanim.data.order import Order
    from imanim.data.stream import SampleDataset, collate

    cache = caches.of(shards.manifest, shards.folder)
    assert cache is not None
    shape = shards.shapes[0]
    assert shape is not None
    use = None if kind == "pixels" else caches.Use(cache, mirrored=cache.mirrored, truth=False)
    data = SampleDataset(shards, frames=shape[0], height=shape[1], width=shape[2], latents=use)
    order = Order(0, BATCH, [range(len(shards))])
    batches = [order.batch(step) for step in range(EPOCHS * len(shards) // BATCH)]
    begun, cpu = time.perf_counter(), _cpu_sec()
    # An end, where imanim.data.stream.Loader has none: what workers read ahead would be paid for and not counted.
    for _ in DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=workers):
        pass
    count = len(batches) * BATCH
    return count / (time.perf_counter() - begun), count / (_cpu_sec() - cpu)


def _cpu_sec() -> float:
    """Of this process and of its children that have ended."""
    return sum(
        use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def sizes_of(shards: ShardSet) -> dict[str, float]:
    """Bytes a clip of what is read for pixels, for latents, and of the latents alone."""
    latents, target = (shards.member_bytes(name) / len(shards) for name in (caches.MEMBER, "target.mp4"))
    whole = sum(shard["bytes"] for shard in shards.manifest["splits"][clips.SPLIT]["shards"]) / len(shards)
    return {"pixels": whole - latents, "latents": whole - target, "latents alone": latents}


# ---------------------------------------------------------------------------------------------------------------- data


def _clips(folder: Path, count: int) -> Path:
    size: dict[str, Any] = {"frames": FRAMES, "height": SIZE, "width": SIZE}
    return clips.write(folder, count, fps=16.0, cross=True, shards=2, **size)


def with_latents(data: Path, output: Path) -> Path:
    """The shards with latents of Wan's shape in bf16, mirrored too; of numbers without a meaning, unless there are some already."""
    import torch

    from imanim import clock

    source = ShardSet(data, clips.SPLIT)
    if caches.of(source.manifest, data) is not None:
        return data
    cache = caches.Cache(
        "0" * 16, None, CHANNELS, STRIDE, still=False, mirrored=True, dtype="bf16", targets_dropped=False
    )
    random, samples = torch.Generator().manual_seed(0), []
    for i, shape in enumerate(source.shapes):
        if shape is None or shape != source.shapes[0] or shape[1] % STRIDE or shape[2] % STRIDE:
            raise InputError(
                f"--data {data}: sample {source.keys[i]} is of shape {shape}; give one shape, sides in eights"
            )
        grid = (shape[1] // STRIDE, shape[2] // STRIDE)
        wanted = {
            "target_latents": (CHANNELS, clock.latent_frames(shape[0]), *grid),
            "identity_latents": (CHANNELS, *grid),
        }
        tensors = {
            name + side: torch.randn(size, generator=random)
            for name, size in wanted.items()
            for side in ("", caches.MIRRORED)
        }
        key, members = source.read(i)
        samples.append((key, {**members, caches.MEMBER: caches.pack(tensors, cache)}))
    for number, start in enumerate(range(0, len(samples), 64)):
        write_shard(output, clips.SPLIT, number, samples[start : start + 64])
    write_manifest(output, {"latents": caches.describe(cache)})
    return output


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A place on an S3 server of this machine. Raises InputError when moto or s3fs is not installed."""
    try:
        import boto3
        import moto.server  # noqa: F401
        import s3fs  # noqa: F401
    except ImportError as error:
        raise InputError(f"storage: {error}; pip install 'moto[server]' s3fs, or give --url of a bucket") from None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="measured")  # boto3 asks again until it is up
        yield "s3://measured/set"
    finally:
        process.kill()
        process.wait()


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument(
        "--data", metavar="DIR", help="shards of clips of one shape (default: moving patterns, made for this)"
    )
    p.add_argument("--url", help="an empty place to copy them to (default: moto's server on this machine)")
    p.add_argument("--clips", type=int, default=48, help="clips to make (default 48)")
    p.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="decoding processes (default 0 and 2)")
    p.add_argument("--turns", type=int, default=5, help="turns of each side (default 5)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p


def _print(found: dict[str, Any]) -> None:
    print(", ".join(f"{kind}: {size / 1e3:,.0f} kB a clip" for kind, size in found["bytes"].items()))
    for name, rate in found["rates"].items():
        print(
            f"{name}: clips/CPU-s {rate['local_clips_per_cpu_s']:,.1f} local, {rate['bucket_clips_per_cpu_s']:,.1f} from the "
            f"bucket: x{rate['ratio']:.2f} ({min(rate['ratios']):.2f} to {max(rate['ratios']):.2f}); "
            f"clips/s {rate['local_clips_per_s']:,.1f} and {rate['bucket_clips_per_s']:,.1f}"
        )
