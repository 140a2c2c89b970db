"""Published weight files, pinned: `python launchers/weights.py list | import NAME ... [--archive FILE] | verify`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli
from imanim.weights import main

if __name__ == "__main__":
    cli.run(main)
