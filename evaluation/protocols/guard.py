"""A protocol that calls itself cross-identity must not be fed its own answer.

Where the driving video is the target, copying pixels wins every pixel measure, and nothing is learned about reenactment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.clip import Clip
from evaluation.metrics.pixels import PEAK
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item
from imanim.data.sample import Sample
from imanim.errors import InputError

SAME_PSNR_DB = 50.0
"""Above this two clips are one: video compression of different people stays far below, of the same frames above."""
STILL_PSNR_DB = 40.0
"""Above this the truth hardly differs from the character's image held still."""
_NAMED = 5


def is_cross(protocol: ProtocolConfig) -> bool:
    """Whether a protocol calls its samples pairs of different people."""
    source = protocol.source
    return source.kind == "pairs" or (source.kind == "shards" and source.pairing == "cross")


def check(protocol: ProtocolConfig, items: Sequence[Item]) -> None:
    """Before anything is loaded: by people and by the bytes of files. Pixels are looked at later (:func:`self_driven`).

    Raises:
        InputError: naming samples whose driver is the target, when the protocol is one of cross pairs.
    """
    if not is_cross(protocol):
        return
    same = [i.key for i in items if _is_self(i)]
    if same:
        raise InputError(
            f"protocol {protocol.name}: is of cross-identity pairs, but {len(same)} of {len(items)} samples drive themselves"
            f" ({', '.join(same[:3])}{' ...' if len(same) > 3 else ''}); use a protocol with source.pairing=self, or other data"
        )


def _is_self(item: Item) -> bool:
    """No true video beside the driver's, the same bytes, or one person on both sides."""
    labels, content = item.labels, item.content
    if "driving.mp4" in content and content["driving.mp4"] == content.get("target.mp4", content["driving.mp4"]):
        return True
    return labels.get("person") is not None and labels.get("person") == labels.get("driver_person")


@dataclass(frozen=True)
class Pair:
    """What the guard looks at: uint8 driving [T,h,w,3], truth [T,H,W,3] (None: unknown), character [H,W,3]; ids may be ""."""

    key: str
    driving: np.ndarray
    truth: np.ndarray | None
    character: np.ndarray
    person: str = ""
    driver: str = ""


def pair_of(item: Sample | Clip) -> Pair:
    """A sample, or a clip whose labels hold ``person`` and ``driver_person``."""
    about = item.meta if isinstance(item, Sample) else item.labels
    ids = {"person": str(about.get("person") or ""), "driver": str(about.get("driver_person") or "")}
    character = item.identity if isinstance(item, Sample) else item.character
    return Pair(item.key, item.driving, item.truth, character, **ids)


def self_driven(pair: Pair) -> str | None:
    """Why a pair is no cross pair, or None. Videos of different sizes are taken as different: only ids tell then."""
    if pair.person and pair.person == pair.driver:
        return f"the driver is the character's person ({pair.person})"
    if pair.truth is None or pair.truth.shape != pair.driving.shape:
        return None
    alike = _clip_psnr(pair.driving, pair.truth)
    return f"the driving frames are the target's (PSNR {alike:.1f} dB)" if alike > SAME_PSNR_DB else None


def motionless(pair: Pair) -> bool:
    """Whether the character's image, held still, already is the answer."""
    if pair.truth is None or pair.truth.shape[1:] != pair.character.shape:
        return False
    return _clip_psnr(np.broadcast_to(pair.character, pair.truth.shape), pair.truth) > STILL_PSNR_DB


def _clip_psnr(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR in dB of all frames as one picture: the mean over frames would be infinite as soon as a single one is equal."""
    errors = [float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean()) for a, b in zip(one, other)]
    mse = float(np.mean(errors))
    return float("inf") if mse == 0 else float(10 * np.log10(PEAK**2 / mse))


def require_cross(items: Iterable[Sample | Clip], *, protocol: str) -> list[str]:
    """Goes on only when every item has a driver who is not the character; one pass, constant memory.

    Returns:
        warnings: items whose truth does not move.

    Raises:
        InputError: naming the items that are self-driven.
    """
    guilty, still = [], []
    for item in items:
        pair = pair_of(item)
        why = self_driven(pair)
        if why:
            guilty.append(f"{pair.key}: {why}")
        elif motionless(pair):
            still.append(pair.key)
    if guilty:
        raise InputError(
            f"protocol {protocol} is cross-identity, but {len(guilty)} of its samples are self-driven: "
            f"{_listed(guilty, '; ')}; leave them out or measure them as a self protocol"
        )
    if not still:
        return []
    return [
        f"{len(still)} samples hardly move (the character held still is the truth within {STILL_PSNR_DB:.0f} dB PSNR): "
        f"{_listed(still, ', ')}"
    ]


def _listed(names: list[str], between: str) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return between.join(names[:_NAMED]) + more
