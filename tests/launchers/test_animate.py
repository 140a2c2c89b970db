"""launchers/animate.py end to end with random weights, and everything it must refuse in one line with exit code 2."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imanim import cli
from imanim.data.video import read_video, write_png, write_video
from launchers import animate

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "inference"))

from small_model import moving_square, save_model  # noqa: E402 - it lives beside the other room's tests


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A character, a driver, a model; ``argv(**changes)`` makes a command of them."""
    folder = tmp_path_factory.mktemp("animate")
    write_png(folder / "character.png", moving_square(1, 70, 50)[0])
    write_video(folder / "driving.mp4", moving_square(20), 24)
    save_model(folder)
    return folder


@pytest.fixture
def command(files, tmp_path):
    def argv(*extra: str, **changes) -> list[str]:
        options = {"character": files / "character.png", "driving": files / "driving.mp4", "model": files / "animator"}
        options |= {"output": tmp_path / "out.mp4", "steps": 1, **changes}
        return [str(word) for name, value in options.items() for word in (f"--{name}", value)] + list(extra)

    return argv


def refused(argv, capsys, monkeypatch) -> str:
    """The one line on stderr of a run that leaves with 2."""
    monkeypatch.setattr(sys, "argv", ["animate.py", *argv])
    with pytest.raises(SystemExit) as left:
        cli.run(animate.main)
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert left.value.code == 2 and len(error) == 1, error
    return error[0]


def test_it_writes_one_frame_a_driving_frame_at_the_drivers_rate(command, tmp_path, capsys):
    assert animate.main(command("--filmstrip", str(tmp_path / "strip.png"))) == 0
    video = read_video(tmp_path / "out.mp4")
    assert video.frames.shape == (20, 64, 46, 3) and video.fps == 24
    assert Image.open(tmp_path / "strip.png").size[1] > 2 * 128
    said = capsys.readouterr().out
    assert "20 frames in" in said and "peak memory" in said and "--fps 12 resamples" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "strip.png"]


def test_the_same_seed_gives_the_same_file(command, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        animate.main(command(output=tmp_path / name, seed=5))
    animate.main(command(output=tmp_path / "c.mp4", seed=6))
    a, b, c = ((tmp_path / f"{n}.mp4").read_bytes() for n in "abc")
    assert a == b != c


def test_the_motion_may_be_resampled_and_cut(command, tmp_path):
    animate.main(command("--fps", "12", "--max-frames", "7"))
    video = read_video(tmp_path / "out.mp4")
    assert len(video.frames) == 7 and video.fps == 12


def test_the_command_itself_runs_and_its_help_is_quick(command, tmp_path):
    run = subprocess.run(
        [sys.executable, ROOT / "launchers/animate.py", *command()], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0 and (tmp_path / "out.mp4").is_file(), run.stderr
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "launchers/animate.py", "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0 and "--driving" in shown.stdout
    assert " torch\n" not in shown.stderr and " diffusers\n" not in shown.stderr  # what would make it slow


def test_a_dry_run_writes_nothing(command, tmp_path, capsys):
    animate.main(command("--dry-run"))
    assert "would write" in capsys.readouterr().out and not any(tmp_path.iterdir())


def test_an_image_on_its_side_is_turned_and_that_is_said(command, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(np.rot90(moving_square(1, 70, 50)[0]))
    lying.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    animate.main(command(character=tmp_path / "photo.jpg"))
    assert "turned upright" in capsys.readouterr().out
    assert read_video(tmp_path / "out.mp4").frames.shape[1:3] == (64, 46)


def test_transparency_needs_a_background(command, tmp_path, capsys, monkeypatch):
    pixels = np.dstack([moving_square(1, 70, 50)[0], np.full((70, 50), 128, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    assert "--background" in refused(command(character=tmp_path / "cut.png"), capsys, monkeypatch)
    assert animate.main(command("--background", "white", character=tmp_path / "cut.png")) == 0


def bad_video(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    good = write_video(None, moving_square(30), 24)
    data = {"corrupt": good[: len(good) // 2], "empty": b"", "text": b"hello " * 99}
    if kind in data:
        path.write_bytes(data[kind])
    elif kind == "two_frames":
        write_video(path, moving_square(2), 24)
    return path


@pytest.mark.parametrize("kind", ["corrupt", "empty", "text", "two_frames", "missing"])
def test_unusable_videos_are_refused(command, tmp_path, capsys, monkeypatch, kind):
    path = bad_video(tmp_path, kind)
    assert f"{kind}.mp4" in refused(command(driving=path), capsys, monkeypatch)
    assert not (tmp_path / "out.mp4").exists()


def test_unusable_images_are_refused(command, tmp_path, capsys, monkeypatch):
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "missing.png"):
        assert name in refused(command(character=tmp_path / name), capsys, monkeypatch)


def test_missing_and_unfinished_models_are_refused(command, tmp_path, capsys, monkeypatch):
    assert "no such folder" in refused(command(model=tmp_path / "nowhere"), capsys, monkeypatch)
    (tmp_path / "empty").mkdir()
    assert "no finished model" in refused(command(model=tmp_path / "empty"), capsys, monkeypatch)


def test_weights_of_another_size_are_refused_naming_the_tensor(command, tmp_path, capsys, monkeypatch):
    folder = save_model(tmp_path)
    for path in folder.rglob("*.json"):  # of equal length: the index lists the files' sizes
        path.write_text(path.read_text().replace('"bottleneck": 8', '"bottleneck": 6'))
    line = refused(command(model=folder), capsys, monkeypatch)
    assert re.search(r"tensor \S+ is \[.*\b8\b.*\] in the file, \[.*\b6\b.*\] in the model", line)


def test_without_weights_in_the_package_the_user_is_told(command, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("imanim.inference.PACKAGED_MODEL", tmp_path / "no_assets")
    argv = command()
    at = argv.index("--model")
    assert "carries no weights" in refused(argv[:at] + argv[at + 2 :], capsys, monkeypatch)


def test_an_output_that_exists_or_cannot_be_written_is_refused_before_the_work(command, tmp_path, capsys, monkeypatch):
    (tmp_path / "out.mp4").write_bytes(b"precious")
    assert "--overwrite" in refused(command(), capsys, monkeypatch)
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"
    assert "not a folder" in refused(command(output=tmp_path / "out.mp4" / "inside.mp4"), capsys, monkeypatch)
    assert "is a folder" in refused(command(output=tmp_path), capsys, monkeypatch)
    assert animate.main(command("--overwrite")) == 0


def test_a_full_disk_leaves_nothing_half_written_and_keeps_the_old_file(command, tmp_path, capsys, monkeypatch):
    (tmp_path / "out.mp4").write_bytes(b"precious")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("imanim.data.files.os.fsync", full)
    line = refused(command("--overwrite"), capsys, monkeypatch)
    assert "disk is full" in line and "out.mp4" in line
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"] and (tmp_path / "out.mp4").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "option, value",
    [("--steps", "0"), ("--fps", "-1"), ("--max-frames", "3"), ("--overlap", "9"), ("--device", "tpu0")],
)
def test_unusable_numbers_are_refused(command, capsys, monkeypatch, option, value):
    assert option.strip("-").split("-")[0] in refused(command(option, value), capsys, monkeypatch)


def test_face_boxes_of_another_length_are_refused(command, tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "faces.npy", np.zeros((3, 4)))
    assert "[20, 4]" in refused(command("--faces", str(tmp_path / "faces.npy")), capsys, monkeypatch)
