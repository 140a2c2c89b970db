"""The report's page is whole and harmless, its pictures exist."""

import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from report_rows import Page, clip, manifest_of, refused, small_set, summary_of, video

from data_pipeline.reporting import files, marks, page, sheets, summarise, write
from data_pipeline.reporting.videos import MAX_ROWS
from imanim.data.sample import JOINTS, Sample, encode
from imanim.data.shards import write_manifest, write_shard
from imanim.errors import InputError

HOSTILE = "a/<script>alert('x')</script> \"&' \u202egpj.\udcff\x07.mp4"


def sample(key, frames=9):
    rng = np.random.default_rng(3)
    joints = rng.uniform(0.2, 0.8, (frames, len(JOINTS), 3)).astype(np.float32)
    joints[..., 2], joints[:, 3] = 1, (np.nan, np.nan, 0)
    pictures = rng.integers(0, 255, (frames, 64, 40, 3), np.uint8)
    faces = np.full((frames, 4), np.nan, np.float32)
    meta = {"schema": 1, "quality": {"motion": 0.25}}
    return Sample(key, pictures, 12.0, pictures[-1], joints, faces, meta, identity_joints=joints[0])


# ------------------------------------------------------------------------------------------------------------------ page


def test_the_page_is_well_formed_and_says_the_most_important_first():
    rows, clips = small_set()
    shown = Page(page(summary_of(rows, clips), rows))
    assert "3 clips (4.5 s) of 2 people came from 2 of 4 videos." in shown.text
    headings = re.findall(r"<h2>(.*?)</h2>", page(summary_of(rows, clips), rows))
    assert headings[:2] == ["From files to clips", "What was left out, and why"] and headings[-1] == "Videos"
    assert shown.tags["svg"] > 10 and shown.tags["script"] == 1


def test_hostile_names_stay_text():
    file = HOSTILE
    rows = [
        video(
            file,
            1,
            {"<img src=x onerror=alert(1)>": 1},
            source="javascript:alert(1)",
            codec="<b>",
            licence='"><script>',
        ),
        refused("r" + file, "corrupt", detail="</td></table><script>alert(2)</script>"),
    ]
    clips = [clip(file, 0, source="javascript:alert(3)", licence="<i>"), clip(file, 1, "</code><script>")]
    made = summarise(rows, clips, manifest_of(clips, tools={"<u>": "<s>"}, settings={"note": "</pre><script>"}), None)
    html = page(made, rows)
    html.encode()
    shown = Page(html)
    assert shown.tags["script"] == 1 and not {"i", "b", "u", "s", "img"} & set(shown.tags)
    assert not [v for v in shown.values("href") if not v.startswith(("#", "https://", "report"))]
    assert not [name for _, name, _ in shown.attributes if name.startswith("on")]
    assert "alert('x')" in shown.text
    assert not re.search(r"[\x00-\x08\x0e-\x1f\ud800-\udfff]", html)
    for tag, name, value in shown.attributes:
        if tag == "svg" and name == "aria-label":
            assert "\n" not in value


def test_a_web_address_is_a_link_and_nothing_else_is():
    assert 'href="https://example.org/a?b=1&amp;c=2"' in marks.link("https://example.org/a?b=1&c=2")
    for value in (
        "javascript:alert(1)",
        "https://x.org/\"onclick='",
        "file:///etc/passwd",
        " https://x.org",
        "data:text/html,x",
    ):
        assert "href" not in marks.link(value)


def test_three_thousand_videos_give_two_thousand_rows_those_without_clips_first():
    rows = [video(f"v{i:05}.mp4", 1) for i in range(2990)] + [refused(f"z{i}.mp4", "corrupt") for i in range(10)]
    clips = [clip(row["file"]) for row in rows[:2990]]
    html = page(summary_of(rows, clips), rows)
    body = html[html.index('<table id="videos">') :]
    assert body.count("<tr") == MAX_ROWS + 1 and "2,000 of 3,000 videos" in html
    assert all(f"z{i}.mp4" in body for i in range(10)) and body.index("z9.mp4") < body.index("v00000.mp4")
    assert len(html) < 3_000_000
    Page(html)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "There were no videos."),
        ([refused("a.mp4", "corrupt"), refused("b.mp4", "hdr")], "No clip came from 0 of 2 videos."),
    ],
)
def test_nothing_to_report_is_reported(tmp_path, rows, said):
    write(tmp_path, rows, [], manifest_of([]), None, [], [], 0.1)
    assert said in Page((tmp_path / "report.html").read_text()).text
    assert json.loads((tmp_path / "report.json").read_text())["totals"]["clips"] == 0


# -------------------------------------------------------------------------------------------------------------- pictures


def strips_of(count, reason="blurred"):
    frames = np.random.default_rng(1).integers(0, 255, (4, 36, 64, 3), np.uint8)
    return [(reason, f"v{i}.mp4", sheets.strip_jpeg(frames + i, None, None, f"v{i}.mp4 at 3 s")) for i in range(count)]


