"""What the page's sections are made of: the kept files, tables, cells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import results
from evaluation.evidence.config import EvidenceConfig
from evaluation.evidence.trim import CELLS, pooled
from evaluation.metrics.base import Value
from evaluation.results import ALL

Kept = Mapping[str, Any]
GAP_PICTURE, LEVEL_PICTURE, CURVES_PICTURE, ARMS_PICTURE = (
    "evidence_by_gap.png",
    "evidence_by_level.png",
    "evidence_curves.png",
    "evidence_ablation.png",
)


@dataclass(frozen=True)
class Page:
    """What the page is written from.

    kept: {name: file's content}: ``scores`` and ``run``, where they were made ``tokens``, ``leakage``, ``curves``, ``ablation``,
    ``replications`` {name: as ``ablation``}.
    pictures: folder. words: {heading: Markdown}.
    """

    cfg: EvidenceConfig
    kept: Mapping[str, Kept]
    pictures: Path
    words: Mapping[str, str]

    @property
    def scores(self) -> Kept:
        """The main result."""
        return self.kept["scores"]

    def command(self, step: str) -> str:
        """A line that names what reproduces a table, for the steps of this run."""
        known = self.kept["run"]["steps"].get(step)
        return f"    {known['command']}" if known else f"    {self.cfg.command}"

    def picture(self, name: str, alternative: str) -> str:
        """A picture by its file's name; nothing where it was not drawn."""
        if not (self.pictures / name).is_file():
            return ""
        link = Path(os.path.relpath(self.pictures / name, Path(self.cfg.keep.page).parent)).as_posix()
        return f"![{alternative}]({link})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are aligned left, the others right."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def headline_group(page: Page) -> str:
    """The headline's levels together, where the samples have them; else all."""
    name = pooled(page.cfg.scopes.headline_levels)
    return name if name in page.scores["groups"][CELLS] else ALL


def known_values(scores: Kept, names: Sequence[str]) -> list[Value]:
    """Those of the values that were measured."""
    known = results.values(scores)
    return [known[name] for name in names if name in known]


def methods_of(scores: Kept, scope: str, value: str) -> list[str]:
    """Methods that have a number for a value, in a table's order."""
    means = scores["groups"][scope][ALL]["means"]
    return [m for m in results.ordered(scores["methods"]) if value in means.get(m, {})]


def cell(group: Kept | None, method: str, value: Value) -> str:
    """A mean with its interval; nothing where it was not measured."""
    mean = None if group is None else group["means"].get(method, {}).get(value.name)
    if group is None or mean is None:
        return ""
    return with_ends(mean, group["intervals"].get(method, {}).get(value.name), value)


def with_ends(mean: float, ends: Sequence[float] | None, value: Value) -> str:
    """``1.23 [1.10, 1.36]``."""
    told = results.number(mean, value)
    return told if ends is None else f"{told} [{results.number(ends[0], value)}, {results.number(ends[1], value)}]"


def bold(words: str, wanted: bool) -> str:
    """Bold Markdown, if wanted."""
    return f"**{words}**" if wanted else words
