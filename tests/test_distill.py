"""Trees that learn from a network: what they say of it, against sums and scikit-learn alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn
from training_cases import DENSE
from typer.testing import CliRunner

from lissom.cli import app
from lissom.data import Dataset
from lissom.data.dataset import stratified_choice
from lissom.distill import Distilled, Trees, distill_to_trees
from lissom.errors import DataError, DistillError, LissomError
from lissom.tables import text


class Quarters(nn.Module):
    """Which quarter of the square the first two of the inputs are in: classes 0 … 3."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = (2 * x.flatten(1)[:, :2] - 1).T
        return torch.stack([-first - second, first - second, second - first, first + second], 1)


class Says(nn.Module):
    """Answers one class, whatever it is asked."""

    def __init__(self, chosen: int, classes: int = 4) -> None:
        super().__init__()
        self.chosen, self.classes = chosen, classes

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), self.classes)
        logits[:, self.chosen] = 1
        return logits


def made(part: float = 0.3) -> Dataset:
    """Inputs [2, 2] of the classes of `Quarters`, but for a part where the third input says 0."""
    x = torch.rand(600, 2, 2, generator=torch.Generator().manual_seed(0))
    y = Quarters()(x).argmax(1)
    y[x[:, 1, 0] < part] = 0
    return Dataset("made", x[:300], y[:300], x[300:], y[300:], 4)


DATA = made()


@pytest.fixture(scope="module")
def found() -> Distilled:
    return distill_to_trees(Quarters(), DATA, rounds=20)


def predicted(trees: Trees) -> np.ndarray[Any, Any]:
    told = trees.model.predict(DATA.test_x.flatten(1).numpy())
    return np.asarray(told)


def test_trees_say_what_a_function_of_two_inputs_says(found: Distilled) -> None:
    assert found.from_network.agreement > 0.97
    assert found.from_network.copied is not None and found.from_network.copied > 0.9
    assert found.from_labels.agreement < 0.95  # the labels are not what the network says
    assert found.from_labels.copied is not None and found.from_labels.copied < 0.2
    assert found.examples == 300 and found.rounds == 20


def test_the_parts_are_counted(found: Distilled) -> None:
    answers, y = Quarters()(DATA.test_x).argmax(1).numpy(), DATA.test_y.numpy()
    assert found.network == pytest.approx(np.mean(answers == y)) and 0.6 < found.network < 0.9
    taught = Quarters()(DATA.train_x).argmax(1) == DATA.train_y
    assert found.taught == pytest.approx(float(taught.double().mean()))
    for trees in (found.from_network, found.from_labels):
        told = predicted(trees)
        assert trees.accuracy == pytest.approx(np.mean(told == y))
        assert trees.agreement == pytest.approx(np.mean(told == answers))
        wrong = [i for i in range(len(y)) if answers[i] != y[i]]
        copied = sum(told[i] == answers[i] for i in wrong) / len(wrong)
        assert trees.copied == pytest.approx(copied)


def test_trees_from_labels_are_those_of_scikit_learn(found: Distilled) -> None:
    alone = HistGradientBoostingClassifier(max_iter=20, early_stopping=False)
    alone.fit(DATA.train_x.reshape(-1, 4).numpy(), DATA.train_y.numpy())
    test = DATA.test_x.reshape(-1, 4).numpy()
    np.testing.assert_array_equal(
        found.from_labels.model.predict_proba(test), alone.predict_proba(test)
    )
    assert found.from_labels.model.n_iter_ == 20


def test_a_network_that_says_the_labels_makes_the_same_trees_twice() -> None:
    found = distill_to_trees(Quarters(), made(part=0), rounds=3)
    assert found.taught == found.network == 1
    assert found.from_network.copied is None and found.from_labels.copied is None
    np.testing.assert_array_equal(predicted(found.from_network), predicted(found.from_labels))


