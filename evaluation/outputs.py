"""What an evaluation leaves for people: the page, table rows, and what is said at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation import benchmark, predictions, tables
from evaluation.clip import Clip
from evaluation.protocols.sources import items
from evaluation.report import evaluation_page
from evaluation.scoring import clip_of
from imanim.data.files import write_atomic
from imanim.errors import InputError

PAGE, MARKDOWN, LATEX = "report.html", "table.md", "table.tex"


def write_outputs(cfg: benchmark.EvalConfig, data: str, result: Mapping[str, Any]) -> list[str]:
    """Writes report.html, table.md and table.tex beside results.json; returns what to say."""
    output = Path(cfg.output)
    page = evaluation_page(result, Frames(cfg, data))
    write_atomic(output / PAGE, page.encode())
    write_atomic(output / MARKDOWN, tables.markdown([result], tables.columns([result])).encode())
    write_atomic(output / LATEX, tables.latex([result], tables.columns([result])).encode())
    said = [f"{name}: {group['verdict']}" for name, group in result["groups"].items() if group["comparisons"]]
    if result["refused"]:
        first = result["refused"][0]
        said.append(
            f"{len(result['refused'])} samples could not be measured; the first, {first['key']}: {first['reason']}"
        )
    return [*said, *result["warnings"], f"{output / PAGE}, {benchmark.RESULT}, {MARKDOWN} and {LATEX} written"]


class Frames:
    """A sample's pictures by its key, for the report; None where its video is no longer there."""

    def __init__(self, cfg: benchmark.EvalConfig, data: str):
        self.protocol = cfg.protocol
        self.folder = Path(cfg.predictions) if cfg.predictions is not None else Path(cfg.output) / "predictions"
        self.items = {item.key: item for item in items(cfg.protocol, data)}

    def __call__(self, key: str) -> Clip | None:
        item = self.items.get(key)
        if item is None or not item.filmed:
            return None
        material = item.load()
        try:
            made = predictions.read(self.folder, item, len(material.driving), material.size, self.protocol.resize)
        except InputError:
            return None
        return clip_of(item, material, made)
