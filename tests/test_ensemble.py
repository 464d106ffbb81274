"""Ensembles: their mean, their votes, their calibration, against sums written out."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from products import exhaustive
from torch import Tensor, nn
from training_cases import DENSE
from typer.testing import CliRunner

import lissom
from lissom import L0
from lissom.cli import app
from lissom.ensemble import (
    Ensemble,
    Recorded,
    accuracy_by_size,
    best_of,
    calibration,
    calibration_of,
)
from lissom.errors import EnsembleError
from lissom.models import henrikson
from lissom.report import ensemble_sizes, reliability

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


class Says(nn.Module):
    """A network that answers what it was told, by the first input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x[:, 0].long()]


def linear(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(6, classes)


def test_the_answer_is_the_mean_of_the_probabilities() -> None:
    nets = [linear(seed) for seed in range(4)]
    expected = sum(net(X).softmax(1) for net in nets) / 4
    answer = Ensemble(nets)(X)
    torch.testing.assert_close(answer.exp(), expected)
    assert answer.shape == (40, 3) and answer.requires_grad
    # One confident member outweighs two that are not quite sure.
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    both = Ensemble([Says(sure), Says(unsure), Says(unsure)])
    assert int(both(torch.zeros(1, 1)).argmax()) == 0
    assert both.votes(torch.zeros(1, 1)).tolist() == [[pytest.approx(1 / 3), pytest.approx(2 / 3)]]


def test_votes_and_confidence_count_members() -> None:
    nets = [linear(seed) for seed in range(5)]
    together = Ensemble(nets)
    votes = together.votes(X)
    for i in range(len(X)):
        told = [int(net(X[i : i + 1]).argmax()) for net in nets]
        assert votes[i].tolist() == pytest.approx([told.count(c) / 5 for c in range(3)])
        assert float(together.confidence(X)[i]) == pytest.approx(
            max(told.count(c) for c in told) / 5
        )


def test_samples_of_gates_are_an_ensemble() -> None:
    net = henrikson(inputs=6)
    optimizer = torch.optim.Adam(net.parameters())
    method = lissom.gate(optimizer, net, {lissom.weights(net): L0(0)}, init=0.5)
    together = Ensemble(method.sample(3, seed=1))
    assert len(together) == 3
    answers = [member(X) for member in together.members]
    assert not torch.equal(answers[0], answers[1])
    again = Ensemble(method.sample(3, seed=1))
    assert torch.equal(together(X), again(X))


@pytest.mark.parametrize(
    ("networks", "told"),
    [
        ([], "at least one network"),
        ([linear(0), "net"], "got 'net'"),
    ],
)
def test_what_is_no_ensemble_is_refused(networks: Sequence[nn.Module], told: str) -> None:
    with pytest.raises(EnsembleError, match=told):
        Ensemble(networks)


def test_members_of_other_classes_are_refused() -> None:
    with pytest.raises(EnsembleError, match=r"\(40, 3\), \(40, 4\)"):
        Ensemble([linear(0), linear(1, classes=4)])(X)
    with pytest.raises(EnsembleError, match=r"got \[\(40,\)\]"):
        Ensemble([nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))])(X)


def test_calibration_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    confidence = torch.rand(500, generator=generator)
    confidence[:3] = torch.tensor([0.0, 0.2, 1.0])  # ends of bins
    right = torch.rand(500, generator=generator) < confidence
    found = calibration(confidence, right, bins=5)
    error = 0.0
    for b in range(5):
        inside = [
            (float(c), bool(r))
            for c, r in zip(confidence.double(), right, strict=True)
            if (b / 5 < round(float(c), 6) <= (b + 1) / 5) or (b == 0 and float(c) == 0)
        ]
        assert int(found.counts[b]) == len(inside)
        accuracy = sum(r for _, r in inside) / len(inside)
        mean = sum(c for c, _ in inside) / len(inside)
        assert float(found.accuracy[b]) == pytest.approx(accuracy)
        assert float(found.confidence[b]) == pytest.approx(mean)
        error += len(inside) / 500 * abs(accuracy - mean)
    assert found.error == pytest.approx(error)


