"""An ONNX network on the CPU, by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imanim.errors import InputError


class OnnxNetwork:
    """Runs an ONNX file with one image input. One thread: the job's workers are the parallelism.

    Attributes:
        shape: its input's shape, [N,3,height,width]; None where the file leaves a size open.

    Raises:
        InputError: no such file, no onnxruntime, not a network, or not one that takes pictures.
    """

    def __init__(self, path: str | Path):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; give the path of an .onnx file")
        try:
            import onnxruntime
        except ImportError:
            raise InputError("onnxruntime: not installed; run `pip install imanim[rtm]`") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes share no base below Exception
            raise InputError(f"{path}: not a readable ONNX network ({error}); get the file again") from None
        first: Any = self._session.get_inputs()[0]
        self.path, self._input = Path(path), first.name
        self.shape: list[int | None] = [s if isinstance(s, int) else None for s in first.shape]
        if len(self.shape) != 4 or self.shape[1] not in (3, None):
            raise InputError(
                f"{path}: its input is {first.shape}, not [N,3,height,width]; is it another kind of network?"
            )

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """float32 [H,W,3] in the network's range -> its outputs, in its own order."""
        planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
        return self._session.run(None, {self._input: planes})
