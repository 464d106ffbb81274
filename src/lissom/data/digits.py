"""scikit-learn's bundled handwritten digits: real data that needs no download and no file."""

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
    # Here and not above: scikit-learn takes a second to import, and MNIST does not need it.
    from sklearn.datasets import load_digits as sklearn_digits

    pixels, labels = sklearn_digits(return_X_y=True)  # [1797, 64] in 0 … 16, [1797]
    x = torch.from_numpy(pixels).to(torch.float32).div_(16).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).to(torch.int64)
    test = torch.from_numpy(stratified_choice(y.numpy(), TEST_EXAMPLES, SPLIT_SEED))
    return Dataset("digits", x[~test], y[~test], x[test], y[test], classes=10)