def test_the_report_is_written_whole_and_every_picture_exists(tmp_path):
    folder = tmp_path / "secret-folder"
    rows, clips = small_set()
    manifest = manifest_of(clips, settings={"pose": {"detector": f"{folder}/yolox.onnx", "copy": r"C:\nets\a.onnx"}})
    strips = [*strips_of(20), *strips_of(2, "../odd name"), *strips_of(1, "..-odd-name")]
    written = write(folder, rows, clips, manifest, None, strips, [sample("a-0"), sample("b-0")], 12.34)
    html = (folder / "report.html").read_text()
    shown = Page(html)
    pictures = shown.values("src")
    assert len(pictures) == 4 == len(set(pictures))
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")} == set(pictures)
    assert not list(folder.parent.glob("*.jpg")) and not list(folder.rglob("*.part"))
    for name in pictures:
        sizes = re.search(rf'src="{name}" width="(\d+)" height="(\d+)"', html)
        assert Image.open(folder / name).size == tuple(map(int, sizes.groups()))
    assert f"{sheets.MAX_DROPPED} of 20" in shown.text and "2 of 3" in shown.text
    stored = (folder / "report.json").read_text()
    for text in (html, stored):
        assert str(tmp_path) not in text and "nets" not in text and "yolox.onnx" in text
    assert json.loads(stored)["totals"] == written["totals"] and written["totals"]["seconds_taken"] == 12.3
    assert [v["file"] for v in json.loads(stored)["videos"]] == ["a.mp4", "b.mp4", "plant.mp4", "torn.mp4"]
    assert json.loads(stored)["clips"][0]["quality"]["camera"] is None


def test_the_same_input_gives_the_same_bytes(tmp_path):
    rows, clips = small_set()
    strips = strips_of(12)
    for name, turn in (("one", 1), ("two", -1)):
        write(
            tmp_path / name, rows[::turn], clips[::turn], manifest_of(clips), None, strips[::turn], [sample("a-0")], 3.0
        )
    made = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("one", "two")]
    assert made[0] == made[1] and len(made[0]) == 4


def test_pictures_of_an_earlier_report_go(tmp_path):
    rows, clips = small_set()
    write(tmp_path, rows, clips, manifest_of(clips), None, [*strips_of(1), *strips_of(1, "text")], [], 1.0)
    write(tmp_path, rows, clips, manifest_of(clips), None, strips_of(1), [], 1.0)
    assert [p.name for p in (tmp_path / files.PICTURES).iterdir()] == ["dropped-blurred.jpg"]


def test_a_damaged_strip_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="damaged"):
        write(tmp_path, *small_set(), manifest_of([]), None, [("blurred", "a", b"\xff\xd8no picture")], [], 1.0)
    assert not os.listdir(tmp_path)


def test_bones_are_drawn_where_the_joints_are():
    joints = np.full((len(JOINTS), 3), np.nan, np.float32)
    joints[:, 2] = 0
    joints[JOINTS.index("l_hip")], joints[JOINTS.index("l_knee")] = (0.25, 0.25, 1), (0.25, 0.75, 1)
    black = np.zeros((40, 40, 3), np.uint8)
    drawn = sheets.draw(black, joints, np.array([0.5, 0.5, 0.9, 0.9], np.float32), scale=2)
    assert drawn.shape == (80, 80, 3)
    assert tuple(drawn[40, 20]) == sheets.LEFT and tuple(drawn[40, 50]) == sheets.FACE
    coloured = drawn.any(axis=-1)
    assert not coloured[:, :15].any() and not coloured[:38, 26:].any()
    assert not sheets.draw(black, None, None).any() and not black.any()


def test_a_strip_shows_frames_from_first_to_last():
    frames = np.stack([np.full((192, 108, 3), value, np.uint8) for value in range(0, 250, 10)])
    made = sheets.strip(frames, None, None, "caption")
    assert made.shape == (sheets.CAPTION_HEIGHT + 192, 6 * 108 + 5 * sheets.GAP, 3)
    assert [int(made[100, i * 110 + 5, 0]) for i in range(6)] == [0, 50, 100, 140, 190, 240]
    wide = sheets.strip([np.zeros((720, 1280, 3), np.uint8)] * 30, [None] * 30, None, "x")
    assert wide.shape[1] <= sheets.STRIP_WIDTH and wide.shape[0] == sheets.CAPTION_HEIGHT + 144


@pytest.mark.parametrize("caption", ["", HOSTILE, "舞" * 500, "a\nb"])
def test_any_caption_can_be_written(caption):
    made = sheets.strip_jpeg([np.zeros((50, 30, 3), np.uint8)], None, None, caption)
    assert Image.open(io.BytesIO(made)).size == (90, sheets.CAPTION_HEIGHT + 150)


def test_samples_are_picked_from_every_video_first(tmp_path):
    for number, (split, keys) in enumerate({"train": ["a-0", "a-1", "a-2", "b-0"], "val": ["c-0"]}.items()):
        write_shard(tmp_path, split, number, [(key, encode(sample(key))) for key in keys])
    write_manifest(tmp_path, {})
    assert [s.key for s in sheets.pick_samples(tmp_path, ["train", "val"], 3)] == ["a-0", "b-0", "c-0"]
    picked = sheets.pick_samples(tmp_path, ["train", "val"])
    assert [s.key for s in picked] == ["a-0", "a-1", "a-2", "b-0", "c-0"]
    assert sheets.kept_sheet(picked).shape[1] <= sheets.SHEET_WIDTH
