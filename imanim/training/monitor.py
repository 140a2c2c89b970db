"""What a run tells while it trains: a progress line, TensorBoard, ``metrics.jsonl`` and pictures. The first rank writes."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import imanim
from imanim import distributed
from imanim.config import to_yaml
from imanim.data.shards import Shape
from imanim.data.video import write_png, write_video
from imanim.models.config import AnimatorConfig
from imanim.revision import revision
from imanim.training import utilisation
from imanim.training.config import TrainConfig
from imanim.training.pictures import as_gif

if TYPE_CHECKING:
    from imanim.training.validation import Sheet

METRICS = "metrics.jsonl"
PICTURES = "pictures"


class Monitor:
    """Collects what the steps report and writes it every ``log_every`` steps.

    All ranks call all methods at the same steps: means over ranks are collectives.
    """

    def __init__(self, cfg: TrainConfig, sizes: AnimatorConfig, device: torch.device, start_step: int):
        self.cfg, self.device, self.sizes = cfg, device, sizes
        peak = utilisation.peak_tflops(cfg, device)
        # Operations a sample costs, over those all GPUs can do in a second: seconds a sample takes at full use.
        self._ideal_sec = (
            None
            if peak is None or cfg.data.buckets  # traced for one shape
            else utilisation.model_flops(cfg, sizes) / (peak * 1e12 * distributed.place().world_size)
        )
        self.output, self.first = Path(cfg.output), distributed.place().is_first
        self._sums: dict[str, Tensor] = {}
        self._count, self._wait_sec = 0, 0.0
        self._frames = self._tokens = 0
        self._since, self._since_step = time.monotonic(), start_step
        self.latest: dict[str, float] = {}
        self._board = None
        if self.first:
            _forget_after(self.output / METRICS, start_step)
            if cfg.monitor.tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.output / "tensorboard"), purge_step=start_step + 1)
                self._board.add_text("config", f"```yaml\n{to_yaml(cfg)}\n```", start_step)
                self._board.add_text(
                    "code", f"imanim {imanim.__version__}, commit {revision() or 'unknown'}", start_step
                )

    def record(self, total: Tensor, terms: Mapping[str, Tensor], wait_sec: float, shape: Shape) -> None:
        """Takes in one micro-batch's losses, the seconds its data was waited for, and the shape of its videos.

        Does not synchronise with the device.
        """
        for name, value in {"loss": total, **terms}.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self._frames += shape[0]
        self._tokens += utilisation.tokens(self.cfg.stage, self.sizes, shape)
        self._wait_sec += wait_sec

    def log(
        self, done: int, rates: Mapping[str, float], grad_norms: Mapping[str, float], counts: Mapping[str, int]
    ) -> None:
        """Writes the means since the last call.

        Args:
            done: optimizer steps done.
            grad_norms: this step's: ``all``, and any part's.
            counts: of what has gone wrong so far.
        """
        means = {name: float(value) / max(self._count, 1) for name, value in self._sums.items()}
        steps, seconds = max(1, done - self._since_step), max(1e-9, time.monotonic() - self._since)
        means["data_wait_sec_per_step"] = self._wait_sec / steps
        means = distributed.mean_over_ranks(means, self.device)
        wait = means.pop("data_wait_sec_per_step")
        samples = steps * self.cfg.batch.global_size / seconds
        speed = {
            "samples_per_sec": samples,
            "frames_per_sec": samples * self._frames / max(self._count, 1),
            "tokens_per_sec": samples * self._tokens / max(self._count, 1),
            **({} if self._ideal_sec is None else {"model_flop_utilisation": samples * self._ideal_sec}),
            "sec_per_step": seconds / steps,
            "data_wait_sec_per_step": wait,
            "memory_peak_bytes": float(_peak_memory_bytes(self.device)),
        }
        self.latest = means
        norm = grad_norms["all"]
        if self.first:
            norms = {"grad_norm": norm if math.isfinite(norm) else None, "grad_norms": _but_all(grad_norms)}
            self._write({"step": done, **means, **norms, **counts, **speed, "lr": dict(rates)})
            groups = {"train": means, "engine": counts, "grad_norm": grad_norms, "speed": speed, "lr": rates}
            self._scalars(
                {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}, done
            )
            self._say(done, means, rates, speed)
        self._sums, self._count, self._wait_sec = {}, 0, 0.0
        self._frames = self._tokens = 0
        self._since, self._since_step = time.monotonic(), done

    def validation(self, done: int, means: Mapping[str, float]) -> None:
        """Writes a validation's means over its batches and ranks."""
        if self.first:
            self._write({"step": done, "validation": dict(means)})
            self._scalars({f"validation/{name}": value for name, value in means.items()}, done)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
            print(f"step {done}/{self.cfg.max_steps}  validation: {shown}", flush=True)

    def pictures(self, done: int, sheets: list[Sheet]) -> None:
        """Writes filmstrips (PNG) and clips (MP4), and both to TensorBoard."""
        if not self.first:
            return
        for i, sheet in enumerate(sheets):
            path = self.output / PICTURES / f"step-{done:06d}-{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, sheet.strip)
            write_video(path.with_suffix(".mp4"), sheet.clip, self.sizes.fps)
            if self._board is not None:
                self._board.add_image(f"filmstrip/{i}", sheet.strip, done, dataformats="HWC")
                board: Any = self._board.file_writer
                board.add_summary(_animated(f"clip/{i}", sheet.clip, self.sizes.fps), done)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes out of the throughput what is no training: validation, pictures, checkpoints."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def say(self, line: str) -> None:
        """One line to the user."""
        if self.first:
            print(line, flush=True)

    def close(self) -> None:
        """Flushes TensorBoard."""
        if self._board is not None:
            self._board.close()

    def _say(
        self, done: int, means: Mapping[str, float], rates: Mapping[str, float], speed: Mapping[str, float]
    ) -> None:
        left_sec = (self.cfg.max_steps - done) * speed["sec_per_step"]
        terms = "  ".join(f"{name} {value:.4g}" for name, value in means.items() if name != "loss")
        lr = max(rates.values(), default=0.0)
        print(
            f"step {done}/{self.cfg.max_steps}  loss {means.get('loss', math.nan):.4f}  {terms}  lr {lr:.2e}  "
            f"{speed['samples_per_sec']:.1f} samples/s  {_duration(left_sec)} left",
            flush=True,
        )

    def _write(self, row: Mapping[str, Any]) -> None:
        with open(self.output / METRICS, "a") as stream:
            stream.write(json.dumps(row) + "\n")

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def _but_all(norms: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in norms.items() if name != "all"}


def _animated(tag: str, clip: np.ndarray, fps: float) -> Any:
    """TensorBoard shows a GIF as it is; its own add_video asks for another package."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width = clip.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=as_gif(clip, fps))
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def read_metrics(output: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``; a last line cut short by a crash is left out."""
    path, rows = Path(output) / METRICS, []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _forget_after(path: Path, step: int) -> None:
    """Drops rows of steps that a resumed run will do again."""
    if path.is_file():
        kept = [row for row in read_metrics(path.parent) if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
