"""Radio modulation: vectors of 128 complex samples in 11 classes, RML2016.10a or similar.

*RML2016.10a* (O'Shea & West 2016) is a pickle. *RML2016-like* is an npz file that was made with GNU
Radio 3.10 from the facts of its generator, and that knows the run of each vector. An error on it is
no error on RML2016.10a, and nothing but the published layout, complete, is called so here.
"""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.arguments import as_annotated, is_number
from lissom.data.dataset import stratified_choice
from lissom.data.files import ENVIRONMENT_VARIABLE, as_labels, check_folder, named_folder
from lissom.data.rml import CLASSES, SAMPLES, Vectors, read_npz, read_vectors
from lissom.data.signals import ModRec, cells, whole_runs
from lissom.errors import DataError

AM_SSB = CLASSES.index("AM-SSB")

# In this order, each in <data_dir>/modrec and then in <data_dir>.
FILES = (
    "RML2016.10a_dict.pkl",
    "rml2016-like.npz",
    "rml2016-like-small.npz",
    "RML2016.10a_dict-sample.pkl",
)
TRUE_AM_SSB = "am-ssb-true.npz"

WHERE_TO_PUT = (
    f"Put one of {', '.join(FILES)} into <data_dir>/modrec or <data_dir>, and name <data_dir> by "
    f"the argument data_dir or the environment variable {ENVIRONMENT_VARIABLE}; or name a file of "
    "another name by the argument file."
)


