"""[path] in recipes: the recipe of each point, what is refused, and whole curves on digits."""

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from products import exhaustive, few, sampled
from safetensors.torch import load_file
from typer.testing import CliRunner

from lissom.cli import app
from lissom.curves import Curve
from lissom.curves.storing import state_in
from lissom.errors import RecipeError
from lissom.recipes import RecipePath, read_recipe, read_record
from lissom.recipes.paths import point_recipe, strength_of
from lissom.storage import read_events

SHORT = ["path.dense=3", "path.epochs=2", "path.fine_tune=1", "path.seeds=1"]
LC = [
    'method={name="lc", every=1, c_steps=2, metric="adaptive", mu=3.0}',
    "train.average_from=50",
]


GATES = [
    "method={name='gates', init=0.1, gate_lr=0.05, budget={weights=0.5, rate=0.05}}",
    "penalties=[{groups='neurons', inputs=true, L0=0}]",
    'path.strength="method.budget.weights"',
]


def make(out: Path, *changes: str) -> RecipePath:
    return RecipePath(read_recipe("digits-path", [*SHORT, *changes]), out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("made") / "run"
    changes = [*SHORT, "path.strengths=[0.3, 0.1, 0.02]", "path.seeds=2"]
    command = ["path", "digits-path", "--out", str(run)]
    command += [word for change in changes for word in ("--set", change)]
    assert CliRunner().invoke(app, command).exit_code == 0
    return run


def test_the_dense_point_has_no_strength() -> None:
    point = point_recipe(read_recipe("digits-path"), None, None)
    assert (point.penalties, point.method, point.path) == ([], None, None)
    assert (point.train.epochs, point.train.cosine_from, point.train.average_from) == (60, 30, 30)


@pytest.mark.parametrize(("before", "start"), [(None, 1.0), (0.5, 0.5)])
def test_a_budget_is_reached_from_that_of_the_point_before(
    before: float | None, start: float
) -> None:
    point = point_recipe(read_recipe("digits-path"), 0.1, before)
    [entry] = point.model_dump()["penalties"]
    [ramp] = entry["TopK"]["fraction"]
    assert (ramp["start"], ramp["end"], ramp["epochs"]) == (start, 0.1, 10)
    assert point.method is not None
    options = point.method.options(1)
    assert (point.train.epochs, options.start, options.finalize_at) == (20, 0, 10)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("penalties.0.L0", "λ"),
        ("penalties.1.L2", "λ"),
        ("penalties.0.TopK.fraction", "fraction kept"),
        ("penalties.0.TopK.count", "groups kept"),
        ("penalties.0.L1Ball.radius", "ν"),
        ("method.budget.weights", "fraction of the weights"),
        ("method.budget.macs", "fraction of the MACs"),
        ("method.budget.bytes", "fraction of the bytes"),
        ("penalties.0.LowRank.rank", "rank"),
    ],
)
def test_the_strength_is_called_what_it_is(key: str, name: str) -> None:
    recipe = read_recipe("digits-path", GATES if key.startswith("method.") else [])
    assert recipe.path is not None
    path = recipe.path.model_copy(update={"strength": key})
    assert strength_of(recipe.model_copy(update={"path": path})).label == name


def test_a_lambda_acts_at_once() -> None:
    recipe = read_recipe(
        "digits-path",
        ["penalties=[{L0=1e-4}]", 'path.strength="penalties.0.L0"', "path.strengths=[1e-4, 1]"],
    )
    assert point_recipe(recipe, 0.01, 1e-4).penalties[0].L0 == 0.01


def test_a_point_from_scratch_has_the_epochs_of_the_dense_one() -> None:
    point = point_recipe(read_recipe("digits-path"), 0.1, None, untrained=True)
    [ramp] = point.model_dump()["penalties"][0]["TopK"]["fraction"]
    assert (ramp["start"], ramp["end"], ramp["epochs"]) == (1.0, 0.1, 30)
    assert point.method is not None
    assert (point.train.epochs, point.method.options(1).finalize_at) == (60, 30)


