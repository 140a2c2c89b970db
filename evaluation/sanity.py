"""Do the metrics order what they are for? True videos, made worse in known ways by growing amounts, measured like anybody's.

Every way (blur, noise, shuffled frames, a late start, frozen frames) has three strengths. A value *orders* a way when each step
makes it worse, is *blind* to it when no step changes it at all, and is *mixed* otherwise. What each value is for, and therefore has
to order, stands in :data:`PURPOSE`; the documentation says why the rest is as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from evaluation import predictions, results
from evaluation.benchmark import EvalConfig, evaluate
from evaluation.protocols.sources import items as samples_of
from imanim.data.files import sha256, write_json
from imanim.errors import InputError

STEPS = 3
_ORDERS_TRIED = 200
_PIXELS = ("blur", "noise")
_ORDER = ("shuffle", "late", "freeze")
PURPOSE: dict[str, Sequence[str]] = {
    **dict.fromkeys(("psnr", "ssim", "l1", "lpips_alex", "lpips_vgg"), (*_PIXELS, *_ORDER)),
    **dict.fromkeys(("psnr_person", "ssim_person", "l1_person", "lpips_alex_person"), (*_PIXELS, *_ORDER)),
    **dict.fromkeys(("fid_clean", "kid_clean"), _PIXELS),
    "fvd_videogpt": (*_PIXELS, "shuffle", "freeze"),
    **dict.fromkeys(("pose_mean_error", "pose_akd"), _ORDER),
    **dict.fromkeys(("read_joint_error", "read_moving_error", "read_pck", "mask_iou", "expression_read_error"), _ORDER),
    "colour_error": _PIXELS,
    **dict.fromkeys(("warping_gap", "feature_consistency_gap"), ("noise", "shuffle")),
    "motion_energy_gap": ("noise", "shuffle", "freeze"),
    "lag_abs_frames": ("late",),
    **dict.fromkeys(("identity_similarity", "identity_distance"), _PIXELS),
    **dict.fromkeys(("expression_error", "mouth_correlation"), _ORDER),
}
"""Value to the ways it has to order."""
Way = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def blur(frames: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian of 0.4, 0.8, 1.6 % of the height."""
    sigma = 0.002 * 2**step * frames.shape[1]
    return np.stack([ndimage.gaussian_filter(f, (sigma, sigma, 0)) for f in frames])


