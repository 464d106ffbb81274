"""Files of radio vectors: the pickle of RML2016.10a, and npz files with the runs of vectors.

pickle  {(modulation, SNR in dB): float32 [n, 2, 128]}, written by Python 2
npz     X float16 [N, 2, 128], y [N] in 0 … 10, snr [N] in dB, run [N], classes [11], and where
        examples/modrec made it, made_with: JSON of its options
"""

import json
import reprlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from lissom.data.pickles import MAX_BYTES, PickledArray, check_size, read_pickle
from lissom.data.signals import cells
from lissom.errors import DataError

CLASSES = tuple("8PSK AM-DSB AM-SSB BPSK CPFSK GFSK PAM4 QAM16 QAM64 QPSK WBFM".split())
SAMPLES = 128
EACH = 1000  # vectors of a class at an SNR, in both data sets
CHANGES = {  # options of examples/modrec
    ("am_ssb", "true"): "true AM-SSB",
    ("snr_is", "true"): "true SNR",
    ("channel_seed", 0x1337): "the channel of RML2016.10a",
}

PUBLISHED_SNRS = range(-20, 20, 2)
LIKE_SNRS = range(-4, 20, 2)


@dataclass(frozen=True, eq=False)
class Vectors:
    """What a file holds, checked.

    Attributes:
        name: "rml2016.10a", "rml2016.10a-layout", "rml2016-like" or "rml2016-like-part", and
            what differs from RML2016-like.
        path: of the file.
        x: [N, 2, 128] of some float type, I and Q.
        y: int64 [N], places in CLASSES.
        snr: int64 [N], labels in dB.
        run: int64 [N], or None if the file does not say.
        true_snr: whether labels are ratios of signal to noise, and not about half of them.

    Raises:
        DataError: a vector holds NaN or infinity.
    """

    name: str
    path: Path
    x: NDArray[Any]
    y: NDArray[np.int64]
    snr: NDArray[np.int64]
    run: NDArray[np.int64] | None
    true_snr: bool = False

    def __post_init__(self) -> None:
        not_finite = ~np.isfinite(self.x).all((1, 2))
        if not_finite.any():
            first = int(not_finite.argmax())
            raise DataError(
                f"{self.path} has {int(not_finite.sum()):,} vectors with NaN or infinite samples, "
                f"the first of them {CLASSES[self.y[first]]} at {self.snr[first]} dB; copy it again"
            )


def read_vectors(path: Path) -> Vectors:
    """The vectors of a file, whose content and not whose name says which layout it has.

    Raises:
        DataError: it cannot be read, is damaged or of another layout, or asks to run something.
    """
    check_size(path)
    try:
        with path.open("rb") as opened:
            start = opened.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(b"PK"):
        return read_npz(path)
    if start[:1] in (b"(", b"}", b"\x80"):  # a dict, or a number of a protocol
        return _from_pickle(path)
    raise DataError(
        f"{path} is neither an npz file nor a pickle of a dict: it starts with 0x{start.hex()}; "
        "name an .npz or .pkl file of radio vectors"
    )