def test_l_steps_fill_the_epochs_before_fine_tuning() -> None:
    point = point_recipe(read_recipe("digits-path", LC), 0.1, 0.5)
    assert point.method is not None
    assert point.method.options(1).end == 10 == point.train.average_from


def test_a_point_keeps_the_other_options_of_the_method() -> None:
    recipe = read_recipe("digits-path", [*GATES, "method.start=5", "method.test=median"])
    point = point_recipe(recipe, 0.1, 0.5)
    assert point.method is not None
    options = point.method.options(1)
    assert (options.start, options.finalize_at) == (0, 10)
    assert (options.test, options.init, options.budget.rate) == ("median", 0.1, 0.05)
    recipe = read_recipe("digits-path", ["method.every=8 steps"])
    point = point_recipe(recipe, 0.1, 0.5)
    assert point.method is not None and point.method.options(100).every == 8


@pytest.mark.parametrize(("changes", "epochs"), [((), 10), (LC, 6), (GATES, 6)])
def test_budgets_stand_still_while_multipliers_settle(changes: Sequence[str], epochs: int) -> None:
    table = point_recipe(read_recipe("digits-path", changes), 0.1, 0.5).model_dump()
    budget = table["method"].get("budget")
    [ramp] = budget["weights"] if budget else table["penalties"][0]["TopK"]["fraction"]
    assert (ramp["start"], ramp["end"], ramp["epochs"]) == (0.5, 0.1, epochs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            ['path.strength="penalties.0.L1"'],
            "path.strength: there is no number 'penalties.0.L1' in this recipe. Did you mean "
            "'penalties.0.TopK.fraction'",
        ),
        (['path.strength="penalties.1.L0"'], "there is no number 'penalties.1.L0'"),
        (['path.strength="penalties.0.TopK"'], "no number 'penalties.0.TopK' in this recipe"),
        (['path.strength="penalties.0.TopK.per"'], "there is no number 'penalties.0.TopK.p"),
        (['path.strength="penalties.0.only"'], "there is no number 'penalties.0.only'"),
        (['path.strength="penalties.x.L0"'], "there is no number 'penalties.x.L0'"),
        (['path.strength="method.budget.macs"'], "there is no number 'method.budget.macs'"),
        (
            [*GATES, 'path.strength="method.budget.mac"'],
            "'method.budget.mac' in this recipe. Did you mean",
        ),
        (['path.strength="method.name"'], "there is no number 'method.name' in this recipe"),
        (['path.strength="title"'], "the strength is a number of penalties or method, as penal"),
        (["method=none", "penalties=none"], "a path needs a [method] and [[penalties]]"),
        (['path.strength="optimizer.lr"', "path.strengths=[1e-3, 1e-2]"], "not 'optimizer.lr'"),
        (["data.validation=0"], "chosen by held-out examples: set data.validation = 5000"),
        (["data.bootstrap=true"], "all seeds of a path have the same examples"),
        (["path.fine_tune=20"], "all 20 epochs would fine-tune"),
        (["path.dense=1"], "1 epoch cannot learn and fine-tune: give at least 2"),
        (["path.strengths=[]"], "path.strengths: this list needs an entry"),
        (["path.strengths=[0.0, 1.0]"], "path.strengths.0"),
        (
            ["path.strengths=[0.1]"],
            "penalties.0.TopK.fraction (fraction kept) is no λ, for which a",
        ),
        ([*GATES, "path.strengths=[0.1, 0.7]"], "falls there: from 0.7 to 0.1, and not from 0.1"),
        (
            ["path.strengths=[2.0, 0.1]"],
            "path.strengths.0: penalties.0.TopK.fraction = 2: TopK needs a fraction",
        ),
        (["path.pionts=3"], "unknown key 'pionts'. Did you mean 'points'"),
        (
            ["method={name='subgradient'}", "penalties=[{L1=1e-4}]"],
            "path: a curve goes to ever more zeros, and method 'subgradient' makes none",
        ),
        (["train.patience=3", "train.patience_from=40"], "remove train.patience"),
        ([*GATES, "path.strengths=[2.0, 0.1]"], "strengths.0: method.budget.weights = 2: weights"),
    ],
)
def test_what_makes_no_path_is_refused(changes: list[str], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("digits-path", changes)
    assert told in str(caught.value)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("key", "table", "called", "way"),
    [
        ("TopK.fraction", "{fraction=0.1}", "fraction kept", "falls"),
        ("TopK.count", "{count=5}", "groups kept", "falls"),
        ("L1Ball.radius", "{radius=1}", "ν", "falls"),
        ("L0", "1e-4", "λ", "grows"),
        ("MCP.strength", "{strength=1e-4}", "λ", "grows"),
        ("Threshold", "1e-4", "θ", "grows"),
    ],
)
def test_strengths_go_from_dense_to_empty(
    key: str, table: str, called: str, way: str, count: int
) -> None:
    penalty = f"penalties=[{{{key.partition('.')[0]}={table}}}]"
    strength = f"penalties.0.{key}"
    numbers = [5, 3, 1] if "count" in key else [0.7, 0.5, 0.1]
    right = numbers[:count] if way == "falls" else numbers[:count][::-1]
    changes = [penalty, "method.metric=euclidean", f'path.strength="{strength}"']
    read = read_recipe("digits-path", [*changes, f"path.strengths={right}"])
    assert read.path is not None and read.path.strengths == right
    with pytest.raises(RecipeError) as caught:
        read_recipe("digits-path", [*changes, f"path.strengths={right[::-1]}"])
    assert (
        f"path.strengths: strengths go from dense to empty, and {strength} ({called}) {way} there: "
        f"from {right[0]} to {right[-1]}, and not from {right[-1]} to {right[0]}"
    ) in str(caught.value)


