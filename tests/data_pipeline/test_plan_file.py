"""Which task works on which files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.jobs.plan_file import PlannedFile, parse_task, read, share
from imanim.errors import InputError

FILES = st.lists(st.integers(0, 10**9), max_size=60).map(
    lambda sizes: [PlannedFile(f"v{i}", s) for i, s in enumerate(sizes)]
)


@given(FILES, st.integers(1, 9))
def test_every_file_is_in_exactly_one_task(files, tasks):
    parts = [share(files, i + 1, tasks) for i in range(tasks)]
    assert sorted(f.name for part in parts for f in part) == sorted(f.name for f in files)


@given(FILES, st.integers(1, 9), st.randoms())
def test_the_order_of_the_plan_does_not_matter(files, tasks, random):
    shuffled = random.sample(files, len(files))
    assert share(files, 1, tasks) == share(shuffled, 1, tasks)


@given(FILES, st.integers(1, 9))
def test_no_task_has_more_than_its_share_and_one_file(files, tasks):
    loads = [sum(f.bytes + 4096 for f in share(files, i + 1, tasks)) for i in range(tasks)]
    largest = max((f.bytes + 4096 for f in files), default=0)
    assert max(loads) <= sum(loads) / tasks + largest


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4", "1/"])
def test_other_tasks_are_refused(text):
    with pytest.raises(InputError, match="--task"):
        parse_task(text)


def test_a_folder_without_a_plan_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="imanim preprocess plan"):
        read(tmp_path)
