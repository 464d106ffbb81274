"""What all commands share: help at once, results on stdout, JSON, quiet, verbose, completion."""

import json
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import typer
from click.testing import Result
from products import few
from typer.testing import CliRunner

import lissom
from lissom.cli import app
from lissom.cli.shared import ORDER, print_json

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WITHOUT_RESULT = {"init", "report"}  # what they make is a file

RECIPE = """\
title = "Small"
source = "a test"
data = { name = "digits", validation = 300 }
model = { name = "henrikson" }
optimizer = { name = "Adam", lr = 3e-3 }
train = { epochs = 1, batch_size = 128 }
method = { name = "proximal" }
penalties = [{ TopK = { fraction = 0.5 } }]
"""
PATH = """
[path]
strength = "penalties.0.TopK.fraction"
strengths = [0.5, 0.05]
points = 3
seeds = 1
dense = 2
epochs = 2
fine_tune = 1
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # commands add the folder they are run in


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a curve; tests only read them."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "small.toml").write_text(RECIPE)
    (folder / "curve.toml").write_text(RECIPE + PATH)
    for verb, name in (("train", "small"), ("path", "curve")):
        recipe, out = folder / f"{name}.toml", folder / name
        done = invoke(verb, recipe, "--out", out, "--json", "--quiet")
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        (folder / f"{name}.json").write_text(done.stdout)
    return folder


def invoke(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], **options)


def refused(*arguments: object) -> str:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    return done.stderr


def in_a_process(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_version_recipes_and_completion_do_not_import_torch() -> None:
    told = in_a_process(
        """
        import sys, lissom
        from typer.testing import CliRunner
        from lissom.cli import app
        dir(lissom), lissom.LissomError, lissom.__version__
        run = CliRunner().invoke
        for line in sys.argv[1:]:
            assert run(app, line.split()).exit_code == 0, line
        complete = {"_LISSOM_COMPLETE": "complete_bash", "COMP_WORDS": "lissom train d",
                    "COMP_CWORD": "2"}
        assert "digits-demo" in run(app, [], env=complete, prog_name="lissom").output
        heavy = "torch numpy sklearn matplotlib lightning_fabric lightning"
        print(*(name for name in heavy.split() if name in sys.modules))
        """,
        *["--help", "-h", "--version", "recipes", "recipes digits --json"],
        *[f"{name} --help" for name in COMMANDS],
    )
    assert told == "\n"


def test_what_few_need_is_imported_by_them() -> None:
    """Each takes about as long to import as torch itself."""
    told = in_a_process(
        """
        import sys, lissom, lissom.training, lissom.data
        lissom.data.load("digits"), lissom.proximal, lissom.shrink, lissom.path
        print(*(name for name in ("sympy", "sklearn", "lightning_fabric") if name in sys.modules))
        """
    )
    assert told == "\n"


def test_all_names_of_lissom_are_there_when_they_are_asked_for() -> None:
    source = Path(lissom.__file__).read_text()
    typed = re.findall(r"^    from (lissom\.\S+) import (\S+) as \2$", source, re.MULTILINE)
    assert sorted([*(name for _, name in typed), "schedules"]) == lissom.__all__
    for room, name in typed:
        thing = getattr(lissom, name)
        assert thing is getattr(sys.modules[room], name)
        assert pickle.loads(pickle.dumps(thing)) is thing
    names: dict[str, Any] = {}
    exec("from lissom import *", names)
    assert lissom.__all__ == sorted(names.keys() - {"__builtins__"})


def test_version_and_the_short_name_of_help() -> None:
    assert invoke("--version").stdout == f"lissom {lissom.__version__}\n"
    assert invoke("-h").stdout == invoke("--help").stdout
    assert invoke("train", "-h").stdout == invoke("train", "--help").stdout


def test_commands_stand_in_the_order_in_which_they_are_needed() -> None:
    assert [name for name in ORDER if name in COMMANDS] == re.findall(
        r"^│ (\w+)  ", invoke("-h").stdout.partition("Commands")[2], re.MULTILINE
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_how_and_with_what(name: str) -> None:
    command = COMMANDS[name]
    assert re.fullmatch(r"[A-Z][^\n]{20,100}\.", command.help)
    example = command.epilog.removeprefix(f"Example: lissom {name}")
    assert example != command.epilog
    command.make_context(name, example.split())  # it can be parsed
    texts = [command.help, *(given.help for given in command.params)]
    for text in texts:
        assert re.fullmatch(r"[A-Z][^\n]+\.", text), text
        assert not re.search(r"(?<!\\)\[", text), f"rich takes [words] away: {text}"
    flags = {flag for given in command.params for flag in given.opts}
    assert {"--quiet", "-q", "--verbose", "-v"} <= flags
    assert ("--json" in flags) == (name not in WITHOUT_RESULT)


def test_help_shows_words_in_brackets() -> None:
    assert "a table [path]" in " ".join(invoke("path", "--help").stdout.split())


def test_training_as_json(kept: Path) -> None:
    run = json.loads((kept / "small.json").read_text())
    result = json.loads((kept / "small" / "result.json").read_text())
    assert run["run"] == str(kept / "small") and run["test"] == result["test"]
    curve = json.loads((kept / "curve.json").read_text())
    assert curve["curve"] == str(kept / "curve") and len(curve["settings"]) == 3


RESULTS = {
    "measure small": "macs",
    "shrink small --out small.safetensors": "weights_after",
    "export small --to pt2 --out small.pt2": "difference",
    "choose curve --within 0.9 --out chosen": "setting",
    "distill small --rounds 1 --examples 50": "from_labels",
    "recipes digits": "recipes",
}


@pytest.mark.parametrize("command", few(RESULTS, [c for c in RESULTS if "export" not in c]))
def test_results_as_json_are_alone_on_stdout(kept: Path, command: str) -> None:
    words = [str(kept / word) if word in ("small", "curve") else word for word in command.split()]
    done = invoke(*words, "--json")
    assert done.exit_code == 0, done.output
    assert RESULTS[command] in json.loads(done.stdout)


def test_json_has_null_for_what_it_cannot_write(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), (1.5, float("-inf"))], "b": Path("c"), "d": {"e": True}})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": [None, [1.5, None]], "b": "c", "d": {"e": True}}


def test_quiet_prints_results_and_mistakes_only(kept: Path) -> None:
    choose = ["choose", str(kept / "curve"), "--within", "0.9", "--out"]
    loud = invoke(*choose, "a")
    assert loud.stderr == "kept in a\n" and "has the lowest error" in loud.stdout
    for words in (["-q", *choose, "b"], [*choose, "c", "--quiet"]):
        shut = invoke(*words)
        assert (shut.stdout, shut.stderr) == (loud.stdout, "")
    assert refused(*choose, "a", "-q").startswith("error: a is there already")
    assert invoke(*choose, "d").stderr == "kept in d\n"  # one command does not shut the next


def test_a_folder_that_is_no_such_run_is_told_for_what_it_is(kept: Path) -> None:
    for verb in ("measure", "report", "ensemble", "distill", "export"):
        assert "absent has no recipe.json: is it a run directory?" in refused(verb, "absent")
    invoke("choose", str(kept / "curve"), "--within", "0.9", "--out", "chosen")
    told = refused("ensemble", "chosen")
    assert "no checkpoint, as what `lissom choose` takes of a curve" in told


def test_verbose_logs_and_says_where_a_mistake_came_from() -> None:
    told = invoke("train", "absent", "--verbose")
    assert told.exit_code == 2 and "torch" in told.stderr and "Traceback" in told.stderr
    assert "there is no recipe 'absent'" in told.stderr
    assert "Traceback" not in invoke("train", "absent").stderr


def test_warnings_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told, before = [], warnings.formatwarning

    def read(*_: object, **__: object) -> None:
        told.append(warnings.formatwarning("odd", UserWarning, "typer/main.py", 1445))
        raise lissom.LissomError("so it ends")

    monkeypatch.setattr(lissom.recipes, "read_recipe", read)
    assert refused("train", "x") == "error: so it ends\n"
    assert told == ["warning: odd\n"] and warnings.formatwarning is before


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("mea", ["measure"]),
        ("train digits-d", ["digits-demo"]),
        ("path mi", ["mine.toml", "mine/"]),
        ("train mine/", ["mine/recipe.json"]),
        ("train absent/x", []),
        ("train --over", ["--overwrite"]),
    ],
)
def test_the_shell_completes_commands_recipes_files_and_options(
    words: str, offered: Sequence[str]
) -> None:
    Path("mine").mkdir()
    for name in ("mine.toml", "mine.txt", "mine/recipe.json", "mine/result.json"):
        Path(name).touch()
    complete = {
        "_LISSOM_COMPLETE": "complete_bash",
        "COMP_WORDS": f"lissom {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = CliRunner().invoke(app, [], env=complete, prog_name="lissom")
    assert sorted(done.stdout.split()) == sorted(offered)


def test_recipes_fit_on_a_screen_and_can_be_searched() -> None:
    every = json.loads(invoke("recipes", "--json").stdout)["recipes"]
    told = invoke("recipes")
    assert all(re.search(rf"(^| ){one['name']}($| )", told.stdout, re.M) for one in every)
    assert len(told.output.splitlines()) <= 30 and len(every) > 40
    some = json.loads(invoke("recipes", "Path", "mnist", "--json").stdout)["recipes"]
    assert {one["name"] for one in some} >= {"lenet300-path", "lenet300-path-lc"}
    assert all("mnist" in one["data"] and one["command"] == "lissom path" for one in some)
    assert "in Adam's" in invoke("recipes", "digits-demo").stdout
    assert "no recipe has 'digit' and 'hat' in its" in refused("recipes", "digit", "hat")


@pytest.mark.parametrize(
    "command", ["measure", "shrink", "export", "distill", "ensemble", "ensemble --out x small"]
)
def test_a_curve_where_a_run_is_expected(kept: Path, command: str) -> None:
    verb, *words = [str(kept / "small") if word == "small" else word for word in command.split()]
    told = refused(verb, *words, kept / "curve")
    assert f"{kept / 'curve'} holds a curve, and this takes a run" in told
    assert f"`lissom choose {kept / 'curve'} --knee`" in told


def test_a_run_where_a_curve_is_expected(kept: Path) -> None:
    told = refused("choose", kept / "small", "--knee")
    assert "holds a run, which is one network; `lissom path RECIPE` trains a curve" in told
    assert "absent holds no curve; `lissom path" in refused("choose", "absent", "--knee")


@pytest.mark.parametrize("options", [[], ["--resume"], ["--overwrite"]])
def test_runs_and_curves_are_not_mixed(kept: Path, options: Sequence[str]) -> None:
    recipe = kept / "curve.toml"
    told = refused("train", recipe, "--out", kept / "curve", *options)
    assert "holds a curve, which `lissom path` goes on with" in told
    assert "small holds a run" in refused("path", recipe, "--out", kept / "small")


def test_a_curve_goes_on_from_its_recipe_json(kept: Path) -> None:
    done = invoke("path", kept / "curve" / "recipe.json", "--json")
    assert done.exit_code == 0, done.output
    assert done.stdout == (kept / "curve.json").read_text()


def test_a_curve_without_a_recipe_is_told(kept: Path) -> None:
    Path("bare").mkdir()
    Path("bare/path.json").write_text((kept / "curve" / "path.json").read_text())
    assert "was not made from a recipe" in refused("choose", "bare", "--knee")