@as_annotated(DataError, "snr_min", "am_ssb", "split", "test_fraction", "seed")
def load_modrec(
    data_dir: Path | str | None = None,
    *,
    file: Path | str | None = None,
    snr_min: float = -4,
    am_ssb: Literal["noise", "true"] = "noise",
    split: Literal["run", "cell"] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> ModRec:
    """Vectors of 128 complex samples at 200 kHz, and which of 11 modulations each of them is.

    An example is [1, 2, 128]: one channel, the rows I and Q, so that a kernel of 2×3 sees both.
    Each is scaled to unit power, x ← x·√(128/Σ|x|²), whichever file it comes from: Σ|x| is 1 in the
    published file and Σ|x|² in ours, so neither knows how strong a signal was. A vector of zeros
    stays as it is.

    Classes are numbered in alphabetical order, 0 is 8PSK and 10 is WBFM. The data set is called
    "rml2016.10a" only if it comes from a pickle of 11 classes × 20 SNRs (−20 … 18 dB) × 1,000
    vectors; any other pickle is "rml2016.10a-layout", an npz of 11 × 12 (−4 … 18 dB) × 1,000 is
    "rml2016-like", and any other npz "rml2016-like-part"; true labels or a true AM-SSB are named.

    Neither has a split of its own. Ours is drawn from the whole file by `seed`, so that a vector is
    in the same part whatever `snr_min` is. The published one has no runs: its test error is too
    optimistic, since vectors of one realisation of the channel are in both parts.

    Args:
        data_dir: the folder that holds `modrec/` or a file itself; None means the environment
            variable LISSOM_DATA_DIR. The first of `FILES` that is there is read.
        file: which file to read instead: its name in one of the two folders, or a path.
        snr_min: vectors with a lower label, in dB, are left out. The label is about half of the
            true ratio of signal to noise in dB; see `ModRec.test_ratio`. −4 is Ahmed's.
        am_ssb: "noise" is the published class AM-SSB, which is the channel's noise alone; "true"
            puts speech on an upper sideband there, as many vectors of each SNR, from
            `am-ssb-true.npz` beside an RML2016-like file.
        split: "run" keeps the vectors of a run together, "cell" splits each class at each SNR
            vector by vector. None is "run" where runs are known (npz), else "cell" (pickles).
        test_fraction: how much of each class at each SNR is in the test part, to within one run or
            one vector; 0 < fraction < 1. The published example of VT-CNN2 takes a half.
        seed: of the split, 0 ≤ seed < 2³².

    Returns:
        float32 [n, 1, 2, 128] and [m, 1, 2, 128] with classes, SNRs and, where known, runs.

    Raises:
        DataError: no file is found; the file is damaged, of another layout, holds NaN, or asks to
            run something; or an option has an impossible value.

    Source: O'Shea & West, *Radio Machine Learning Dataset Generation with GNU Radio*, 2016.
    """
    _check_options(snr_min, am_ssb, split, test_fraction)
    found = read_vectors(_find(data_dir, file))
    if am_ssb == "true":
        found = _with_true_am_ssb(found)
    _check_runs(found)
    test = _test_part(found, split, test_fraction, seed)
    kept = found.snr >= snr_min
    parts: dict[str, Any] = {}
    for part, members in (("train", kept & ~test), ("test", kept & test)):
        if not members.any():
            raise DataError(
                f"{found.path}: there is nothing in the {part} part with snr_min={snr_min!r} and "
                f"test_fraction={test_fraction!r}; the file has {len(found.y):,} vectors from "
                f"{found.snr.min()} to {found.snr.max()} dB"
            )
        parts[f"{part}_x"] = _examples(found.x[members])
        parts[f"{part}_y"] = as_labels(found.y[members])
        parts[f"{part}_snr"] = as_labels(found.snr[members])
        parts[f"{part}_run"] = None if found.run is None else as_labels(found.run[members])
    scale = 1 if found.true_snr else 2
    return ModRec(name=found.name, classes=len(CLASSES), names=CLASSES, db_per_label=scale, **parts)


def _check_options(snr_min: object, am_ssb: object, split: object, test_fraction: object) -> None:
    if not is_number(snr_min) or not math.isfinite(snr_min):
        raise DataError(f"snr_min is a number of dB, such as -4, got {snr_min!r}")
    if am_ssb not in ("noise", "true"):
        raise DataError(f"am_ssb is 'noise', as published, or 'true', got {am_ssb!r}")
    if split not in (None, "run", "cell"):
        raise DataError(f"split is 'run', 'cell' or None, got {split!r}")
    if not is_number(test_fraction) or not 0 < test_fraction < 1:
        raise DataError(f"test_fraction is a number 0 < f < 1, got {test_fraction!r}")


def _find(data_dir: Path | str | None, file: Path | str | None) -> Path:
    folder = named_folder(data_dir)
    if file is None:
        if folder is None:
            raise DataError(
                f"modrec: no data_dir was given and {ENVIRONMENT_VARIABLE} is unset. {WHERE_TO_PUT}"
            )
        check_folder(folder, "modrec", WHERE_TO_PUT)
    folders = [] if folder is None else [folder / "modrec", folder]
    names = FILES if file is None else (Path(file).expanduser(),)
    places = [place / name for name in names for place in folders]
    if file is not None:
        places.append(Path(file).expanduser())
    for path in places:
        if path.is_file():
            return path
    looked = " or ".join(dict.fromkeys(map(str, places)))
    raise DataError(f"modrec: there is no {looked}. {WHERE_TO_PUT}")


def _check_runs(found: Vectors) -> None:
    """A run has one class and one SNR, or both parts of the split could share it."""
    if found.run is None:
        return
    cell = cells(found.y, found.snr)
    _, first, of = np.unique(found.run, return_index=True, return_inverse=True)
    mixed = cell[first][of] != cell
    if mixed.any():
        run = found.run[mixed.argmax()]
        raise DataError(
            f"{found.path}: run {run} has vectors of {len(set(cell[found.run == run].tolist()))} "
            "classes or SNRs, but a run has one of each; number the runs of a file without repeats"
        )


def _with_true_am_ssb(found: Vectors) -> Vectors:
    """The vectors with AM-SSB exchanged, at each SNR as many as there were."""
    if found.run is None:
        raise DataError(
            f"am_ssb='true' goes with RML2016-like files, which were made by the same generator, "
            f"but {found.path} is a pickle: use am_ssb='noise', or file='rml2016-like.npz'"
        )
    path = found.path.parent / TRUE_AM_SSB
    if not path.is_file():
        raise DataError(f"am_ssb='true' needs {path}, which is not there; or use am_ssb='noise'")
    true = read_npz(path)
    assert true.run is not None  # as in every npz file
    if "AM-SSB" in found.name or true.true_snr != found.true_snr:
        raise DataError(
            f"am_ssb='true' exchanges AM-SSB as published for that of {path}, with labels of the "
            f"same kind, but {found.path} is {found.name} and {path} is {true.name}; use "
            "am_ssb='noise', which reads a file as it is"
        )
    old = found.y == AM_SSB
    random = np.random.RandomState(0)
    chosen = []
    for snr, needed in zip(*np.unique(found.snr[old], return_counts=True), strict=True):
        there = np.flatnonzero((true.y == AM_SSB) & (true.snr == snr))
        if len(there) < needed:
            raise DataError(
                f"{path} has {len(there)} vectors of AM-SSB at {snr} dB, needed are {needed}"
            )
        chosen.append(np.sort(random.permutation(there)[:needed]))
    new = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
    # Its runs are counted from the same number at every SNR.
    run = cells(true.snr[new], true.run[new])
    return Vectors(
        f"{found.name} with true AM-SSB",
        found.path,
        np.concatenate([found.x[~old], true.x[new]]),
        np.concatenate([found.y[~old], true.y[new]]),
        np.concatenate([found.snr[~old], true.snr[new]]),
        np.concatenate([found.run[~old], run + found.run.max() + 1]),
        found.true_snr,
    )


def _test_part(
    found: Vectors, split: str | None, test_fraction: float, seed: int
) -> NDArray[np.bool_]:
    n = round(test_fraction * len(found.y))
    if split == "run" and found.run is None:
        raise DataError(
            f"split='run' needs the runs of vectors, which {found.path} does not have, since "
            "the published layout lacks them; split='cell' goes without"
        )
    if split == "cell" or found.run is None:
        return stratified_choice(cells(found.y, found.snr), n, seed)
    return whole_runs(found.y, found.snr, found.run, n, seed)


def _examples(x: NDArray[Any]) -> Tensor:
    """[n, 2, 128] of some float type to float32 [n, 1, 2, 128] of unit power."""
    x = x.astype(np.float32)
    power = np.einsum("ncl,ncl->n", x, x, dtype=np.float64) / SAMPLES
    scale = np.divide(1, np.sqrt(power), out=np.ones_like(power), where=power > 0)
    x *= scale[:, None, None]
    return torch.from_numpy(x).unsqueeze(1)
