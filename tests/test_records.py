"""Records of benchmarks/: where they come from, how numbers were chosen, what others report."""

import importlib
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive

from lissom import measure
from lissom.models import lenet5, lenet300
from lissom.recipes import make_model, read_recipe

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
CHOICES = sorted(RESULTS.glob("choice-*.json"))
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))

sys.path.insert(0, str(BENCHMARKS))

import choose  # noqa: E402
import provenance  # noqa: E402
import published  # noqa: E402
import run as study  # noqa: E402

CODE = '"""What it is."""\n\n\ndef twice(x: int) -> int:\n    """Two of it."""\n    return 2 * x\n'
SAME = {
    "comment": CODE.replace("    return", "    # why\n    return"),
    "docstring": CODE.replace("Two of it.", "As much again."),
    "no docstring": CODE.replace('    """Two of it."""\n', ""),
    "empty lines": CODE.replace("\n\n\n", "\n\n\n\n"),
}
OTHER = {
    "number": CODE.replace("2 * x", "3 * x"),
    "string": CODE.replace("2 * x", '2 * len("x")'),
    "default": CODE.replace("x: int", "x: int = 1"),
}


@pytest.fixture
def digest_of(tmp_path: Path) -> Any:
    def found(text: str, name: str = "room/code.py") -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return provenance.digest(["room"], tmp_path)

    return found


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_a_digest_is_of_what_code_does(digest_of: Any, text: str) -> None:
    assert digest_of(text) == digest_of(CODE)


@pytest.mark.parametrize("text", OTHER.values(), ids=OTHER)
def test_a_digest_changes_with_the_code(digest_of: Any, text: str) -> None:
    assert digest_of(text) != digest_of(CODE)


def test_a_digest_changes_with_files_and_recipes(tmp_path: Path, digest_of: Any) -> None:
    one = digest_of(CODE)
    assert digest_of(CODE, "room/more.py") != one
    recipe = tmp_path / "recipe.toml"
    found = []
    for text in ("lr = 1e-3", "# why\nlr = 0.001", "lr = 2e-3"):
        recipe.write_text(text)
        found.append(provenance.digest(["recipe.toml"], tmp_path))
    recipe.unlink()
    assert found[0] == found[1]
    assert len({*found, provenance.digest(["recipe.toml"], tmp_path)}) == 3


def test_a_page_says_that_code_has_changed_since(tmp_path: Path, digest_of: Any) -> None:
    made_by = {"files": ["room"], "digest": digest_of(CODE)}
    assert provenance.told({"code": made_by}, tmp_path) == "by the code as it is now"
    changed = {"files": ["room"], "digest": digest_of(OTHER["number"])}
    assert provenance.told({"code": made_by}, tmp_path) == "by code that has changed since"
    runs = [{"code": made_by}, {"code": changed}, {"code": changed}]
    told = provenance.told({"runs": runs}, tmp_path)
    assert told == "by the code as it is now, but for 1 of 3 runs"
    assert provenance.told({"runs": runs[:1]}, tmp_path) == "by code that has changed since"
    assert "before records named their code" in provenance.told({})


@pytest.mark.parametrize(
    ("load", "jobs", "quiet"),
    [([0.1, 1.2], 1, True), ([0.1, 2.3], 2, True), ([0.1, 2.3], 1, False), ([0.9, 1.0], 2, False)],
)
def test_a_page_says_that_other_work_ran_beside(load: list[float], jobs: int, quiet: bool) -> None:
    told = provenance.told({"load": load, "jobs": jobs})
    assert f"load {load[0]} before and {load[1]} after" in told
    assert ("do not trust the times" not in told) is quiet


def test_nothing_is_timed_beside_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    with pytest.raises(SystemExit, match=r"load of this machine is 3\.00.*--busy"):
        provenance.idle()
    assert provenance.idle(busy=True) == 3.0
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 9.0, 9.0))
    assert provenance.idle() == 0.1


def test_a_record_is_kept_with_the_load_before_and_after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0, 0))
    out = tmp_path / "results" / "made.json"
    provenance.keep({"said": "ℓ0"}, out, 0.25)
    assert json.loads(out.read_text("utf-8")) == {"said": "ℓ0", "load": [0.25, 0.5]}
    provenance.keep({"said": 1}, out)
    assert json.loads(out.read_text("utf-8")) == {"said": 1}


def test_every_table_says_where_it_comes_from() -> None:
    count = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for table in page.read_text().split("<!-- results: ")[1:]:
            told = r"^\*([\w-]+\.json.*: (by (the )?code|from before records)|no record yet)"
            assert re.search(told, table.partition("<!-- end -->")[0], re.MULTILINE), table[:60]
            count += 1
    assert count > 30


@exhaustive
def test_tables_are_what_the_results_say() -> None:
    assert importlib.import_module("tables").main(check=True) == 0


def _errors(known: dict[tuple[float, float], tuple[float, int]], asked: list[Any]) -> Any:
    def run(values: list[dict[str, float]]) -> list[dict[str, Any]]:
        asked.append(values)
        made = []
        for one in values:
            error, left = known[one["a"], one["b"]]
            valid = {"error": error, "loss": error + one["b"]}
            made.append({"values": one, "valid": valid, "nonzeros": left})
        return made

    return run


def test_a_search_varies_one_number_after_another() -> None:
    known = {(1, 5): (0.3, 9), (2, 5): (0.2, 9), (3, 5): (0.4, 9), (2, 6): (0.2, 9)}
    asked: list[Any] = []
    vary = [{"key": "a", "values": [1, 2, 3]}, {"key": "b", "values": [5, 6]}]
    trials, best = choose.search(vary, _errors(known, asked))
    assert [len(values) for values in asked] == [3, 1]  # nothing twice
    assert [trial["values"] for trial in trials[3:]] == [{"a": 2, "b": 6}]
    assert best["values"] == {"a": 2, "b": 5}  # the loss decides


