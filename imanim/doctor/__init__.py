"""Is this machine ready to train? Small checks that say what they found and what to do about it (docs/training.md)."""

from __future__ import annotations

from imanim.doctor.examine import CHECKS, examine
from imanim.doctor.findings import OK, PROBLEM, WARNING, Finding, Situation

__all__ = ["CHECKS", "OK", "PROBLEM", "WARNING", "Finding", "Situation", "examine"]
