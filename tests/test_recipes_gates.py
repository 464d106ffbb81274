"""Recipes with gates and with teachers: what they make, what they refuse, and the command line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import lissom.recipes.trainers
from lissom import L0, L2
from lissom.checkpoints import save_json
from lissom.cli import app
from lissom.data import Dataset
from lissom.errors import RecipeError, RunError
from lissom.gates import gates_of
from lissom.recipes import (
    Record,
    make_data,
    make_gates,
    make_model,
    make_teacher,
    make_trainer,
    read_recipe,
    read_record,
)
from lissom.report import history
from lissom.schedules import Schedule
from lissom.training import Count, Evaluation, Part, Teacher, logits_of

GATED = """\
title = "gates"
method = "gates"

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

[gates]
init = 0.3
harden = 2

[[prices]]
groups = "neurons"
inputs = true
without = ["fc3"]
L0 = 1e-3
L2 = 1e-4

[[prices]]
groups = "columns"
only = ["fc3"]
init = 0.1
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
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gated.toml").write_text(GATED)
    Path("taught.toml").write_text(TAUGHT)
    Path("other").mkdir()
    Path("other/teacher.toml").write_text(TEACHER)


def fake(shape: tuple[int, ...] = (1, 8, 8), n: int = 20) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, *shape, generator=generator), torch.arange(n) % 10
    return Dataset("fake", x, y, x[:10], y[:10], classes=10)


def well(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "model.safetensors")


def same(one: str, other: str) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_gates_are_made_as_the_recipe_says() -> None:
    recipe = read_recipe("gated.toml", ["gates.test=median", "gates.per=group"])
    made = make_trainer(recipe, fake(), seed=3)
    gates = made.gates
    assert gates is not None and made.proximal is None and made.penalties is None
    assert (made.options.harden_at, gates.per, gates.test) == (2, "group", "median")
    first, second = gates.prices.items()
    assert [len(groups) for groups, _ in (first, second)] == [64 + 64, 64]
    assert first[1] == L0(1e-3) + L2(1e-4)
    schedule = second[1].l0  # type: ignore[attr-defined]
    assert isinstance(schedule, Schedule) and schedule.steps == 2 * made.steps_per_epoch
    chances = [float(p.detach().mean()) for p in gates._by_block(torch.sigmoid(gates.log_alpha))]
    assert chances == pytest.approx([0.7, 0.7, 0.9], abs=0.01)
    weights, alpha = made.optimizer.param_groups
    assert (weights["lr"], weights["weight_decay"]) == (2e-3, 0.1)
    assert (alpha["lr"], alpha["weight_decay"]) == (2e-2, 0.0)
    assert alpha["params"] == [gates.log_alpha]
    assert float(gates.expected("macs")) > 0


def test_the_learning_rate_of_gates_and_their_defaults() -> None:
    made = make_trainer(read_recipe("gated.toml", ["gates.lr=0.5"]), fake())
    assert [group["lr"] for group in made.optimizer.param_groups] == [2e-3, 0.5]
    text = GATED.replace("[gates]\ninit = 0.3\nharden = 2\n", "")
    Path("plain.toml").write_text(text)
    recipe = read_recipe("plain.toml")
    assert recipe.gates is not None and recipe.gates.init == 0.5
    assert "gates" in Record(recipe=recipe, seed=0, shape=[64], classes=10).to_json()["recipe"]
    assert make_trainer(recipe, fake()).options.harden_at is None
    assert read_recipe("digits-demo").gates is None


@pytest.mark.parametrize(
    ("model", "shape", "prices", "left"),
    [
        ("lenet5", (1, 28, 28), "{groups='channels', only=['conv2'], L0=0}", [50]),
        ("lenet5", (1, 28, 28), "{groups='columns', L0=0}", [800, 500]),
        ("lenet5", (1, 28, 28), "{groups='weights', only=['fc1'], L0=0}", [400_000]),
        ("lenet5", (1, 28, 28), "{groups='kernels', L0=0}", [20, 1000]),
        ("cnn", (1, 8, 8), "{groups='channels', L0=0}", [8, 16, 32]),
    ],
)
def test_what_can_be_gated(model: str, shape: Any, prices: str, left: list[int]) -> None:
    changes = [f"model.name={model}", f"prices=[{prices}]", "gates.budget.macs=0.9"]
    recipe = read_recipe("gated.toml", changes)
    gates = make_gates(recipe, make_model(recipe, shape, 10), shape, 5)
    assert [p.numel() for p in gates.p_nonzero()] == left
    assert [one.cost for one in gates.constraints] == ["macs"]


