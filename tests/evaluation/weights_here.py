"""Tests that need published weights are skipped where these are not imported, and say why."""

import pytest

from imanim import weights
from imanim.errors import InputError


def need(*names: str) -> None:
    """Goes on only where all of these weights are here."""
    try:
        weights.require_all(names)
    except InputError as error:
        pytest.skip(str(error))
