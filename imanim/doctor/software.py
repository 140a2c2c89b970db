"""Checks of what is installed: Python, packages, torch and its driver, GPUs, arithmetic, attention kernels, codecs."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from imanim.doctor.findings import Finding, Situation, first_line, problem, warning, well
from imanim.errors import InputError

NEEDED_EXTRAS = ("", "train")
"""Extras of setup.cfg that training needs; of the others only what is installed is compared."""
KERNELS = ("native", "_native_flash", "_native_efficient", "_native_cudnn", "flash", "_flash_3", "sage", "xformers")
"""Attention kernels worth naming, as ``denoiser.attention`` takes them. Those that fetch their code from the net are not tried."""
DRIVER = Path("/proc/driver/nvidia/version")
FREE = 0.9
"""A GPU with less than this fraction of its memory free is somebody else's too."""
_QUERY = ("index", "name", "memory.total", "memory.free", "compute_cap", "driver_version")
_MIB_PER_GB = 1e9 / 2**20


def check_packages(situation: Situation) -> Iterator[Finding]:
    """Python and every package that imanim's own metadata pins."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        ours = metadata.distribution("imanim")
    except metadata.PackageNotFoundError:
        yield problem("imanim is not installed here, so nothing says which versions it needs", "make setup")
        return
    python, wanted = platform.python_version(), ours.metadata["Requires-Python"] or ""
    if python not in SpecifierSet(wanted):
        yield problem(f"Python {python}, imanim needs {wanted}", "make setup PYTHON=python3.11")
    alike, extras = 0, ["", *(ours.metadata.get_all("Provides-Extra") or [])]
    for text in ours.requires or []:
        requirement = Requirement(text)
        extra = next((e for e in extras if not requirement.marker or requirement.marker.evaluate({"extra": e})), None)
        if extra is None:
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if extra in NEEDED_EXTRAS:
                yield problem(f"{requirement.name} is not installed", f'pip install "{_plain(requirement)}"')
            continue
        if version in requirement.specifier:
            alike += 1
        else:
            yield warning(
                f"{requirement.name} {version}, tested with {requirement.specifier}",
                f'pip install "{_plain(requirement)}"',
            )
    yield well(f"Python {python}, {alike} packages as tested")


def _plain(requirement: object) -> str:
    return str(requirement).partition(";")[0].strip()


def check_torch(situation: Situation) -> Iterator[Finding]:
    """Torch's build against the driver that is there."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    text, driver = f"torch {torch.__version__} ({build})", DRIVER.is_file() or shutil.which("nvidia-smi") is not None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    why = f": {first_line(said[0].message)}" if said and isinstance(said[0].message, Warning) else ""
    if available:
        yield well(f"{text}, {torch.cuda.device_count()} GPUs to be used")
    elif driver and build == "CPU":
        yield problem(
            f"{text}, but this machine has an NVIDIA driver: its GPUs would not be used",
            "install torch's CUDA build: make setup TORCH_INDEX=... (see the Makefile)",
        )
    elif situation.env.get("CUDA_VISIBLE_DEVICES") == "":
        yield well(f"{text}, GPUs hidden by CUDA_VISIBLE_DEVICES: everything runs on the CPU")
    elif driver:
        yield problem(
            f"{text} sees no GPU, though an NVIDIA driver is there{why}",
            "update the driver or install torch for its CUDA version; in a container start it with its GPUs (--gpus all)",
        )
    elif build != "CPU":
        yield warning(
            f"{text}, but no GPU is to be seen{why}", "on a GPU machine: install its driver, ask Slurm for GPUs"
        )
    else:
        yield well(f"{text}, no GPU: everything runs on the CPU")


def check_gpus(situation: Situation) -> Iterator[Finding]:
    """Each visible GPU: name, memory, compute capability, driver; whether there are as many as ranks."""
    if shutil.which("nvidia-smi") is None:
        yield well("none (no nvidia-smi)")
        return
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    visible = situation.env.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        yield well("none to be used (CUDA_VISIBLE_DEVICES is empty)")
        return
    if visible is not None:
        command.append(f"--id={visible}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=situation.limit_sec, check=False)
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.strip().splitlines()]
    if done.returncode or not rows or any(len(row) != len(_QUERY) for row in rows):
        said = (done.stdout + done.stderr).strip().splitlines()
        yield problem(
            f"nvidia-smi does not answer ({said[0] if said else 'no message'})", "mend the driver; reboot if need be"
        )
        return
    for index, name, total, free, capability, driver in rows:
        text = f"{index}: {name}, {_gb(free)} of {_gb(total)} GB free, capability {capability}, driver {driver}"
        if float(free) < FREE * float(total):
            yield warning(text, "another process holds the rest: see nvidia-smi and end it")
        else:
            yield well(text)
    if len({row[1] for row in rows}) > 1:
        yield warning("the GPUs differ", "every rank waits for the slowest; choose equal ones (CUDA_VISIBLE_DEVICES)")
    if situation.place.local_world_size > len(rows):
        yield problem(
            f"{situation.place.local_world_size} ranks on this machine, but {len(rows)} GPUs",
            "start one rank a GPU (--num_gpus, --nproc_per_node, --ntasks-per-node)",
        )


