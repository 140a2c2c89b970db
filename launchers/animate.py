"""Animates a character: `python launchers/animate.py --character IMAGE --driving VIDEO --model RUN --output MP4`."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli
from imanim.errors import InputError, from_os_error

if TYPE_CHECKING:
    import numpy as np

    from imanim.inference.frames import FrameStore
    from imanim.inference.pipeline import AnimationPipeline

DESCRIPTION = """Makes a character perform the motion of a driving video.

  python launchers/animate.py --character me.png --driving dance.mp4 --output me_dancing.mp4
  python launchers/animate.py --character me.png --driving dance.mp4 --model runs/stage3 --output me_dancing.mp4

Image and video may have any size: both are fitted onto the model's canvas with their aspect kept; the output has the image's
aspect. The video may have any length from 5 frames: longer than the model's clip goes window by window in constant memory.
Every driving frame gives one output frame, at the driver's frame rate; a rate far from the model's own is better resampled
(--fps)."""

FAR_FPS = 1.5
"""A driver whose rate differs from the model's by more than this factor is worth a remark."""


def main(argv: list[str]) -> int:
    args = cli.parse(_parser(), argv)
    _check_numbers(args)
    started = time.monotonic()
    _check_output(args.output, args.overwrite)
    if args.filmstrip is not None:
        _check_output(args.filmstrip, True)

    from imanim.data.video import probe_video
    from imanim.inference import find_model

    character, notes = _read_character(args.character, args.background)
    info = probe_video(args.driving)
    model = find_model(args.model)
    for note in notes:
        print(note)
    if args.dry_run:
        what = f"{character.shape[1]}x{character.shape[0]} character, {info.width}x{info.height} driver at {info.fps:g} frames/s"
        print(f"would write {args.output} with {model}: {what}, {args.steps or 'default'} steps, seed {args.seed}")
        return 0
    frames = _animate(args, character, model)
    print(
        f"{args.output}: {frames} frames in {time.monotonic() - started:.1f} s; peak memory {_peak_memory(args.device)}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(DESCRIPTION, config=False)
    p.add_argument("--character", required=True, metavar="IMAGE", help="who: any image with the person in it")
    p.add_argument("--driving", required=True, metavar="VIDEO", help="whose motion: at least 5 frames")
    p.add_argument("--output", required=True, metavar="MP4", help="the video to write")
    p.add_argument("--model", metavar="DIR", help="training run or model folder (default: the packaged tiny model)")
    p.add_argument("--low-noise", metavar="DIR", help="the low-noise half, when the model was trained in two (A14B)")
    p.add_argument("--base", metavar="DIR", help="Wan pipeline folder, where it is not where training had it")
    p.add_argument(
        "--attention", metavar="NAME", help="attention kernel: native, flash, sage, ... (default: as trained)"
    )
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights in memory")
    p.add_argument("--seed", type=int, default=0, help="of the noise; the same seed gives the same video (default 0)")
    p.add_argument("--steps", type=int, help="sampling steps a window (default: what suits the model's weights)")
    p.add_argument("--background", metavar="COLOR", help="what shows through a transparent image: white, #80ff00, ...")
    p.add_argument(
        "--fps", type=float, help="resample the motion to this many frames a second (default: as the driver)"
    )
    p.add_argument("--max-frames", type=int, help="stop after this many output frames")
    p.add_argument("--overlap", type=int, default=5, help="frames that neighbouring windows share (default 5)")
    p.add_argument("--faces", metavar="NPY", help="float [T,4] face boxes x0,y0,x1,y1 in [0,1] of the driving frame")
    p.add_argument("--filmstrip", metavar="PNG", help="also write driver and result as a strip of frames")
    p.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    p.add_argument("--threads", type=int, default=1, help="CPU threads (default 1: a small model is slower with more)")
    p.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    p.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    return p


def _check_numbers(args: argparse.Namespace) -> None:
    for name, value, low in (
        ("--steps", args.steps, 1),
        ("--max-frames", args.max_frames, 5),
        ("--overlap", args.overlap, 0),
        ("--threads", args.threads, 1),
    ):
        if value is not None and value < low:
            raise InputError(f"{name} {value}: must be at least {low}")
    if args.fps is not None and not args.fps > 0:
        raise InputError(f"--fps {args.fps}: must be above 0")


def _check_output(path: str, overwrite: bool) -> None:
    """Refuses before the work what could not be written after it."""
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target}: is a folder; give the file to write")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: already exists; choose another --output or add --overwrite")
    if target.parent.exists() and not target.parent.is_dir():
        raise InputError(f"{target}: {target.parent} is a file, not a folder; choose another path")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise from_os_error(error, target) from None


