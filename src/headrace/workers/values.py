"""Values between processes: anything a callable takes or gives, as bytes and arrays. Worker processes load this too.

Rule 1: arrays travel as memory, not as pickles: NumPy's own say which release made them, and two environments may have
        two.
Rule 2: what comes out of a worker is data. Reading it imports nothing and calls nothing but what PLAIN lists: a worker
        cannot have its owner run code, nor need what only the worker's environment has.
Rule 3: what goes into a worker is the owner's; the worker trusts it, as it would if it ran in the same process.
"""

from __future__ import annotations

import io
import pickle
import traceback
from typing import Any

import numpy as np

PLAIN = frozenset(
    (
        *(("builtins", name) for name in ("complex", "range", "slice", "set", "frozenset", "bytearray")),
        *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
        ("collections", "OrderedDict"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("uuid", "UUID"),
        ("uuid", "SafeUUID"),
    )
)
"""Beside None, numbers, text, bytes, lists, tuples, dicts, sets, arrays and exceptions."""


KINDS = {np.ndarray: "", np.memmap: "", np.matrix: "matrix", np.recarray: "recarray"}
"""Of arrays: what they are sent as. Others have something that would be lost in silence: a mask, a unit."""
_VIEWS = {"matrix": np.matrix, "recarray": np.recarray}
_COROUTINE = "it returned a coroutine: declare it with `async def`, so that what it returns is awaited"


class NotData(Exception):
    """A value cannot leave its process: it is of a kind that only that one knows, or would lose what it is."""


class Raised(Exception):
    """An exception as it left its process: its kind, what it said, and where it was raised."""

    def __init__(self, module: str, kind: str, text: str, trace: str) -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.module, self.kind, self.text, self.trace = module, kind, text, trace


def shown(error: BaseException) -> tuple[str, str, str, str]:
    """What `Raised` is made of."""
    try:
        text = str(error)
    except BaseException:  # a `__str__` of its own
        text = "(what it says cannot be shown)"
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:
        trace = ""
    kind = type(error)
    return kind.__module__ or "", kind.__name__, text[:10_000], trace[-30_000:]


def is_coroutine(value: Any) -> bool:
    """Whether it is one; it is closed then, as nobody will await it."""
    if type(value).__name__ != "coroutine":
        return False
    value.close()
    return True


def cannot_leave(error: BaseException, answer: Any) -> tuple[str, str, str, str]:
    """As `shown`, of what was raised when an answer was to be sent: that is no error of what the callable did."""
    _, kind, text, trace = shown(error)
    if isinstance(error, MemoryError):
        return "", kind, text, trace
    closed = [is_coroutine(each) for each in (answer if isinstance(answer, (list, tuple)) else (answer,))]
    if any(closed):
        text = _COROUTINE
    elif not isinstance(error, (NotData, ValueError)):
        text = f"{kind}: {text}"
    return "", "CannotLeave", text, trace


def cannot_arrive(error: BaseException) -> tuple[str, str, str, str]:
    """As `shown`, of what was raised when a request was read: that is no error of what the callable did."""
    _, kind, text, trace = shown(error)
    if isinstance(error, MemoryError):
        return "", kind, text, trace
    if isinstance(error, (AttributeError, ImportError)):
        text += "; what a request is made of has to be in a module that workers can import"
    return "", "CannotArrive", f"{kind}: {text}", trace


def array_of(index: int, dtype: Any, shape: tuple[int, ...], kind: str = "") -> Any:
    raise NotImplementedError("stands in a pickle; `_Unpickler` knows what it means")


def scalar_of(dtype: Any, data: bytes) -> Any:
    dtype = _dtype_of(dtype)
    return np.frombuffer(data, dtype)[0] if dtype.itemsize else np.zeros((), dtype)[()]


def objects_of(shape: tuple[int, ...], elements: list[Any]) -> Any:
    array = np.empty(len(elements), object)
    for i, element in enumerate(elements):
        array[i] = element
    return array.reshape(shape)


def raised_of(module: str, kind: str, text: str, trace: str) -> Raised:
    return Raised(module, kind, text, trace)


_OURS = {function.__name__: function for function in (scalar_of, objects_of, raised_of)}


def _dtype_of(described: Any) -> Any:
    """NotData for what may hold pointers."""
    dtype = np.dtype(described)
    if dtype.hasobject:
        raise NotData(f"an array of {dtype}")
    return dtype


def _described(dtype: Any) -> Any:
    """What `np.dtype` makes the same one of: of fields their places too, as there may be room between them."""
    if dtype.names is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    described = {
        "names": list(dtype.names),
        "formats": [_format(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "itemsize": dtype.itemsize,
    }
    if any(len(field) > 2 for field in fields):
        described["titles"] = [field[2] if len(field) > 2 else None for field in fields]
    return described


def _format(dtype: Any) -> Any:
    return _described(dtype) if dtype.subdtype is None else (_described(dtype.subdtype[0]), dtype.subdtype[1])


def _kind_of(array: Any) -> str:
    """NotData for what would lose something on its way."""
    if isinstance(array, np.ma.MaskedArray):
        raise NotData("a masked array would lose its mask: send x.filled(VALUE), or x.data and x.mask")
    kind = KINDS.get(type(array))
    if kind is None:
        name = f"{type(array).__module__}.{type(array).__qualname__}"
        raise NotData(f"a {name} would become a plain array: np.asarray(x) makes one of it")
    if array.dtype.hasobject and (kind or array.dtype.names):
        raise NotData(f"an array of {array.dtype} would lose its form: send its fields, or a list")
    return kind


class _Pickler(pickle.Pickler):
    arrays: list[Any]
    shows_errors: bool

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            kind = _kind_of(obj)
            if obj.dtype.hasobject:
                return objects_of, (obj.shape, obj.ravel().tolist())
            self.arrays.append(np.ascontiguousarray(obj).view(np.ndarray))
            about = len(self.arrays) - 1, _described(obj.dtype), obj.shape
            return array_of, ((*about, kind) if kind else about)
        if isinstance(obj, np.generic):
            return scalar_of, (_described(obj.dtype), obj.tobytes())
        if self.shows_errors and isinstance(obj, BaseException):
            return raised_of, shown(obj)
        if isinstance(obj, memoryview):
            return bytes, (bytes(obj),)
        return NotImplemented


class _Parts:
    """A file to a pickler: what it writes, in parts."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append


class Encoder:
    """Makes bytes of values, one after the other. Of one thread."""

    def __init__(self, shows_errors: bool = True) -> None:
        """`shows_errors`: of exceptions is sent what they say; else they are sent as they are pickled."""
        file = _Parts()
        self._parts = file.parts
        self._pickler = _Pickler(file, 5)
        self._pickler.shows_errors = shows_errors

    def encode(self, value: Any) -> tuple[bytes, list[Any]]:
        """The pickle, and the arrays it refers to: contiguous, and perhaps the very ones of the value.

        Raises whatever a value's own way of being pickled raises.
        """
        parts, pickler = self._parts, self._pickler
        arrays: list[Any] = []
        pickler.arrays = arrays
        try:
            pickler.dump(value)
            return (parts[0] if len(parts) == 1 else b"".join(parts)), arrays
        finally:
            parts.clear()
            pickler.clear_memo()
            pickler.arrays = []


class _Arrays:
    """Finds an array in the memory that came with its pickle. No part of the unpickler, whose memo keeps it."""

    __slots__ = ("_buffers", "_own")

    def __init__(self, buffers: Any, own: bool) -> None:
        self._buffers, self._own = buffers, own

    def __call__(self, index: int, dtype: Any, shape: tuple[int, ...], kind: str = "") -> Any:
        dtype = _dtype_of(dtype)
        if dtype.itemsize:
            array = self._buffers[index].view(dtype).reshape(shape)
            array = array.copy() if self._own else array
        else:
            array = np.zeros(shape, dtype)
        return array.view(_VIEWS[kind]) if kind else array


class _Unpickler(pickle.Unpickler):
    arrays: _Arrays
    trusting: bool

    def find_class(self, module: str, name: str) -> Any:
        if name == "array_of":
            return self.arrays
        if name in _OURS and module.endswith("values"):
            return _OURS[name]
        if self.trusting:
            return super().find_class(module, name)
        if name == "bytes" and module == "builtins":
            return bytes
        if (module, name) in PLAIN:
            return super().find_class(module, name)
        raise NotData(f"{module}.{name}")


_NO_ARRAYS = _Arrays((), False)


def decode(pickled: Any, buffers: Any, *, trusting: bool, own: bool) -> Any:
    """The value. `buffers`: the memory of each of its arrays, of bytes; with `own` they are copied.

    `trusting`: it comes from the owner. Else NotData for what is none; and whatever else a bad pickle raises.
    """
    unpickler = _Unpickler(io.BytesIO(pickled))
    unpickler.arrays, unpickler.trusting = _Arrays(buffers, own) if buffers else _NO_ARRAYS, trusting
    return unpickler.load()


class Reader:
    """Values without arrays, one after the other, out of one piece of bytes: answers of a worker."""

    def __init__(self, pickles: bytes) -> None:
        self._file, self._arrays = io.BytesIO(pickles), _Arrays((), True)

    def read(self) -> Any:
        unpickler = _Unpickler(self._file)  # one for each: what it remembers of the last one cannot be cleared
        unpickler.arrays, unpickler.trusting = self._arrays, False
        return unpickler.load()
