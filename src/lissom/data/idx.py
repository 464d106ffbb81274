"""IDX, the format of MNIST's files: read a file, gzip'ed or not, and see it as an array.

    bytes 0–1  zero
    byte 2     type of a number; 0x08 is an unsigned byte, the only one MNIST uses
    byte 3     number of dims, d
    then       d sizes, each a big-endian uint32, and the numbers, last dim fastest

Source: the format's description on the MNIST page of LeCun, Cortes & Burges.
"""

import gzip
import math
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lissom.data.files import read
from lissom.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 2**28  # five times the largest file of MNIST


def read_unpacked(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzip'ed, whatever its name ends in.

    Raises:
        DataError: the file cannot be read, or its gzip stream is cut short or damaged.
    """
    content = read(path)
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        with gzip.open(BytesIO(content)) as packed:
            unpacked: bytes = packed.read(MAX_BYTES + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} is a damaged or truncated gzip file of {len(content)} bytes ({error}); "
            "copy or download it again"
        ) from error
    if len(unpacked) > MAX_BYTES:
        raise DataError(
            f"{path} unpacks to more than {MAX_BYTES:,} bytes, which are all that is read"
        )
    return unpacked


def decode(content: bytes, path: Path, dims: int) -> NDArray[np.uint8]:
    """The array that an IDX file of unsigned bytes holds; a read-only view, nothing is copied.

    Args:
        content: the whole file, unpacked.
        path: where it came from, for messages.
        dims: the number of dims the caller can use; 3 for images [n, h, w], 1 for labels [n].

    Raises:
        DataError: not IDX, not unsigned bytes, another number of dims, or another length than the
            header announces.
    """
    magic, expected = content[:4], bytes([0, 0, 8, dims])
    if magic != expected:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes with {dims} dim{'s' * (dims > 1)}: "
            f"it must start with 0x{expected.hex()}, found 0x{magic.hex()}"
        )
    start = 4 + 4 * dims
    if len(content) < start:
        raise DataError(
            f"{path} is truncated: an IDX header with {dims} dim{'s' * (dims > 1)} takes {start} "
            f"bytes, found {len(content)}"
        )
    shape = [int(size) for size in np.frombuffer(content, dtype=">u4", count=dims, offset=4)]
    announced = start + math.prod(shape)
    if len(content) != announced:
        raise DataError(
            f"{path} announces an array of shape {shape}, {announced} bytes with its header, "
            f"but found {len(content)} bytes; copy or download it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
