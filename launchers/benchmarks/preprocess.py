"""Source frames per CPU-second through each stage of preprocessing: ours, and the plain loops of the same libraries.

    python launchers/benchmark.py preprocess --input clips/
    python launchers/benchmark.py preprocess --input clips/ --side 256 --turns 3 --json preprocess.json

Both look at every frame (the clips' rate is each video's own), at the same size, with the same networks, on one core, in
turns. The plain side is what scripts do: PySceneDetect over the file, then a loop over the file that finds people and joints,
then one that finds faces; each decodes for itself. Ours decodes once and shows each frame to all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from imanim import cli
from imanim.data.files import write_json

STAGES = ("decode", "shots", "people", "face")
"""What both sides do; ours also measures quality and identity, which the plain side lacks."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns frames per CPU-second of both sides and of each of our stages."""
    args = _parser().parse_args(arguments)
    from data_pipeline.config import VideosConfig
    from data_pipeline.jobs import unit
    from data_pipeline.sources import Unusable, find_files

    config = VideosConfig(input=Path(args.input), output=Path("."))
    config.max_side = args.side
    networks = unit.load_networks(config)
    ours_sec, plain_sec, frames, stage_sec, ratios = [], [], 0, dict[str, float](), []
    used: list[Path] = []
    for path in find_files(config.input, config.extensions):
        try:
            ours(path, config, networks)  # a turn that does not count; what cannot be used is left out on both sides
        except Unusable as problem:
            print(f"{path.name}: left out ({problem})")
            continue
        used.append(path)
    for _ in range(args.turns):
        mine = [ours(path, config, networks) for path in used]
        theirs = [plain(path, config, networks) for path in used]
        frames = sum(count for _, count in mine)
        ours_sec.append(sum(clock[stage] for clock, _ in mine for stage in STAGES))
        plain_sec.append(sum(theirs))
        ratios.append(plain_sec[-1] / ours_sec[-1])
        for clock, _ in mine:
            for name, seconds in clock.items():
                stage_sec[name] = stage_sec.get(name, 0.0) + seconds
    out = {
        "videos": len(used),
        "frames": frames,
        "ours_frames_per_cpu_s": frames / statistics.median(ours_sec),
        "plain_frames_per_cpu_s": frames / statistics.median(plain_sec),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "stages_frames_per_cpu_s": {name: frames * args.turns / sec for name, sec in stage_sec.items()},
        "all_stages_frames_per_cpu_s": frames * args.turns / sum(stage_sec.values()),
    }
    print(
        f"{len(used)} videos, {frames} frames, longer side {args.side} px: {out['ours_frames_per_cpu_s']:.1f} frames per CPU-second"
        f" through {', '.join(STAGES)}; plain loops {out['plain_frames_per_cpu_s']:.1f}: x{out['ratio']:.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    for name, rate in out["stages_frames_per_cpu_s"].items():
        print(f"  {name:<10} {rate:8.1f}")
    print(f"  {'all':<10} {out['all_stages_frames_per_cpu_s']:8.1f}")
    if args.json:
        write_json(args.json, out)
    return out


def ours(path: Path, config: Any, networks: Any) -> tuple[dict[str, float], int]:
    """One pass of ours: CPU seconds of each stage, and the frames."""
    from data_pipeline import decode
    from data_pipeline.video.analysis import StageClock, analyse

    clock = StageClock()
    probe = decode.probe(path, max_side=config.max_side)
    config.clip.fps = min(120.0, probe.rate_fps)
    found = analyse(path, probe, config, networks, {}, clock)
    return clock.cpu_sec, len(found["shots"]["times_sec"])


def plain(path: Path, config: Any, networks: Any) -> float:
    """CPU seconds of scripts that do the same one after another."""
    import av
    from scenedetect import AdaptiveDetector, detect

    from data_pipeline.faces.base import head_region

    begun = time.process_time()
    detect(str(path), AdaptiveDetector(), backend="pyav")
    heads: list[np.ndarray | None] = []
    region = None
    for n, image in enumerate(_frames(av, path, config.max_side)):
        if region is None or n % config.people.detect_every_frames == 0:
            found = networks.pose.find(image)
            region = region or (found[0] if found else None)
        pose = networks.pose.pose(image, region) if region is not None else None
        region = pose.region if pose is not None else None
        heads.append(pose.head if pose is not None else None)
    for head, image in zip(heads, _frames(av, path, config.max_side)):
        around = None if head is None else head_region(head)
        if around is not None:
            networks.faces.find(image, around)
    return time.process_time() - begun


def _frames(av: Any, path: Path, side: int) -> Any:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            scale = min(1.0, side / max(frame.width, frame.height))
            yield frame.reformat(round(frame.width * scale), round(frame.height * scale), "rgb24").to_ndarray()


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--input", metavar="DIR", required=True, help="folder of videos")
    p.add_argument("--side", type=int, default=256, help="longer side of the frames, px (default 256)")
    p.add_argument("--turns", type=int, default=3, help="turns of each side (default 3)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p
