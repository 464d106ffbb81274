"""scikit-learn's bundled handwritten digits: real data that needs no download and no file."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lissom.data.dataset import Dataset, stratified_choice

TEST_EXAMPLES = 450
SPLIT_SEED = 0


def load_digits() -> Dataset:
    """1,797 digits of 8×8 pixels, split into 1,347 to train on and 450 to test on.

    The data set is the test part of UCI's *Optical Recognition of Handwritten Digits* (Alpaydın &
    Kaynak 1998), which has no split of its own. Ours never changes: the test part is
    `stratified_choice(labels, 450, seed=0)`, so each class gives a quarter of its digits to within
    one, and both parts keep scikit-learn's order. Writers are shared between the parts, so the test
    error is too optimistic; use it for examples and tests, and MNIST for figures.

    Returns:
        Images [n, 1, 8, 8] with pixels in {0, 1/16, …, 1}, labels 0 … 9.
    """
    pixels, labels = _scikit_learns()
    x = torch.from_numpy(pixels).to(torch.float32).div_(16).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).to(torch.int64)
    test = torch.from_numpy(stratified_choice(y.numpy(), TEST_EXAMPLES, SPLIT_SEED))
    return Dataset("digits", x[~test], y[~test], x[test], y[test], classes=10)


def _scikit_learns() -> tuple[Any, Any]:
    """Pixels [1797, 64] in 0 … 16, and labels [1797]."""
    # Its file and not its function, where that can be: to import it takes as long as torch.
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits as by_function

    pixels, labels = by_function(return_X_y=True)
    return pixels, labels
