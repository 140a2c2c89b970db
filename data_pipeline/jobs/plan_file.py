"""The plan of a job: which files there are, and which task works on which. Every task reads the same one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import VideosConfig
from data_pipeline.sources import find_files
from data_pipeline.video.artefacts import WORK
from imanim.data.files import read_json, write_json
from imanim.errors import InputError, from_os_error

PLAN = "plan.json"


@dataclass(frozen=True)
class PlannedFile:
    """``name``: the path inside the input folder."""

    name: str
    bytes: int


def look(config: VideosConfig) -> list[PlannedFile]:
    """The files of the input folder, by name. Raises InputError when there are none."""
    try:
        return [
            PlannedFile(str(path.relative_to(config.input)), path.stat().st_size)
            for path in find_files(config.input, config.extensions)
        ]
    except OSError as error:
        raise from_os_error(error, config.input) from None


def write(output: Path, files: list[PlannedFile]) -> None:
    """Keeps the plan. Raises InputError when the system refuses."""
    write_json(output / WORK / PLAN, {"files": [{"name": f.name, "bytes": f.bytes} for f in files]})


def read(output: Path) -> list[PlannedFile]:
    """The plan. Raises InputError when there is none."""
    path = output / WORK / PLAN
    if not path.is_file():
        raise InputError(f"output: {output} has no plan; run `imanim preprocess plan` with the same settings first")
    return [PlannedFile(f["name"], f["bytes"]) for f in read_json(path)["files"]]


def share(files: list[PlannedFile], task: int, tasks: int) -> list[PlannedFile]:
    """The files of task ``task`` (from 1) of ``tasks``, the largest first.

    Each file goes to the task that has the fewest bytes so far, the largest first: no task is left with the long tail. A pure
    function of the plan, so tasks need not talk to each other.
    """
    if not 1 <= task <= tasks:
        raise InputError(f"--task {task}/{tasks}: tasks count from 1 to {tasks}")
    loads = [0] * tasks
    mine = []
    for file in sorted(files, key=lambda f: (-f.bytes, f.name)):
        least = min(range(tasks), key=lambda t: (loads[t], t))
        # An empty file costs something too: else all of them would go to one task.
        loads[least] += file.bytes + 4096
        if least == task - 1:
            mine.append(file)
    return mine


def parse_task(text: str) -> tuple[int, int]:
    """``3/16`` -> (3, 16). Raises InputError for anything else."""
    task, slash, tasks = text.partition("/")
    if not slash or not task.isdigit() or not tasks.isdigit() or not 1 <= int(task) <= int(tasks):
        raise InputError(f"--task {text}: give I/N, I from 1 to N, e.g. --task 3/16")
    return int(task), int(tasks)
