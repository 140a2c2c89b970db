"""Jobs that depend on each other: done once, resumed, failing alone, shared between processes, stopped by a signal."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from evaluation.ablation.jobs import Job, Runner


def job(key: str, code: str, *parents: str, accepted: tuple[int, ...] = (0,)) -> Job:
    """A job that runs Python code in the root."""
    return Job(key, key, (sys.executable, "-S", "-c", code), parents, accepted=accepted)


def append(word: str) -> str:
    return f"open('told', 'a').write('{word} ')"


def told(root: Path) -> list[str]:
    return (root / "told").read_text().split()


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "jobs", tmp_path, lambda line: None)


def test_what_is_done_is_not_done_again_and_what_failed_is(runner: Runner, tmp_path: Path):
    broken = "import os, sys; sys.exit(0 if os.path.exists('mended') else 3)"
    jobs = [job("a", append("a")), job("b", broken, "a"), job("c", append("c"), "b")]
    assert runner.run(jobs, 1) == {"a": "done", "b": "failed", "c": "skipped"}
    assert runner.record("b")["code"] == 3 and runner.record("c") == {}
    (tmp_path / "mended").touch()
    assert runner.run(jobs, 1) == dict.fromkeys("abc", "done")
    assert told(tmp_path) == ["a", "c"]


def test_one_failure_does_not_stop_those_that_need_nothing_of_it(runner: Runner, tmp_path: Path):
    lines: list[str] = []
    runner.say = lines.append
    failing = job("x1", "import sys; print('no such weights'); sys.exit(2)")
    jobs = [failing, job("x2", append("x2"), "x1"), job("y1", append("y1")), job("y2", append("y2"), "y1")]
    states = runner.run(jobs, 2)
    assert states == {"x1": "failed", "x2": "skipped", "y1": "done", "y2": "done"}
    assert told(tmp_path) == ["y1", "y2"]
    assert any("exit code 2" in line and "no such weights" in line for line in lines)


def test_earlier_jobs_go_first_so_that_one_arm_is_ready_before_the_next_begins(runner: Runner, tmp_path: Path):
    jobs = [job("a1", append("a1")), job("a2", append("a2"), "a1"), job("b1", append("b1"))]
    runner.run(jobs, 1)
    assert told(tmp_path) == ["a1", "a2", "b1"]


def test_other_exit_codes_may_count_as_done(runner: Runner):
    assert runner.run([job("a", "import sys; sys.exit(1)", accepted=(0, 1))], 1) == {"a": "done"}


def test_an_exit_code_is_not_enough_where_something_is_made(runner: Runner, tmp_path: Path):
    made = tmp_path / "result"
    command = (sys.executable, "-S", "-c", "import sys; sys.exit(1)")
    assert runner.run([Job("a", "a", command, accepted=(0, 1), made=made)], 1) == {"a": "failed"}
    again = Job("a", "a", (*command[:3], f"open({str(made)!r}, 'w'); {append('a')}"), made=made)
    assert runner.run([again], 1) == runner.run([again], 1) == {"a": "done"}
    made.unlink()  # whoever deletes a result gets it made again
    assert runner.run([again], 1) == {"a": "done"}
    assert told(tmp_path) == ["a", "a"]


def test_the_cost_is_the_processors_time_not_the_clocks(runner: Runner):
    runner.run([job("sleeps", "import time; time.sleep(0.5)"), job("works", "for i in range(3_000_000): pass")], 1)
    sleeps, works = runner.record("sleeps"), runner.record("works")
    assert sleeps["seconds"] > 0.5 > sleeps["cpu_sec"]
    assert works["cpu_sec"] > 0.02


def _work(folder: Path) -> None:
    jobs = [job(f"j{i}", f"import time; time.sleep(0.05); {append(f'j{i}')}") for i in range(4)]
    states = Runner(folder / "jobs", folder, lambda line: None).run(jobs, 2)
    assert set(states.values()) == {"done"}


def test_two_of_us_on_one_folder_do_everything_once(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(told(tmp_path)) == ["j0", "j1", "j2", "j3"]


def test_while_another_holds_a_job_the_others_are_done(runner: Runner, tmp_path: Path):
    runner.folder.mkdir()
    with open(runner.folder / "first.lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def let_go() -> None:
            until = time.monotonic() + 30
            while not (tmp_path / "told").exists() and time.monotonic() < until:
                time.sleep(0.02)
            fcntl.flock(held, fcntl.LOCK_UN)

        thread = threading.Thread(target=let_go)
        thread.start()
        states = runner.run([job("first", append("first")), job("second", append("second"))], 1)
        thread.join()
    assert states == {"first": "done", "second": "done"} and told(tmp_path) == ["second", "first"]


def _work_alone(folder: Path, code: str) -> None:
    Runner(folder / "jobs", folder, lambda line: None).run([job("one", code)], 1)


def test_a_child_that_outlives_us_is_waited_for(tmp_path: Path):
    slow = "import os, time; first = not os.path.exists('begun'); open('begun', 'w').close(); time.sleep(0.6 * first); "
    process = multiprocessing.get_context("fork").Process(target=_work_alone, args=(tmp_path, slow + append("ended")))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (tmp_path / "told").exists()
    _work_alone(tmp_path, append("again"))
    assert told(tmp_path) == ["ended", "again"]


def test_a_signal_is_handed_on_and_the_same_jobs_go_on_later(runner: Runner, tmp_path: Path):
    resumable = (
        "import os, signal, sys, time\n"
        "if os.path.exists('half'): sys.exit(0)\n"
        "def stop(*_): open('half', 'w').close(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "open('ready', 'w').close()\n"
        "time.sleep(60)"
    )
    jobs = [job("long", resumable), job("next", append("next"), "long")]

    def interrupt() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert runner.run(jobs, 1) == {"long": "stopped", "next": "stopped"}
    thread.join()
    assert runner.stopping and runner.record("long")["code"] == 75
    again = Runner(tmp_path / "jobs", tmp_path, lambda line: None)
    assert again.run(jobs, 1) == {"long": "done", "next": "done"}