def test_budgets_are_schedules_in_epochs_and_are_met() -> None:
    changes = [
        "gates.budget={weights=[{start=1.0,end=0.4,epochs=8}], bytes=0.99, rate=0.05, damping=2.0}",
        "prices=[{groups='neurons',inputs=true,L0=0}]", "train.epochs=16", "train.batch_size=64",
        "gates.lr=0.06", "gates.harden=14", "optimizer.lr=3e-3", "optimizer.weight_decay=0",
    ]  # fmt: skip
    recipe = read_recipe("gated.toml", changes)
    told: list[dict[str, Any]] = []
    made = make_trainer(recipe, make_data(recipe), report=told.append)
    assert made.gates is not None
    first, second = made.gates.constraints
    assert isinstance(first.target, Schedule) and first.target.steps == 8 * made.steps_per_epoch
    assert (first.cost, second.cost, second.target) == ("weights", "bytes", 0.99)
    assert (first.rate, first.damping) == (0.05, 2.0)
    event = made.fit()
    whole, gates = 8970, [event["gates"] for event in told if "gates" in event]
    assert gates[0]["expected"]["weights"] > 0.7 * whole
    assert gates[-1]["expected"]["weights"] == pytest.approx(0.4 * whole, rel=0.2)
    assert gates[-1]["multipliers"]["weights"] > 0 == gates[-1]["multipliers"]["bytes"]
    assert event.nonzeros["total"].nonzeros < 0.8 * whole
    assert "gates" not in event.more and event.test.error < 0.2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('method = "gates"\n', "",
         r"line 18: gates: \[gates\] needs method = 'gates', .*'proximal'"),
        ('"gates"\n\n[data]', '"gate"\n\n[data]', r"line 2: method: .*Did you mean 'gates'"),
        ("init = 0.3", "init = 1.0", r"line 20: gates\.init: .*less than 1, got 1\.0"),
        ("init = 0.3", "lr = 0", r"line 20: gates\.lr: .*greater than 0, got 0"),
        ("init = 0.3", 'test = "means"', r"line 20: gates\.test: .*Did you mean 'mean'"),
        ("init = 0.3", 'per = "unit"', r"line 20: gates\.per: .*got 'unit'"),
        ("init = 0.3", "hardn = 1", r"line 20: gates\.hardn: unknown key .*'harden'"),
        ("harden = 2", "harden = 4",
         r"line 21: gates\.harden: 4 is not before the end of training, epochs = 4"),
        ("harden = 2", "harden = 0", r"line 21: gates\.harden: .*greater than or equal to 1"),
        ("epochs = 4", "epochs = 4\naverage_from = 1",
         r"line 17: train\.average_from: an average from epoch 1 .* hardened after 2: set it"),
        ("harden = 2", "harden = 2\n[gates.budget]\nweights = 1.5",
         r"line 23: gates\.budget\.weights: a part of the whole is in \(0, 1\], got 1\.5"),
        ("harden = 2", "harden = 2\nbudget = { macs = [{ start = 1, end = 0, epochs = 1 }] }",
         r"line 22: gates\.budget\.macs\.0\.end: a part .* got 0"),
        ("harden = 2", "harden = 2\nbudget = { rate = 1 }",
         r"line 22: gates\.budget: a budget needs a part of the weights, macs or bytes"),
        ("harden = 2", "harden = 2\nbudget = { weight = 1 }",
         r"line 22: gates\.budget\.weight: unknown key .*'weights'"),
        ("L2 = 1e-4", "L1 = 1", r"line 23: prices\.0: gates know L0, L2 and both, but not L0"),
        ("L2 = 1e-4", "TopK = { count = 3 }", r"line 23: prices\.0: "),
        ("init = 0.1", "init = 0", r"line 33: prices\.1\.init: .*greater than 0, got 0"),
        ('only = ["fc3"]', "inputs = true", r"line 32: prices\.1\.inputs: .*, not with 'columns'"),
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
        (["prices=[]"], r"method: 'gates' needs \[\[prices\]\].*'proximal'"),
        (["proximal.start=1"], r"method: method = 'gates' has no \[proximal\] step"),
        (["data.validation=100", "train.patience=2", "train.patience_from=1"],
         r"train\.patience_from: an epoch before the gates are hardened, at 2.*set it to 2"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe("gated.toml", changes)


def test_a_drop_rate_without_gates_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"prices\.0\.init: only gates .* method is 'proximal'"):
        read_recipe("digits-demo", ["prices.0.init=0.5"])


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    changes = ["gates.budget.weights=0.01", "prices=[{groups='columns', only=['fc1'], L0=0}]"]
    with pytest.raises(RecipeError, match=r"gates for model 'henrikson': weights=0\.01 cannot be"):
        make_trainer(read_recipe("gated.toml", changes), fake())