def read_npz(path: Path) -> Vectors:
    """The vectors of an npz file.

    Raises:
        DataError: it is damaged or of another layout.
    """
    try:
        with ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_BYTES:
            raise DataError(f"{path} unpacks to {unpacked:,} bytes; at most {MAX_BYTES:,} are read")
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in ("X", "y", "snr", "run", "classes") if key not in arrays]
            if missing:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}: X [n, 2, 128], y, snr, run [n] and "
                    f"classes are needed, found {', '.join(arrays) or 'nothing'}"
                )
            x, y, snr, run = (arrays[key] for key in ("X", "y", "snr", "run"))
            classes = arrays["classes"]
            options = str(arrays["made_with"]) if "made_with" in arrays else "{}"
    except DataError:
        raise
    # zipfile, zlib and numpy raise what they like at a damaged file.
    except Exception as error:
        raise DataError(
            f"{path} is no npz file of plain arrays, or is truncated or damaged "
            f"({type(error).__name__}: {error}); copy it again"
        ) from error
    if classes.ndim != 1 or tuple(map(str, classes)) != CLASSES:
        raise DataError(f"{path} has classes {classes.tolist()!r}, not {list(CLASSES)}")
    _check_shape(x, f"{path}: X")
    for key, column in (("y", y), ("snr", snr), ("run", run)):
        if column.dtype.kind not in "iu" or column.shape != x.shape[:1]:
            raise DataError(
                f"{path}: {key} must be whole numbers [{len(x)}], one for each vector of X, found "
                f"{column.dtype} {list(column.shape)}"
            )
    y, snr, run = (column.astype(np.int64) for column in (y, snr, run))
    if y.min() < 0 or y.max() >= len(CLASSES):
        raise DataError(f"{path}: y goes from {y.min()} to {y.max()}, not within 0 … 10")
    name = "rml2016-like" if _is_full(y, snr, LIKE_SNRS) else "rml2016-like-part"
    known = _options(path, options)
    if changes := [word for (key, value), word in CHANGES.items() if known.get(key) == value]:
        name += f" with {' and '.join(changes)}"
    return Vectors(name, path, x, y, snr, run, known.get("snr_is") == "true")


def _options(path: Path, text: str) -> dict[str, Any]:
    """What examples/modrec says of a file that it made."""
    try:
        options = json.loads(text)
    except ValueError:
        options = text
    if not isinstance(options, dict):
        raise DataError(
            f'{path}: made_with is JSON of options, such as {{"snr_is": "true"}}, found '
            f"{reprlib.repr(options)}"
        )
    return options


def _from_pickle(path: Path) -> Vectors:
    layout = "{(modulation, SNR in dB): float32 [n, 2, 128], …}"
    content = read_pickle(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} must hold a dict {layout}, found a {type(content).__name__}")
    for key in content:
        match key:
            case (str(modulation), int(level)) if modulation in CLASSES and abs(level) <= 1000:
                continue
        raise DataError(
            f"{path} has the key {reprlib.repr(key)}, but keys are (modulation, SNR in dB), such "
            f"as ('QPSK', 8), with one of {', '.join(CLASSES)}"
        )
    arrays = []
    for key in sorted(content):
        value = content[key]
        if not isinstance(value, PickledArray):
            raise DataError(f"{path}: {key} is a {type(value).__name__}, needed is {layout}")
        try:
            array = value.array()
        except DataError as error:
            raise DataError(f"{path}: {key} is {error}") from error
        _check_shape(array, f"{path}: {key}")
        arrays.append((key, array))
    x = np.concatenate([array for _, array in arrays])
    y = np.concatenate([np.full(len(array), CLASSES.index(key[0])) for key, array in arrays])
    snr = np.concatenate([np.full(len(array), key[1]) for key, array in arrays])
    name = "rml2016.10a" if _is_full(y, snr, PUBLISHED_SNRS) else "rml2016.10a-layout"
    return Vectors(name, path, x, y, snr, None)


def _check_shape(x: NDArray[Any], where: str) -> None:
    if x.dtype.kind != "f" or x.ndim != 3 or x.shape[1:] != (2, SAMPLES) or not len(x):
        raise DataError(
            f"{where} must be floats [n, 2, {SAMPLES}], n ≥ 1, found {x.dtype} {list(x.shape)}"
        )


def _is_full(y: NDArray[np.int64], snr: NDArray[np.int64], snrs: range) -> bool:
    _, first, counts = np.unique(cells(y, snr), return_index=True, return_counts=True)
    found = list(zip(y[first].tolist(), snr[first].tolist(), strict=True))
    return found == list(product(range(len(CLASSES)), snrs)) and bool((counts == EACH).all())