def test_a_recipe_without_a_path_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["path", "digits-demo", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and "has no [path]" in done.output
    assert not (tmp_path / "run").exists()


@sampled(1)
@pytest.mark.parametrize("changes", [[], LC], ids=["proximal", "lc"])
def test_points_have_what_was_asked_for_and_start_warm(tmp_path: Path, changes: list[str]) -> None:
    path = make(tmp_path, *changes, "path.strengths=[0.3, 0.1, 0.02]", "path.points=4")
    curve = path.run()
    assert not curve.failed
    for setting in curve.settings[1:]:
        [point] = setting.points
        assert setting.strength is not None
        weights = [t for name, t in curve.tensors(point).items() if name.endswith("weight")]
        assert sum(int(t.count_nonzero()) for t in weights) == round(setting.strength * 50_200)
    [third] = curve.settings[2].points
    assert third.origin == curve.settings[1].points[0].folder.name
    dense = curve.settings[0]
    assert dense.error < 0.2  # three epochs teach something
    # What the page and the command line show is what the saved network does.
    small = curve.network(third)
    found = small(path.data.valid_x).argmax(1)
    assert third.error == pytest.approx(float((found != path.data.valid_y).double().mean()))
    assert third.test_error == path.test(small)


@exhaustive
def test_gates_of_what_died_stay_closed(tmp_path: Path) -> None:
    recipe = read_recipe("digits-path", GATES)
    point = point_recipe(recipe, 0.1, 0.5)
    assert point.method is not None and point.method.options(1).finalize_at == 10
    assert point_recipe(recipe, None, None).method is None
    path = make(
        tmp_path, *GATES, "path.strengths=[0.3, 0.1, 0.02]", "path.epochs=12", "path.fine_tune=2"
    )
    curve = path.run()
    assert not curve.failed
    sizes = [setting.size() for setting in curve.settings]
    for strength, size in zip([0.3, 0.1, 0.02], sizes[1:], strict=True):
        assert 0.5 * strength * sizes[0] < size <= 1.02 * strength * sizes[0]
    alive = [curve.tensors(s.points[0])["fc1.weight"] != 0 for s in curve.settings]
    for denser, sparser in pairwise(alive):
        assert not bool((sparser & ~denser).any())  # nothing came back


@exhaustive
def test_the_optimizer_goes_on(made: Path) -> None:
    steps = []
    for name in ("dense", "strength-0.3", "strength-0.1"):
        state = state_in(made / "seed0" / name)
        assert state is not None
        steps.append(float(state["optimizer"]["state"][0]["step"]))
    assert steps[0] > 0 and steps == sorted(set(steps))


@exhaustive
def test_the_command_goes_on_and_refuses_another_recipe(tmp_path: Path) -> None:
    run = tmp_path / "run"
    changes = [
        word for change in [*SHORT, "path.strengths=[0.3, 0.1, 0.02]"] for word in ("--set", change)
    ]
    command = ["path", "digits-path", *changes, "--out", str(run)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "strength 0.1, seed 0: error" in first.output and "kept in" in first.output
    assert "knee: a knee needs" in first.output or "knee at" in first.output
    written = (run / "seed0" / "strength-0.1" / "point.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0
    assert (run / "seed0" / "strength-0.1" / "point.json").stat().st_mtime_ns == written
    other = CliRunner().invoke(app, [*command, "--set", "optimizer.lr=0.01"])
    assert other.exit_code == 2
    assert "optimizer.lr was 0.002 and is 0.01" in other.output.replace("\n", "")
    record = json.loads((run / "recipe.json").read_text())
    assert record["recipe"]["path"]["strengths"] == [0.3, 0.1, 0.02]
    result = json.loads((run / "result.json").read_text())
    assert [setting["strength"] for setting in result["settings"]] == [None, 0.3, 0.1, 0.02]
    assert "torch" in result["versions"]


def test_a_page_about_curves(made: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(made, tmp_path / name)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert "strength (fraction kept) 0.1" in (tmp_path / "a" / "report.html").read_text()
    (tmp_path / "c").mkdir()
    mixed = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "c")])
    assert mixed.exit_code == 2 and "c holds no curve" in mixed.output.replace("\n", "")
    elsewhere = CliRunner().invoke(app, ["report", str(tmp_path / "c"), "--out", "x.html"])
    assert elsewhere.exit_code == 2 and "about a run is of one run" in elsewhere.output


@exhaustive
def test_a_curve_is_timed_where_its_networks_will_run(tmp_path: Path) -> None:
    for needed in ("onnxruntime", "onnxscript"):
        pytest.importorskip(needed)
    run, out = tmp_path / "run", tmp_path / "chosen"
    changes = [*SHORT, "path.strengths=[0.3, 0.1]", "path.points=3", "path.latency=onnxruntime"]
    command = ["path", "digits-path", "--out", str(run)]
    done = CliRunner().invoke(
        app, [*command, *(w for change in changes for w in ("--set", change))]
    )
    assert done.exit_code == 0 and "latency, onnxruntime" in done.output, done.output
    curve = Curve.load(run)
    seconds = sorted(point.size("latency") for point in curve.points)
    budget = f"latency={(seconds[0] + seconds[-1]) / 2}"
    done = CliRunner().invoke(app, ["choose", str(run), "--budget", budget, "--out", str(out)])
    assert done.exit_code == 0 and (out / "model.safetensors").exists(), done.output
    done = CliRunner().invoke(app, ["choose", str(run), "--budget", "latency=1e-9"])
    assert done.exit_code == 2 and "no setting has at most latency=1e-09" in done.output


@pytest.mark.parametrize("asked", few(["all", "0.1"], []))
def test_points_from_scratch_are_added_to_a_curve(tmp_path: Path, asked: str) -> None:
    run = tmp_path / "run"
    changes = [*SHORT, "path.strengths=[0.3, 0.1, 0.02]", "path.latency=true"]
    command = ["path", "digits-path", "--out", str(run)]
    command += [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(app, [*command, "--from-scratch", asked])
    assert done.exit_code == 0, done.output
    curve = Curve.load(run)
    strengths = [0.3, 0.1, 0.02] if asked == "all" else [float(asked)]
    assert [setting.strength for setting in curve.from_scratch] == strengths
    for setting in curve.from_scratch:
        [point] = setting.points
        assert not point.failed and point.origin is None and point.size("latency") > 0
        result = read_events(point.folder / "fit" / "events.jsonl")[-1]
        assert result["epoch"] == 3  # those of the dense network


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("every", "--from-scratch takes 'all' or strengths"),
        (
            "2",
            "a point from scratch: penalties.0.TopK.fraction = 2: TopK needs a fraction",
        ),
        ("-0.1", "a point from scratch: penalties.0.TopK.fraction = -0.1"),
        ("nan", "a point from scratch: penalties.0.TopK.fraction = nan"),
    ],
)
def test_strengths_from_scratch_that_are_none(tmp_path: Path, given: str, told: str) -> None:
    out = str(tmp_path / "run")
    done = CliRunner().invoke(app, ["path", "digits-path", f"--from-scratch={given}", "--out", out])
    assert done.exit_code == 2 and told in done.output.replace("\n", " ")
    assert not Path(out).exists()