@pytest.mark.parametrize("members", [5, 10, 50])
def test_votes_lie_in_the_bin_that_they_end(members: int) -> None:
    votes = torch.arange(members + 1) / members
    found = calibration(votes, torch.ones(members + 1).bool(), bins=5)
    assert found.counts.tolist() == [members // 5 + 1, *[members // 5] * 4]


def test_calibration_of_one_who_is_always_sure() -> None:
    right = torch.tensor([True, False, False, True])
    found = calibration(torch.ones(4), right)
    assert found.error == 0.5 and found.counts.tolist() == [0] * 9 + [4]
    assert math.isnan(float(found.accuracy[0]))


@pytest.mark.parametrize(
    ("confidence", "right", "bins", "told"),
    [
        (torch.ones(3), torch.ones(4).bool(), 10, r"got \[3\] and \[4\]"),
        (torch.ones(0), torch.ones(0).bool(), 10, "n ≥ 1 examples"),
        (torch.ones(3), torch.ones(3), 10, "True or False for each example, got torch.float32"),
        (torch.tensor([0.5, 1.5]), torch.ones(2).bool(), 10, "between 0 and 1, got 0.5 to 1.5"),
        (torch.tensor([0.5, math.nan]), torch.ones(2).bool(), 10, "between 0 and 1"),
        (torch.ones(3), torch.ones(3).bool(), 0, "bins is a whole number ≥ 1, got 0"),
    ],
)
def test_impossible_calibrations(confidence: Tensor, right: Tensor, bins: int, told: str) -> None:
    with pytest.raises(EnsembleError, match=told):
        calibration(confidence, right, bins)


def test_accuracies_by_size() -> None:
    y = torch.arange(40) % 3
    nets = [linear(seed) for seed in range(6)]
    found = accuracy_by_size(nets, X, y, (1, 3, 6), repeats=30, seed=2, batch_size=7)
    assert {size: len(all_of) for size, all_of in found.items()} == {1: 30, 3: 30, 6: 1}
    alone = {float((net(X).argmax(1) == y).double().mean()) for net in nets}
    assert set(found[1]) <= alone and len(set(found[1])) > 1
    assert found[6] == [float((Ensemble(nets)(X).argmax(1) == y).double().mean())]
    assert found == accuracy_by_size(nets, X, y, (1, 3, 6), repeats=30, seed=2)
    assert len(set(found[3])) > 1
    for labels in (y[:, None], y[:1], y[:-1]):
        with pytest.raises(EnsembleError, match="n ≥ 1 inputs and y their n labels"):
            accuracy_by_size(nets, X, labels, (1,))
        with pytest.raises(EnsembleError, match="n ≥ 1 inputs and y their n labels"):
            calibration_of(nets, X, labels)
    with pytest.raises(EnsembleError, match="there are 6 networks, which make no 7"):
        accuracy_by_size(nets, X, y, (1, 7))
    with pytest.raises(EnsembleError, match="size is a whole number ≥ 1, got 0"):
        accuracy_by_size(nets, X, y, (0,))


def test_the_calibration_of_votes() -> None:
    y = torch.arange(40) % 3
    nets = [linear(seed) for seed in range(6)]
    votes = Ensemble(nets).votes(X).max(1)
    expected = calibration(votes.values, votes.indices == y, bins=4)
    found = calibration_of(nets, X, y, bins=4, batch_size=9)
    assert found.error == expected.error and torch.equal(found.counts, expected.counts)


RUN = ["--set", "train.epochs=4", "--set", "train.cosine_from=1", "--set", "data.validation=100"]


def test_a_run_answers_together(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ["train", "digits-gates", *RUN, "--out", str(run)]
    done = CliRunner().invoke(app, [*train, "--set", "method={name='gates', init=0.2}"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["ensemble", str(run), "--networks", "4", "--seed", "1"])
    assert done.exit_code == 0, done.output
    kept = json.loads((run / "ensemble.json").read_text())
    assert list(kept["accuracy"]) == ["1", "2", "4"] and len(kept["accuracy"]["4"]) == 1
    result = json.loads((run / "result.json").read_text())
    assert kept["single"] == pytest.approx(1 - result["test"]["error"])
    assert 0.3 < kept["accuracy"]["4"][0] < 1 and 0 <= kept["calibration_error"] < 0.5
    for name in ("ensemble.svg", "calibration.svg"):
        assert "<svg" in (run / name).read_text()


def test_several_runs_answer_together(tmp_path: Path) -> None:
    (recipe := tmp_path / "dense.toml").write_text(DENSE)
    runs = []
    for seed in range(3):
        runs.append(str(tmp_path / f"bag{seed}"))
        bagged = ["--set", "data.bootstrap=true", "--seed", str(seed), "--out", runs[-1]]
        done = CliRunner().invoke(app, ["train", str(recipe), *bagged])
        assert done.exit_code == 0, done.output
    together = ["ensemble", *runs, "--out", str(tmp_path / "together"), "--json"]
    done = CliRunner().invoke(app, together)
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "together" / "ensemble.json").read_text())
    assert json.loads(done.stdout).items() <= kept.items()
    assert kept["runs"] == runs and kept["networks"] == 3 and kept["single"] is None
    alone = [
        1 - json.loads((Path(run) / "result.json").read_text())["test"]["error"] for run in runs
    ]
    assert len(set(alone)) > 1
    assert sorted(set(kept["accuracy"]["1"])) == pytest.approx(sorted(alone))
    assert len(kept["accuracy"]["3"]) == 1
    other = str(tmp_path / "other")
    command = ["train", str(recipe), "--set", "data.center=true", "--out", other]
    assert CliRunner().invoke(app, command).exit_code == 0
    for wrong, told in (
        ([runs[0], other, "--out", str(tmp_path / "no")], "the test examples of"),
        (runs, "say where to write"),
        ([*runs, "--out", str(tmp_path / "no"), "--networks", "2"], "without --networks"),
    ):
        done = CliRunner().invoke(app, ["ensemble", *wrong])
        assert done.exit_code == 2 and told in " ".join(done.output.split())
    assert not (tmp_path / "no").exists()


def test_the_best_weighed_against_its_size() -> None:
    nets = [linear(seed) for seed in range(4)]
    y = nets[0](X).argmax(1)
    for net, zeros in zip(nets, (0, 3, 9, 18), strict=True):
        with torch.no_grad():
            net.get_parameter("weight").view(-1)[:zeros] = 0
    losses = [nn.functional.cross_entropy(net(X), y).item() for net in nets]
    sizes = [21, 18, 12, 3]
    chosen = set()
    for strength in (0.0, 0.01, 0.1, 10.0):
        costs = [loss + strength * size for loss, size in zip(losses, sizes, strict=True)]
        best = best_of(nets, X, y, strength, batch_size=7)
        assert best is nets[costs.index(min(costs))]
        chosen.add(nets.index(best))
    assert len(chosen) > 1 and 3 in chosen
    with pytest.raises(EnsembleError, match="strength is a number, got '1e-6'"):
        best_of(nets, X, y, "1e-6")  # type: ignore[arg-type]
    for strength in (-1.0, math.nan, math.inf):
        with pytest.raises(EnsembleError, match=f"a number λ ≥ 0, got {strength}"):
            best_of(nets, X, y, strength)
    broken = linear(9)
    nn.init.constant_(broken.get_parameter("bias"), math.nan)
    assert best_of([broken, nets[1]], X, y) is nets[1]
    with pytest.raises(EnsembleError, match="losses of all 1 networks are NaN"):
        best_of([broken], X, y)
    with pytest.raises(EnsembleError, match=r"\[40\] of torch.float32"):
        best_of(nets, X, y.float())


@exhaustive
def test_runs_without_gates_are_refused(tmp_path: Path) -> None:
    (recipe := tmp_path / "dense.toml").write_text(DENSE)
    pruned = ["method={name='proximal'}", "penalties=[{L1=1e-4}]"]
    for name, train, told in (
        ("fine-tuned", ["digits-gates", *RUN, "--set", "method.finalize_at=2"],
         "train it without method.finalize_at"),
        ("dense", [str(recipe)], "has no method, and so no distribution to draw networks from"),
        ("pruned", [str(recipe), *(word for change in pruned for word in ("--set", change))],
         "method 'proximal' learns one network, and has none to draw from"),
    ):  # fmt: skip
        run = str(tmp_path / name)
        done = CliRunner().invoke(app, ["train", *train, "--out", run])
        assert done.exit_code == 0, done.output
        done = CliRunner().invoke(app, ["ensemble", run])
        assert done.exit_code == 2 and told in " ".join(done.output.split())


def test_recorded_networks_answer_as_they_did_and_are_run_once() -> None:
    calls: list[int] = []
    torch.manual_seed(0)
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    networks = [nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)) for _ in range(4)]
    for network in networks:
        network.register_forward_hook(lambda _net, given, _out: calls.append(len(given[0])))
    known = [Recorded(network, x, batch_size=20) for network in networks]
    assert calls == [20, 10] * 4
    numbers = torch.arange(30)
    for size, found in accuracy_by_size(networks, x, y, (1, 2, 4), seed=3).items():
        assert found == accuracy_by_size(known, numbers, y, (1, 2, 4), seed=3)[size]
    assert calibration_of(known, numbers, y).error == calibration_of(networks, x, y).error


