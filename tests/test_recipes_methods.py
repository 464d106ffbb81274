"""Recipes under each method, and with teachers: what they make and refuse, killed and resumed."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive, few, sampled
from safetensors.torch import load_file
from shrink_cases import traced_once
from typer.testing import CliRunner

import lissom.recipes.trainers
from lissom import L0, L2
from lissom.cli import app
from lissom.cli.folders import load_model
from lissom.data import Dataset
from lissom.errors import RecipeError, RunError
from lissom.methods.gates import Gates, gates_of
from lissom.recipes import (
    Record,
    make_data,
    make_method,
    make_model,
    make_optimizer,
    make_teacher,
    make_trainer,
    read_recipe,
    read_record,
)
from lissom.recipes.runs import keep_record
from lissom.report import history
from lissom.schedules import Schedule
from lissom.training import Count, Evaluation, Part, Teacher, logits_of

GATED = """\
title = "gates"

[data]
name = "digits"

[model]
name = "henrikson"

[optimizer]
name = "Adam"
lr = 2e-3
weight_decay = 0.1

[train]
epochs = 4
batch_size = 128

[method]
name = "gates"
init = [0.3, 0.1]
finalize_at = 2

[[penalties]]
groups = "neurons"
inputs = true
without = ["fc3"]
L0 = 1e-3
L2 = 1e-4

[[penalties]]
groups = "columns"
only = ["fc3"]
L0 = [{ start = 0, end = 1e-3, epochs = 2 }]
"""
TAUGHT = """\
title = "a student"

[data]
name = "digits"
validation = 100

[model]
name = "henrikson"

[optimizer]
name = "Adam"
lr = 3e-3

[train]
epochs = 3
batch_size = 128

[teacher]
recipe = "other/teacher.toml"
alpha = 0.7
temperature = 3.0
"""
TEACHER = """\
title = "a teacher"

[data]
name = "digits"

[model]
name = "lenet300"

[optimizer]
name = "Adam"
lr = 3e-3

[train]
epochs = 4
batch_size = 128
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # commands add the folder they are run in
    Path("gated.toml").write_text(GATED)
    Path("taught.toml").write_text(TAUGHT)
    Path("other").mkdir()
    Path("other/teacher.toml").write_text(TEACHER)
    with traced_once():  # groups, and the costs of their gates
        yield


def fake(shape: tuple[int, ...] = (1, 8, 8), n: int = 20) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, *shape, generator=generator), torch.arange(n) % 10
    return Dataset("fake", x, y, x[:10], y[:10], classes=10)


