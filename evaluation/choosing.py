"""Some of many, evenly spread."""

from __future__ import annotations


def spread(total: int, count: int | None) -> list[int]:
    """The middles of ``count`` equal stretches of ``total``: neighbours are alike. All of them for None or too large a count."""
    if count is None or count >= total:
        return list(range(total))
    return [(2 * k + 1) * total // (2 * count) for k in range(count)]
