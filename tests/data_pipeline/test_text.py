"""Text in the picture: the real networks on drawn text, patterns and real clips, against the reference, and what is refused."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from real_footage import have_weights, shared_clip

from data_pipeline.quality import ocr, text
from data_pipeline.quality.text import DbnetTextFinder, is_text
from imanim import weights
from imanim.data.video import read_video
from imanim.errors import InputError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra `data`)")

SIZE = (640, 352)  # width, height: what the network looks at, so that nothing is resampled


@pytest.fixture(scope="module")
def finder():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `data`)")
    have_weights(text.DETECTOR, text.READER)
    return DbnetTextFinder()


def scene(seed=0):
    """Soft coloured shapes, like a room out of focus."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 200, (6, 10, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC)


def write(image, words, at, size):
    """Draws words in white with a dark rim; returns their box [4] in pixels."""
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    pen.text(at, words, font=font, fill="white", stroke_width=max(1, size // 12), stroke_fill="black")
    return np.array(pen.textbbox(at, words, font=font, stroke_width=max(1, size // 12)), float)


def iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = np.prod(np.maximum(sides, 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


@pytest.mark.parametrize(("words", "size"), [("I told you so", 18), ("Subscribe for more!", 30), ("EPISODE 12", 64)])
def test_drawn_text_is_found_where_it_is_with_about_its_area(finder, words, size):
    image = scene()
    box = write(image, words, (60, 250), size)
    found = finder.find(np.asarray(image))
    assert found.dtype == np.float32
    together = np.concatenate([found[:, :2].min(axis=0), found[:, 2:].max(axis=0)])
    assert iou(together, box) > 0.6
    area = np.prod(box[2:] - box[:2]) / (SIZE[0] * SIZE[1])
    assert area / 1.6 < finder.coverage(np.asarray(image)) < 1.6 * area


def test_the_same_subtitle_covers_the_same_part_in_a_larger_file(finder):
    image = scene()
    write(image, "the same words everywhere", (120, 290), 24)
    large = image.resize((1280, 704), Image.Resampling.BICUBIC)
    small, big = finder.coverage(np.asarray(image)), finder.coverage(np.asarray(large))
    assert small > 0.015 and big == pytest.approx(small, rel=0.15)
    boxes = finder.find(np.asarray(large))
    assert boxes.max() > 640  # pixels of the frame, not of what the network saw


def test_two_lines_are_two_boxes_and_turned_text_is_found_too(finder):
    image = scene(1)
    write(image, "the first line", (80, 200), 28)
    write(image, "and the second one", (80, 280), 28)
    assert len(finder.find(np.asarray(image))) == 2
    image = scene(2)
    write(image, "hanging sideways", (200, 150), 32)
    turned = np.ascontiguousarray(np.rot90(np.asarray(image)))
    (box,) = finder.find(turned)
    assert box[3] - box[1] > 3 * (box[2] - box[0])


def test_text_in_an_alphabet_that_the_reader_does_not_know_is_text(finder):
    fonts = pytest.importorskip("matplotlib.font_manager", reason="matplotlib carries a font with Cyrillic letters")
    font = ImageFont.truetype(fonts.findfont("DejaVu Sans"), 28)
    for words in ("Съешь ещё этих мягких булок", "Ξεσκεπάζω την ψυχοφθόρα"):
        image = scene(3)
        ImageDraw.Draw(image).text((60, 280), words, font=font, fill="white", stroke_width=2, stroke_fill="black")
        assert finder.coverage(np.asarray(image)) > 0.02, words


def patterns():
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    gray = {
        "plain": 0 * x + 128,
        "stripes": 255 * ((x // 12) % 2),
        "pinstripes": 255 * (y % 9 < 2),
        "checks": 255 * ((x // 20 + y // 20) % 2),
        "dots": 255 * (np.hypot(x % 24 - 12, y % 24 - 12) < 6),
        "zigzag": 255 * ((y + np.abs(x % 40 - 20)) % 30 < 8),
        "noise": np.random.default_rng(0).integers(0, 256, x.shape),
    }
    return {name: np.repeat(values.astype(np.uint8)[..., None], 3, axis=2) for name, values in gray.items()}


@pytest.mark.parametrize("name", sorted(patterns()))
def test_patterns_of_clothes_and_walls_are_no_text(finder, name):
    image = patterns()[name]
    assert finder.coverage(image) == 0.0
    assert finder.find(image).shape == (0, 4)


def test_the_same_picture_gives_the_same_boxes(finder):
    image = scene(4)
    write(image, "twice the same", (60, 200), 30)
    picture = np.asarray(image)
    assert finder.lines(picture).tobytes() == DbnetTextFinder().lines(picture).tobytes()


def test_a_page_full_of_text_is_text_although_only_its_largest_lines_are_read(finder):
    image = Image.new("RGB", SIZE, "white")
    for i in range(16):
        ImageDraw.Draw(image).text(
            (20, 6 + 21 * i), f"line {i} of a page that goes on", "black", ImageFont.load_default(15)
        )
    found = finder.find(np.asarray(image))
    assert len(found) > text.MAX_READ
    assert 0.1 < finder.coverage(np.asarray(image)) < 0.9


# ------------------------------------------------------------------------------------------------------------ reference


def test_lines_and_readings_are_those_of_rapidocr(finder):
    reference = pytest.importorskip(
        "rapidocr_onnxruntime", reason="the reference (rapidocr-onnxruntime) is not installed"
    )
    folder = Path(reference.__file__).parent
    detect = importlib.import_module("rapidocr_onnxruntime.ch_ppocr_det").TextDetector
    read = importlib.import_module("rapidocr_onnxruntime.ch_ppocr_rec").TextRecognizer
    threads = {"intra_op_num_threads": 1, "inter_op_num_threads": 1, "use_cuda": False, "use_dml": False}
    detector = detect(
        {"model_path": str(folder / "models/ch_PP-OCRv4_det_infer.onnx"), "limit_side_len": 640, "limit_type": "max",
         "mean": [0.5] * 3, "std": [0.5] * 3, "unclip_ratio": 1.6, "box_thresh": 0.5, "use_dilation": True, **threads}
    )  # fmt: skip
    # The reference picks the input size by a rule of its own; here it takes the picture as it is.
    utils = importlib.import_module("rapidocr_onnxruntime.ch_ppocr_det.utils")
    detector.get_preprocess = lambda longest: utils.DetPreProcess(640, "max", [0.5] * 3, [0.5] * 3)
    reader = read(
        {"model_path": str(folder / "models/ch_PP-OCRv4_rec_infer.onnx"), "rec_img_shape": [3, 48, 320],
         "rec_batch_num": 1, **threads}
    )  # fmt: skip
    image = scene(5)
    for words, at, size in (
        ("Good evening", (40, 40), 40),
        ("small print 2024", (300, 150), 16),
        ("THE END", (150, 240), 70),
    ):
        write(image, words, at, size)
    picture = np.asarray(image)
    expected, _ = detector(np.ascontiguousarray(picture[..., ::-1]))
    ours = ocr.LineDetector(weights.ensure(text.DETECTOR)).lines(picture, 640)
    boxes = np.concatenate([ours.min(axis=1), ours.max(axis=1)], axis=1)
    theirs = np.concatenate([expected.min(axis=1), expected.max(axis=1)], axis=1)
    assert len(boxes) == len(theirs) == 3
    boxes, theirs = boxes[np.argsort(boxes[:, 1])], theirs[np.argsort(theirs[:, 1])]
    assert np.abs(boxes - theirs).max() <= 2.0  # they round to whole pixels twice on the way

    for line in ours:
        x0, y0, x1, y1 = np.concatenate([line.min(axis=0), line.max(axis=0)]).round().astype(int)
        upright = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)
        glyphs = ocr.LineReader(weights.ensure(text.READER)).glyphs(picture, upright)
        (words, score), *_ = reader([np.ascontiguousarray(picture[y0:y1, x0:x1, ::-1])])[0]
        assert len(glyphs) == len(words)
        assert float(glyphs.mean()) == pytest.approx(score, abs=0.02)


# ----------------------------------------------------------------------------------------------------------- real clips


def test_the_subtitles_of_a_real_clip_are_found_and_nothing_else(finder):
    frames = read_video(shared_clip("data-juicer__video3.mp4"), max_frames=193).frames[48::24]
    # Looked at: the third and the sixth of these frames have no subtitle; a printed shirt is on all of them.
    covered = [finder.coverage(image) > 0.01 for image in frames]
    assert covered == [True, True, False, True, True, False, True]
    boxes = np.concatenate([finder.find(image) for image in frames])
    assert (boxes[:, 1] > 0.7 * frames.shape[1]).mean() > 0.8  # they stand low


@pytest.mark.parametrize("name", ["LivePortrait__d18.mp4", "LivePortrait__s13.mp4", "ControlNeXt__01.mp4"])
def test_real_faces_hands_and_patterned_clothes_are_no_text(finder, name):
    frames = read_video(shared_clip(name), max_frames=150).frames[::30]
    assert [finder.coverage(image) for image in frames] == [0.0] * len(frames)
    # Without the reader some of them would be: that is what it is for.
    if name != "ControlNeXt__01.mp4":
        detector = ocr.LineDetector(weights.ensure(text.DETECTOR))
        assert any(len(detector.lines(image, 640)) for image in frames)


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("glyphs", "verdict"),
    [([], False), ([0.99], False), ([0.58, 0.58], False), ([0.7, 0.6], True), ([0.41] * 6, False), ([0.45] * 10, True)],
)
def test_glyphs_are_text_when_a_few_are_sure_or_many_are_likely(glyphs, verdict):
    assert is_text(np.array(glyphs, np.float32)) is verdict


def make_blank(side_px):
    class Blank:
        name = f"blank{side_px}"

        def find(self, image):
            return np.empty((0, 4), np.float32)

        def coverage(self, image):
            return 0.0

    return Blank()


def make_nothing(side_px):
    return object()


def test_finders_are_built_by_name_and_plugged_in_by_path(monkeypatch):
    monkeypatch.setitem(sys.modules, "their_text", sys.modules[__name__])
    assert text.build("none", side_px=640) is None
    assert text.build("their_text:make_blank", side_px=512).name == "blank512"
    for name, complaint in {
        "tesseract": "is unknown; use dbnet, none or package.module:factory",
        "their_text:make_none": "cannot be loaded",
        "no.such.module:make": "cannot be loaded",
        "their_text:make_nothing": "without find",
    }.items():
        with pytest.raises(InputError, match=complaint):
            text.build(name, side_px=640)


def test_files_that_are_no_such_network_and_a_missing_runtime_are_named(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `data`)")
    with pytest.raises(InputError, match=r"nowhere\.onnx: no such file"):
        ocr.LineDetector(tmp_path / "nowhere.onnx")
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match="not a readable ONNX network"):
        ocr.LineReader(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnxruntime: not installed; run"):
        ocr.LineReader(tmp_path / "a.onnx")


def test_a_network_of_another_kind_is_refused(finder):
    reader, detector = weights.ensure(text.READER), weights.ensure(text.DETECTOR)
    image = np.asarray(scene())
    with pytest.raises(InputError, match="text detector"):
        ocr.LineDetector(reader).lines(image, 640)
    with pytest.raises(InputError, match="text reader"):
        ocr.LineReader(detector).glyphs(image, np.array([[0.0, 0], [300, 0], [300, 40], [0, 40]]))