def well(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def well_told(*arguments: str) -> str:
    """What a command that works prints on stdout and tells on stderr."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "model.safetensors")


def same(one: str, other: str) -> bool:
    return same_tensors(weights(one), weights(other))


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_gates_are_made_as_the_recipe_says() -> None:
    recipe = read_recipe("gated.toml", ["method.test=median", "method.per=group"])
    made = make_trainer(recipe, fake(), seed=3)
    gates = made.method
    assert isinstance(gates, Gates)
    assert gates.options.finalize_at == 2 * made.steps_per_epoch
    assert (gates.options.per, gates.test) == ("group", "median")
    first, second = gates.penalties.items()
    assert [len(groups) for groups, _ in (first, second)] == [64 + 64, 64]
    assert first[1] == L0(1e-3) + L2(1e-4)
    schedule = second[1].strength  # type: ignore[attr-defined]
    assert isinstance(schedule, Schedule) and schedule.steps == 2 * made.steps_per_epoch
    chances = [float(p.detach().mean()) for p in gates._by_block(torch.sigmoid(gates.log_alpha))]
    assert chances == pytest.approx([0.7, 0.7, 0.9], abs=0.01)
    weights, alpha = made.optimizer.param_groups
    assert (weights["lr"], weights["weight_decay"]) == (2e-3, 0.1)
    assert (alpha["lr"], alpha["weight_decay"]) == (2e-2, 0.0)
    assert alpha["params"] == [gates.log_alpha]
    assert float(gates.expected("macs").detach()) > 0


def test_the_learning_rate_of_gates_and_their_defaults() -> None:
    made = make_trainer(read_recipe("gated.toml", ["method.gate_lr=0.5"]), fake())
    assert [group["lr"] for group in made.optimizer.param_groups] == [2e-3, 0.5]
    text = GATED.replace("init = [0.3, 0.1]\nfinalize_at = 2\n", "")
    Path("plain.toml").write_text(text)
    recipe = read_recipe("plain.toml")
    assert recipe.method is not None and recipe.method.options(1).init == 0.5
    kept = Record(recipe=recipe, seed=0, shape=[64], classes=10).to_json()["recipe"]
    assert (kept["method"]["name"], kept["method"]["init"]) == ("gates", 0.5)
    method = make_trainer(recipe, fake()).method
    assert method is not None and method.options.finalize_at is None


@pytest.mark.parametrize(
    ("model", "shape", "entry", "left"),
    [
        ("lenet5", (1, 28, 28), "{groups='channels', only=['conv2'], L0=0}", [50]),
        ("lenet5", (1, 28, 28), "{groups='columns', L0=0}", [800, 500]),
        ("lenet5", (1, 28, 28), "{groups='weights', only=['fc1'], L0=0}", [400_000]),
        ("lenet5", (1, 28, 28), "{groups='kernels', L0=0}", [20, 1000]),
        ("cnn", (1, 8, 8), "{groups='channels', L0=0}", [8, 16, 32]),
    ],
)
def test_what_can_be_gated(model: str, shape: Any, entry: str, left: list[int]) -> None:
    changes = [f"model.name={model}", f"penalties=[{entry}]", "method.budget.macs=0.9"]
    recipe = read_recipe("gated.toml", [*changes, "method.init=0.3"])
    net = make_model(recipe, shape, 10)
    gates = make_method(recipe, net, make_optimizer(recipe.optimizer, net), shape, 5)
    assert isinstance(gates, Gates)
    assert [p.numel() for p in gates.p_nonzero()] == left
    assert [one.cost for one in gates.constraints] == ["macs"]


@exhaustive
def test_budgets_are_schedules_in_epochs_and_are_met() -> None:
    changes = [
        "method.budget={weights=[{start=1.0,end=0.4,epochs=8}], bytes=0.99, rate=0.05, damping=2}",
        "penalties=[{groups='neurons',inputs=true,L0=0}]", "method.init=0.3",
        "train.epochs=16", "train.batch_size=64", "method.gate_lr=0.06", "method.finalize_at=14",
        "optimizer.lr=3e-3", "optimizer.weight_decay=0",
    ]  # fmt: skip
    recipe = read_recipe("gated.toml", changes)
    told: list[dict[str, Any]] = []
    made = make_trainer(recipe, make_data(recipe), report=told.append)
    assert isinstance(made.method, Gates)
    first, second = made.method.constraints
    assert isinstance(first.target, Schedule) and first.target.steps == 8 * made.steps_per_epoch
    assert (first.cost, second.cost, second.target) == ("weights", "bytes", 0.99)
    assert (first.rate, first.damping) == (0.05, 2.0)
    event = made.fit()
    whole, gates = 8970, [event["method"] for event in told if "method" in event]
    assert gates[0]["curves"]["expected size"]["weights"] > 0.7 * whole
    expected = gates[-1]["curves"]["expected size"]["weights"]
    assert expected == pytest.approx(0.4 * whole, rel=0.2)
    assert gates[-1]["multipliers"]["weights"] > 0 == gates[-1]["multipliers"]["bytes"]
    assert event.nonzeros["total"].nonzeros < 0.8 * whole
    assert "method" not in event.more and event.test.error < 0.2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "gates"\n', "", r"line 18: method\.name: this key is required"),
        ('"gates"\ninit', '"gate"\ninit', r"line 19: method\.name: .*Did you mean 'gates'"),
        ("init = [0.3, 0.1]", "init = 1.0",
         r"line 20: method\.init: init is a drop rate, 0 < p < 1, got 1\.0"),
        ("init = [0.3, 0.1]", "init = [0.3, 0]",
         r"line 20: method\.init: init is a drop rate, 0 < p < 1, got 0"),
        ("init = [0.3, 0.1]", 'init = "half"', r"line 20: method\.init: .*, got 'half'"),
        ("init = [0.3, 0.1]", "init = [0.3]",
         r"line 20: method\.init: init is one drop rate for all groups, or a list with one for "
         r"each: it has 1, and there are 2 groups"),
        ("init = [0.3, 0.1]", "init = [0.3, 0.1, 0.2]", r"line 20: method\.init: .*it has 3, and"),
        ("init = [0.3, 0.1]", "init = []", r"line 20: method\.init: .*it has 0, and"),
        ("init = [0.3, 0.1]", "gate_lr = -1",
         r"line 20: method\.gate_lr: gate_lr is a learning rate ≥ 0, got -1"),
        ("init = [0.3, 0.1]", "gate_lr = inf", r"line 20: method\.gate_lr: .*, got inf"),
        ("init = [0.3, 0.1]", 'test = "means"',
         r"line 20: method\.test: test is .*'mean' or 'mode', got 'means'"),
        ("init = [0.3, 0.1]", 'per = "unit"', r"line 20: method\.per: .*got 'unit'"),
        ("init = [0.3, 0.1]", "detach_l2 = 1",
         r"line 20: method\.detach_l2: detach_l2 is true or false, got 1"),
        ("init = [0.3, 0.1]", "seed = 1.5",
         r"line 20: method\.seed: a seed is a whole number .* 1\.5"),
        ("init = [0.3, 0.1]", "finalise_at = 1",
         r"line 20: method\.finalise_at: method 'gates' has no option .*'finalize_at'"),
        ("init = [0.3, 0.1]", 'law = "wide"',
         r"line 20: method\.law: law is a table with beta, gamma, zeta; got 'wide'"),
        ("init = [0.3, 0.1]", "law = { bta = 0.5 }",
         r"line 20: method\.law\.bta: unknown option 'bta'\. Did you mean 'beta'"),
        ("init = [0.3, 0.1]", 'law = { beta = "a" }',
         r"line 20: method\.law\.beta: beta is a number, got 'a'"),
        ("finalize_at = 2", "finalize_at = 5",
         r"line 21: method\.finalize_at: method 'gates' ends after epoch 5, .* epochs=4"),
        ("finalize_at = 2", "finalize_at = 0",
         r"line 21: method\.finalize_at: finalize_at must lie after start=0, .*; got 0"),
        ("epochs = 4", "epochs = 4\naverage_from = 1",
         r"line 16: train\.average_from: weights are averaged from epoch 1 on, before method "
         r"'gates' ends, after 2: .*average_from=2 or later"),
        ("finalize_at = 2", "finalize_at = 2\n[method.budget]\nweights = 1.5",
         r"line 23: method\.budget\.weights: weights is a fraction of the whole, .*, got 1\.5"),
        ("finalize_at = 2", 'finalize_at = 2\n[method.budget]\nmacs = "half"',
         r"line 23: method\.budget\.macs: macs is a fraction of the whole, .*, got 'half'"),
        ("finalize_at = 2", "finalize_at = 2\nbudget.macs = [{ start = 1, end = 0, epochs = 1 }]",
         r"line 22: method\.budget\.macs: macs is a fraction .* got 0"),
        ("finalize_at = 2", "finalize_at = 2\nbudget.macs = [{ strat = 1, end = 1, epochs = 1 }]",
         r"line 22: method\.budget\.macs\.0\.strat: unknown key 'strat'\. Did you mean 'start'"),
        ("finalize_at = 2", "finalize_at = 2\nbudget = { macs = [{ end = 1, epochs = 1 }] }",
         r"line 22: method\.budget\.macs: the first piece of a schedule needs a start"),
        ("finalize_at = 2", "finalize_at = 2\nbudget.macs = { start = 1, end = 1, epochs = 1 }",
         r"line 22: method\.budget\.macs: a schedule is a list of tables, in \[ \]; got \{"),
        ("finalize_at = 2", "finalize_at = 2\nbudget = { macs = [] }",
         r"line 22: method\.budget\.macs: a schedule has one piece at least"),
        ("finalize_at = 2", "finalize_at = 2\nbudget = 0.5",
         r"line 22: method\.budget: budget is a table with weights, macs, bytes, .*; got 0"),
        ("finalize_at = 2", "finalize_at = 2\nbudget = { rate = 1 }",
         r"line 22: method\.budget: a budget names a size: weights=0\.05, say, or macs or bytes"),
        ("finalize_at = 2", "finalize_at = 2\nbudget = { macs = 1, rate = 0 }",
         r"line 22: method\.budget\.rate: rate is a number above 0, got 0"),
        ("finalize_at = 2", "finalize_at = 2\nbudget = { weight = 1 }",
         r"line 22: method\.budget\.weight: unknown option .*'weights'"),
        ("L2 = 1e-4", "L1 = 1",
         r"line 23: penalties\.0: method 'gates' takes L0, L2 and L0 \+ L2, .*; got L0\(0\.001\) "
         r"\+ L1\(1\.0\), which .*\. Methods that take it: 'lc', 'proximal'"),
        ("L2 = 1e-4", "TopK = { count = 3 }", r"line 23: penalties\.0: "),
        ("L0 = [{ start = 0, end = 1e-3, epochs = 2 }]", "L1 = 1",
         r"line 30: penalties\.1: method 'gates' takes L0, .*; got L1\(1\.0\), which .* Methods "),
        ("L0 = [{ start = 0, end = 1e-3, epochs = 2 }]", "L0 = 1\ninit = 0.5",
         r"line 34: penalties\.1\.init: unknown key 'init'"),
        ('only = ["fc3"]', "inputs = true",
         r"line 32: penalties\.1\.inputs: .*, not with 'columns'"),
    ],
)  # fmt: skip
def test_mistakes_are_found_where_they_stand(old: str, new: str, message: str) -> None:
    assert GATED.count(old) >= 1
    Path("gated.toml").write_text(GATED.replace(old, new, 1))
    with pytest.raises(RecipeError, match=rf"gated\.toml, {message}"):
        read_recipe("gated.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["penalties=[]"], r"method: \[method\] needs \[\[penalties\]\] as well"),
        (["proximal.start=1"], r"proximal: a method stands in \[method\]: name = \"proximal\""),
        (["method.every=2"], r"method\.every: method 'gates' has no option 'every'"),
        (["data.validation=100", "train.patience=2", "train.patience_from=1"],
         r"train\.patience_from: patience counts from epoch 1 on, and an epoch before method "
         r"'gates' ends, after 2, could be chosen: set patience_from=2 or later"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe("gated.toml", changes)


def test_a_drop_rate_without_gates_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"method\.init: method 'proximal' has no option 'init'"):
        read_recipe("digits-demo", ["method.init=0.5"])


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    changes = ["method.budget.weights=0.01", "method.init=0.3"]
    changes += ["penalties=[{groups='columns', only=['fc1'], L0=0}]"]
    told = r"^method\.budget\.weights for model 'henrikson': weights=0\.01 cannot be"
    with pytest.raises(RecipeError, match=told):
        make_trainer(read_recipe("gated.toml", changes), fake())


def test_a_run_with_gates_is_a_run_as_others_are() -> None:
    told = well_told("train", "gated.toml", "--out", "run", "--set", "penalties.0.L0=2e-3",
                "--set", "method.gate_lr=0.2")  # fmt: skip
    assert re.search(r"epoch +1/4 .*gates open \d+\s+expected weights [\d,]+", told)
    lines = Path("run/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert ["method" in event for event in events] == [True, False, False, False]
    total = events[-1]["nonzeros"]["total"]
    assert total["nonzeros"] < 0.95 * total["weights"] == 0.95 * 8970
    assert "lissom_log_alpha" not in weights("run")
    assert f"{total['nonzeros']:,}" in well("measure", "run")
    assert "MACs" in well("shrink", "run", "--inputs")
    found = json.loads(Path("run/shrinkage.json").read_text())
    assert found["weights_after"] <= total["nonzeros"]
    well("report", "run")
    assert "open gates" in Path("run/report.html").read_text()
    well("train", "run/recipe.json", "--out", "again")
    assert same("run", "again")


@pytest.mark.parametrize("epoch", few([1, 2, 3], [2]))
def test_a_run_with_gates_goes_on(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["--set", "method.gate_lr=0.2", "--set", "penalties.0.L0=2e-3"]
    well("train", "gated.toml", "--out", "whole", *changes)
    train_epoch = lissom.training.Trainer._train_epoch

    def interrupted(trainer: Any) -> None:
        if trainer.epoch == epoch:
            raise KeyboardInterrupt
        train_epoch(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(lissom.training.Trainer, "_train_epoch", interrupted)
        done = CliRunner().invoke(app, ["train", "gated.toml", "--out", "run", *changes])
    assert done.exit_code == 130
    events = [json.loads(line) for line in Path("run/events.jsonl").read_text().splitlines()]
    measured = json.loads(well("measure", "run", "--json"))
    assert measured["nonzeros"] == events[-1]["nonzeros"]["total"]["nonzeros"]
    well("train", "gated.toml", "--out", "run", "--resume", *changes)
    assert same("run", "whole")


PRUNER = """\
from lissom.methods import Method


class Pruner(Method):
    \"\"\"Sets the smaller half of each block to zero, at the end only.\"\"\"

    name = "pruner"

    def write_(self):
        for block in self.blocks():
            norms = block.norms()
            block.scale_((norms > norms.median()).to(norms.dtype))
"""
METHODS = {
    "proximal": """
name = "proximal"
metric = "adaptive"
every = "7 steps"
start = "3 steps"
finalize_at = 3

[[penalties]]
TopK = { fraction = [{ start = 1.0, end = 0.1, epochs = 2.5 }] }
""",
    "gates": """
name = "gates"
init = [0.3, 0.1]
finalize_at = 3
gate_lr = 0.1

[method.budget]
weights = [{ shape = "exponential", start = 1.0, end = 0.2, epochs = 2.5 }]
rate = 0.05

[[penalties]]
groups = "neurons"
inputs = true
without = ["fc3"]
L0 = 0

[[penalties]]
groups = "columns"
only = ["fc3"]
L0 = [{ start = 0, end = 1e-3, epochs = 2 }]
""",
    "gates-to-the-end": """
name = "gates"
gate_lr = 0.1
draws = "example"

[[penalties]]
groups = "neurons"
L0 = [{ start = 0, end = 1e-2, epochs = 2 }]
""",
    "lc": """
name = "lc"
metric = "adaptive"
every = "7 steps"
start = "5 steps"
c_steps = 5
mu = 3.0
mu_factor = 1.5

[[penalties]]
TopK = { fraction = [{ start = 1.0, end = 0.1, epochs = 3 }] }
""",
    "lc-codebook": """
name = "lc"
every = "11 steps"
first = 1
restart = true
c_steps = 4

[[penalties]]
Codebook = { k = 3, per = "layer" }
""",
    "nested": """
name = "nested"
smallest = 0.01
falls = 2
every = "3 steps"

[[penalties]]
TopK = { fraction = 0.1 }
""",
    "subgradient": """
name = "subgradient"
start = 1

[[penalties]]
L1 = [{ start = 0, end = 1e-3, epochs = 2 }]
""",
    "own": """
name = "own_pruner_of_a_test:Pruner"

[[penalties]]
groups = "neurons"
L0 = 0
""",
}


def killed(recipe: str, out: str, at: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Train up to a step, and keep the tensors that the last evaluation saw."""
    seen: dict[str, Any] = {}
    loss, evaluate = lissom.training.Trainer._loss, lissom.training.trainer.evaluate_all
    steps = iter(range(at))

    def interrupted(trainer: Any, *arguments: Any) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return loss(trainer, *arguments)

    def watched(net: Any, *arguments: Any) -> Any:
        seen.clear()
        seen.update({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return evaluate(net, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(lissom.training.Trainer, "_loss", interrupted)
        patch.setattr(lissom.training.trainer, "evaluate_all", watched)
        done = CliRunner().invoke(app, ["train", recipe, "--out", out])
    assert done.exit_code == 130, done.output
    return seen


# Within the second, third and fourth epoch, of 11 steps each.
@sampled(1)
@pytest.mark.parametrize("at", few([15, 25, 43], [25]))
@pytest.mark.parametrize("name", few(METHODS, ["proximal", "gates"]))
def test_a_run_under_each_method_is_killed_measured_and_resumed(
    name: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = TEACHER.replace('"lenet300"', '"henrikson"').replace("a teacher", name)
    head = head.replace("epochs = 4", "epochs = 4\ncosine_from = 1")
    average = {"proximal": 3, "gates": 3, "subgradient": 1}.get(name)
    if average is not None:
        head = head.replace("epochs = 4", f"epochs = 4\naverage_from = {average}")
    Path("mine.toml").write_text(f"{head}\n[method]{METHODS[name]}")
    Path("own_pruner_of_a_test.py").write_text(PRUNER)
    well("train", "mine.toml", "--out", "whole")
    x = torch.rand(5, 1, 8, 8)
    deployed = killed("mine.toml", "run", at, monkeypatch)
    net, _ = load_model(Path("run"))
    assert same_tensors(net.state_dict(), deployed)
    events = [json.loads(line) for line in Path("run/events.jsonl").read_text().splitlines()]
    assert len(events) == at // 11
    measured = json.loads(well("measure", "run", "--json"))
    assert measured["nonzeros"] == events[-1]["nonzeros"]["total"]["nonzeros"]
    well("export", "run", "--to", "pt2")
    exported = torch.export.load("run/model.pt2").module()(x)
    torch.testing.assert_close(exported, net.eval()(x))
    well("shrink", "run")
    assert (Path("run/shrinkage.json")).exists()
    well("train", "mine.toml", "--out", "run", "--resume")
    assert same("run", "whole")
    kept, again = Path("run/result.json"), Path("whole/result.json")
    ignored = {"seconds", "command", "crc32"}
    one, other = (json.loads(path.read_text()) for path in (kept, again))
    assert {k: v for k, v in one.items() if k not in ignored} == {
        k: v for k, v in other.items() if k not in ignored
    }


@sampled(2)
@pytest.mark.parametrize("name", METHODS)
def test_a_run_under_each_method_is_repeated_from_its_record(name: str) -> None:
    head = TEACHER.replace('"lenet300"', '"henrikson"')
    Path("mine.toml").write_text(f"{head}\n[method]{METHODS[name]}")
    Path("own_pruner_of_a_test.py").write_text(PRUNER)
    well("train", "mine.toml", "--out", "run")
    assert read_recipe("run/recipe.json") == read_recipe("mine.toml")
    kept = json.loads(Path("run/recipe.json").read_text())["recipe"]["method"]
    read = read_recipe("mine.toml").method
    assert read is not None and kept["name"] == read.name
    assert not any("lissom" in name for name in weights("run"))
    Path("mine.toml").unlink()
    well("train", "run/recipe.json", "--out", "again")
    assert same("run", "again")
    again = json.loads(Path("again/recipe.json").read_text())
    assert again == json.loads(Path("run/recipe.json").read_text())


def test_figures_show_gates_while_there_are_any() -> None:
    def event(epoch: int, more: dict[str, Any] | None = None) -> Evaluation:
        left, part = Count(100, 100 - 10 * epoch), Part(0.5, 0.1)
        return Evaluation(epoch, part, part, {"total": left}, more=more or {})

    def gated(epoch: int) -> Evaluation:
        curves = {
            "open gates": {"fc1.weight": 10 - epoch},
            "gates expected to be open": {"fc1.weight": 9.5 / epoch},
            "expected size": {"weights": 90.0 / epoch, "macs": 80.0 / epoch},
        }
        return event(epoch, {"method": {"name": "gates", "summary": "", "curves": curves}})

    assert len(history([event(1)]).axes) == 2
    _, _, opened, expected, cost, unused = history([gated(1), gated(2), event(3)]).axes
    assert [list(line.get_ydata()) for line in opened.lines] == [[9, 8]]
    assert [list(line.get_ydata()) for line in expected.lines] == [[9.5, 4.75]]
    lines = {line.get_label(): list(line.get_ydata()) for line in cost.lines}
    assert lines == {"weights": [90, 45], "MACs": [80, 40]}
    assert not unused.get_visible()


@exhaustive
def test_the_teacher_is_trained_first_and_kept() -> None:
    told = well_told("train", "taught.toml", "--out", "run")
    assert told.index("teacher  epoch    4/4") < told.index("\nepoch    1/3")
    record = read_record(Path("run/recipe.json"))
    assert record.recipe.teacher is not None
    assert record.recipe.teacher.recipe == read_recipe("other/teacher.toml")
    assert read_recipe("run/recipe.json") == read_recipe("taught.toml")
    well("measure", "run/teacher")
    well("report", "run/teacher")

    data = make_data(record.recipe)  # 100 held out, from the teacher as well
    alone = make_trainer(read_recipe("other/teacher.toml"), data)
    alone.fit()
    kept = weights("run/teacher")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in alone.model.state_dict().items())
    student = read_recipe("taught.toml").model_copy(update={"teacher": None})
    by_hand = make_trainer(student, data)
    by_hand.teacher = Teacher(logits_of(alone.model, data.train_x), 0.7, 3.0)
    by_hand.fit()
    found = weights("run")
    assert all(torch.equal(t, found[name]) for name, t in by_hand.model.state_dict().items())
    in_memory = make_trainer(read_recipe("taught.toml"), data)
    in_memory.fit()
    assert all(torch.equal(t, found[name]) for name, t in in_memory.model.state_dict().items())


AT = [("henrikson", 2), ("lenet300", 0), ("lenet300", 2)]


@pytest.mark.parametrize("at", few(AT, AT[:1]), ids=str)
def test_a_run_with_a_teacher_goes_on(at: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    well("train", "taught.toml", "--out", "whole")
    train_epoch = lissom.training.Trainer._train_epoch
    trained: list[tuple[str, int]] = []

    def interrupted(trainer: Any) -> None:
        name = "lenet300" if getattr(trainer.model[1], "out_features", 0) == 300 else "henrikson"
        if (name, trainer.epoch) == at and at not in trained:
            trained.append(at)
            raise KeyboardInterrupt
        trained.append((name, trainer.epoch))
        train_epoch(trainer)

    monkeypatch.setattr(lissom.training.Trainer, "_train_epoch", interrupted)
    assert CliRunner().invoke(app, ["train", "taught.toml", "--out", "run"]).exit_code == 130
    before = len(trained)
    well("train", "taught.toml", "--out", "run", "--resume")
    assert trained[before] == at, "nothing is trained twice"
    assert same("run", "whole") and same("run/teacher", "whole/teacher")
    Path("run/teacher/mine.txt").write_text("mine")
    changes = ["--set", "teacher.recipe=digits-channels", "--set", "teacher.recipe.penalties=none"]
    changes += ["--set", "teacher.recipe.train={epochs=2}"]
    changes += ["--set", "teacher.recipe.method=none"]
    well("train", "taught.toml", "--out", "run", "--overwrite", *changes)
    assert not same("run/teacher", "whole/teacher")
    assert Path("run/teacher/mine.txt").exists()
    done = CliRunner().invoke(app, ["train", "taught.toml", "--out", "run", "--resume"])
    assert done.exit_code == 2 and "was started with another recipe" in done.stderr


@exhaustive
def test_a_teacher_of_a_student_whose_images_are_changed() -> None:
    changes = ["--set", "train.augment={pad=1}"]
    well("train", "taught.toml", "--out", "whole")
    well("train", "taught.toml", "--out", "shown", *changes)
    assert same("shown/teacher", "whole/teacher") and not same("shown", "whole")
    well("train", "taught.toml", "--out", "again", *changes)
    assert same("again", "shown")


def test_a_teacher_of_another_run_is_not_taken() -> None:
    teacher = read_recipe("taught.toml").teacher
    assert teacher is not None
    made = make_teacher(teacher, fake(), out=Path("kept"))
    assert made.logits.shape == (20, 10) and (made.alpha, made.temperature) == (0.7, 3.0)
    again = make_teacher(teacher, fake(), out=Path("kept"))
    assert torch.equal(made.logits, again.logits)
    with pytest.raises(RunError, match="kept holds a teacher of another recipe or seed"):
        make_teacher(teacher, fake(), out=Path("kept"), seed=1)
    with pytest.raises(RunError, match="kept holds a teacher of another recipe or seed"):
        make_teacher(teacher, fake((1, 4, 4)), out=Path("kept"))
    own = teacher.model_copy(update={"seed": 0})
    again = make_teacher(own, fake(), out=Path("kept"), seed=1)
    assert torch.equal(made.logits, again.logits), "it has a seed of its own"


def test_a_teacher_can_be_gated_and_can_teach_a_gated_student() -> None:
    Path("both.toml").write_text(GATED + '\n[teacher]\nrecipe = "gated.toml"\n')
    recipe = read_recipe("both.toml")
    made = make_trainer(recipe, fake(), out=Path("both"))
    made.fit()
    assert not any("lissom" in name for name in weights("both/teacher"))
    with pytest.raises(Exception, match="has no gates"):
        gates_of(made.model)


def message(*changes: str, text: str = TAUGHT) -> str:
    Path("taught.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe("taught.toml", changes)
    return str(caught.value)


def test_mistakes_with_teachers_are_told() -> None:
    path = '"other/teacher.toml"'
    assert message(text=TAUGHT.replace(path, '"taught.toml"')) == (
        "taught.toml, line 19: teacher.recipe: 'taught.toml' would be its own teacher"
    )
    found = message(text=TAUGHT.replace(path, '"mnist-techer"'))
    assert found.startswith(
        "taught.toml, line 19: teacher.recipe: there is no recipe 'mnist-techer'"
    )
    assert "Did you mean 'mnist-teacher'" in found
    found = message(text=TAUGHT.replace(path, '"mnist-teacher"'))
    assert found == (
        "taught.toml, line 19: teacher.recipe: it learns 'mnist', but the student learns 'digits'"
    )
    assert "no recipe file other/absent.toml" in message(
        text=TAUGHT.replace("teacher.t", "absent.t")
    )
    found = message(text=TAUGHT.replace(f"recipe = {path}", ""))
    assert "line 18: teacher.recipe: this key is required" in found
    assert "line 19: teacher.recipe: this is the name of a recipe" in message(
        text=TAUGHT.replace(path, "3")
    )
    whole = TAUGHT[TAUGHT.index("[teacher]") :]
    assert message(text="teacher = 3\n" + TAUGHT.replace(whole, "")) == (
        "taught.toml, line 1: teacher: this must be a table, got 3"
    )
    assert message("teacher=mnist-teacher", text=TAUGHT.replace(whole, "")) == (
        "taught.toml, --set: teacher: this must be a table, got 'mnist-teacher'"
    )
    assert "line 20: teacher.alpha: " in message(text=TAUGHT.replace("0.7", "1.7"))
    assert "line 21: teacher.temperature: " in message(text=TAUGHT.replace("3.0", "0"))
    assert "--set: teacher.recipe.train.epochs: " in message("teacher.recipe.train.epochs=0")
    assert "--set: teacher.recipe: there is no recipe 'x'" in message("teacher.recipe=x")
    Path("other/teacher.toml").write_text(TEACHER.replace("epochs = 4", "epochs = 0"))
    assert "taught.toml, line 19: teacher.recipe: other/teacher.toml, line 14: " in message()
    Path("other/teacher.toml").write_text(TEACHER + '\n[teacher]\nrecipe = "../taught.toml"\n')
    assert "'../taught.toml' would be its own teacher" in message()
    patient = TEACHER.replace("epochs = 4", "epochs = 4\npatience = 1")
    patient = patient.replace('"digits"', '"digits"\nvalidation = 100')
    Path("other/teacher.toml").write_text(patient)
    assert "none are held out" in message(text=TAUGHT.replace("validation = 100", ""))


def test_a_record_of_a_student_is_complete() -> None:
    recipe = read_recipe("taught.toml")
    record = Record(recipe=recipe, seed=0, shape=[1, 8, 8], classes=10)
    keep_record(record, Path())
    Path("other/teacher.toml").unlink()
    assert read_recipe("recipe.json") == recipe
    assert read_recipe("recipe.json", ["teacher.alpha=0.5"]).teacher.alpha == 0.5  # type: ignore[union-attr]