def test_a_run_with_gates_is_a_run_as_others_are() -> None:
    told = well("train", "gated.toml", "--out", "run", "--set", "prices.0.L0=2e-3",
                "--set", "gates.lr=0.2")  # fmt: skip
    assert re.search(r"epoch +1/4 .*gates open \d+\s+expected weights [\d,]+", told)
    lines = Path("run/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert ["gates" in event for event in events] == [True, True, False, False]
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


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_with_gates_goes_on(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["--set", "gates.lr=0.2", "--set", "prices.0.L0=2e-3"]
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


def test_figures_show_gates_while_there_are_any() -> None:
    def event(epoch: int, more: dict[str, Any] | None = None) -> Evaluation:
        left, part = Count(100, 100 - 10 * epoch), Part(0.5, 0.1)
        return Evaluation(epoch, part, part, {"total": left}, more=more or {})

    def gated(epoch: int) -> Evaluation:
        gates = {
            "expected": {"weights": 90.0 / epoch, "macs": 80.0 / epoch},
            "open": {"fc1.weight": 9.5 / epoch},
            "left": {"fc1.weight": 10 - epoch},
            "multipliers": {},
        }
        return event(epoch, {"gates": gates})

    assert len(history([event(1)]).axes) == 2
    _, _, opened, cost = history([gated(1), gated(2), event(3)]).axes
    assert [list(line.get_ydata()) for line in opened.lines] == [[9, 8], [9.5, 4.75]]
    lines = {line.get_label(): list(line.get_ydata()) for line in cost.lines}
    assert lines == {"weights": [90, 45], "MACs": [80, 40]}


def test_the_teacher_is_trained_first_and_kept() -> None:
    told = well("train", "taught.toml", "--out", "run")
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


@pytest.mark.parametrize("at", [("henrikson", 2), ("lenet300", 0), ("lenet300", 2)], ids=str)
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
    changes = ["--set", "teacher.recipe=digits-channels", "--set", "teacher.recipe.prices=[]"]
    changes += ["--set", "teacher.recipe.train={epochs=2}"]
    changes += ["--set", "teacher.recipe.proximal={}"]
    well("train", "taught.toml", "--out", "run", "--overwrite", *changes)
    assert not same("run/teacher", "whole/teacher")
    assert Path("run/teacher/mine.txt").exists()
    done = CliRunner().invoke(app, ["train", "taught.toml", "--out", "run", "--resume"])
    assert done.exit_code == 2 and "was started with another recipe" in done.stderr


def test_a_teacher_of_another_run_is_not_taken() -> None:
    teacher = read_recipe("taught.toml").teacher
    assert teacher is not None
    made = make_teacher(teacher, fake(), out=Path("kept"))
    assert made.logits.shape == (20, 10) and (made.alpha, made.temperature) == (0.7, 3.0)
    again = make_teacher(teacher, fake(), out=Path("kept"))
    assert torch.equal(made.logits, again.logits)
    with pytest.raises(RunError, match="kept holds a teacher of another recipe or seed"):
        make_teacher(teacher, fake(), out=Path("kept"), seed=1)


def test_a_teacher_can_be_gated_and_can_teach_a_gated_student() -> None:
    recipe = read_recipe("gated.toml", ["teacher={recipe='gated.toml'}"][:0])
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
    found = message(text=TAUGHT.replace("epochs = 3", "epochs = 3\naugment = { pad = 2 }"))
    assert "line 16: train.augment: a teacher answers once to each training example" in found
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
    save_json(record.to_json(), Path("recipe.json"))
    Path("other/teacher.toml").unlink()
    assert read_recipe("recipe.json") == recipe
    assert read_recipe("recipe.json", ["teacher.alpha=0.5"]).teacher.alpha == 0.5  # type: ignore[union-attr]