def test_the_figures_show_what_was_found() -> None:
    figure = ensemble_sizes({1: [0.9, 0.92, 0.94], 5: [0.95]}, single=0.93)
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5"]
    medians = [line for line in axes.lines if line.get_color() == "#c4571b"]
    assert [float(np.asarray(line.get_ydata())[0]) for line in medians] == [92, 95]
    many = {"λ = $0": {1: [0.5]}, "λ = 1": {1: [0.6], 2: [0.7]}}
    with pytest.raises(EnsembleError, match=r"panels \['λ = \$0', 'λ = 1'\], and has \['λ = 2'\]"):
        ensemble_sizes(many, single={"λ = 2": 0.65})
    left, right = ensemble_sizes(many, single={"λ = $0": 0.55, "λ = 1": 0.65}).axes
    assert left.get_title("left") == "λ = $0"
    assert [label.get_text() for label in right.get_xticklabels()] == ["1", "2"]
    assert left.get_ylim() == right.get_ylim()
    assert [65, 65] in [list(line.get_ydata()) for line in right.lines]  # type: ignore[arg-type]
    found = calibration(torch.tensor([0.3, 0.92, 0.95]), torch.tensor([False, True, False]))
    axes, below = reliability(found).axes
    line = axes.lines[1]
    assert np.asarray(line.get_xdata()).tolist() == pytest.approx([0.3, 0.935])
    assert np.asarray(line.get_ydata()).tolist() == [0, 0.5]
    heights = [bar.get_height() for bar in below.containers[0]]  # type: ignore[attr-defined]
    assert sum(heights) == 3 and max(heights) == 2
