"""Made-up rows of a preprocessing job, and a strict reader of its page."""

from collections import Counter
from html.parser import HTMLParser

from data_pipeline.reporting import summarise

VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """Tags in order, checked for closing; the texts; what the page refers to."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], Counter(), [], []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, *attr) for attr in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def values(self, name):
        return [value for _, attr, value in self.attributes if attr == name]


def refused(file, reason, **more):
    row = {"file": file, "sha256": "00", "bytes": 1000, "licence": "", "source": ""}
    return {**row, "reason": reason, "detail": "so it is", **more}


def video(file, clips=2, left_out=None, **more):
    row = {
        "file": file, "sha256": "ab", "bytes": 2_000_000, "licence": "CC0", "source": "https://example.org/a?b=1&c=2",
        "seconds": 10.0,
        "size": [720, 406], "rate_fps": 25.0, "codec": "h264", "frames": 250, "ticks": 120, "shots": 1, "people": 1, "clips": clips,
        "left_out": left_out or {}, "cpu_sec": {"decode": 1.0, "people": 3.0}, "stage_frames": {"decode": 250, "people": 120},
        "wall_sec": 4.5, "peak_mb": 300.0, "split": "train",
    }  # fmt: skip
    return {**row, **more}


def clip(file, number=0, reason=None, **more):
    quality = {"motion": 0.1 * number, "person_px": 300.0 + number, "known_joints": 1.0, "camera": float("nan")}
    entry = {"key": f"{file}-{number}", "file": file, "start_sec": float(number), "seconds": 1.5, "person": f"person-{file}",
             "quality": quality, "size": [128, 80], "licence": "CC0", "source": ""}  # fmt: skip
    return {**entry, **({"split": "train"} if reason is None else {"reason": reason}), **more}


def manifest_of(clips, **more):
    counts = Counter(c["split"] for c in clips if "reason" not in c)
    return {
        "splits": {name: {"samples": n} for name, n in counts.items()},
        "samples": counts.total(),
        "bytes": 5000,
        **more,
    }


def small_set():
    """Two videos with clips, one of them with a dropped one; one without a person; one torn."""
    rows = [
        video("a.mp4"),
        video("b.mp4", 1, {"blurred": 1, "hard_cut": 3}),
        refused("torn.mp4", "corrupt", quarantined=True),
    ]
    rows.append(video("plant.mp4", 0, {"no_person": 4}, reason="no_person", detail="no clip could be made", people=0))
    clips = [clip("a.mp4", 0), clip("a.mp4", 1), clip("b.mp4", 0), clip("b.mp4", 1, "blurred")]
    return rows, clips


def summary_of(rows, clips, leakage=None):
    return summarise(rows, clips, manifest_of(clips), leakage)
