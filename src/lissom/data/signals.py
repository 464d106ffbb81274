"""Vectors of complex samples with their modulation, SNR and run: a data set for radio."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.arguments import misfit
from lissom.data.dataset import Dataset, describe, random_state, stratified_choice
from lissom.errors import DataError


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ModRec(Dataset):
    """A data set for modulation recognition: each example has an SNR, and a run where it is known.

    A *run* is one pass of the generator, so its vectors share one realisation of the channel, and a
    network that has seen some of them knows more about the others than it should. A *cell* is one
    class at one SNR.

    `hold_out(n, seed)` moves whole runs where they are known: n examples to within half of the
    longest run, and of each class and each cell its share to within one run. Where they are not
    known it moves n examples, of each cell its share to within one example.

    Attributes:
        names: of the classes, in their order.
        train_snr: int64 [n], the label in dB of each training example.
        test_snr: int64 [m].
        valid_snr: int64 [k], or None when nothing is held out.
        train_run: int64 [n], the number of the run of each example, or None if it is not known.
        test_run: int64 [m], or None.
        valid_run: int64 [k], or None.
        db_per_label: dB in the ratio of signal to noise for one dB in the label; about 2 as
            published, and 1 where labels are true.

    Raises:
        DataError: as for `Dataset`; a part has not one SNR and one run per example, or there is
            not one name per class.
    """

    names: tuple[str, ...]
    train_snr: Tensor
    test_snr: Tensor
    valid_snr: Tensor | None = None
    train_run: Tensor | None = None
    test_run: Tensor | None = None
    valid_run: Tensor | None = None
    db_per_label: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for part, y, snr, run in (
            ("train", self.train_y, self.train_snr, self.train_run),
            ("test", self.test_y, self.test_snr, self.test_run),
            ("valid", self.valid_y, self.valid_snr, self.valid_run),
        ):
            self._check_column(f"{part}_snr", snr, y, needed=y is not None)
            wanted = y is not None and self.train_run is not None
            self._check_column(f"{part}_run", run, y, needed=wanted)

    def _check_column(
        self, column: str, found: Tensor | None, y: Tensor | None, *, needed: bool
    ) -> None:
        if found is None and not needed:
            return
        if found is None or y is None or not needed:
            given = "is missing" if found is None else f"is given, {describe(found)},"
            raise DataError(
                f"{self.name}: {column} {given} but every part has its SNRs, and runs "
                "belong to all parts or to none"
            )
        if not isinstance(found, Tensor):
            raise DataError(f"{self.name}: {misfit(column, Tensor, found)}")
        if found.dtype != torch.int64 or found.shape != y.shape:
            raise DataError(
                f"{self.name}: {column} must be int64 {list(y.shape)}, a number for each label, "
                f"got {describe(found)}"
            )

    @property
    def test_ratio(self) -> Tensor:
        """Float32 [m], the ratio of signal to noise of test examples in dB, db_per_label·label.

        The published generator's noise has the amplitude 10^(−label/10) and so the power
        10^(−label/5), against a signal of about unit power. Where AM-SSB is noise alone it has no
        signal at all.
        """
        return self.db_per_label * self.test_snr.to(torch.float32)

    def _choice(self, n: int, seed: int) -> NDArray[np.bool_]:
        y, snr = self.train_y.cpu().numpy(), self.train_snr.cpu().numpy()
        if self.train_run is None:
            return stratified_choice(cells(y, snr), n, seed)
        chosen = whole_runs(y, snr, self.train_run.cpu().numpy(), n, seed)
        if not chosen.any() or chosen.all():
            raise DataError(
                f"{self.name}: {n} of {len(y)} training examples in whole runs are "
                f"{'none' if not chosen.any() else 'all'} of them; runs have up to "
                f"{np.unique(self.train_run.cpu().numpy(), return_counts=True)[1].max()} examples"
            )
        return chosen


def cells(y: NDArray[np.int64], snr: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N] the number of the cell of each vector: cells are counted class by class, by rising SNR.

    Args:
        y: [N] classes ≥ 0.
        snr: [N] in dB, |snr| < 2³¹.
    """
    of: NDArray[np.int64] = np.unique(y * 2**32 + snr, return_inverse=True)[1]
    return of


def whole_runs(
    y: NDArray[np.int64], snr: NDArray[np.int64], run: NDArray[np.int64], n: int, seed: int
) -> NDArray[np.bool_]:
    """Choose runs with about n of the N vectors, so that each class and cell gives its share.

    Runs are walked class by class, cell by cell, both cells and runs in an order drawn by `seed`.
    Of s vectors met so far s·n/N are due, and a run is taken if at least half of it is. So the
    total is n to within half of the longest run, and every class and every cell gives its share to
    within one run.

    Args:
        y: [N] classes ≥ 0.
        snr: [N] in dB.
        run: [N] numbers of runs, each of one class and one SNR.
        n: about how many vectors to choose, 0 ≤ n ≤ N.
        seed: 0 ≤ seed < 2³².

    Returns:
        [N] true for the chosen.

    Raises:
        DataError: the seed is out of range.
    """
    random = random_state(seed)
    _, first, of, sizes = np.unique(run, return_index=True, return_inverse=True, return_counts=True)
    cell = cells(y, snr)[first]
    turn = random.permutation(cell.max() + 1)[cell]
    order = np.lexsort((random.permutation(len(sizes)), turn, y[first]))

    chosen = np.zeros(len(sizes), dtype=np.bool_)
    met = taken = 0
    for i in order:
        met += int(sizes[i])
        # taken + size/2 ≤ met·n/N in whole numbers
        if (2 * taken + int(sizes[i])) * len(run) <= 2 * met * n:
            chosen[i] = True
            taken += int(sizes[i])
    return chosen[of]
