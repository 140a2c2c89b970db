"""What is installed and what the machine has: each kind of finding, with the condition faked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from imanim.distributed import Place
from imanim.doctor import OK, PROBLEM, WARNING, Finding, Situation, machine, settings, software


def only(found: Iterable[Finding]) -> Finding:
    """The one finding of a check."""
    (one,) = found
    return one


# ----------------------------------------------------------------------------------------------------------- software


class FakeDistribution:
    metadata = metadata.metadata("imanim")

    def __init__(self, *requires: str):
        self.requires = list(requires)


def test_packages_of_other_versions_are_warnings_and_missing_ones_problems(monkeypatch: pytest.MonkeyPatch):
    ours = FakeDistribution(
        "numpy>=2.1,<3",
        "av==1.0",
        'deepspeed==0.1; extra == "train"',
        'no-such-thing==1; extra == "train"',
        'no-such-tool==1; extra == "dev"',
    )
    real = metadata.distribution
    monkeypatch.setattr(metadata, "distribution", lambda name: ours if name == "imanim" else real(name))
    found = list(software.check_packages(Situation()))
    assert [f.level for f in found] == [WARNING, WARNING, PROBLEM, OK]
    assert (
        found[0].found == f"av {metadata.version('av')}, tested with ==1.0"
        and 'pip install "av==1.0"' in found[0].remedy
    )
    assert "deepspeed" in found[1].found and "no-such-thing is not installed" in found[2].found
    assert "1 packages as tested" in found[3].found


def test_the_versions_here_are_those_of_setup_cfg():
    """Fails where the environment has drifted from setup.cfg: that is what the check is for."""
    assert [f.found for f in software.check_packages(Situation()) if f.level == PROBLEM] == []


def test_a_cpu_build_on_a_machine_with_a_driver_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import torch

    if torch.version.cuda:
        pytest.skip("torch is a CUDA build here")
    (tmp_path / "version").write_text("NVRM")
    monkeypatch.setattr(software, "DRIVER", tmp_path / "version")
    assert "CPU), but this machine has an NVIDIA driver" in only(software.check_torch(Situation(env={}))).found
    monkeypatch.setattr(software, "DRIVER", tmp_path / "none")
    assert only(software.check_torch(Situation(env={}))).level == OK


def test_a_cuda_build_that_sees_no_gpu_says_what_torch_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import warnings

    import torch

    def refuse() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    (tmp_path / "version").write_text("NVRM")
    monkeypatch.setattr(software, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", refuse)
    found = only(software.check_torch(Situation(env={})))
    assert found.level == PROBLEM and "driver on your system is too old" in found.found
    assert only(software.check_torch(Situation(env={"CUDA_VISIBLE_DEVICES": ""}))).level == OK


GPUS = """\
0, NVIDIA H100 80GB HBM3, 81559, 81000, 9.0, 580.95.05
1, NVIDIA A100-SXM4-80GB, 81920, 40960, 8.0, 580.95.05
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    def put(said: str, code: int) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\ncat <<'E'\n{said}E\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


def test_gpus_are_listed_and_unequal_busy_or_too_few_ones_are_named(
    nvidia_smi: Callable[[str, int], None], tmp_path: Path
):
    nvidia_smi(GPUS, 0)
    found = list(software.check_gpus(Situation(env={"CUDA_VISIBLE_DEVICES": "0,1"}, place=Place(local_world_size=4))))
    assert [f.level for f in found] == [OK, WARNING, WARNING, PROBLEM]
    assert found[0].found == "0: NVIDIA H100 80GB HBM3, 84.9 of 85.5 GB free, capability 9.0, driver 580.95.05"
    assert "another process" in found[1].remedy and "differ" in found[2].found and "4 ranks" in found[3].found
    assert "--id=0,1" in (tmp_path / "asked").read_text()


def test_a_driver_that_does_not_answer_is_a_problem(nvidia_smi: Callable[[str, int], None]):
    nvidia_smi("Failed to initialize NVML: Driver/library version mismatch\n", 18)
    found = only(software.check_gpus(Situation(env={})))
    assert found.level == PROBLEM and "version mismatch" in found.found


def test_arithmetic_that_is_wrong_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    import torch

    right = torch.Tensor.__matmul__
    wrong = lambda a, b: right(a, b) * (1.5 if a.dtype == torch.bfloat16 else 1)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong)
    found = list(software.check_arithmetic(Situation()))
    assert found[0].level == PROBLEM and re.match(r"bfloat16 on .*off by (49|50|51)\.", found[0].found)


def test_attention_kernels_that_run_are_named_and_without_native_there_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    from imanim.errors import InputError
    from imanim.models import wan

    def only_inference(name: str, device: object, dtype: object, training: bool) -> None:
        if training and name != "native":
            raise InputError("no gradient; use native")

    assert "native" in only(software.check_attention(Situation())).found
    monkeypatch.setattr(wan, "check_attention", only_inference)
    found = only(software.check_attention(Situation())).found
    assert found.endswith("float32: native; for inference alone: _native_flash, _native_efficient, _native_cudnn")

    def broken(*_: object) -> None:
        raise InputError("denoiser.attention: native: does not do training; use another")

    monkeypatch.setattr(wan, "check_attention", broken)
    assert only(software.check_attention(Situation())).level == PROBLEM