def test_a_search_keeps_to_a_size() -> None:
    known = {(1, 5): (0.1, 9), (2, 5): (0.3, 7), (3, 5): (0.2, 6)}
    vary = [{"key": "a", "values": [1, 2, 3]}, {"key": "b", "values": [5]}]
    assert choose.search(vary, _errors(known, []), most=7)[1]["values"]["a"] == 3
    assert choose.search(vary, _errors(known, []), most=5)[1]["values"]["a"] == 3
    assert choose.search(vary, _errors(known, []))[1]["values"]["a"] == 1


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_a_recipe_is_what_was_chosen_for_it_by_held_out_data(path: Path) -> None:
    record = json.loads(path.read_text("utf-8"))
    plan = tomllib.loads((BENCHMARKS / "choices.toml").read_text("utf-8"))[record["choice"]]
    assert record["plan"] == plan
    assert any(change.startswith("data.validation=") for change in plan["set"])
    trials = {json.dumps(trial["values"]): [trial] for trial in record["trials"]}

    def again(asked: list[Any]) -> list[Any]:
        return [trial for values in asked for trial in trials[json.dumps(values)]]

    found, best = choose.search(plan["vary"], again, plan.get("nonzeros"))
    assert (found, best["values"]) == (record["trials"], record["chosen"])
    assert not any("test" in trial for trial in record["trials"])
    changes = choose.as_changes(record["chosen"])
    recipes = [read_recipe(plan["recipe"], more) for more in (changes, [])]
    one, other = (recipe.model_copy(update={"model": None}) for recipe in recipes)
    assert one == other
    # The same network, whether a default is written there or not.
    models = [make_model(recipe, (1, 28, 28), 10, seed=0) for recipe in recipes]
    assert str(models[0]) == str(models[1])
    states = [model.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_settings_are_told_apart_by_what_is_asked_for() -> None:
    asked = ["method.budget.macs=0.4", "method.multiple_of=16"]
    digest = study.settings_of("digits-gates", asked)
    assert digest != study.settings_of("digits-gates", asked[:1])
    assert digest == study.settings_of("digits-gates", asked[::-1])
    one = ["method.multiple_of=1", "method.draws=batch"]  # as unasked
    assert study.settings_of("digits-gates", one) == study.settings_of("digits-gates", [])
    assert study.settings_of("digits-gates", ["method=none", "penalties=none"]) != digest


def test_sizes_of_published_networks_are_those_we_count() -> None:
    x = torch.zeros(1, 1, 28, 28)
    mlp, lenet = measure(lenet300(), x), measure(lenet5(), x)
    assert published.sizes("MLP", "784-300-100") == (266_200, mlp.macs)
    assert published.sizes("LeNet-5", "20-50-800-500") == (430_500, lenet.macs)
    assert published.sizes("LeNet-5", "20-25-45-462")[0] == 38_410


def test_every_published_row_has_a_source() -> None:
    for table in ("gates", "weights", "devices"):
        for entry in published.PUBLISHED[table]:
            for row in entry["rows"]:
                assert published.source(row)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_can_be_loaded(script: str) -> None:
    if script == "pruners":
        pytest.importorskip("torch_pruning")
    importlib.import_module(script)


SHORT = ["train.epochs=2", "train.cosine_from=1", "train.average_from=none", "method.finalize_at=2"]


@exhaustive
def test_a_choice_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    vary = '[{ key = "optimizer.lr", values = [1e-3, 4e-3] }]'
    changes = json.dumps(["data.validation=200", *SHORT, "method.start=0"])
    plan = f'title = "A trial"\nrecipe = "digits-demo"\nseed = 0\nset = {changes}\nvary = {vary}\n'
    (tmp_path / "choices.toml").write_text(f"[trial]\n{plan}")
    monkeypatch.setattr(choose, "HERE", tmp_path)
    choose.main("trial", jobs=2, runs=tmp_path / "runs")
    record = json.loads((tmp_path / "results" / "choice-trial.json").read_text())
    assert [trial["values"] for trial in record["trials"]] == [
        {"optimizer.lr": 1e-3},
        {"optimizer.lr": 4e-3},
    ]
    errors = [(trial["valid"]["error"], trial["valid"]["loss"]) for trial in record["trials"]]
    best = record["trials"][errors.index(min(errors))]
    assert record["chosen"] == best["values"]
    assert "as it is now" in provenance.told(record)


@exhaustive
def test_a_curve_can_be_recorded(tmp_path: Path) -> None:
    curves = importlib.import_module("curves")
    changes = ["path.points=3", "path.seeds=1", "path.dense=2", "path.epochs=2", "path.fine_tune=1"]
    entry = {"name": "a trial", "recipe": "digits-path", "set": changes}
    found = curves.make(tmp_path / "curve", entry, [], 1)
    assert [point["epochs"] for point in found["points"]] == [2, 2, 2]
    assert all(sum(point["nonzeros"].values()) > 0 for point in found["points"])
    tables = importlib.import_module("curve_tables")
    assert len(tables.curve(found).settings) == 3


@exhaustive
def test_every_figure_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = importlib.import_module("tables")
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    monkeypatch.setattr(tables, "PAGES", ())
    assert tables.main(check=False) == 0
    made = {path.stem for path in tmp_path.iterdir()}
    drawn_by_hand = {"coupling", "hard-concrete"}
    assert made | drawn_by_hand == tables.SHOWN
    assert {path.stem for path in (ROOT / "docs" / "figures").iterdir()} == tables.SHOWN
