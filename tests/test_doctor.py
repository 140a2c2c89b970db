"""The doctor as a user calls it, how it runs its checks, and the links between ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "training"))

import toy  # noqa: E402

from imanim import distributed  # noqa: E402
from imanim.distributed import Place  # noqa: E402
from imanim.doctor import CHECKS, OK, PROBLEM, WARNING, Finding, Situation, examine, findings, links  # noqa: E402
from imanim.errors import InputError  # noqa: E402


def launch(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "launchers/doctor.py", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        capture_output=True,
        text=True,
        timeout=1200,
    )


def only(found: Iterable[Finding]) -> Finding:
    """The one finding of a check."""
    (one,) = found
    return one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("doctor")
    toy.write_model(path)
    toy.write_shards(path / "shards")
    return path


# ------------------------------------------------------------------------------------------------------ the whole way


def test_a_machine_that_is_ready_gets_a_line_a_check_and_exit_code_0(folder: Path, tmp_path: Path):
    words = ["--config", "configs/stage1.yaml", f"data={folder / 'shards'}", f"model={folder / 'toy.yaml'}"]
    done = launch(*words, f"output={tmp_path / 'run'}", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("links", *CHECKS):
        assert f" {name} " in done.stdout
    assert "2 ranks on 1 machine over gloo: all-reduce" in done.stdout and "problem" not in done.stdout
    assert "12 samples, a step of 1 ranks x 1 x 8" in done.stdout
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["verdict"] in (OK, WARNING) and len(written["findings"]) >= len(CHECKS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["found.json"], "the doctor leaves nothing behind"


def test_what_training_would_refuse_is_a_problem_and_exit_code_1_over_two_ranks_said_once(folder: Path, tmp_path: Path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["--config", "configs/stage1.yaml", f"data={folder / 'shards'}", f"model={folder / 'toy.yaml'}"]
    done = subprocess.run(
        [*command, "launchers/doctor.py", *words, f"output={tmp_path}", "batch.global_size=3", "monitor.keep=0"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 1
    said = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line for line in said if line.startswith("problem")] == [
        "problem  configuration  configs/stage1.yaml: monitor.keep: 0 must be at least 1"
    ]
    assert len(said) == len(set(said)) and sum(" links " in line for line in said) == 3, done.stdout
    assert ("2 ranks on 1 machine" in done.stdout and "2 cores for 2 ranks" in done.stdout) or os.cpu_count() != 2


def test_a_rank_that_never_comes_is_named_within_the_limit():
    started = time.monotonic()
    env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(distributed.free_port())}
    done = launch("--time-limit", "2", **env)
    assert done.returncode == 1 and "stage ranks" in done.stdout and "no word from rank 1 in 2 s" in done.stdout
    assert "attention" in done.stdout, "the other checks are still made"
    assert time.monotonic() - started < 60


def test_settings_without_a_configuration_are_refused_and_a_dry_run_names_the_checks():
    done = launch("optimizer.lr=1")
    assert done.returncode == 2 and done.stderr.startswith("error: optimizer.lr=1: without --config only data=FOLDER")
    assert launch("--time-limit", "0").returncode == 2
    dry = launch("--dry-run")
    assert dry.returncode == 0 and all(name in dry.stdout for name in CHECKS)


# ------------------------------------------------------------------------------------------------- how checks are run


def test_a_check_that_crashes_or_hangs_is_its_own_problem_and_stops_no_other(monkeypatch: pytest.MonkeyPatch):
    def crash(situation: Situation) -> Iterator[Finding]:
        yield findings.well("so far so good")
        raise ZeroDivisionError("by nothing")

    forever = threading.Event()

    def hang(situation: Situation) -> Iterator[Finding]:
        forever.wait()
        yield findings.well("never")

    module = sys.modules["imanim.doctor.examine"]
    monkeypatch.setattr(module, "CHECKS", {"a": crash, "b": hang, "c": lambda s: [findings.well("fine")]})
    monkeypatch.setattr(module, "GRACE_SEC", 0.0)
    monkeypatch.setattr(links, "start", lambda situation: [])
    found = {}
    for f in examine(Situation(limit_sec=0.3)):
        found.setdefault(f.check, []).append((f.level, f.found))
    forever.set()
    assert found["a"] == [(OK, "so far so good"), (PROBLEM, "the check itself failed (ZeroDivisionError: by nothing)")]
    assert found["b"] == [(PROBLEM, "not finished after 0 s")]
    assert found["c"] == [(OK, "fine")]


def test_what_all_machines_found_is_said_once_and_what_one_found_names_it():
    alike = [Finding("disk", OK, "large", where=host) for host in ("n1", "n2")]
    apart = [Finding("shm", OK, "large", where="n1"), Finding("shm", PROBLEM, "tiny", "more", where="n2")]
    text = findings.lines(alike + apart)
    assert text == [
        "ok       disk           large",
        "ok       shm            large [n1]",
        "problem  shm            tiny [n2]",
        "                        -> more",
    ]
    assert findings.worst(alike) == OK and findings.worst(apart) == PROBLEM


# -------------------------------------------------------------------------------------------------------------- links


def one_of_two(limit_sec: float, rank: int, port: int) -> links.Link:
    """One rank of two; the other is the test's to play."""
    world = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return links.Link({**world, **address, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}, limit_sec)


