"""From a run's outputs to what is kept: small result files, pictures, and the page written from these alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation import results
from evaluation.evidence import ablations, figures, page, parts, strips, trim
from evaluation.evidence.config import EvidenceConfig
from evaluation.report_figures import curves as draw_curves
from evaluation.results import Result
from evaluation.strips import FramesOf
from imanim.data.files import read_json, write_atomic
from imanim.errors import InputError
from imanim.training.monitor import METRICS, read_metrics

NEEDED, OPTIONAL = ("scores", "run"), ("tokens", "leakage", "curves", "ablation", "replications", "arm_gaps")


def keep(
    cfg: EvidenceConfig, run: Mapping[str, Any], outputs: Mapping[str, Any], frames_of: FramesOf | None
) -> list[str]:
    """Writes the kept files and the filmstrips; :func:`write_page` then writes the rest.

    Args:
        run: ``steps`` {name: command, seconds} and ``verified``.
        outputs: ``scores`` and, where made, ``leakage``: whole results; ``tokens``: of :mod:`evaluation.evidence.tokens`.

    Returns:
        the files written.
    """
    folder = Path(cfg.keep.results)
    files: dict[str, Any] = {"scores": trim.scores(outputs["scores"], cfg)}
    if outputs.get("leakage") is not None:
        files["leakage"] = trim.leakage(outputs["leakage"])
    if outputs.get("tokens") is not None:
        files["tokens"] = trim.rounded(outputs["tokens"])
    files |= named(cfg)
    shown = _strips(outputs["scores"], frames_of, cfg) if frames_of is not None else []
    files["run"] = {"schema": 1, **run, "strips": shown}
    for name in (*NEEDED, *OPTIONAL):
        path = folder / f"{name}.json"
        if name not in files:
            path.unlink(missing_ok=True)  # of an earlier run that had it: it does not belong to this one
    return [_write(cfg, name, content) for name, content in files.items()]


def keep_named(cfg: EvidenceConfig) -> list[str]:
    """Writes the kept files that need no measuring, where the settings name what they come from: ``curves``, ``ablation``,
    ``replications``, ``gap_arms``. All other kept files stay as they are, and so do replications of other names.

    Returns:
        the files written.
    """
    return [_write(cfg, name, content) for name, content in named(cfg, load(cfg.keep.results)).items()]


def named(cfg: EvidenceConfig, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The kept files that settings name a source of, by name. ``kept``: files that stay beside them.

    Raises:
        InputError: a source that is not what it should be, or replications that do not fit their ablation.
    """
    files: dict[str, Any] = {}
    if cfg.curves:
        files["curves"] = trim.curves({name: _metrics(run) for name, run in cfg.curves.items()}, cfg.curve_values)
    if cfg.ablation is not None:
        files["ablation"] = trim.ablation(read_json(cfg.ablation), cfg.ablation)
    if cfg.replications:
        # By name: those kept beside them stay, so a seed can be added when the files of the others are gone.
        again = {name: trim.ablation(read_json(path), path) for name, path in cfg.replications.items()}
        files["replications"] = {**(kept or {}).get("replications", {}), **again}
    if cfg.gap_arms:
        arms = {name: results.load(folder) for name, folder in cfg.gap_arms.items()}
        files["arm_gaps"] = trim.arm_gaps(arms, cfg)
    both = {**(kept or {}), **files}
    ablations.check_replications(both.get("ablation"), both.get("replications", {}))
    return files


def _write(cfg: EvidenceConfig, name: str, content: Any) -> str:
    path = Path(cfg.keep.results) / f"{name}.json"
    # Without line breaks: thousands of numbers, a line each, are four times as large.
    write_atomic(path, (json.dumps(content, sort_keys=True, allow_nan=False) + "\n").encode())
    return str(path)


def _metrics(run: str) -> list[dict[str, Any]]:
    if not (Path(run) / METRICS).is_file():
        raise InputError(f"{run}: holds no {METRICS}; check curves")
    return read_metrics(run)


def _strips(result: Result, frames_of: FramesOf, cfg: EvidenceConfig) -> list[dict[str, str]]:
    told = []
    for strip in strips.make(result, frames_of, cfg):
        file = f"evidence_{strip.name}.png"
        write_atomic(Path(cfg.keep.pictures) / file, strip.png)
        told.append({"file": file, "caption": strip.caption})
    return told


def load(folder: str | Path) -> dict[str, Any]:
    """The kept files by name. Raises InputError: no such folder, or no result in it."""
    found = {}
    for name in (*NEEDED, *OPTIONAL):
        path = Path(folder) / f"{name}.json"
        if name in NEEDED or path.is_file():
            found[name] = read_json(path)
    if found["scores"].get("schema") != 1 or "groups" not in found["scores"]:
        raise InputError(f"{folder}: scores.json is not what this version keeps; run `{EvidenceConfig.command}` again")
    return found


def write_page(cfg: EvidenceConfig) -> Path:
    """Draws the plots and writes the page from the kept files. Raises InputError: files or words that do not fit."""
    kept, pictures = load(cfg.keep.results), Path(cfg.keep.pictures)
    scores = kept["scores"]
    drawn = {
        parts.LEVEL_PICTURE: figures.by_level(
            scores, ["joint_error", "read_joint_error", "psnr_person", "lpips_alex_person"]
        ),
        parts.GAP_PICTURE: figures.by_gap(scores, kept.get("arm_gaps")),
        parts.ARMS_PICTURE: _arms(kept.get("ablation")),
        parts.CURVES_PICTURE: _curves(kept.get("curves"), cfg),
    }
    for name, png in drawn.items():
        if png is None:
            (pictures / name).unlink(missing_ok=True)
        else:
            write_atomic(pictures / name, png)
    text = page.markdown(parts.Page(cfg, kept, pictures, page.read_words(cfg.keep.words)))
    write_atomic(cfg.keep.page, text.encode())
    return Path(cfg.keep.page)


def _curves(runs: Mapping[str, Any] | None, cfg: EvidenceConfig) -> bytes | None:
    return draw_curves(runs, cfg.curve_values) if runs else None


def _arms(found: Mapping[str, Any] | None) -> bytes | None:
    """The ablation's first column, the full method above its arms."""
    if found is None or not found["columns"]:
        return None
    column = found["columns"][0]
    order = ablations.in_order(found["table"], found["baseline"])
    rows = [(arm, list(found["table"][arm].get(column, {}).get("seeds", {}).values())) for arm in order]
    return figures.arms(rows, ablations.column_title(found, column))