class Merged(Quarters):
    """Never answers class 2."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        logits[:, 2] = -9
        return logits


def test_classes_that_are_never_answered() -> None:
    found = distill_to_trees(Merged(), DATA, rounds=10)
    assert found.from_network.model.classes_.tolist() == [0, 1, 3]
    assert set(predicted(found.from_network)) == {0, 1, 3}
    assert found.from_network.agreement > 0.95 > found.from_labels.agreement
    # An empty network says one thing, and so do its trees.
    found = distill_to_trees(Says(3), DATA, rounds=2)
    assert found.from_network.agreement == found.from_network.copied == 1
    assert found.network == found.from_network.accuracy
    assert found.network == pytest.approx(float((DATA.test_y == 3).double().mean()))
    assert found.from_labels.agreement < 0.5


def test_a_class_without_examples_is_no_mistake() -> None:
    kept = DATA.train_y != 1
    data = replace(DATA, train_x=DATA.train_x[kept], train_y=DATA.train_y[kept])
    found = distill_to_trees(Quarters(), data, rounds=3)
    assert 1 in found.from_network.model.classes_  # the network still answers it
    assert 1 not in found.from_labels.model.classes_


def test_examples_are_a_choice_by_class_and_seed() -> None:
    chosen = stratified_choice(DATA.train_y.numpy(), 200, seed=5)
    x, y = DATA.train_x[torch.from_numpy(chosen)], DATA.train_y[torch.from_numpy(chosen)]
    found = distill_to_trees(Quarters(), DATA, rounds=9, examples=200, seed=5)
    fewer = distill_to_trees(Quarters(), replace(DATA, train_x=x, train_y=y), rounds=9)
    assert found.examples == fewer.examples == 200
    np.testing.assert_array_equal(predicted(found.from_labels), predicted(fewer.from_labels))
    again = distill_to_trees(Quarters(), DATA, rounds=9, examples=200, seed=5)
    assert again.to_dict() == found.to_dict()
    other = distill_to_trees(Quarters(), DATA, rounds=9, examples=200, seed=6)
    assert not np.array_equal(predicted(other.from_labels), predicted(found.from_labels))
    assert distill_to_trees(Quarters(), DATA, rounds=1, examples=None).examples == 300
    assert distill_to_trees(Quarters(), DATA, rounds=1, examples=10**6).examples == 300


def test_test_labels_choose_nothing(found: Distilled) -> None:
    mixed = distill_to_trees(
        Quarters(), replace(DATA, test_y=torch.zeros_like(DATA.test_y)), rounds=20
    )
    assert mixed.network != found.network
    for name in ("from_network", "from_labels"):
        before, after = getattr(found, name), getattr(mixed, name)
        np.testing.assert_array_equal(predicted(before), predicted(after))
        assert before.agreement == after.agreement


def test_the_network_is_asked_in_evaluation_mode_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    inner = nn.Linear(4, 4)
    norm = nn.BatchNorm1d(4, eps=0)  # with the mean 0 and the variance 1 of the start
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), norm, inner.eval())
    found = distill_to_trees(net, DATA, rounds=2)
    told = inner(DATA.test_x.flatten(1)).argmax(1)
    assert found.network == pytest.approx(float((told == DATA.test_y).double().mean()))
    assert net.training and net[1].training and not inner.training
    assert int(norm.num_batches_tracked) == 0


class Diverged(Quarters):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


@pytest.mark.parametrize(
    ("network", "options", "told"),
    [
        (nn.Flatten(0), {}, r"logits \[n, 4\], and for n = 2 this one gave \[8\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), {}, r"this one gave \[2, 3\]"),
        (nn.LSTM(2, 4), {}, "this one gave tuple"),
        (Diverged(), {}, "gives NaN"),
        (Quarters(), {"rounds": 0}, "rounds is a whole number ≥ 1, got 0"),
        (Quarters(), {"rounds": 2.5}, r"got 2\.5"),
        (Quarters(), {"examples": 0}, "or None for all 300, got 0"),
    ],
)
def test_what_trees_cannot_learn_from(
    network: nn.Module, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(DistillError, match=told):
        distill_to_trees(network, DATA, **options)


def test_other_mistakes() -> None:
    with pytest.raises(LissomError, match=r"cannot run on example_inputs of shape \[2, 2, 2\]"):
        distill_to_trees(nn.Linear(5, 4), DATA)
    with pytest.raises(DataError, match="a seed is a whole number"):
        distill_to_trees(Quarters(), DATA, seed=-1)
    with pytest.raises(DistillError, match=r"data is a lissom\.data\.Dataset, got Tensor"):
        distill_to_trees(Quarters(), DATA.train_x)  # type: ignore[arg-type]


def test_the_table_has_a_row_for_each(found: Distilled) -> None:
    lines = text(found.table()).splitlines()
    [row] = [line for line in lines if "trees from the network" in line]
    shown = [float(cell) for cell in row.split()[-3:]]
    trees = found.from_network
    assert trees.copied is not None
    expected = [trees.accuracy, trees.agreement, trees.copied]
    assert shown == pytest.approx([100 * part for part in expected], abs=0.005)
    assert any(line.split() == ["network", f"{100 * found.network:.2f}"] for line in lines)


@pytest.mark.parametrize("fraction", [1.0, 0.2])
def test_a_run_is_distilled(tmp_path: Path, fraction: float) -> None:
    run = tmp_path / "run"
    (recipe := tmp_path / "dense.toml").write_text(DENSE)
    pruned = ["method={name='proximal'}", f"penalties=[{{TopK={{fraction={fraction}}}}}]"]
    changes = [word for change in pruned for word in ("--set", change)] if fraction < 1 else []
    train = ["train", str(recipe), *changes, "--out", str(run)]
    done = CliRunner().invoke(app, train)
    assert done.exit_code == 0, done.output
    options = ["--to", "trees", "--rounds", "3", "--examples", "500", "--seed", "2"]
    done = CliRunner().invoke(app, ["distill", str(run), *options])
    assert done.exit_code == 0, done.output
    kept = json.loads((run / "distilled.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert kept["network"] == pytest.approx(1 - result["test"]["error"])
    assert [kept[name] for name in ("to", "rounds", "examples", "seed")] == ["trees", 3, 500, 2]
    assert 0.5 < kept["from_network"]["agreement"] <= 1
    assert f"{100 * kept['from_labels']['accuracy']:.2f}" in done.output
    assert "500 training examples" in done.output
    done = CliRunner().invoke(app, [*train, "--overwrite"])
    assert done.exit_code == 0 and not (run / "distilled.json").exists()


def test_runs_that_cannot_be_distilled(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["distill", str(tmp_path)])
    assert done.exit_code == 2 and "recipe.json" in done.output
    done = CliRunner().invoke(app, ["distill", str(tmp_path), "--to", "forest"])
    assert done.exit_code == 2 and "trees" in done.output
