"""Tensors out of pickles that other people made, without running anything that the pickle names.

Three layouts are read, because the published archives hold them: nested dictionaries of numpy arrays (Flax checkpoints),
TorchScript archives and PyTorch state dictionaries. A pickle may name exactly the constructors that its layout needs; they are
stood in for by classes of this file, which accept numbers only. Any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from imanim.errors import InputError

Tensors = dict[str, np.ndarray]
UnpicklingError = pickle.UnpicklingError
"""What a refused pickle raises: torch.load(weights_only=True) too."""
_CODES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


def numpy_pickle(data: bytes, name: str) -> Tensors:
    """Nested dictionaries of arrays to {``outer.inner``: array}. Raises InputError when it holds anything else."""
    allowed = {
        ("numpy.core.multiarray", "_reconstruct"): _array,
        ("numpy._core.multiarray", "_reconstruct"): _array,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _Kind,
    }
    tree = _load(data, name, lambda module, what: allowed.get((module, what)))
    out: Tensors = {}
    _flatten(tree, "", out, name)
    return out


def torchscript(data: bytes, name: str) -> Tensors:
    """A TorchScript archive's parameters and buffers, {``outer.inner``: array}; its code is not looked at.

    Raises:
        InputError: not such an archive, or one with anything but modules, tensors and plain values in it.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        (main,) = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
    except (zipfile.BadZipFile, ValueError):
        raise InputError(f"{name}: not a TorchScript archive; get it again") from None
    folder = main.partition("/")[0]

    def storage(what: Any) -> np.ndarray:
        _, kind, key, _, _ = what
        return np.frombuffer(archive.read(f"{folder}/data/{key}"), kind)

    kinds = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}

    def find(module: str, what: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _strided,
            ("torch.jit._pickle", "build_intlist"): list,
            ("collections", "OrderedDict"): OrderedDict,
        }
        return kinds.get(what) if module == "torch" else known.get((module, what))

    tree = _load(archive.read(main), name, find, storage)
    out: Tensors = {}
    _flatten(tree, "", out, name, plain_values_too=True)
    return out


def state_dict(data: bytes, name: str) -> Tensors:
    """A PyTorch state dictionary, {name: array}. Raises InputError when it holds anything but tensors."""
    import torch

    try:
        tree = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{name}: not readable as a state dictionary ({error}); get it again") from None
    return {str(key): value.numpy() for key, value in tree.items()}


class _Kind:
    """Stands for numpy.dtype: a code of :data:`_CODES`, little-endian."""

    def __init__(self, code: str, *_: Any):
        if code not in _CODES:
            raise pickle.UnpicklingError(f"arrays of {code}")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|", "="):
            raise pickle.UnpicklingError(f"byte order {state[1]}")


class _Array:
    """Stands for numpy.ndarray until its state comes."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Kind) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array without plain bytes")
        self.value = np.frombuffer(data, f"<{kind.code}").reshape(shape, order="F" if fortran else "C")


def _array(*_: Any) -> _Array:
    return _Array()


class _Module:
    """Stands for a TorchScript module: its attributes."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


def _strided(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    last = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if offset < 0 or min((*size, *stride, 0)) < 0 or (0 not in size and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor outside its storage")
    bytes_of = storage.itemsize
    return np.lib.stride_tricks.as_strided(storage[offset:], size, [s * bytes_of for s in stride]).copy()


def _load(data: bytes, name: str, find: Callable[[str, str], Any], storage: Callable[[Any], Any] | None = None) -> Any:
    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, what: str) -> Any:
            found = find(module, what)
            if found is None:
                raise pickle.UnpicklingError(f"it names {module}.{what}")
            return found

        def persistent_load(self, pid: Any) -> Any:
            if storage is None:
                raise pickle.UnpicklingError("it refers to data outside itself")
            return storage(pid)

    try:
        return Restricted(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(f"{name}: refused, a pickle with more than tensors in it ({error}); get it again") from None


def _flatten(tree: Any, at: str, out: Tensors, name: str, *, plain_values_too: bool = False) -> None:
    tree = tree.state if isinstance(tree, _Module) else tree
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            _flatten(value, f"{at}.{key}" if at else str(key), out, name, plain_values_too=plain_values_too)
    elif isinstance(tree, (_Array, np.ndarray)):
        out[at] = tree.value if isinstance(tree, _Array) else tree
    elif not plain_values_too:
        raise InputError(f"{name}: {at} is a {type(tree).__name__}, not an array; get it again")
