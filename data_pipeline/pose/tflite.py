"""A TFLite network on the CPU, by ai-edge-litert."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imanim.errors import InputError


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The runtime writes to the file descriptor itself: nothing less than pointing that elsewhere silences it."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class TfliteNetwork:
    """Runs a TFLite file with one image input. One thread: the job's workers are the parallelism."""

    def __init__(self, path: str | Path):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise InputError("ai-edge-litert: not installed; run `pip install imanim[data]`") from None
        try:
            with _silence():  # it says on stderr, once a process, which delegate it made
                self._interpreter = Interpreter(str(path), num_threads=1)
                self._interpreter.allocate_tensors()
        except ValueError as error:
            raise InputError(f"{path}: not a readable TFLite network ({error}); fetch it again") from None
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """float32 [H,W,3] in the network's range -> its outputs, in its own order."""
        self._interpreter.set_tensor(self._input, np.asarray(image, np.float32)[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]