def test_a_build_of_av_without_h264_or_one_that_spoils_frames_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    from imanim.data import video
    from imanim.errors import InputError

    whole = video.write_video
    monkeypatch.setattr(video, "write_video", lambda path, frames, fps: whole(path, frames[::-1].copy(), fps))
    assert "comes back changed" in only(software.check_codecs(Situation())).found

    def absent(*_: object) -> bytes:
        raise InputError("Unknown encoder 'libx264'")

    monkeypatch.setattr(video, "write_video", absent)
    found = only(software.check_codecs(Situation()))
    assert found.level == PROBLEM and "libx264" in found.found


# ------------------------------------------------------------------------------------------------------------ machine


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GB whose files under proc/ and cgroup/ a test may write."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 62500000 kB\nMemAvailable: 60000000 kB\n")
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    return tmp_path


def version_2(computer: Path, **files: str) -> None:
    """A job's group two levels down; the one above has the limits."""
    (computer / "proc" / "self" / "cgroup").write_text("0::/slurm/job_1/step_0\n")
    (computer / "cgroup" / "slurm" / "job_1" / "step_0").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (computer / "cgroup" / "slurm" / "job_1" / name.replace("_", ".")).write_text(text)


def test_memory_is_what_the_machine_or_its_tightest_group_leaves(computer: Path):
    assert only(machine.check_memory(Situation())).found == "61.4 GB of 64.0 GB free for 1 rank"
    version_2(computer, memory_max="3000000000\n", memory_current="2500000000\n")
    one = only(machine.check_memory(Situation(place=Place(local_world_size=4))))
    assert one.level == WARNING and one.found.startswith("500.0 MB of 3.0 GB free for 4 ranks (the limit of this")
    version_2(computer, memory_max="max\n")
    assert only(machine.check_memory(Situation())).level == OK


def test_limits_of_the_first_version_of_cgroups_are_read_too(computer: Path):
    (computer / "proc" / "self" / "cgroup").write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n")
    # As inside a container: the path is the host's, the files are at the root.
    memory, cpu = computer / "cgroup" / "memory", computer / "cgroup" / "cpu,cpuacct"
    memory.mkdir(), cpu.mkdir()
    (memory / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine.available_bytes()[1] == 64_000_000_000 and machine.cpu_quota() is None
    (memory / "memory.limit_in_bytes").write_text("8000000000\n")
    (cpu / "cpu.cfs_quota_us").write_text("150000\n")
    (cpu / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.available_bytes() == (8_000_000_000, 8_000_000_000) and machine.cpu_quota() == 1.5


def test_more_threads_than_cores_are_named_with_the_number_that_fits(computer: Path):
    four = Place(local_world_size=4)
    found = only(machine.check_cores(Situation(place=four, env={"OMP_NUM_THREADS": "16"})))
    assert found.level == WARNING and found.remedy == "OMP_NUM_THREADS=4"
    assert only(machine.check_cores(Situation(place=four, env={"OMP_NUM_THREADS": "4"}))).level == OK
    assert only(machine.check_cores(Situation(place=four, env={}))).level == OK
    assert only(machine.check_cores(Situation(env={"OMP_NUM_THREADS": "many"}))).level == WARNING
    assert only(machine.check_cores(Situation(place=Place(local_world_size=32), env={}))).level == WARNING
    version_2(computer, cpu_max="400000 100000\n")
    found = only(machine.check_cores(Situation(env={})))
    assert found.level == WARNING and found.remedy == "OMP_NUM_THREADS=4" and "a quota; 16" in found.found


SCONTROL = """\
#!/bin/sh
case "$1" in
  show) echo "JobId=7 JobName=x Requeue={requeue} Restarts=0 TimeLimit=01:00:00" ;;
  write) echo "{script}" ;;
esac
"""


@pytest.mark.parametrize(
    ("requeue", "script", "env", "said"),
    [
        ("1", "#SBATCH --signal=USR1@600", {}, []),
        ("0", "#SBATCH --signal=USR1@600", {}, ["not to be requeued"]),
        ("1", "#SBATCH --requeue", {}, ["no signal before the time limit (01:00:00)"]),
        ("1", "#SBATCH --requeue", {"SBATCH_SIGNAL": "USR1@600"}, []),
        ("1", "", {"SLURM_NTASKS": "2"}, ["2 tasks on n1, but 1 of them"]),
        ("1", "", {"SLURM_GPUS_ON_NODE": "8"}, ["1 ranks, but 8 GPUs on this node"]),
    ],
)
def test_a_job_that_would_not_come_back_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requeue: str, script: str, env: dict[str, str], said: list[str]
):
    (tmp_path / "scontrol").write_text(SCONTROL.format(requeue=requeue, script=script))
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "n1", **env}
    *warned, last = machine.check_slurm(Situation(env=job))
    assert [f.level for f in warned] == [WARNING] * len(said) and last.level == OK
    for finding, words in zip(warned, said):
        assert words in finding.found


def test_a_slurm_that_does_not_answer_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "does not answer" in only(machine.check_slurm(Situation(env={"SLURM_JOB_ID": "7"}))).found
    assert only(machine.check_slurm(Situation(env={}))).found == "not in a Slurm job"


@pytest.mark.parametrize(
    ("gpu", "needed", "level"), [(False, "at least 160.0 GB", PROBLEM), (True, "at least 20.0 GB", OK)]
)
def test_weights_count_once_a_machine_with_gpus_and_once_a_rank_without(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, needed: str, level: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(settings, "available_bytes", lambda: (100 * 10**9, 100 * 10**9))
    found = settings._memory(Situation(place=Place(local_world_size=8)), 5 * 10**9)
    assert found.level == level and needed in found.found
