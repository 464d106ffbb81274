"""Small integers as a string of bits."""

import numpy as np
import torch
from torch import Tensor

PIECE = 2**20  # integers at a time, a multiple of 8, so that each piece fills its last byte


def pack(numbers: Tensor, bits: int) -> Tensor:
    """The lowest `bits` bits of each number, highest first, one after another.

    Args:
        numbers: integers or truth values of any shape, 0 ≤ number < 2^bits.
        bits: 0 for numbers that are all 0.

    Returns:
        Bytes [⌈n·bits/8⌉] on the CPU; the last one is filled up with zeros.
    """
    shifts = np.arange(bits)[::-1]
    pieces = [np.empty(0, dtype=np.uint8)]
    for piece in numbers.flatten().split(PIECE):
        wide = piece.cpu().numpy().astype(np.int64)[:, None]
        pieces.append(np.packbits((wide >> shifts & 1).astype(np.uint8)))
    return torch.from_numpy(np.concatenate(pieces))


def unpack(packed: Tensor, bits: int, n: int, dtype: torch.dtype) -> Tensor:
    """The n numbers that `pack` packed, as a vector.

    Raises:
        ValueError: if these are not the bytes of n numbers.
    """
    if packed.dtype != torch.uint8 or packed.shape != (-(-n * bits // 8),):
        raise ValueError(
            f"{n} numbers of {bits} bits take {-(-n * bits // 8)} bytes, "
            f"got {list(packed.shape)} of {packed.dtype}"
        )
    found = torch.zeros(n, dtype=dtype)
    values = 1 << np.arange(bits, dtype=np.int64)[::-1]
    for i, piece in enumerate(packed.split(PIECE // 8 * bits)) if bits else ():
        count = min(PIECE, n - i * PIECE)
        ones = np.unpackbits(piece.numpy(), count=count * bits).reshape(count, bits)
        found[i * PIECE : i * PIECE + count] = torch.from_numpy(ones @ values)
    return found
