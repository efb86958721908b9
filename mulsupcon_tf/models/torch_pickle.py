"""Reads the tensors of a PyTorch weight file without PyTorch, and without running what the file says.

Such a file is a pickle, and a pickle may call any function of Python. This reader knows four names, for which it has
functions of its own, and refuses every other. It reads the layout that `torch.save` wrote before version 1.6: three
short pickles (a magic number, the version of the layout, facts of the machine), a pickle of an ordered dictionary of
tensors, a pickle of the keys of their storages, and the storages as length and bytes.
"""

import dataclasses
import io
import math
import pathlib
import pickle
import struct
from typing import Any

import numpy as np

from mulsupcon_tf.utils.errors import InputError, in_brief

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_LAYOUT = 1001
_DTYPES: dict[str, np.dtype] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclasses.dataclass
class _Storage:
    """Numbers of one kind; they stand at the end of the file, after the tensors that look at them."""

    dtype: np.dtype
    length: int
    values: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))


@dataclasses.dataclass
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The tensor as an array of its own.

        Raises:
            ValueError: it looks beyond its storage, or at a number more than once.
        """
        values = self.storage.values
        if min(self.shape + self.strides + (self.offset,), default=0) < 0 or len(self.shape) != len(self.strides):
            raise ValueError(f"shape {self.shape}, strides {self.strides}")
        size = math.prod(self.shape)
        last = self.offset + sum((length - 1) * step for length, step in zip(self.shape, self.strides, strict=True))
        if size > len(values) or (size and last >= len(values)):
            raise ValueError(f"a tensor of shape {self.shape} beyond its storage")
        steps = [step * values.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps).copy()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    integers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(number) is int for number in integers):
        raise pickle.UnpicklingError("a tensor that is none")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Dictionary(dict):
    """Stands for an ordered dictionary; attributes, which a pickle may set, are passed over."""

    def __setstate__(self, state: Any) -> None:
        """Passes the attributes over."""


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    **{("torch", name): name for name in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_KNOWN` and storages."""

    def __init__(self, file: io.BytesIO, limit: int):
        super().__init__(file)
        self.limit = limit
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What the file calls by this name; called by `pickle`."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not known")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor looks at; called by `pickle`."""
        if not (isinstance(pid, tuple) and len(pid) == 6 and pid[0] == "storage" and pid[1] in _DTYPES):
            raise pickle.UnpicklingError("a reference that is no storage")
        _, kind, key, _, length, _ = pid
        dtype = _DTYPES[kind]
        if type(length) is not int or type(key) is not str or not 0 <= length * dtype.itemsize <= self.limit:
            raise pickle.UnpicklingError("a storage that is larger than the file")
        return self.storages.setdefault(key, _Storage(dtype, length))


def read_torch_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a weight file, by name.

    Args:
        path: a file that `torch.save` wrote of a dictionary of tensors, float32 or int64, before version 1.6.

    Returns:
        An array for each name, as it stands in the file.

    Raises:
        InputError: the file cannot be read, is damaged, or holds or calls anything else.
    """
    try:
        content = path.read_bytes()
        file = io.BytesIO(content)
        if (_plain(file, content), _plain(file, content)) != (_MAGIC_NUMBER, _LAYOUT):
            raise ValueError("not the layout of PyTorch before 1.6")
        _plain(file, content)  # facts of the machine that wrote it
        unpickler = _Unpickler(file, len(content))
        tensors = unpickler.load()
        if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
            raise ValueError("not a dictionary of tensors")
        for key in _plain(file, content):
            storage = unpickler.storages[key]
            (length,) = struct.unpack("<q", file.read(8))
            data = file.read(storage.length * storage.dtype.itemsize)
            if length != storage.length or len(data) != length * storage.dtype.itemsize:
                raise ValueError("a storage that is cut off")
            storage.values = np.frombuffer(data, storage.dtype)
        return {str(name): tensor.array() for name, tensor in tensors.items()}
    except Exception as error:  # a hostile pickle may raise anything
        raise InputError(
            f"a weight file of PyTorch must hold a dictionary of tensors and nothing else. "
            f"Received: {path} ({type(error).__name__}: {in_brief(error)})"
        ) from error


def _plain(file: io.BytesIO, content: bytes) -> Any:
    """A pickle of numbers, texts and containers."""
    return _Unpickler(file, len(content)).load()