def test_a_peer_that_arrives_and_then_hangs_is_a_firewall_to_look_for():
    import torch

    port = distributed.free_port()
    link = one_of_two(4.0, 0, port)
    minute = timedelta(seconds=60)
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, False, timeout=minute, wait_for_workers=False)
    torch.distributed.PrefixStore("imanim-doctor", store).set("facts/1", json.dumps({"host": "silent"}))
    started = time.monotonic()
    link.run()
    found = only(links.report([link], Situation()))
    link.close()
    assert time.monotonic() - started < 60
    assert found.level == PROBLEM and "stage group" in found.found and "GLOO_SOCKET_IFNAME" in found.remedy


def test_an_address_that_cannot_be_reached_is_named():
    link = one_of_two(2.0, 1, distributed.free_port())
    link.run()
    found = only(links.report([link], Situation()))
    link.close()
    assert found.level == PROBLEM and "stage address" in found.found and "MASTER_ADDR must be" in found.remedy


def test_ranks_without_an_address_are_told_what_to_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(InputError, match="MASTER_ADDR not set for 2 ranks; the first node's name"):
        links.start(Situation(place=Place(0, 2, 0, 1)))


def answered(**changed: object) -> links.Link:
    """A link with an answer of two ranks; ``changed`` is laid over the second rank's facts, or over the answer."""
    fact = {"host": "n1", "versions": {"torch": "2.13.0", "NCCL": "2.28"}, "revision": "a" * 40, "device": "H100"}
    other = {**fact, "host": "n2", **{k: v for k, v in changed.items() if k in fact}}
    speed = {"right": True, "gb_per_sec": 100.0}
    answer = {
        "backend": "nccl",
        "all-reduce": speed,
        "broadcast": speed,
        "clocks_sec": [0.0, 0.001],
        "facts": [fact, other],
    }
    link = object.__new__(links.Link)
    link.answer = {
        **answer,
        **{k.replace("_", "-") if k == "all_reduce" else k: v for k, v in changed.items() if k not in fact},
    }
    return link


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({}, OK, "2 ranks on 2 machines over nccl: all-reduce 1e+02 GB/s"),
        ({"all_reduce": {"right": False, "gb_per_sec": 9.0}}, PROBLEM, "all-reduce gives wrong numbers"),
        ({"all_reduce": {"right": True, "gb_per_sec": 0.1}}, WARNING, "all-reduce 0.1 GB/s"),
        (
            {"versions": {"torch": "2.12.0", "NCCL": "2.28"}},
            PROBLEM,
            "torch differs: 2.13.0 (rank 0 on n1), 2.12.0 (rank 1 on n2)",
        ),
        ({"revision": "b" * 40}, PROBLEM, "git revision differs"),
        ({"device": "A100"}, WARNING, "device differs: H100 (rank 0 on n1), A100 (rank 1 on n2)"),
        ({"clocks_sec": [0.0, -301.0]}, WARNING, "clocks are 301.0 s apart (n2)"),
    ],
)
def test_what_ranks_do_not_have_in_common_is_named(changed: dict[str, object], level: str, said: str):
    found = list(links.report([answered(**changed)], Situation()))
    assert findings.worst(found) == level
    assert any(said in f.found and f.level == level for f in found), found