@exhaustive
def test_a_chosen_network_is_a_run(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    command = ["choose", str(made), "--budget", "nonzeros=6000", "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    curve = Curve.load(made)
    setting = curve.budget(nonzeros=6000)
    best = min(setting.points, key=lambda p: p.error)
    record = read_record(out / "recipe.json")
    assert (record.seed, record.recipe.path) == (0, None)  # the seed of what was held out
    tensors = load_file(out / "model.safetensors")
    assert all(torch.equal(tensors[name], w) for name, w in curve.tensors(best).items())
    result = json.loads((out / "result.json").read_text())
    assert result["test"]["error"] == pytest.approx(best.test_error)
    assert result["valid"]["error"] == pytest.approx(best.error)
    assert (result["point"]["seed"], result["point"]["origin"]) == (best.seed, best.origin)
    for verb in (["measure"], ["shrink"], ["export", "--to", "pt2"], ["report"]):
        done = CliRunner().invoke(app, [verb[0], str(out), *verb[1:]])
        assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "is there already" in again.output.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "choose by one of --knee"),
        (["--knee", "--within", "0.1"], "choose by one of --knee"),
        (["--budget", "20000"], "--budget is a size such as nonzeros=20000, got '20000'"),
        (["--budget", "nonzero=20000"], "no axis 'nonzero'"),
        (["--budget", "self=1"], "no axis 'self'"),
        (["--budget", "nonzeros=6000", "--axis", "macs"], "leave out --axis macs"),
        (["--budget", "nonzeros=1"], "no setting has at most nonzeros=1.0"),
        (["--knee", "--axis", "latency"], "no axis 'latency'"),
    ],
)
def test_what_cannot_be_chosen_is_told(made: Path, options: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["choose", str(made), *options])
    assert done.exit_code == 2 and told in done.output
    assert not (made / "chosen").exists()


def test_a_point_that_is_a_cut_and_no_more_can_be_chosen(tmp_path: Path) -> None:
    """Of a curve whose points are not fine-tuned, and so are evaluated without a training."""
    run, out = tmp_path / "curve", tmp_path / "small"
    changes = ["path.seeds=1", "path.points=3", "path.dense=2", "path.fine_tune=0"]
    command = ["path", "digits-path-nested", "--out", str(run)]
    done = CliRunner().invoke(app, [*command, *(w for c in changes for w in ("--set", c))])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["choose", str(run), "--within", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    result, curve = json.loads((out / "result.json").read_text()), Curve.load(run)
    [point] = curve.within(1.0).points
    assert (result["valid"]["error"], result["test"]["error"]) == (point.error, point.test_error)
    kept = load_file(out / "model.safetensors").values()
    assert result["nonzeros"]["total"]["nonzeros"] == sum(int((w != 0).sum()) for w in kept)
