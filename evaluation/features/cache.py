"""Features kept by content: the same frames under the same network are run through it once.

A file is named by the sha256 of the extractor's key (network, weights, preprocessing) and the frames themselves, so nothing
in it can be out of date. It is a plain ``.npy`` (no pickle) with the sha256 of its bytes after it: readers of ``.npy`` do not
see it, and what a broken disk or an interrupted copy did to the file is found out. Nothing is ever removed:
:meth:`FeatureCache.size` says how much there is, and deleting files is always safe.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.metrics.base import Extractor
from imanim.data.files import write_atomic
from imanim.errors import InputError, from_os_error

_DIGEST_BYTES = 32


class FeatureCache:
    """Features in a folder that several processes may use at once, or in memory.

    Args:
        folder: made when first written to; None: in memory.
    """

    def __init__(self, folder: str | Path | None):
        self.folder = None if folder is None else Path(folder)
        self._memory: dict[str, np.ndarray] = {}

    def features(self, extractor: Extractor, frames: np.ndarray, *, name: str = "frames") -> np.ndarray:
        """What ``extractor`` makes of the frames, float32 [n,dim], not writable; it runs only if it is not here yet.

        Args:
            frames: uint8 [T,H,W,3].
            name: of the clip, for errors.

        Raises:
            InputError: other frames, features that are not finite, a folder that cannot be written.
        """
        return self._features(key_of(extractor, frames, name=name), extractor, frames, name)

    def ensure(self, extractor: Extractor, frames: np.ndarray, *, name: str = "frames") -> str:
        """As :meth:`features`, but gives the key, for :class:`CachedFeatures`."""
        key = key_of(extractor, frames, name=name)
        self._features(key, extractor, frames, name)
        return key

    def read(self, key: str) -> np.ndarray | None:
        """Features by key, float32 [n,dim], not writable; None when they are not here or (after a warning) damaged."""
        if self.folder is None:
            return self._memory.get(key)
        path = self.path_of(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise from_os_error(error, path) from None
        content = data[:-_DIGEST_BYTES]
        if hashlib.sha256(content).digest() != data[-_DIGEST_BYTES:]:
            warnings.warn(f"{path}: damaged features; they are made again", stacklevel=2)
            return None
        return _frozen(np.load(io.BytesIO(content), allow_pickle=False))

    def path_of(self, key: str) -> Path:
        """Where the features of that key lie (or would)."""
        if self.folder is None:
            raise ValueError("a cache in memory has no files")
        return self.folder / key[:2] / f"{key}.npy"

    def size(self) -> tuple[int, int]:
        """How many clips' features are here, and their bytes."""
        if self.folder is None:
            return len(self._memory), sum(f.nbytes for f in self._memory.values())
        sizes = [path.stat().st_size for path in self.folder.glob("??/*.npy")]
        return len(sizes), sum(sizes)

    def _features(self, key: str, extractor: Extractor, frames: np.ndarray, name: str) -> np.ndarray:
        found = self.read(key)
        if found is None:
            found = _frozen(_checked(extractor(frames), extractor, name))
            self._write(key, found)
        return found

    def _write(self, key: str, features: np.ndarray) -> None:
        if self.folder is None:
            self._memory[key] = features
            return
        stream = io.BytesIO()
        np.save(stream, features, allow_pickle=False)
        content = stream.getvalue()
        write_atomic(self.path_of(key), content + hashlib.sha256(content).digest())


class CachedFeatures:
    """A :class:`evaluation.metrics.base.FeatureSource` of features in a cache: each clip's are read when asked for.

    Args:
        keys: of the clips' features, from :meth:`FeatureCache.ensure`.
        units: the unit of each clip.
    """

    def __init__(self, cache: FeatureCache, keys: Sequence[str], units: Sequence[str]):
        if len(keys) != len(units):
            raise ValueError(f"{len(keys)} keys, {len(units)} units")
        self.cache, self.keys, self.units = cache, list(keys), list(units)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, i: int) -> np.ndarray:
        """float32 [n,dim] of clip i. Raises InputError when they have been removed or damaged since."""
        found = self.cache.read(self.keys[i])
        if found is None:
            raise InputError(
                f"features of clip {i} ({self.units[i]}): {self.keys[i][:12]} is no longer whole in "
                f"{self.cache.folder or 'memory'}; run the evaluation again"
            )
        return found


def key_of(extractor: Extractor, frames: np.ndarray, *, name: str = "frames") -> str:
    """Hexadecimal sha256 of the extractor's key, the frames' shape and their bytes. Raises InputError for other frames."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise InputError(f"{name}: frames are {frames.dtype} {list(frames.shape)}; give uint8 [T,H,W,3]")
    known = hashlib.sha256()
    # The lengths first: no two different pairs of key and shape give the same bytes.
    for part in (extractor.key.encode(), repr(frames.shape).encode()):
        known.update(len(part).to_bytes(8, "big") + part)
    known.update(np.ascontiguousarray(frames).data)
    return known.hexdigest()


def _checked(features: np.ndarray, extractor: Extractor, name: str) -> np.ndarray:
    if features.dtype != np.float32 or features.ndim != 2 or features.shape[1] != extractor.dim or not len(features):
        raise TypeError(
            f"{extractor.key}: gave {features.dtype} {list(features.shape)}, promised float32 [n,{extractor.dim}]"
        )
    if not np.isfinite(features).all():
        raise InputError(f"{name}: {extractor.key} gave features that are NaN or infinite; look at the video")
    return features


def _frozen(features: np.ndarray) -> np.ndarray:
    """A copy that cannot be written: what is held in memory is handed out more than once."""
    features = features.copy()
    features.setflags(write=False)
    return features
