"""The samples of a protocol."""

from __future__ import annotations

from collections.abc import Callable

from evaluation.protocols import clips, pairs, shards
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item
from imanim.errors import InputError

SOURCES: dict[str, Callable[[ProtocolConfig, str], list[Item]]] = {
    "shards": shards.items,
    "clips": clips.items,
    "pairs": pairs.items,
}


def items(protocol: ProtocolConfig, data: str) -> list[Item]:
    """Every sample, in the protocol's order.

    Raises:
        InputError: the data is not there or not what the protocol names; two samples of one key.
    """
    found = SOURCES[protocol.source.kind](protocol, data)
    seen: set[str] = set()
    for item in found:
        if item.key in seen or item.key in ("", ".", "..") or "/" in item.key:
            raise InputError(f"{data}: sample key `{item.key}` is repeated or cannot name a file; rename it")
        seen.add(item.key)
    return found
