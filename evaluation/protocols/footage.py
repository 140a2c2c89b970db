"""Frames of videos as people have them: a video file, or a folder of pictures, one a frame. Nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError

from evaluation.protocols.items import at_rate, first_frames
from imanim.data.files import sha256, sha256_file
from imanim.data.video import read_video
from imanim.errors import InputError, from_os_error

VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def find(folder: Path, key: str) -> Path | None:
    """The video ``key`` in a folder: a file of that name, or a folder of frames. Raises InputError when there are two."""
    found = [p for p in (*(folder / f"{key}{ext}" for ext in VIDEOS), folder / key) if p.exists()]
    if len(found) > 1:
        raise InputError(f"{folder}: has both {found[0].name} and {found[1].name}; keep the one to measure")
    return found[0] if found else None


def listed(folder: Path) -> dict[str, Path]:
    """Every video and every folder of frames in a folder, by name. Raises InputError when there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    found = {p.stem if p.is_file() else p.name: p for p in sorted(folder.iterdir()) if _is_footage(p)}
    if not found:
        raise InputError(f"{folder}: holds no videos ({', '.join(VIDEOS)}) and no folders of pictures")
    return found


def read(path: Path) -> tuple[np.ndarray, float | None]:
    """Frames uint8 [T,H,W,3] and their rate (None for pictures).

    Raises:
        InputError: missing, damaged, grey, transparent, 1-frame, or pictures of different sizes.
    """
    if path.is_dir():
        return _read_pictures(path), None
    _refuse_other_colours(path)
    video = read_video(path, min_frames=2)
    return video.frames, video.fps


def read_as(path: Path, fps: float | None, frames: int | None) -> tuple[np.ndarray, float]:
    """The first ``frames`` at the protocol's rate (None: all, at the file's own), uint8 [T,H,W,3], and the rate.

    Pictures are taken to be at the protocol's rate already.

    Raises:
        InputError: as :func:`read`; pictures and no rate; fewer frames than wanted.
    """
    found, own = read(path)
    rate = fps or own
    if rate is None:
        raise InputError(f"{path}: pictures have no rate; set protocol.fps")
    if own is not None:
        found = found[at_rate(len(found), own, fps)]
    return first_frames(str(path), found, frames), rate


def hash_of(path: Path) -> str:
    """sha256 of a video's bytes, or of its pictures' names and bytes."""
    if path.is_file():
        return sha256_file(path)
    return sha256("\n".join(f"{p.name} {sha256_file(p)}" for p in _pictures(path)).encode())


def _is_footage(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS if path.is_file() else bool(path.is_dir() and _pictures(path))


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)


def _read_pictures(folder: Path) -> np.ndarray:
    files = _pictures(folder)
    if len(files) < 2:
        raise InputError(f"{folder}: {len(files)} pictures ({', '.join(PICTURES)}); a video has at least 2")
    frames = [_read_picture(file) for file in files]
    for file, frame in zip(files, frames):
        if frame.shape != frames[0].shape:
            raise InputError(f"{file}: {_size(frame)}, but {files[0].name} is {_size(frames[0])}; make them alike")
    return np.stack(frames)


def _read_picture(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode != "RGB" or "transparency" in image.info:
                raise InputError(
                    f"{file}: is {_colours(image)}; measured pictures are 8-bit RGB without transparency, convert it"
                )
            return np.asarray(image)
    except (UnidentifiedImageError, SyntaxError, ValueError):
        raise InputError(f"{file}: not a readable picture; make it again") from None
    except OSError as error:
        if error.errno is None:
            raise InputError(f"{file}: a damaged picture ({error}); make it again") from None
        raise from_os_error(error, file) from None


def _colours(image: Image.Image) -> str:
    if "transparency" in image.info or "A" in image.getbands():
        return "transparent"
    return "grey" if image.mode in ("L", "I;16", "I", "F", "1") else f"of mode {image.mode}"


def _refuse_other_colours(path: Path) -> None:
    """A grey or transparent video would be turned into RGB on the way, and measured as something that nobody made."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0] if container.streams.video else None
            kind = stream.codec_context.pix_fmt if stream is not None and stream.codec_context is not None else None
            parts = av.VideoFormat(kind).components if kind else ()
    except (FFmpegError, OSError, ValueError):
        return  # reading it will say what is wrong
    if len(parts) == 1 and kind != "pal8":
        raise InputError(f"{path}: a grey video ({kind}); give colour")
    if any(part.is_alpha for part in parts):
        raise InputError(f"{path}: a video with transparency ({kind}); render it on a background first")


def _size(frame: np.ndarray) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