def _read_character(path: str, background: str | None) -> tuple[np.ndarray, list[str]]:
    """The image uint8 [H,W,3] upright, and what is worth saying about it."""
    from imanim.data.video import exif_rotated, read_image

    image = read_image(path, background=background)
    height, width = image.shape[:2]
    turned = f"{path}: turned upright by its EXIF orientation, now {width}x{height}"
    return image, [turned] if exif_rotated(path) else []


def _animate(args: argparse.Namespace, character: np.ndarray, model: Path) -> int:
    """Writes the video (and filmstrip); returns the number of frames."""
    import torch

    from imanim.data.video import write_video
    from imanim.inference.faces import load_faces
    from imanim.inference.frames import FrameStore, load_driving
    from imanim.inference.pipeline import AnimationPipeline

    pipeline = AnimationPipeline.from_pretrained(
        model, low_noise=args.low_noise, base=args.base, attention=args.attention, dtype=getattr(torch, args.dtype)
    ).to(_device(args))
    driving, fps, where = load_driving(args.driving, pipeline.canvas_size, fps=args.fps, max_frames=args.max_frames)
    with driving:
        _say_what_is_done(args, pipeline, len(driving), fps)
        faces = None if args.faces is None else where.boxes(load_faces(args.faces, len(driving)))
        out: FrameStore | None = None
        options = {"faces": faces, "steps": args.steps, "seed": args.seed, "overlap_frames": args.overlap}
        for frame in pipeline.stream(character, driving, **options):
            out = out or FrameStore(*frame.shape[:2])
            out.append(frame)
        assert out is not None
        with out:
            # A FrameStore has what write_video asks of an array and keeps a long video out of memory.
            write_video(args.output, out, fps)  # type: ignore[arg-type]
            if args.filmstrip is not None:
                _write_filmstrip(args.filmstrip, character, driving, out)
            return len(out)


def _say_what_is_done(args: argparse.Namespace, pipeline: AnimationPipeline, frames: int, fps: float) -> None:
    model_fps = pipeline.animator.config.fps
    print(f"{args.driving}: {frames} frames at {fps:g} frames/s")
    if not 1 / FAR_FPS <= fps / model_fps <= FAR_FPS:
        print(
            f"the model was trained at {model_fps:g} frames/s: to it this motion is slow or fast; --fps {model_fps:g} resamples"
        )
    if args.faces is None and pipeline.animator.motion_decoder is None:
        raise InputError("this model has no motion decoder to find faces with; give the boxes with --faces FILE.npy")


def _write_filmstrip(path: str, character: np.ndarray, driving: FrameStore, out: FrameStore) -> None:
    from imanim.data.video import write_png
    from imanim.inference.filmstrip import filmstrip, pick

    shown = pick(len(out), 8)
    rows = [("driver", [driving[i : i + 1][0] for i in shown]), ("result", [out[i : i + 1][0] for i in shown])]
    write_png(path, filmstrip(rows, lead=("character", character)))


def _device(args: argparse.Namespace) -> str:
    import torch

    # Two threads on two cores took 8 s for a clip of the tiny model that one thread makes in 1.7 s: its matrices are too small.
    torch.set_num_threads(args.threads)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {args.device}: no CUDA device is visible here; use --device cpu")
    try:
        torch.device(args.device)
    except RuntimeError:
        raise InputError(f"--device {args.device}: unknown; use cpu, cuda or auto") from None
    return args.device


def _peak_memory(device: str) -> str:
    """Peak resident memory of this process, and of the GPU when one worked."""
    # Linux counts in KiB, macOS in bytes.
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    text = f"{peak_bytes / 1e6:.0f} MB"
    if device.startswith("cuda"):
        import torch

        text += f", GPU {torch.cuda.max_memory_allocated() / 1e6:.0f} MB"
    return text


if __name__ == "__main__":
    cli.run(main)