def noise(frames: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """Independent Gaussian noise of 8, 16, 32 of 255 in every pixel and frame."""
    noisy = frames + rng.normal(0, 4 * 2**step, frames.shape)
    return np.clip(noisy.round(), 0, 255).astype(np.uint8)


def shuffle(frames: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """Frames out of order, as far as it goes, within stretches of 2, 5 and all frames."""
    length = {1: 2, 2: 5}.get(step, len(frames))
    order = [_moved(np.arange(s, min(s + length, len(frames))), rng) for s in range(0, len(frames), length)]
    return frames[np.concatenate(order)]


def late(frames: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """The video starts 1, 2, 4 frames late: the first frame is repeated, the end is lost."""
    by = 2 ** (step - 1)
    return frames[np.maximum(np.arange(len(frames)) - by, 0)]


def freeze(frames: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """Every 2nd, 4th frame only, or the first alone, held until the next."""
    every = {1: 2, 2: 4}.get(step, len(frames))
    return frames[np.arange(len(frames)) // every * every]


WAYS: dict[str, Way] = {"blur": blur, "noise": noise, "shuffle": shuffle, "late": late, "freeze": freeze}


def check(cfg: EvalConfig, data: str, *, ways: Sequence[str] = tuple(WAYS), progress: bool = True) -> dict[str, Any]:
    """Makes the worse videos below ``cfg.output``, measures each set of them, and says what each value makes of them.

    Returns:
        JSON-able: ``values`` {value: {way: [at strength 0, 1, 2, 3]}}, ``orders`` {value: {way: outcome}}, ``failed``: lines that
        name a value and a way of its :data:`PURPOSE` that it does not order.

    Raises:
        InputError: an unknown way, or samples without truth.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise InputError(f"sanity: `{unknown[0]}` is no way to make videos worse; known: {', '.join(WAYS)}")
    root = Path(cfg.output)
    _make(cfg, data, root / "worse", ways, progress)
    found: dict[str, Any] = {}
    truth = _measure(cfg, data, root, "truth", progress)
    for way in ways:
        for step in range(1, STEPS + 1):
            for value, number in _measure(cfg, data, root, f"{way}-{step}", progress).items():
                found.setdefault(value, {}).setdefault(way, [truth.get(value)]).append(number)
    facts = results.load(root / "results" / "truth")["values"]
    orders = {v: {w: outcome(series, facts[v]["better"]) for w, series in by.items()} for v, by in found.items()}
    failed = [
        f"{facts[value]['label']}: {orders[value][way]} for {way}, which it is there to order"
        for value, wanted in PURPOSE.items()
        for way in wanted
        if value in orders and way in ways and orders[value][way] != "orders"
    ]
    report = {"values": found, "orders": orders, "failed": failed, "labels": {v: facts[v]["label"] for v in found}}
    write_json(root / "sanity.json", report)
    return report


def outcome(series: Sequence[float | None], better: str) -> str:
    """``orders``, ``blind``, ``mixed``, or ``unmeasured`` when a number is missing; a value without direction just ``moves``."""
    if any(number is None for number in series):
        return "unmeasured"
    numbers = np.asarray(series, np.float64)
    if np.ptp(numbers) <= 1e-9 * max(1.0, float(np.abs(numbers).max())):
        return "blind"
    if better == "none":
        return "moves"
    gains = np.diff(numbers) * (1 if better == "lower" else -1)
    return "orders" if (gains > 0).all() else "mixed"


def markdown(report: Mapping[str, Any]) -> str:
    """The table of outcomes with the numbers, strength 0 to 3."""
    ways = list(next(iter(report["orders"].values())))
    lines = [f"| value | {' | '.join(ways)} |", f"|---|{'---|' * len(ways)}"]
    for value, by in report["values"].items():
        cells = [f"{report['orders'][value][way]}: {' '.join(_short(n) for n in by[way])}" for way in ways]
        label = str(report["labels"][value]).replace("|", "\\|")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def _moved(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of some random orders the one that takes frames farthest from their places and neighbours from each other."""
    tried = [rng.permutation(places) for _ in range(_ORDERS_TRIED)]
    return max(tried, key=lambda order: np.abs(order - places).sum() + np.abs(np.diff(order)).sum())


def _make(cfg: EvalConfig, data: str, folder: Path, ways: Sequence[str], progress: bool) -> None:
    wanted = [("truth", None, 0), *((f"{way}-{step}", way, step) for way in ways for step in range(1, STEPS + 1))]
    for item in tqdm(samples_of(cfg.protocol, data), desc="make worse", unit="clip", disable=not progress):
        if not item.filmed:
            continue
        records = {name: {"key": item.key, "inputs": item.content, "way": name} for name, _, _ in wanted}
        if all(predictions.is_made(folder / name, item.key, records[name]) for name, _, _ in wanted):
            continue
        material = item.load()
        if material.truth is None:
            raise InputError(f"sample {item.key}: has no true video to make worse; give data with truth")
        for name, way, step in wanted:
            rng = np.random.default_rng(int(sha256(f"{item.key} {name}".encode())[:8], 16))
            made = material.truth if way is None else WAYS[way](material.truth, step, rng)
            predictions.write(folder / name, item.key, made, material.fps, None, records[name])


def _measure(cfg: EvalConfig, data: str, root: Path, name: str, progress: bool) -> dict[str, float | None]:
    """Every value of ours for one set of videos, means over clips and set distances alike."""
    if progress:
        print(name, flush=True)
    protocol = replace(
        cfg.protocol, baselines=[], set_baselines=[], joints=False, headline=[], bootstrap=0, leakage=None
    )
    one = replace(
        cfg,
        protocol=protocol,
        model=None,
        predictions=str(root / "worse" / name),
        output=str(root / "results" / name),
        saved_videos=0,
    )
    result = evaluate(one, data, progress=progress)
    numbers: dict[str, float | None] = dict(result["groups"][results.ALL]["means"].get(results.OURS, {}))
    numbers |= {value: spread["value"] for value, spread in result["sets"][results.ALL].get(results.OURS, {}).items()}
    return {value: numbers.get(value) for value in result["values"]}