def _gb(mib: str) -> str:
    return f"{float(mib) / _MIB_PER_GB:.1f}"


def check_arithmetic(situation: Situation) -> Iterator[Finding]:
    """A product of matrices in float32 and in bfloat16: right, and how fast."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 4096 if device.type == "cuda" else 384
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    rows, speed = slice(64), {}
    exact = a[rows].cpu().double() @ b.cpu().double()
    for dtype, allowed in ((torch.float32, 1e-2), (torch.bfloat16, 5e-2)):
        name = str(dtype).removeprefix("torch.")
        x, y = a.to(dtype), b.to(dtype)
        off = float(((x @ y)[rows].cpu().double() - exact).abs().max() / exact.abs().max())
        if not off < allowed:
            yield problem(
                f"{name} on {device.type}: a product is off by {off:.1%}", "this device computes wrongly; use another"
            )
        speed[name] = 2 * size**3 / _seconds(x, y) / 1e12
    text = ", ".join(f"{name} {tflops:.2g} TFLOP/s" for name, tflops in speed.items())
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        yield warning(f"{text}; this GPU has no bfloat16", "deepspeed.precision=fp32")
    elif speed["bfloat16"] < speed["float32"]:
        yield well(f"{device.type}: {text}; bfloat16 is the slower one here, keep deepspeed.precision=fp32")
    else:
        yield well(f"{device.type}: {text}")


def _seconds(x: object, y: object, times: int = 5) -> float:
    """The fastest of a few products."""
    import torch

    assert isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)
    found = []
    for _ in range(times):
        started = time.perf_counter()
        z = x @ y
        z[0, 0].item()  # waits for the device
        found.append(time.perf_counter() - started)
    return min(found)


def check_attention(situation: Situation) -> Iterator[Finding]:
    """Which attention kernels run here, in training or in inference alone."""
    import torch

    from imanim.models import wan

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tiny = wan.InletTransformer((1, 2, 2), 1, 64, 4, 4, text_dim=8, freq_dim=8, ffn_dim=8, num_layers=1)
    trains, infers, native = [], [], ""
    for name in KERNELS:
        try:
            wan.choose_attention(tiny, name)
            wan.check_attention(name, device, dtype, False)
            infers.append(name)
            wan.check_attention(name, device, dtype, True)
            trains.append(name)
        except InputError as error:
            native = native or (str(error) if name == "native" else "")
    if native:
        yield problem(native, "reinstall torch and diffusers as pinned: make setup")
        return
    only = [name for name in infers if name not in trains]
    text = f"{device.type}, {str(dtype).removeprefix('torch.')}: {', '.join(trains)}"
    yield well(text + (f"; for inference alone: {', '.join(only)}" if only else ""))


def check_codecs(situation: Situation) -> Iterator[Finding]:
    """H.264 written and read back."""
    import av
    import numpy as np

    from imanim.data.video import read_video, write_video

    # A moving edge: what comes back must be these frames, in this order.
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    for t in range(len(frames)):
        frames[t, :, : 8 * (t + 1)] = 200
    try:
        back = read_video(write_video(None, frames, 12.0), name="the clip just written").frames
    except (InputError, ValueError) as error:
        yield problem(
            f"PyAV {av.__version__} does not write H.264 ({first_line(error)})",
            'pip install --force-reinstall "av==18.0.0"',
        )
        return
    off = float(np.abs(back.astype(int) - frames).mean()) if back.shape == frames.shape else 255.0
    if off > 8:
        yield problem(
            f"H.264 comes back changed (mean difference {off:.0f} of 255)", "reinstall av as pinned: make setup"
        )
    else:
        yield well(f"PyAV {av.__version__} writes and reads H.264 (TMPDIR {os.environ.get('TMPDIR', '/tmp')})")
