"""The studies of benchmarks/, and what was recorded of them, are commands that still work."""

import json
import shlex
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from products import sampled

from lissom.errors import RecipeError
from lissom.recipes import read_recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

sys.path.insert(0, str(BENCHMARKS))

import run  # noqa: E402

RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))


def _studies() -> dict[str, tuple[str, list[str]]]:
    """Recipe and changes of all entries, by a name of their own."""
    found = {}
    for study, plan in tomllib.loads((BENCHMARKS / "studies.toml").read_text("utf-8")).items():
        for i, entry in enumerate(run.expand(plan)):
            found[f"{study}-{i}"] = entry["recipe"], entry["set"]
    for study, plan in tomllib.loads((BENCHMARKS / "curves.toml").read_text("utf-8")).items():
        for i, entry in enumerate(plan["curves"]):
            changes = [*plan.get("set", []), *entry.get("set", [])]
            found[f"curves-{study}-{i}"] = entry["recipe"], changes
    for choice, plan in tomllib.loads((BENCHMARKS / "choices.toml").read_text("utf-8")).items():
        for entry in plan["vary"]:
            for value in entry["values"]:
                changes = [*plan["set"], f"{entry['key']}={value}"]
                found[f"choice-{choice}-{entry['key']}-{value}"] = plan["recipe"], changes
    return found


STUDIES = _studies()


@sampled(110)
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_names_recipes_and_keys_that_are_there(name: str) -> None:
    recipe, changes = STUDIES[name]
    assert read_recipe(recipe, changes)


def _commands(record: dict[str, Any]) -> list[str]:
    entries = [*record.get("runs", []), *record.get("curves", [])]
    return [entry["command"] for entry in entries if "command" in entry]


def _given(command: str) -> tuple[str, list[str]]:
    """The recipe and the changes of a recorded command."""
    lissom, verb, recipe, *options = shlex.split(command)
    assert (lissom, verb in ("train", "path")) == ("lissom", True)
    return recipe, [value for option, value in pairwise(options) if option == "--set"]


@sampled(20)
@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_recorded_commands_can_be_given_again(path: Path) -> None:
    for command in _commands(json.loads(path.read_text("utf-8"))):
        assert read_recipe(*_given(command))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_recorded_settings_are_those_of_the_recorded_command(path: Path) -> None:
    for told in json.loads(path.read_text("utf-8")).get("runs", []):
        if "set" in told:
            recipe, changes = _given(told["command"])
            other = [f"train.precision={told['precision']}"] if "precision" in told else []
            assert (told["recipe"], [*told["set"], *other]) == (recipe, changes)


def test_none_takes_a_key_away() -> None:
    recipe = read_recipe("small-cnn-channels-l1", ["method=none", "penalties=none"])
    assert (recipe.method, recipe.penalties) == (None, [])
    two = read_recipe("henrikson-per-layer", ["penalties.0=none"])
    assert two.penalties == read_recipe("henrikson-per-layer").penalties[1:]
    assert read_recipe("henrikson-per-layer", ["train.patience=none"]).train.patience is None


def test_a_required_key_cannot_be_taken_away() -> None:
    with pytest.raises(RecipeError, match=r"train\.epochs: this key is required"):
        read_recipe("henrikson-dense", ["train.epochs=none"])
    with pytest.raises(RecipeError, match=r"\[method\] needs \[\[penalties\]\]"):
        read_recipe("small-cnn-channels-l1", ["penalties=none"])
