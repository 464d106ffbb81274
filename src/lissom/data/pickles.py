"""Pickles of plain data: numbers, text, containers and arrays of numbers.

A pickle is a program, and a hostile one runs what it likes. This reader knows the names that arrays
of numbers need and refuses every other. Not even those reach numpy: what stands in for them notes
the shape, type and bytes of an array, so that nothing of the file is run, and an array takes no
more memory than its bytes do in the file.
"""

import math
import pickle
import re
import reprlib
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, ClassVar, Never

import numpy as np
from numpy.typing import NDArray

from lissom.errors import DataError

# The published RML2016.10a takes some 640 MB as text, in protocol 0.
MAX_BYTES = 2**30

NUMBERS = re.compile(r"[<>=|]?(f[248]|[iu][1248]|b1)")
LATIN_1 = ("latin1", "latin-1", "iso-8859-1")


def read_pickle(path: Path) -> object:
    """What a pickle of plain data holds; its arrays are `PickledArray`s.

    Text of Python 2 is read as Latin-1, as numpy's arrays need it.

    Args:
        path: a file of protocol 0 … 4.

    Raises:
        DataError: it cannot be read, is larger than MAX_BYTES, is no pickle or is cut short, or
            it asks for anything but numbers, text, containers and arrays of numbers.
    """
    check_size(path)
    try:
        # A file would make room for what is announced, and a map of it only for what is there.
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return _Unpickler(content, encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    # A damaged pickle is a damaged program, which can fail in any way.
    except Exception as error:
        raise DataError(
            f"{path} is no pickle of plain data, or is truncated or damaged: "
            f"{path.stat().st_size:,} bytes ({type(error).__name__}: {error}); copy it again"
        ) from error


def check_size(path: Path) -> None:
    """Refuse a file that is empty or larger than MAX_BYTES.

    Raises:
        DataError: naming the size.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise DataError(f"{path} is empty, 0 bytes; copy it again")
    if size > MAX_BYTES:
        raise DataError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read")


class PickledArray:
    """An array as its pickle describes it: numpy's `ndarray` and `_reconstruct`."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self) -> NDArray[Any]:
        """The array itself, read-only.

        Raises:
            DataError: it holds other things than numbers, or not as many as its shape says.
        """
        try:
            _version, shape, dtype, by_columns, content = self.state
            shape, kind = tuple(map(int, shape)), dtype.numpy()
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"an array that is none ({type(error).__name__}: {error})") from error
        raw = content.encode("latin1") if isinstance(content, str) else content
        needed = math.prod(shape) * kind.itemsize
        if min(shape, default=0) < 0 or not isinstance(raw, bytes) or len(raw) != needed:
            found = f"{len(raw):,} bytes" if isinstance(raw, bytes) else f"a {type(raw).__name__}"
            raise DataError(
                f"an array of {kind} {list(shape)} takes {needed:,} bytes, found {found}"
            )
        return np.frombuffer(raw, kind).reshape(shape, order="F" if by_columns else "C")


class _DType:
    """numpy's `dtype`: of numbers, or of objects, which is refused when it is asked for."""

    def __init__(self, spec: object, *_: object) -> None:
        self.spec = spec
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        if not isinstance(self.spec, str) or not NUMBERS.fullmatch(self.spec):
            raise DataError(
                f"an array of type {reprlib.repr(self.spec)}; only numbers are read, such as 'f4' "
                "or 'i8'"
            )
        return np.dtype(self.spec).newbyteorder(self.order)


class _Stateless:
    """A function in a class: pickles can put attributes on whatever has no __setstate__."""

    def __setstate__(self, state: object) -> Never:
        raise TypeError("a function has no state")


class _Scalar(_Stateless):
    """numpy's `scalar`: a single number."""

    def __new__(cls, dtype: _DType, raw: str | bytes) -> Any:
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        [number] = np.frombuffer(content, dtype.numpy())
        return number.item()


class _Latin1(_Stateless):
    """`codecs.encode`, by which Python 3 writes bytes in protocols 0 … 2."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding not in LATIN_1:
            raise DataError(f"bytes encoded as {reprlib.repr(encoding)}; only 'latin1' is read")
        return text.encode("latin1")


KNOWN = {
    **{
        (f"numpy.{core}.multiarray", name): found
        for core in ("core", "_core")
        for name, found in (("_reconstruct", PickledArray), ("scalar", _Scalar))
    },
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Latin1,
}


# Objects by number, and what protocol 5 adds: a bytearray is filled with zeros as long as the file
# says before any of it is read.
REFUSED = (
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


def _refuse(_: object) -> Never:
    raise DataError(
        "this pickle uses copyreg's extensions or buffers of protocol 5, which are refused; "
        "write it with protocol 4 or lower"
    )


# pickle's own in Python: the one in C makes its memo as long as the largest index in the file.
class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        **{code[0]: _refuse for code in REFUSED},
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise DataError(
                f"this pickle asks for {module}.{name}, which is refused and was not run; a "
                "pickle of plain data needs nothing but numbers, text, containers and numpy's "
                "arrays of numbers"
            )
        return KNOWN[module, name]
