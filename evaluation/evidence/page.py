"""The page as Markdown, out of the kept files alone; words by people come from a file of their own, so that nothing is lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evaluation import results
from evaluation.evidence.parts import Kept, Page
from evaluation.evidence.sections import SECTIONS
from evaluation.evidence.trim import CELLS
from evaluation.results import ALL
from imanim.errors import InputError, from_os_error

SUMMARY = "Summary"


def markdown(page: Page) -> str:
    """The whole page.

    Raises:
        InputError: words under a heading that the page does not have; they would be lost.
    """
    sections = {heading: [part for part in make(page) if part] for heading, make in SECTIONS.items()}
    check_words(page.words, page.cfg.keep.words)
    words = f"; words come from {Path(page.cfg.keep.words).name}" if page.cfg.keep.words else ""
    out = ["# The evidence", f"*Written by `{page.cfg.command}`; edits here are lost{words}.*"]
    out += [page.words[SUMMARY]] if SUMMARY in page.words else []
    out.append(_how_to_read(page.scores))
    for heading, parts in sections.items():
        said = page.words.get(heading)
        if parts or said:
            out += [f"## {heading}", *([said] if said else []), *parts]
    return "\n\n".join(out) + "\n"


def check_words(words: Mapping[str, str], path: str | None) -> None:
    """Raises InputError for words under a heading that the page does not have: they would be lost."""
    unknown = sorted(set(words) - {SUMMARY} - set(SECTIONS))
    if unknown:
        raise InputError(f"{path}: no section `{unknown[0]}` on the page; use {SUMMARY}, {', '.join(SECTIONS)}")


def read_words(path: str | Path | None) -> dict[str, str]:
    """{heading: text} of a file of ``## HEADING`` sections; what stands above the first belongs to nobody and is refused.

    Raises:
        InputError: unreadable, text outside a section, a heading twice.
    """
    if path is None or not Path(path).is_file():
        return {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise from_os_error(error, path) from None
    out: dict[str, list[str]] = {}
    heading = None
    for number, line in enumerate(lines, 1):
        if line.startswith("## "):
            heading = line.removeprefix("## ").strip()
            if heading in out:
                raise InputError(f"{path}:{number}: section `{heading}` a second time; put the two together")
            out[heading] = []
        elif heading is not None:
            out[heading].append(line)
        elif line.strip() and not line.startswith("# "):
            raise InputError(f"{path}:{number}: text before the first `## HEADING`; it belongs under one")
    found = {name: "\n".join(body).strip() for name, body in out.items()}
    return {name: text for name, text in found.items() if text}


def _how_to_read(scores: Kept) -> str:
    everything = scores["groups"][CELLS][ALL]
    weights = ", ".join(
        sorted(f"{name.partition('/')[0]} {digest[:10]}" for name, digest in scores["method"]["weights_sha256"].items())
    )
    refused = f" {scores['refused']} samples could not be measured." if scores["refused"] else ""
    return (
        f"{everything['clips']} clips of {everything['units']} motions under protocol {results.protocol_name(scores)}, "
        f"samples {scores['samples']['sha256'][:10]}; `{scores['method']['name']}` (sha256: {weights or 'not known'})."
        f"{refused} In brackets: 95 % intervals over motions. Joint errors are in % of the person's stature."
    )
