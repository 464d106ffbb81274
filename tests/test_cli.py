"""The command line: what it does, and one clear line for everything it cannot do."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from click.testing import Result
from products import exhaustive, sampled
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

import lissom.models
import lissom.recipes
import lissom.recipes.making
from lissom.cli import app
from lissom.cli.shared import say
from lissom.progress import Progress
from lissom.recipes import make_data, read_recipe, recipe_names
from lissom.tables import plain_console, table, text

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

QUICK = """\
title = "Quick [/b] and sparse"
source = "a test"

[data]
name = "digits"

[model]
name = "henrikson"

[optimizer]
name = "Adam"
lr = 3e-3

[train]
epochs = 2
batch_size = 64

[method]
name = "proximal"

[[penalties]]
TopK = { fraction = 0.5 }
"""


CHANNELS = QUICK.replace("henrikson", "cnn").replace("TopK", 'groups = "channels"\nTopK')
SHRUNK_FILES = {"small.safetensors", "shrinkage.json"}


@pytest.fixture
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LISSOM_DATA_DIR", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])  # commands add the folder they are run in
    Path("quick.toml").write_text(QUICK)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that tests only read."""
    return trained(QUICK, tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a CNN that has lost half of its channels; tests only read it."""
    return trained(CHANNELS, tmp_path_factory.mktemp("half"))


def trained(recipe: str, folder: Path) -> Path:
    (folder / "quick.toml").write_text(recipe)
    done = CliRunner().invoke(
        app, ["train", str(folder / "quick.toml"), "--out", str(folder / "run")]
    )
    assert done.exit_code == 0, done.output
    return folder / "run"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def well(*arguments: str) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def well_told(*arguments: str) -> str:
    """What a command that works prints on stdout and tells on stderr."""
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str) -> str:
    """What is told about a mistake: on stderr, with exit code 2, and no traceback."""
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    assert done.stdout == ""
    told = done.stderr.removeprefix("Quick [/b] and sparse\n")
    assert told.startswith("error: ")
    return told.removeprefix("error: ").rstrip("\n")


def copy(run: Path, name: str) -> None:
    shutil.copytree(run, name)


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "model.safetensors")


def same(one: str | Path, other: str | Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def change(path: str, **values: Any) -> None:
    """Change a JSON file on purpose."""
    record = json.loads(Path(path).read_text())
    del record["crc32"]
    Path(path).write_text(json.dumps({**record, **values}))


def result(run: str | Path) -> Any:
    return json.loads((Path(run) / "result.json").read_text())


def test_train_keeps_everything_about_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lissom", "train", "quick.toml", "--set", "title=a b"])
    told = well_told("train", "quick.toml")
    run = Path("runs/quick")
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt",
        "events.jsonl",
        "model.safetensors",
        "recipe.json",
        "result.json",
    ]
    record = json.loads((run / "recipe.json").read_text())
    assert record.keys() == {"format", "recipe", "seed", "shape", "classes", "crc32"}
    assert (record["seed"], record["shape"], record["classes"]) == (0, [1, 8, 8], 10)
    assert record["recipe"]["train"]["average_decay"] == 0.999  # defaults are written out
    kept = result(run)
    assert kept["title"] == "Quick [/b] and sparse"
    assert kept["command"] == "lissom train quick.toml --set 'title=a b'"
    assert kept["versions"].keys() == {"python", "lissom", "torch", "numpy"}
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    own = {"format", "crc32"}  # of each file
    assert {k: v for k, v in events[-1].items() if k not in own}.items() <= kept.items()
    counts = kept["nonzeros"]
    assert counts["fc1.weight"]["weights"] == 64 * 64
    for name, tensor in weights(run).items():
        assert counts[name]["nonzeros"] == int(tensor.count_nonzero())
    for line in ("Quick [/b] and sparse", "epoch    2/2", "fc3.weight", "kept in runs/quick"):
        assert line in told
    assert f"test error {100 * kept['test']['error']:.2f} %, epoch 2" in told


def test_the_seed_decides() -> None:
    for out, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        well("train", "quick.toml", "--seed", seed, "--out", out)
    assert same("a", "b") and not same("a", "c")
    assert result("c")["seed"] == 4
    well("train", "quick.toml", "--out", "d")
    well("train", "quick.toml", "--out", "e", "--seed", "0")
    assert same("d", "e")


def test_the_seed_holds_out_the_validation_data(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    make = lissom.recipes.make_trainer

    def make_trainer(recipe: Any, data: Any, **options: Any) -> Any:
        given.append(data)
        return make(recipe, data, **options)

    monkeypatch.setattr(lissom.recipes, "make_trainer", make_trainer)
    well("train", "quick.toml", "--set", "data.validation=100", "--seed", "1")
    recipe = read_recipe("quick.toml", ["data.validation=100"])
    assert torch.equal(given[0].valid_x, make_data(recipe, seed=1).valid_x)
    assert "valid" in result("runs/quick")


def test_changes_are_made_and_kept() -> None:
    well("train", "quick.toml", "--set", "train.epochs=1", "--set", "penalties.0.TopK.fraction=0.1")
    record = json.loads(Path("runs/quick/recipe.json").read_text())
    assert record["recipe"]["train"]["epochs"] == 1
    alive = sum(int(t.count_nonzero()) for name, t in weights("runs/quick").items() if "w" in name)
    assert alive == round(0.1 * (64 * 64 + 64 * 64 + 64 * 10))


def test_a_run_can_be_repeated_from_its_recipe(finished: Path) -> None:
    well("train", "quick.toml", "--seed", "5", "--set", "train.batch_size=50", "--out", "first")
    Path("quick.toml").unlink()
    well("train", "first/recipe.json", "--out", "second")
    assert same("first", "second")
    assert Path("first/recipe.json").read_text() == Path("second/recipe.json").read_text()
    well("train", "first/recipe.json", "--out", "third", "--seed", "6")
    assert not same("first", "third")
    well("train", "first/recipe.json", "--out", "fourth", "--set", "train.epochs=1")
    assert result("fourth")["epoch"] == 1 and result("fourth")["seed"] == 5


def test_the_recipe_of_a_run_names_its_directory() -> None:
    well("train", "quick.toml", "--out", "first")
    before = Path("first/model.safetensors").read_bytes()
    assert "first holds a run already" in refused("train", "first/recipe.json")
    well("train", "first/recipe.json", "--resume")
    well("train", "first/recipe.json", "--overwrite")
    assert Path("first/model.safetensors").read_bytes() == before
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["henrikson-l1-subgradient", "lenet5-kernels-l1", "digits-demo"])
def test_the_recipe_of_every_kind_of_run_can_be_read_back(name: str) -> None:
    changes = ["data.name=digits", "train.epochs=1", "model={name='henrikson'}"]
    if name != "henrikson-l1-subgradient":
        changes += ["train={epochs=1}", "method={name='proximal'}", "penalties=[{L1=0}]"]
    well("train", name, *(word for change in changes for word in ("--set", change)))
    well("train", f"runs/{name}/recipe.json", "--out", "again")
    assert same(f"runs/{name}", "again")
    well("measure", f"runs/{name}")


def test_overwrite_replaces_a_run() -> None:
    well("train", "quick.toml", "--out", "run")
    Path("run/notes.txt").write_text("mine")
    half = Path("run/.checkpoint.pt.x1.part")
    half.mkdir()
    (half / "checkpoint.pt").write_text("half")
    well("train", "quick.toml", "--out", "run", "--overwrite", "--seed", "1")
    well("train", "quick.toml", "--out", "fresh", "--seed", "1")
    assert same("run", "fresh")
    assert len(Path("run/events.jsonl").read_text().splitlines()) == 2
    assert not half.exists()
    assert Path("run/notes.txt").read_text() == "mine"


def test_nothing_of_an_overwritten_run_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    well("train", "quick.toml", "--out", "run")

    def interrupted(self: lissom.Trainer) -> None:
        raise KeyboardInterrupt

    new = ["train", "quick.toml", "--out", "run", "--seed", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(lissom.training.Trainer, "_train_epoch", interrupted)
        assert invoke(*new, "--overwrite").exit_code == 130
    assert "nothing was trained there yet" in refused("measure", "run")
    well(*new, "--resume")
    well("train", "quick.toml", "--out", "fresh", "--seed", "1")
    assert same("run", "fresh")


def test_an_old_run_is_not_lost_to_one_that_cannot_start() -> None:
    well("train", "quick.toml", "--out", "run")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    for bad in (
        ["--set", "data.name=mnist", "--data-dir", "absent"],
        ["--set", "penalties.0.groups=kernels"],
        ["--device", "nonsense"],
    ):
        refused("train", "quick.toml", "--out", "run", "--overwrite", *bad)
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_recipes_lists_them_all() -> None:
    told = well("recipes")
    for name in recipe_names():
        assert name in told
    assert "digits" in told and "mnist" in told


def test_measure_prints_henriksons_table(finished: Path) -> None:
    told = well("measure", str(finished))
    rows = [line.split() for line in told.splitlines()]
    assert ["variable", "non-zeros", "weights", "zeros"] in rows
    total = result(finished)["nonzeros"]["total"]
    (row,) = (row for row in rows if row[:1] == ["total"])
    assert row[1:3] == [f"{total['nonzeros']:,}", f"{total['weights']:,}"]


def test_measure_as_json_is_nothing_but_json(finished: Path) -> None:
    done = invoke("measure", str(finished), "--json")
    assert done.exit_code == 0 and done.stderr == ""
    found = json.loads(done.stdout)
    assert found["nonzeros"] == result(finished)["nonzeros"]["total"]["nonzeros"]
    assert [v["name"] for v in found["variables"]][:2] == ["fc1.weight", "fc1.bias"]
    assert found["tolerance"] == 0


@exhaustive
def test_measure_runs_the_network_once(finished: Path) -> None:
    found = json.loads(well("measure", str(finished), "--json"))
    alive = {name: int(t.count_nonzero()) for name, t in weights(finished).items()}
    assert [layer["name"] for layer in found["layers"]] == ["fc1", "fc2", "fc3"]
    assert found["macs"] == 64 * 64 + 64 * 64 + 64 * 10  # of one input
    for layer in found["layers"]:
        assert layer["effective_macs"] == alive[f"{layer['name']}.weight"]
    assert found["latency"] is None
    assert json.loads(well("measure", str(finished), "--json", "--latency"))["latency"]["calls"] > 1
    told = well("measure", str(finished), "--latency")
    for line in ("1×64", "all layers", "bytes, smallest", "latency"):
        assert line in told


@exhaustive
def test_latency_and_int8_in_onnx_runtime(finished: Path) -> None:
    told = well("measure", str(finished), "--latency", "--runtime", "onnxruntime")
    assert "latency when shrunk" in told and "onnxruntime, cpu" in told
    told = well_told("export", str(finished), "--int8", "--out", "net.onnx")
    assert "int8 takes" in told
    [errors] = re.findall(r"test error ([\d.]+) % in float32, error ([\d.]+) % in int8", told)
    assert abs(float(errors[0]) - float(errors[1])) < 3
    assert float(errors[0]) == pytest.approx(100 * result(finished)["test"]["error"], abs=0.01)
    found = json.loads(well("export", str(finished), "--int8", "--out", "net.onnx", "--json"))
    both = [found["error"], found["error_int8"]]
    assert both == pytest.approx([float(error) / 100 for error in errors], abs=1e-4)
    assert found["notes"] and found["difference"] < 0.1


@sampled(1)
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_export_writes_the_network_of_a_run(form: str, finished: Path) -> None:
    told = well_told("export", str(finished), "--to", form, "--out", f"net.{form}")
    assert told.startswith(f"written: net.{form}: {form}, ") and "any batch size" in told
    x = torch.rand(3, 1, 8, 8)
    if form == "onnx":
        session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    else:
        found = torch.export.load("net.pt2").module()(x).detach()
    read = json.loads((finished / "recipe.json").read_text())
    net = lissom.models.build("henrikson", inputs=64, classes=read["classes"])
    net.load_state_dict(weights(finished))
    assert torch.allclose(torch.as_tensor(found), net(x).detach(), atol=1e-5)


def small_cnn() -> torch.nn.Module:
    return lissom.models.cnn((1, 8, 8))


def large_cnn(run: Path) -> torch.nn.Module:
    net = small_cnn()
    net.load_state_dict(weights(run))
    return net.eval()


def widths(net: torch.nn.Module) -> list[int]:
    return [layer.out_channels for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]


def test_shrink_writes_a_network_with_the_same_outputs(half: Path) -> None:
    copy(half, "run")
    told = well_told("shrink", "run")
    small, large = lissom.load("run/small.safetensors", small_cnn), large_cnn(half)
    assert sum(widths(small)) == 28
    x = torch.rand(5, 1, 8, 8)
    assert torch.allclose(small(x), large(x), atol=1e-5)
    found = json.loads(Path("run/shrinkage.json").read_text())
    count = sum(p.numel() for p in small.parameters())
    assert (found["removed"], found["weights_after"]) == (28, count)
    assert found["weights_before"] == 6274
    assert found["macs_before"] == 9 * (8 * 64 + 8 * 16 * 16 + 16 * 32 * 4) + 320
    a, b, c = widths(small)
    assert found["macs_after"] == 9 * (a * 64 + a * b * 16 + b * c * 4) + 10 * c
    rows = [line.split() for line in told.splitlines()]
    assert ["conv2.weight", "channels", "16", str(b)] in rows
    assert f"6,274 weights → {count:,}, largest difference" in told
    assert "written: run/small.safetensors, run/shrinkage.json" in told


def test_shrink_rounds_and_says_what_stayed(half: Path) -> None:
    copy(half, "run")
    told = well("shrink", "run", "--round-to", "8", "--out", "eights.safetensors")
    small = lissom.load("eights.safetensors", small_cnn)
    assert all(width % 8 == 0 for width in widths(small)) and sum(widths(small)) < 56
    assert "widths are multiples of 8" in told
    assert not Path("run/small.safetensors").exists()
    x = torch.rand(5, 1, 8, 8)
    assert torch.allclose(small(x), large_cnn(half)(x), atol=1e-5)


def test_shrink_removes_inputs_if_told_to() -> None:
    penalties = "penalties=[{groups='neurons', inputs=true, TopK={fraction=0.5}}]"
    well("train", "quick.toml", "--out", "run", "--set", penalties)
    well("shrink", "run")
    without = lissom.load("run/small.safetensors", lambda: lissom.models.henrikson(64))
    assert without.fc1.in_features == 64
    told = well("shrink", "run", "--inputs")
    small = lissom.load("run/small.safetensors", lambda: lissom.models.henrikson(64))
    assert any(
        layer.in_features < 64 for layer in small.modules() if isinstance(layer, torch.nn.Linear)
    )
    assert "192 " in told
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(small(x), without(x), atol=1e-5)


def test_shrink_finds_nothing_in_a_dense_network() -> None:
    well("train", "quick.toml", "--out", "run", "--set", "method=none",
         "--set", "penalties=none", "--set", "model.name=cnn")  # fmt: skip
    assert "6,274 weights → 6,274" in well("shrink", "run")
    assert widths(lissom.load("run/small.safetensors", small_cnn)) == [8, 16, 32]


def test_shrink_of_a_network_that_is_dead_altogether() -> None:
    penalties = "penalties=[{groups='channels', L1=1e9}]"
    well("train", "quick.toml", "--out", "run", "--set", penalties, "--set", "model.name=cnn")
    told = well("shrink", "run")
    small = lissom.load("run/small.safetensors", small_cnn)
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(small(x), large_cnn(Path("run"))(x), atol=1e-5)
    assert widths(small) == [1, 1, 1] and "one unit stays, or it would be empty" in told


def test_overwrite_removes_what_shrink_wrote(half: Path) -> None:
    copy(half, "run")
    well("shrink", "run")
    assert {path.name for path in Path("run").iterdir()} >= SHRUNK_FILES
    well("train", "quick.toml", "--out", "run", "--overwrite")
    assert not {path.name for path in Path("run").iterdir()} & SHRUNK_FILES


@exhaustive
def test_shrink_and_export_of_an_unfinished_run_tell_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("channels.toml").write_text(CHANNELS)
    unfinished("run", monkeypatch, "channels.toml")
    for command in ("shrink", "export"):
        done = invoke(command, "run")
        assert done.exit_code == 0, done.output
        assert "run is not finished; this is its last checkpoint" in done.stderr
    assert sum(widths(lissom.load("run/small.safetensors", small_cnn))) == 28


@exhaustive
def test_export_shrinks_unless_told_not_to(half: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    sizes = {}
    for options in ([], ["--dense"], ["--round-to", "16"]):
        told = well_told("export", str(half), *options, "--out", "net.onnx")
        sizes[tuple(options)] = Path("net.onnx").stat().st_size
        session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert torch.allclose(torch.as_tensor(found), large_cnn(half)(x), atol=1e-5)
        assert ("as it is, with its zeros" in told) == ("--dense" in options)
        assert ("shrunk first, 6,274 weights → " in told) == ("--dense" not in options)
    assert sizes[()] < sizes["--round-to", "16"] < sizes[("--dense",)]


@exhaustive
def test_export_of_one_batch_size_and_without_padding(half: Path) -> None:
    told = well_told("export", str(half), "--no-pad", "--batch", "2", "--out", "net.onnx")
    assert "one batch size only" in told and "padded" not in told
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 1, 8, 8]
    assert "takes no pad, which is for .onnx" in refused(
        "export", str(half), "--to", "pt2", "--no-pad"
    )
    for batch in ("0", "-1"):
        assert f"a batch size is a whole number ≥ 1, got {batch}" in refused(
            "export", str(half), "--batch", batch
        )


@exhaustive
def test_measure_is_of_the_large_network_also_after_shrink(half: Path) -> None:
    copy(half, "run")
    before = well("measure", "run", "--json")
    well("shrink", "run")
    assert well("measure", "run", "--json") == before
    found = json.loads(before)
    shrinkage = json.loads(Path("run/shrinkage.json").read_text())
    assert found["shrunk_weights"] == shrinkage["weights_after"]


@sampled(13)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("shrink absent", "absent has no recipe.json: is it a run directory?"),
        ("shrink empty", "empty has no recipe.json: is it a run directory?"),
        ("shrink file", "file has no recipe.json: is it a run directory?"),
        ("shrink no-json", "recipe.json is not JSON"),
        ("shrink no-recipe", "recipe.json: recipe: this key is required"),
        ("shrink other", "recipe.json: recipe.titel: unknown key"),
        ("shrink half --round-to 0", "round_to is a whole number of units, 1 or more; got 0"),
        ("shrink half --round-to -8", "round_to is a whole number of units, 1 or more; got -8"),
        ("shrink half --out absent/small.safetensors", "absent is no directory"),
        ("shrink half --out half/model.safetensors", "is the network that is to be shrunk"),
        ("shrink half --out small.onnx", "ends in .safetensors, got --out small.onnx"),
        ("shrink half --out folder.safetensors", "got --out folder.safetensors"),
        ("export absent", "absent has no recipe.json: is it a run directory?"),
        ("export half --dense --round-to 8", "there is nothing to --round-to: choose one"),
        ("export half --round-to 0", "round_to is a whole number of units, 1 or more; got 0"),
        ("export half --to pt2 --out net.onnx", "--to pt2 writes a file that ends in .pt2"),
        ("export half --to pt2 --int8", ".pt2 takes no int8, which is for .onnx, .c"),
        ("measure half --runtime openvino", "--runtime openvino is where --latency is measured"),
        (
            "train quick.toml --set penalties.0.groups=channels",
            "no channels can be removed from this",
        ),
        ("train quick.toml --set penalties.0.groups=heads", "this model; it has neurons"),
        ("train quick.toml --set penalties.0.groups=channel", "Did you mean 'channels'"),
        ("train quick.toml --set penalties.0.inputs=true", "inputs = true goes with units"),
        ("train quick.toml --set model.name=cn", "Did you mean 'cnn'"),
        ("train half.toml --set penalties.0.only=['fc']", "'fc' matches none of the channels"),
        ("train half.toml --set penalties.0.biases=true", "not 'channels'"),
        ("train half.toml --set model.input_dropout=0.2", "'cnn' has no input_dropout; only"),
    ],
)
def test_mistakes_with_units_are_told_in_a_line(half: Path, arguments: str, message: str) -> None:
    bad_runs(Path())
    copy(half, "half")
    Path("half.toml").write_text(CHANNELS)
    Path("folder.safetensors").mkdir()
    assert message in refused(*arguments.split())
    assert not {path.name for path in Path("half").iterdir()} & SHRUNK_FILES


def test_shrink_tells_of_weights_that_do_not_fit(half: Path) -> None:
    copy(half, "run")
    change("run/recipe.json", classes=7)
    for command in ("shrink", "export"):
        assert "model.safetensors does not fit the recipe beside it" in refused(command, "run")
    path = Path("run/model.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert "model.safetensors is not a readable safetensors file" in refused("shrink", "run")


def test_what_shrink_wrote_is_not_of_another_network(half: Path) -> None:
    copy(half, "run")
    well("shrink", "run")
    with pytest.raises(lissom.LissomError, match="not what the factory made"):
        lissom.load("run/small.safetensors", lambda: lissom.models.lenet300(64))


def test_export_writes_into_the_run_and_overwrite_removes_it() -> None:
    well("train", "quick.toml", "--out", "run")
    well("export", "run")
    assert Path("run/model.onnx").is_file()
    well("train", "quick.toml", "--out", "run", "--overwrite")
    assert not Path("run/model.onnx").exists()


def test_export_tells_mistakes(finished: Path) -> None:
    said = refused("export", str(finished), "--to", "pt2", "--out", "net.onnx")
    assert said == "--to pt2 writes a file that ends in .pt2, got --out net.onnx"
    assert "no is no directory" in refused("export", str(finished), "--out", "no/net.onnx")
    assert "absent has no recipe.json" in refused("export", "absent")
    assert invoke("export", str(finished), "--to", "coreml").exit_code == 2


def test_measure_with_a_tolerance(finished: Path) -> None:
    tensors = weights(finished)
    for tolerance in (0.0, 0.02, 1e9):
        found = json.loads(well("measure", str(finished), "--json", "--tolerance", str(tolerance)))
        assert found["nonzeros"] == sum(int((t.abs() > tolerance).sum()) for t in tensors.values())
        assert found["tolerance"] == tolerance


def test_measure_needs_no_data(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_data(*_: Any) -> None:
        raise AssertionError("the data set was loaded")

    monkeypatch.setattr(lissom.recipes.making, "load", no_data)
    well("measure", str(finished))


def unfinished(out: str, monkeypatch: pytest.MonkeyPatch, recipe: str = "quick.toml") -> None:
    """A run that was interrupted by Ctrl-C after its first epoch."""
    train_epoch = lissom.training.Trainer._train_epoch

    def interrupted(self: lissom.Trainer) -> None:
        if self.epoch == 1:
            raise KeyboardInterrupt
        train_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(lissom.training.Trainer, "_train_epoch", interrupted)
        assert invoke("train", recipe, "--out", out).exit_code == 130


def test_measure_of_a_run_that_is_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished("run", monkeypatch)
    done = invoke("measure", "run", "--json")
    assert done.exit_code == 0
    assert done.stderr == "run is not finished; this is its last checkpoint\n"
    (event,) = map(json.loads, Path("run/events.jsonl").read_text().splitlines())
    assert json.loads(done.stdout)["nonzeros"] == event["nonzeros"]["total"]["nonzeros"]
    Path("run/checkpoint.pt").unlink()
    assert "run has no checkpoint.pt: nothing was trained there yet" in refused("measure", "run")


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "quick.toml", "--out", "a run", "--overwrite"]
    monkeypatch.setattr(sys, "argv", ["lissom", *arguments])

    def interrupted(self: lissom.Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lissom.training.Trainer, "_train_epoch", interrupted)
        done = invoke(*arguments)
    assert done.exit_code == 130
    assert done.stderr == (
        "Quick [/b] and sparse\n"
        "stopped; a run goes on with: lissom train quick.toml --out 'a run' --resume\n"
    )
    well("train", "quick.toml", "--out", "a run", "--resume")


@exhaustive
def test_ctrl_c_in_a_real_process() -> None:
    command = [sys.executable, "-m", "lissom", "train", "quick.toml"]
    process = subprocess.Popen(
        [*command, "--set", "train.epochs=1000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not Path("runs/quick/checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(timeout=60)
    assert process.returncode == 130
    resume = "lissom train quick.toml --set train.epochs=1000 --resume"
    assert told.endswith(f"stopped; runs/quick goes on with: {resume}\n")


def test_a_resumed_run_is_the_whole_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished("run", monkeypatch)
    assert "run holds a run already" in refused("train", "quick.toml", "--out", "run")
    well("train", "quick.toml", "--out", "run", "--resume")
    assert same("run", finished)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "train.epochs=3"], "train.epochs was 2 and is 3"),
        (
            ["--set", "penalties.0.TopK.fraction=0.25"],
            "penalties.0.TopK.fraction was 0.5 and is 0.25",
        ),
        (
            ["--set", "method=none", "--set", "penalties=none"],
            "penalties.0.TopK.fraction was 0.5 and is None",
        ),
        (["--set", "method=none", "--set", "penalties=none"], "method.name was 'proximal' and is"),
        (["--set", "method.finalize_at=1"], "method.finalize_at was None and is 1"),
        (["--set", "method.every=8 steps"], "method.every was '1 step' and is '8 steps'"),
        (["--seed", "1"], "seed was 0 and is 1"),
    ],
)
def test_a_run_is_not_resumed_with_another_recipe(
    finished: Path, options: Sequence[str], message: str
) -> None:
    told = refused("train", "quick.toml", "--out", str(finished), "--resume", *options)
    assert f"{finished} was started with another recipe: " in told
    assert message in told
    assert "title" not in told


def test_a_diverged_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    change = ["--set", "optimizer={name='SGD', lr=1e30}"]
    told = refused("train", "quick.toml", *change)
    assert "training diverged" in told and "smaller learning rate" in told


def bad_runs(folder: Path) -> None:
    """Directories and files that are no runs, or no longer."""
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    for name, record in {
        "no-recipe": {"format": "lissom recipe 1", "seed": 0},
        "no-json": "{",
        "other": {
            "format": "lissom recipe 1",
            "recipe": {"titel": "x"},
            "seed": 0,
            "shape": [1],
            "classes": 2,
        },
    }.items():
        (folder / name).mkdir()
        content = record if isinstance(record, str) else json.dumps(record)
        (folder / name / "recipe.json").write_text(content)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train digit-demo", "there is no recipe 'digit-demo'. Did you mean 'digits-demo'"),
        ("train absent.toml", "there is no recipe file absent.toml"),
        ("train runs/absent/recipe.json", "there is no recipe file runs/absent/recipe.json"),
        ("train no-json/recipe.json", "recipe.json is not JSON"),
        ("train no-recipe/recipe.json", "recipe.json is not the recipe.json of a run"),
        ("train other/recipe.json", "recipe.json: titel: unknown key 'titel'"),
        ("train quick.toml --set train.epochs", "--set takes key=value"),
        ("train quick.toml --set train.epochs=0", "quick.toml, --set: train.epochs: "),
        ("train quick.toml --set train.epoch=1", "Did you mean 'epochs'"),
        ("train quick.toml --set method.every=now", "--set: method.every: every is a whole number"),
        ("train quick.toml --set method.name=gate", "method.name: there is no method 'gate'. Did"),
        ("train quick.toml --set method.name=gates", "penalties.0: method 'gates' takes L0, L2"),
        (
            "train quick.toml --set method.name=no_room:A",
            "method 'no_room:A' cannot be imported: No",
        ),
        ("train quick.toml --set method=none", "need a [method] as well"),
        ("train quick.toml --set method.finalize_at=3", "ends after epoch 3, and training ends"),
        (
            "train quick.toml --set model.name=lenet5",
            "'lenet5' does not take examples of 1×8×8, as digits has",
        ),
        ("train quick.toml --set penalties.0.groups=kernels", "no kernels to choose from"),
        ("train quick.toml --set penalties.0.only=['fc9']", "'fc9' matches none of the weights"),
        ("train quick.toml --set data.validation=1347", "cannot hold out 1347 of 1347"),
        ("train quick.toml --device gpu", "device 'gpu' cannot be used here"),
        ("train quick.toml --device cuda:99", "device 'cuda:99' cannot be used here"),
        ("train quick.toml --resume", "there is no run runs/quick to resume"),
        ("train quick.toml --resume --overwrite", "choose one"),
        ("train quick.toml --out full", "full is not empty and not a run"),
        ("train quick.toml --out full --resume", "full is not empty and not a run"),
        ("train quick.toml --out full --overwrite", "full is not empty and not a run"),
        ("train quick.toml --out file", "file is a file; a run needs a directory"),
        ("train quick.toml --out file/run", "Not a directory"),
        ("train quick.toml --out no-json --resume", "recipe.json is not JSON"),
        ("train quick.toml --out other --resume", "recipe.json: recipe.titel: unknown key"),
        ("train henrikson-dense --data-dir absent", "expected a folder at absent, found nothing"),
        ("train henrikson-dense --data-dir empty", "none of its four files was found in empty"),
        ("measure absent", "absent has no recipe.json: is it a run directory?"),
        ("measure empty", "empty has no recipe.json: is it a run directory?"),
        ("measure file", "file has no recipe.json: is it a run directory?"),
        ("measure no-json", "recipe.json is not JSON"),
        ("measure no-recipe", "recipe.json: recipe: this key is required"),
        ("measure other", "recipe.json: recipe.titel: unknown key"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path: Path, arguments: str, message: str) -> None:
    bad_runs(tmp_path)
    assert message in refused(*arguments.split())
    assert list((tmp_path / "full").iterdir()) == [tmp_path / "full" / "notes.txt"]


def test_a_run_that_could_not_start_leaves_nothing_in_the_way() -> None:
    refused("train", "quick.toml", "--set", "penalties.0.groups=kernels")
    refused("train", "quick.toml", "--set", "data.name=mnist", "--data-dir", "absent")
    assert not Path("runs").exists()
    well("train", "quick.toml")


@pytest.mark.parametrize(
    "arguments",
    [
        "train",
        "train quick.toml --seed -1",
        f"train quick.toml --seed {2**32}",
        "train quick.toml --seed x",
        "train quick.toml --nonsense",
        "measure",
        "measure run --tolerance x",
        "shrink",
        "shrink run --round-to x",
        "shrink run --nonsense",
        "export run --to coreml",
        "nonsense",
    ],
)
def test_mistyped_options_are_told(arguments: str) -> None:
    done = invoke(*arguments.split())
    assert done.exit_code == 2 and "Usage" in done.stderr and "Traceback" not in done.output


@pytest.mark.parametrize("tolerance", ["-1", "nan"])
def test_a_negative_tolerance_is_told(finished: Path, tolerance: str) -> None:
    assert "a tolerance is a size ≥ 0" in refused(
        "measure", str(finished), "--tolerance", tolerance
    )


def test_damaged_weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    well("train", "quick.toml", "--out", "run")
    path = Path("run/model.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert "model.safetensors is not a readable safetensors file" in refused("measure", "run")
    path.unlink()
    Path("run/checkpoint.pt").write_bytes(b"half")
    assert "checkpoint.pt is not a readable checkpoint" in refused("measure", "run")[-200:]
    told = refused("train", "quick.toml", "--out", "run", "--resume")
    assert "checkpoint.pt is not a readable checkpoint" in told


def test_weights_of_another_network_are_told(finished: Path) -> None:
    well("train", "quick.toml", "--out", "run")
    change("run/recipe.json", classes=7)
    assert "model.safetensors does not fit the recipe beside it" in refused("measure", "run")


def test_mnist_without_a_folder_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    told = refused("train", "henrikson-dense")
    assert "LISSOM_DATA_DIR" in told and "pip install 'lissom[hub]'" in told
    monkeypatch.setenv("LISSOM_DATA_DIR", "absent")
    assert "expected a folder at absent" in refused("train", "henrikson-dense")


def test_no_command_shows_the_commands() -> None:
    done = invoke()
    for command in ("train", "recipes", "measure", "shrink", "export"):
        assert command in done.output


@exhaustive
def test_a_method_of_ones_own_lies_where_the_command_is_run() -> None:
    Path("own_method_of_a_cli_test.py").write_text(
        "from lissom.methods.proximal import Proximal\nclass Mine(Proximal):\n    name = 'mine'\n"
    )
    entry = "import sys; from lissom.cli import app; sys.argv[0] = 'lissom'; app()"
    # As the installed script runs: its own folder comes first on the path, and not this one.
    command = [sys.executable, "-P", "-c", entry]
    changes = ["--set", "method.name=own_method_of_a_cli_test:Mine"]
    run = [*command, "train", "quick.toml", "--out", "run", *changes]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "measure", "run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    well("train", "quick.toml", "--out", "known")
    assert same("run", "known")


def test_python_m_lissom() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lissom", "recipes", "digits", "absent"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no recipe has 'digits' and 'absent' in its name")


def event(epoch: int, part: str = "test") -> dict[str, Any]:
    return {
        "event": "evaluation",
        "epoch": epoch,
        "train": {"loss": 0.5, "error": 0.25},
        "test": {"loss": 0.5, "error": 0.25},
        part: {"loss": 0.25, "error": 0.125},
        "nonzeros": {"total": {"weights": 12_345, "nonzeros": 1_234}},
    }


def progress(console: Console, epochs: int, part: str = "test") -> str:
    """What is shown of a run."""
    recipe = read_recipe("quick.toml", [f"train.epochs={epochs}"])
    with Progress(console, recipe) as shown:
        for epoch in range(epochs):
            told = {"event": "progress", "epoch": epoch, "step": 0, "steps": 9, "loss": 0.5}
            shown.report(told)
            shown.report(event(epoch + 1, part))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("epochs", "lines"), [(1, 1), (7, 7), (10, 10), (100, 11), (1005, 12)])
def test_progress_is_about_ten_lines_where_there_is_no_terminal(epochs: int, lines: int) -> None:
    title, *rows = progress(plain_console(file=StringIO(), width=120), epochs).splitlines()
    assert title == "Quick [/b] and sparse"
    assert len(rows) == lines
    assert rows[-1] == (
        f"epoch {epochs:4d}/{epochs}  test loss 0.2500  error 12.50 %  non-zeros 1,234 of 12,345"
    )


def test_progress_is_a_bar_on_a_terminal() -> None:
    out = plain_console(file=StringIO(), width=160, force_terminal=True)
    shown = progress(out, 3, part="valid")
    assert "epoch 3/3  loss 0.5000" in shown
    assert "valid loss 0.2500  error 12.50 %" in shown and "100%" in shown


ODD = "[/b] a[m/s] :two: b"  # what rich would take for markup and emoji


@pytest.mark.parametrize("terminal", [False, True])
def test_names_that_users_gave_are_shown_as_they_are(terminal: bool) -> None:
    shown = StringIO()
    out = plain_console(file=shown, width=200, force_terminal=terminal, color_system=None)
    out.print(table([ODD], [[ODD]], title=ODD, total=[ODD]), ODD)
    say(ODD, to=out)
    assert shown.getvalue().count(ODD) == 6
    assert text(table([ODD], [])).splitlines()[0].strip() == ODD


def test_an_error_is_shown_by_the_name_it_was_given() -> None:
    for terminal in (False, True):
        shown = StringIO()
        out = plain_console(file=shown, width=200, force_terminal=terminal)
        with Progress(out, read_recipe("quick.toml", [f"task.name='{ODD}'"])) as bar:
            bar.report(event(1))
        assert f"{ODD} 0.125" in shown.getvalue()


def test_the_demo_is_as_sparse_as_it_says() -> None:
    recipe = read_recipe("digits-demo")
    fraction = (recipe.penalties[0].model_extra or {})["TopK"]["fraction"]
    assert f"{100 * fraction[-1]['end']:.0f} %" in recipe.title


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--ray", "auto", "--dask", "there:1"], "two clusters: give one of them"),
        (["--jobs", "2", "--dask", "there:1"], "--jobs 2 are processes of this machine"),
    ],
)
def test_points_are_made_in_one_way(given: list[str], told: str, tmp_path: Path) -> None:
    done = invoke("path", "digits-path", "--out", str(tmp_path / "curve"), *given)
    assert done.exit_code == 2 and told in " ".join(done.output.split())
    assert not (tmp_path / "curve").exists()


@pytest.mark.parametrize("command", [["train", "digits-demo"], ["path", "digits-path"]])
def test_a_url_is_no_folder(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*command, "--out", "s3://bucket/curve")
    told = " ".join(done.output.split())
    assert done.exit_code == 2 and "lissom.path(…, out='s3://bucket/curve')" in told
    assert not (tmp_path / "s3:").exists() and not (tmp_path / "runs").exists()
