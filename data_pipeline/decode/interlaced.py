"""Interlaced pictures, whose two fields are of two moments, made whole by FFmpeg's bwdif."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.error import BlockingIOError as NotYet
from av.error import EOFError as Over
from av.filter import Graph


def progressive(pictures: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The pictures, one for one and with their timestamps; those that are flagged interlaced are deinterlaced.

    Nothing is touched up to the first interlaced picture; from there on every one goes through the filter, which leaves
    progressive ones alone.
    """
    graph: Graph | None = None
    base = Fraction(1, 1)
    for picture in pictures:
        if graph is None and picture.interlaced_frame:
            base = Fraction(picture.time_base or Fraction(1, 1000))
            graph = _graph(picture, base)
        if graph is None:
            yield picture
            continue
        graph.push(picture)
        yield from _ready(graph, base)
    if graph is not None:
        graph.push(None)
        yield from _ready(graph, base)


def _ready(graph: Graph, base: Fraction) -> Iterator[av.VideoFrame]:
    while True:
        try:
            made = graph.pull()
        except (NotYet, Over):
            return
        assert isinstance(made, av.VideoFrame)
        # The filter counts in half units, for fields.
        if made.pts is not None and made.time_base:
            made.pts, made.time_base = round(made.pts * Fraction(made.time_base) / base), base
        yield made


def _graph(picture: av.VideoFrame, base: Fraction) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=base,
    )
    filters = [source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")]
    graph.link_nodes(*filters)
    graph.configure()
    return graph
