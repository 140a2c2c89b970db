"""The report as one HTML page; only its pictures lie beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.reporting import marks
from data_pipeline.reporting.reasons import CLIP, PERSON, READABLE, REASONS, SHOTS, STEPS
from data_pipeline.reporting.style import SCRIPT, STYLE
from data_pipeline.reporting.videos import videos_table

Summary = Mapping[str, Any]
STEP_NAMES = {READABLE: "reading", SHOTS: "shots", PERSON: "people", CLIP: "clips"}


@dataclass(frozen=True)
class Picture:
    """A contact sheet: its file relative to the page, its pixels, whose it is (None: kept clips), how many of how many it shows."""

    file: str
    width: int
    height: int
    reason: str | None
    shown: int
    total: int


def page(summary: Summary, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Picture] = ()) -> str:
    """The page. Everything from outside is escaped; the most important comes first.

    Args:
        summary: of :func:`data_pipeline.reporting.summary.summarise`. rows: the videos it was made from.
    """
    kept = [picture for picture in pictures if picture.reason is None]
    dropped = [picture for picture in pictures if picture.reason is not None]
    sections = [
        ("From files to clips", _funnel(summary)),
        ("What was left out, and why", _reasons(summary)),
        ("Kept clips", _kept(kept)),
        ("Dropped clips", "".join(map(_figure, dropped))),
        ("Distributions", _distributions(summary)),
        ("CPU time by stage", _stages(summary)),
        ("The slowest videos", _long_tail(summary)),
        ("Splits and leakage", _splits(summary) + _leakage(summary)),
        ("Licences and sources", _licences(summary)),
        ("Checks", _checks(summary)),
        ("Made with", _made_with(summary)),
        ("Videos", videos_table(rows)),
    ]
    body = "".join(f"<section><h2>{title}</h2>\n{content}</section>\n" for title, content in sections if content)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Videos to shards</title>'
        f"<style>{STYLE}</style></head><body>\n<h1>Videos to shards</h1>\n{_lead(summary)}{_banners(summary)}{body}"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


# ------------------------------------------------------------------------------------------------------------------- top


def _lead(summary: Summary) -> str:
    total, noun = summary["totals"], marks.noun
    if not total["files"]:
        return '<p class="lead">There were no videos.</p>'
    people = f" of {noun(total['persons'], 'person')}" if total["persons"] else ""
    out = (
        f"{noun(total['clips'], 'clip')} ({marks.duration(total['clip_sec'])}){people}" if total["clips"] else "No clip"
    )
    lines = [f"<p class='lead'>{out} came from {total['files_kept']:,} of {noun(total['files'], 'video')}.</p>"]
    costly = sorted((r for r in summary["reasons"] if r["videos"]), key=lambda r: (-r["videos"], r["reason"]))
    if costly:
        most = ", ".join(f"{_code(r['reason'])} {r['videos']:,}" for r in costly[:3])
        lines.append(f"<p>{noun(total['files_refused'], 'video')} gave none; most often: {most}.</p>")
    took = [f"{marks.duration(total['cpu_sec'])} of CPU time"]
    took += [f"{marks.duration(total['seconds_taken'])} by the clock"] if "seconds_taken" in total else []
    written = f", {marks.size(total['bytes_written'])} written" if total["bytes_written"] is not None else ""
    lines.append(
        f"<p class='soft'>{marks.duration(total['video_sec'])} of video, {marks.size(total['bytes_read'])} read{written};"
        f" {', '.join(took)}. All numbers, every video and every clip: <a href='report.json'>report.json</a>.</p>"
    )
    return "\n".join(lines)


def _banners(summary: Summary) -> str:
    out = [
        f"<strong>{marks.text(check['problem'])}.</strong> {marks.text(check['detail'])}"
        for check in summary["checks"]
        if check["ok"] is False
    ]
    hurt = summary["totals"]["quarantined"]
    if hurt:
        are = "video is" if hurt == 1 else "videos are"
        out.append(f"<strong>{hurt:,} {are} in quarantine:</strong> damaged, or killed while being worked on.")
    return "".join(f'<div class="banner" role="alert">{line}</div>\n' for line in out)


# ---------------------------------------------------------------------------------------------------------------- funnel


def _code(reason: str) -> str:
    """A reason, linked to its line in the table where its name is a plain word."""
    shown = f"<code>{marks.text(reason)}</code>"
    return f'<a href="#r-{reason}">{shown}</a>' if re.fullmatch(r"[a-z0-9_]+", reason) else shown


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{_code(reason)} {count:,}" for reason, count in ordered)


def _funnel(summary: Summary) -> str:
    lines, unit, first, before = [], "", 1, 0
    for step in summary["funnel"]:
        if step["unit"] != unit:
            unit, first, before = step["unit"], step["count"] or 1, step["count"]
            lines.append(f'<div class="unit">{unit}</div>')
        lost = before - step["count"]
        label = f"{step['label']}: {step['count']} of {first}"
        of_time = f' <span class="soft">{marks.duration(step["seconds"])}</span>' if step["seconds"] else ""
        lines.append(
            f'<div class="step"><div class="label">{step["label"]}</div>{marks.bar(step["count"] / first, lost / first, label)}'
            f'<div class="n">{step["count"]:,}{of_time}</div>'
        )
        why = [f"− {lost:,}: {_counts(step['dropped'])}"] if step["dropped"] else []
        why += [f"stretches left out of all videos: {_counts(step['stretches'])}"] if step["stretches"] else []
        lines.append(f'<div class="why">{"; ".join(why)}</div></div>')
        before = step["count"]
    key = '<p class="soft"><span class="key">left</span> &nbsp; <span class="key lost">dropped at this step</span></p>'
    return "\n".join([*lines, key])


def _reasons(summary: Summary) -> str:
    if not summary["reasons"]:
        return "<p>Nothing.</p>"
    rows = []
    for entry in sorted(summary["reasons"], key=lambda r: STEPS.index(r["step"])):
        known = marks.text(entry["text"]) if entry["reason"] in REASONS else '<span class="soft">(not described)</span>'
        anchor = f'<span id="r-{entry["reason"]}">' if re.fullmatch(r"[a-z0-9_]+", entry["reason"]) else "<span>"
        rows.append([
            f"{anchor}<code>{marks.text(entry['reason'])}</code></span>", STEP_NAMES[entry["step"]], known,
            marks.text(entry["setting"]), marks.count(entry["videos"] or None), marks.count(entry["clips"] or None),
        ])  # fmt: skip
    head = ["reason", "found when", "what it means", "what changes it", "videos without a clip", "clips or shots"]
    note = (
        '<p class="soft">A video without a clip is counted under one reason: that of its best stretch. Clips and shots are'
        " counted of all videos.</p>"
    )
    return marks.table(head, rows, numeric=(4, 5), css="reasons") + note


# -------------------------------------------------------------------------------------------------------------- pictures


def _kept(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    note = (
        '<p class="soft">First the identity frame, then the clip. Green: the person\'s left; red: their right; blue: the'
        " face box.</p>"
    )
    return note + "".join(map(_figure, pictures))


def _figure(picture: Picture) -> str:
    if picture.reason is None:
        title, alt = "", f"contact sheet of {picture.shown} kept clips with skeletons"
    else:
        known = REASONS.get(picture.reason)
        title = f"<h3>{_code(picture.reason)}{f' – {marks.text(known.text)}' if known else ''}</h3>"
        alt = f"contact sheet of {picture.shown} dropped clips: {picture.reason}"
    source = marks.relative(picture.file)
    return (
        f'{title}<figure><a href="{source}"><img src="{source}" width="{picture.width}" height="{picture.height}"'
        f' loading="lazy" alt="{marks.text(alt)}"></a><figcaption>{picture.shown:,} of {picture.total:,}</figcaption></figure>\n'
    )


# --------------------------------------------------------------------------------------------------------------- numbers


def _distributions(summary: Summary) -> str:
    plots = []
    for entry in summary["distributions"]:
        told = [marks.text(entry["unit"])] if entry["unit"] else []
        told += [f"median of the kept {marks.number(entry['median'])}"] if entry["median"] is not None else []
        told += [f"{entry[side]:,} {side} the axis" for side in ("below", "above") if entry[side]]
        told += [f"{entry['unknown']:,} unknown"] if entry["unknown"] else []
        told += [f"{marks.text(name)} {marks.number(value)}" for name, value in entry["limits"].items()]
        plots.append(
            f"<figure><h3>{marks.text(entry['title'])}</h3>{marks.histogram(entry)}"
            f"<figcaption>{'; '.join(told)}</figcaption></figure>"
        )
    if not plots:
        return ""
    key = (
        '<p class="soft"><span class="key">kept clips; videos that gave clips</span> &nbsp; <span class="key lost">dropped clips'
        " that were measured; videos without</span> &nbsp; red line: a threshold</p>"
    )
    return f'{key}<div class="plots">{"".join(plots)}</div>'


def _stages(summary: Summary) -> str:
    rows = [
        [marks.text(s["stage"]), marks.bar(s["share"] or 0, 0, f"{s['stage']} {marks.part(s['share'])}"), marks.part(s["share"]),
         marks.duration(s["cpu_sec"]), marks.count(s["frames"]), marks.number(s["frames_per_cpu_sec"])]
        for s in summary["stages"]
    ]  # fmt: skip
    head = ["stage", "", "share", "CPU time", "frames", "frames per CPU-second"]
    return marks.table(head, rows, numeric=(2, 3, 4, 5)) if rows else ""


def _long_tail(summary: Summary) -> str:
    tail = summary["long_tail"]
    if not tail["videos"]:
        return ""
    took = f" took {marks.part(tail['cpu_share'])} of all CPU time" if tail["cpu_share"] is not None else " are listed"
    lead = (
        f"<p>The slowest {len(tail['videos'])} of {marks.noun(tail['of_videos'], 'video')}{took}. Half of all were done in"
        f" {marks.duration(tail['wall_sec_median'])}, 95 % in {marks.duration(tail['wall_sec_p95'])}."
    )
    lead += f" Most memory: {marks.count(tail['peak_mb_max'])} MB.</p>" if tail["peak_mb_max"] is not None else "</p>"
    rows = [
        [marks.name(v["file"]), marks.duration(v["wall_sec"]), marks.duration(v["cpu_sec"]), marks.duration(v["seconds"]),
         marks.count(v["frames"]), marks.number(v["frames_per_cpu_sec"]), marks.number(v["mb"]), marks.count(v["peak_mb"]),
         _code(v["reason"]) if v["reason"] else ""]
        for v in tail["videos"]
    ]  # fmt: skip
    head = ["file", "by the clock", "CPU time", "length", "frames", "frames per CPU-second", "MB", "peak MB", "no clip"]
    return lead + marks.table(head, rows, numeric=range(1, 8))


def _splits(summary: Summary) -> str:
    rows = [
        [marks.text(s["split"] or "no split"), marks.count(s["samples"]), marks.count(s["persons"]), marks.count(s["videos"]),
         marks.duration(s["seconds"])]
        for s in summary["splits"]
    ]  # fmt: skip
    return marks.table(["split", "clips", "people", "videos", "length"], rows, numeric=(1, 2, 3, 4)) if rows else ""


def _leakage(summary: Summary) -> str:
    found = summary["leakage"]
    if found is None:
        return "<p>Faces of different splits were not compared.</p>" if summary["splits"] else ""
    verdict = '<span class="ok">no leak found</span>' if found.get("ok") else '<span class="no">leak</span>'
    pairs = ", ".join(f"{marks.text(k)} {marks.number(v)}" for k, v in sorted((found.get("distances") or {}).items()))
    out = f"<p>Faces compared between splits: {verdict}. Taken for one person below {marks.number(found.get('threshold'))}"
    out += f"; smallest distance {pairs}.</p>" if pairs else ".</p>"
    unseen = int(found.get("without_vector") or 0)
    if unseen:
        told = "shows a face" if unseen == 1 else "show a face"
        out += f"<p>{marks.noun(unseen, 'person')} {told} too small or turned too far to compare: only by video kept apart.</p>"
    for key, what in (("persons_in_two", "People"), ("videos_in_two", "Videos")):
        if found.get(key):
            out += f'<p class="no">{what} in two splits: {", ".join(marks.name(_flat(v)) for v in found[key][:20])}</p>'
    rows = [
        [marks.number(pair["distance"]), *(_side(pair[side]) for side in ("a", "b"))]
        for pair in found.get("nearest") or []
    ]
    return out + (marks.table(["distance", "nearest pairs", "across splits"], rows, numeric=(0,)) if rows else "")


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _side(side: Mapping[str, Any]) -> str:
    return f"{marks.text(side.get('split', ''))}: {marks.name(side.get('video', ''))}, {marks.name(side.get('person', ''))}"


def _licences(summary: Summary) -> str:
    rows = [
        [
            marks.name(e["licence"] or "none told"),
            _sources(e["sources"]),
            marks.count(e["videos"]),
            marks.count(e["clips"]),
        ]
        for e in summary["licences"]
    ]
    return marks.table(["licence", "source", "videos", "clips"], rows, numeric=(2, 3)) if rows else ""


def _sources(counts: Mapping[str, int]) -> str:
    """The most frequent ones, with their clips."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
    told = [f"{marks.link(source) if source else 'none told'} {count:,}" for source, count in most]
    return "<br>".join([*told, f"and {len(counts) - 3:,} more"] if len(counts) > 3 else told)


def _checks(summary: Summary) -> str:
    words = {True: '<span class="ok">yes</span>', False: '<span class="no">no</span>', None: "not looked at"}
    rows = [[words[c["ok"]], marks.text(c["check"]), marks.text(c["detail"])] for c in summary["checks"]]
    return marks.table(["", "", ""], rows)


def _made_with(summary: Summary) -> str:
    made = summary["made_with"]
    out = (
        f"<p>Settings' fingerprint <code>{marks.text(made['fingerprint'])}</code>.</p>" if "fingerprint" in made else ""
    )
    rows = [[marks.text(k), marks.text(v)] for k, v in sorted((made.get("tools") or {}).items())]
    rows += [
        [marks.text(k), f"sha256 <code>{marks.text(v)}</code>"] for k, v in sorted((made.get("models") or {}).items())
    ]
    out += marks.table(["tool or network", "version"], rows) if rows else ""
    if made.get("settings"):
        text = json.dumps(made["settings"], indent=2, sort_keys=True)
        out += f"<details><summary>Settings</summary><pre>{marks.text(text)}</pre></details>"
    return out
