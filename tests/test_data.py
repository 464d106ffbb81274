"""Data sets: what fits together, how examples are held out, and the bundled digits."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.data import Dataset, load, load_digits
from lissom.data.dataset import stratified_choice
from lissom.errors import DataError


def parts(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "name": "toy",
        "train_x": torch.rand(6, 1, 2, 2),
        "train_y": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_x": torch.rand(3, 1, 2, 2),
        "test_y": torch.tensor([0, 1, 2]),
        "classes": 3,
    }
    return given | changes


def test_a_dataset_says_what_it_holds() -> None:
    data = Dataset(**parts())
    assert repr(data) == "Dataset(toy: 6 train / 3 test, [1, 2, 2], 3 classes)"
    assert "3 train / 3 valid / 3 test" in repr(data.hold_out(3, seed=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, r"toy: classes must be a whole number ≥ 1, got 0"),
        ({"classes": 2}, r"train_y holds labels from 0 to 2, but with classes=2 .* 0 and 1"),
        ({"test_y": torch.tensor([0, -1, 2])}, r"test_y holds labels from -1 to 2"),
        ({"train_x": torch.rand(6, 4).cfloat()}, r"train_x must hold real .* complex64 \[6, 4\]"),
        ({"test_x": torch.rand(3, 1, 2, 2).double()}, r"test_x holds float64 .* train_x float32"),
        ({"train_x": torch.rand(6)}, r"at least 2 dims, got float32 \[6\]"),
        ({"train_y": torch.zeros(6)}, r"train_y must be int64 \[n\], got float32 \[6\]"),
        ({"test_y": torch.zeros(3, 1).long()}, r"test_y must be int64 \[n\], got int64 \[3, 1\]"),
        ({"train_y": torch.zeros(5).long()}, r"train_x has 6 examples but train_y has 5 labels"),
        (
            {"train_y": torch.tensor(3)},
            r"train_y must be \[n, …\], a target for each of 6 examples",
        ),
        ({"test_x": torch.rand(3, 1, 2, 3)}, r"test_x .* shape \[1, 2, 3\], but train_x .* \[1, 2"),
        (
            {"test_x": torch.rand(0, 1, 2, 2), "test_y": torch.zeros(0).long()},
            r"toy: test_x is empty",
        ),
        ({"valid_x": torch.rand(1, 1, 2, 2)}, r"valid_x is given without valid_y"),
        ({"valid_y": torch.tensor([0])}, r"valid_y is given without valid_x"),
        (
            {"valid_x": torch.rand(2, 1, 2, 2), "valid_y": torch.tensor([0])},
            r"valid_x has 2 examples but valid_y has 1 labels",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(**parts(**changes))


def test_every_part_is_centered_by_the_mean_of_what_is_trained_on() -> None:
    data = Dataset(**parts()).hold_out(3, seed=0)
    centered = data.centered()
    mean = data.train_x.mean(0)
    for name in ("train_x", "valid_x", "test_x"):
        torch.testing.assert_close(getattr(centered, name), getattr(data, name) - mean)


def test_to_moves_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset(**parts())
    held = data.hold_out(2, seed=0)
    assert data.to("cpu").valid_x is None

    # Most machines have one device only, so what is asked to move is counted.
    asked: list[torch.Tensor] = []

    def to(tensor: torch.Tensor, device: str) -> torch.Tensor:
        assert device == "elsewhere"
        asked.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", to)
    moved = held.to("elsewhere")
    given = [value for value in vars(held).values() if isinstance(value, torch.Tensor)]
    assert len(given) == 6
    assert {id(tensor) for tensor in asked} == {id(tensor) for tensor in given}
    for name, value in vars(held).items():
        assert not isinstance(value, torch.Tensor) or torch.equal(vars(moved)[name], value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_and_hold_out_on_a_gpu() -> None:
    data = Dataset(**parts())
    there = data.to("cuda").hold_out(2, seed=0)
    here = data.hold_out(2, seed=0)
    assert there.valid_x is not None and here.valid_x is not None
    assert there.train_x.is_cuda and there.test_y.is_cuda and there.valid_x.is_cuda
    assert torch.equal(there.valid_x.cpu(), here.valid_x)


@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=80),
    share=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_hold_out_is_a_stratified_partition(labels: list[int], share: float, seed: int) -> None:
    total = len(labels)
    n = max(1, int(share * total))
    x = torch.arange(total, dtype=torch.float32).unsqueeze(1)  # each example tells its index
    y = torch.tensor(labels)
    data = Dataset("toy", x, y, x, y, classes=6)
    held = data.hold_out(n, seed)
    assert held.valid_x is not None and held.valid_y is not None

    train, valid = held.train_x.flatten().long(), held.valid_x.flatten().long()
    assert len(valid) == n
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(total))
    assert train.tolist() == sorted(train.tolist()) and valid.tolist() == sorted(valid.tolist())
    assert torch.equal(held.train_y, y[train]) and torch.equal(held.valid_y, y[valid])
    for label in set(labels):
        fair = n * labels.count(label) / total
        assert abs(int((held.valid_y == label).sum()) - fair) < 1
    assert len(data.train_y) == total and data.valid_x is None

    again = data.hold_out(n, seed)
    assert again.valid_x is not None and torch.equal(again.valid_x, held.valid_x)


def test_hold_out_depends_on_the_seed_and_not_on_global_state() -> None:
    data = load_digits()

    def held(seed: int) -> torch.Tensor:
        valid_x = data.hold_out(300, seed).valid_x
        assert valid_x is not None
        return valid_x

    torch.manual_seed(1)
    np.random.seed(1)
    first = held(0)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(held(0), first)
    assert not torch.equal(held(1), first)
    torch.set_rng_state(state)
    held(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_bootstrap_draws_pairs_with_repetition() -> None:
    x = torch.arange(400.0)[:, None]
    data = Dataset("made", x, (x[:, 0] % 4).long(), x[:8], (x[:8, 0] % 4).long(), 4)
    held = data.hold_out(100, seed=0)
    drawn = held.bootstrap(seed=1)
    assert len(drawn.train_y) == 300 and torch.equal(drawn.train_y, drawn.train_x[:, 0].long() % 4)
    kept = set(drawn.train_x[:, 0].tolist())
    assert kept < set(held.train_x[:, 0].tolist())
    assert 0.57 < len(kept) / 300 < 0.70  # 1 − 1/e
    assert drawn.valid_x is held.valid_x and drawn.test_x is held.test_x
    assert torch.equal(drawn.train_x, held.bootstrap(seed=1).train_x)
    assert not torch.equal(drawn.train_x, held.bootstrap(seed=2).train_x)
    with pytest.raises(DataError, match=r"0 to 2\*\*32 - 1, got -1"):
        held.bootstrap(seed=-1)


def test_hold_out_nothing_changes_nothing() -> None:
    data = Dataset(**parts())
    assert data.hold_out(0, seed=0) is data


@pytest.mark.parametrize("n", [-1, 6, 7, 2.0, "2"])
def test_hold_out_refuses_an_impossible_number(n: Any) -> None:
    with pytest.raises(DataError, match=r"of 6 training examples, .* from 0 to 5") as caught:
        Dataset(**parts()).hold_out(n, seed=0)
    assert repr(n) in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None])
def test_hold_out_refuses_an_impossible_seed(seed: Any) -> None:
    with pytest.raises(DataError, match=r"a seed is a whole number from 0 to 2\*\*32 - 1, got"):
        Dataset(**parts()).hold_out(2, seed=seed)


def test_hold_out_twice_is_refused() -> None:
    with pytest.raises(DataError, match="toy: 2 examples are already held out"):
        Dataset(**parts()).hold_out(2, seed=0).hold_out(2, seed=0)


@pytest.mark.parametrize("n", [0, 3])
def test_none_and_all_can_be_chosen(n: int) -> None:
    assert stratified_choice(np.array([0, 2, 2]), n, seed=0).sum() == n


def test_load_knows_its_names() -> None:
    with pytest.raises(DataError, match=r"no data set 'mnits'\. Did you mean 'mnist'"):
        load("mnits")
    with pytest.raises(
        DataError,
        match=r"no data set 'xyz'\. Known: digits, fashion-mnist, jpeg-cifar10, mnist, modrec\.",
    ):
        load("xyz")


def test_digits_have_their_documented_sizes() -> None:
    data = load("digits")
    assert data.name == "digits" and data.classes == 10
    assert data.train_x.shape == (1347, 1, 8, 8) and data.test_x.shape == (450, 1, 8, 8)
    assert data.train_y.shape == (1347,) and data.test_y.shape == (450,)
    assert data.valid_x is None and data.valid_y is None
    for x in (data.train_x, data.test_x):
        assert x.min() == 0 and x.max() == 1
        assert torch.equal((x * 16).round(), x * 16)


def test_digits_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file is not where it is read, which spares the import."""
    data = load_digits()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    by_function = load_digits()
    for part in ("train_x", "train_y", "test_x", "test_y"):
        assert torch.equal(getattr(data, part), getattr(by_function, part))


def test_digits_are_stratified() -> None:
    data = load_digits()
    train, test = data.train_y.bincount(), data.test_y.bincount()
    assert ((test - (train + test) * 450 / 1797).abs() < 1).all()


def test_digits_are_always_split_alike() -> None:
    data = load_digits()
    # Taken once from this split: figures measured on it hold as long as these do.
    digest = hashlib.sha256((data.test_x * 16).byte().numpy().tobytes()).hexdigest()
    assert digest.startswith("3ee85823bdc02bf4")
    assert torch.equal(load_digits().train_x, data.train_x)
