"""The leakage report in sentences that say no more than its numbers do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.leakage.features import WORDS
from evaluation.leakage.planted import PLANTED
from evaluation.summary import MIN_MOTIONS

READER_WORDS = {"linear": "a linear probe", "mlp": "a small network"}
OUTCOMES = {
    "leaks": "leak {words}",
    "motion": "tell {words}, but not surely more than the motion itself does",
    "trace": "tell a trace of {words}, too little to matter",
    "none": "tell nothing of {words} that this probe finds",
    "blind": "cannot be judged on {words}: this probe is too weak, or the clips too few, to find what is surely there",
}


def sentences(result: Mapping[str, Any]) -> list[str]:
    """The result in words, a sentence a finding; what could not be measured is said too."""
    out = [f"{result['clips']} driving clips of {result['persons']} people and {result['motions']} motions."]
    for found in result["labels"].values():
        if "reason" in found:
            out.append(f"Not probed: {found['reason']}.")
            continue
        out += [_verdict_sentence(found, verdict) for verdict in found["verdicts"]]
    out += [_joints_sentence(by, found) for by, found in result["joints"].items()]
    out += _swap_sentences(result["swap"]) + _video_sentences(result["videos"])
    return out + [f"Note: {w}." for w in result["warnings"]]


def _verdict_sentence(found: Mapping[str, Any], v: Mapping[str, Any]) -> str:
    what = OUTCOMES[v["outcome"]].format(words=found["words"])
    pixels = "" if v["upper"] is None else f", pixels {v['upper']:.3f}"
    planted = found["scores"][v["reader"]].get(PLANTED)
    pixels += "" if planted is None else f", a planted leak {planted['value']:.3f}"
    name = WORDS[v["representation"]]
    own = found["scores"][v["reader"]][v["representation"]]
    return (
        f"{name[0].upper()}{name[1:]} {what} ({READER_WORDS[v['reader']]}, {found['measure']} {v['value']:.3f}, nothing known "
        f"{own['floor']:.3f}, permuted below {own['level']:.3f}, {WORDS[v['control_name']]} {v['control']:.3f}{pixels}; leakage "
        f"{v['leakage']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}])."
    )


def _joints_sentence(by: str, found: Mapping[str, Any]) -> str:
    if "reason" in found:
        return f"Joints were not read: {found['reason']}."
    return (
        f"Unseen {by}s: joints read from motion tokens are off by {found['error']:.2f} % of stature [{found['low']:.2f}, "
        f"{found['high']:.2f}]; the mean pose is off by {found['mean_pose']:.2f} %; R2 {found['r2']:.3f}."
    )


def _swap_sentences(found: Mapping[str, Any]) -> list[str]:
    if "reason" in found:
        return [f"Drivers were not swapped: {found['reason']}."]
    out = []
    for name, words in (("codes", "equal codes"), ("cosine", "cosine of tokens")):
        if name not in found:  # tokens that are not quantised have no codes
            continue
        one = found[name]
        pull = one["driver_pull"]
        share = f", {100 * pull['value'] / one['motion_pull']:.1f} % of the motion's" if one["motion_pull"] > 0 else ""
        doubt = share if pull["found"] else ", which may be chance"
        out.append(
            f"Swap, {words}: same motion by other drivers {one['same_motion']:.3f}, same driver in other motions "
            f"{one['same_driver']:.3f}, neither {one['neither']:.3f}; the driver's own share "
            f"{pull['value']:+.4f} [{pull['low']:+.4f}, {pull['high']:+.4f}]{doubt}."
        )
    return out


def _video_sentences(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    if "reason" in found:
        return [f"No videos under two drivers: {found['reason']}."]
    doubt = f"; {found['motions']} motions are too few to be sure" if found["motions"] < MIN_MOTIONS else ""
    driver, noise, pull = found["driver_change"], found["seed_change"], found["colour_pull"]
    return [
        f"Videos of {found['motions']} motions: another driver changes the person by {driver['value']:.2f} grey levels, another "
        f"noise seed by {noise['value']:.2f}; of the drivers' difference in colour {100 * pull['value']:.1f} % "
        f"[{100 * pull['low']:.1f}, {100 * pull['high']:.1f}] goes into the video{doubt}."
    ]
