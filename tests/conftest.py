"""Which tests stay together when `make test` runs in several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

CLUSTER = Path(__file__).parent / "cluster"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests share what its fixtures made; all tests of the Slurm cluster share the one cluster."""
    for item in items:
        group = CLUSTER if item.path.is_relative_to(CLUSTER) else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))
