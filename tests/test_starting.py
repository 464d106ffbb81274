"""The first day: what `lissom init` writes works, and mistakes are answered with a remedy."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from products import exhaustive, sampled
from typer.testing import CliRunner

from lissom.cli import app
from lissom.recipes import Record, keep_record, keep_weights, make_model, read_recipe

DOCS = Path(__file__).parents[1] / "README.md"


def lissom(*words: str) -> Any:
    sys.modules.pop("kws", None)  # each command is a process of its own
    return CliRunner().invoke(app, words)


def works(*words: str) -> str:
    done = lissom(*words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "kws"
    assert "synthetic" in works("init", str(folder))
    return folder


@pytest.fixture
def project(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What init wrote, in a folder of the test's own, which is the one where commands are run."""
    folder = Path(shutil.copytree(begun, tmp_path / "kws"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield folder
    sys.modules.pop("kws", None)


def test_a_file_that_is_there_is_not_overwritten(project: Path) -> None:
    done = lissom("init")
    assert done.exit_code == 2 and "kws.toml is there already: name another folder" in done.output
    assert sorted(f.name for f in project.iterdir()) == ["kws.npz", "kws.py", "kws.toml"]
    assert len((project / "kws.py").read_text().splitlines()) < 50


@exhaustive
def test_a_check_tells_all_but_the_training(project: Path) -> None:
    told = works("check", "kws.toml")
    for line in (
        r"640 train / 160 valid / 160 test, \[1, 25, 10\], 4 classes",
        r"kws:ds_cnn: 4,996 weights, 19,984 bytes, 287,168 MACs",
        r"forward and backward: loss 1\.\d+; judged by error",
        r"channels +non-zero",
        r"expected: about [\d,]+ of 4,996 weights are not zero, [\d,]+ when shrunk",
        r"s an epoch of 10 steps, .* for the 55 epochs of a curve, 6 points × 1",
    ):
        assert re.search(line, told), (line, told)
    assert sorted(f.name for f in project.iterdir() if f.name != "__pycache__") == [
        "kws.npz", "kws.py", "kws.toml",
    ]  # fmt: skip


@pytest.mark.exhaustive
def test_what_a_check_expects_is_what_training_leaves(project: Path) -> None:
    told = works("check", "kws.toml")
    [expected] = re.findall(r"about ([\d,]+) of", told)
    quick = works("train", "kws.toml", "--quick")
    assert "scaled with the epochs: train.epochs 30 → 3" in quick
    assert re.search(rf"total +{expected}\b", quick), (expected, quick)


@pytest.mark.exhaustive
def test_the_commands_of_the_docs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    """Those of a new user, in an empty folder, one after the other; the curve in fewer epochs."""
    pytest.importorskip("onnxruntime")
    text = DOCS.read_text(encoding="utf-8")
    [block] = re.findall(r"```console\n(\$ lissom init kws\b.*?)```", text, re.DOTALL)
    commands = [line[2:].partition("#")[0] for line in block.splitlines() if line[:2] == "$ "]
    assert len(commands) >= 7
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(project)
    for command in commands:
        name, *words = shlex.split(command)
        if name == "cd":
            monkeypatch.chdir(words[0])
            monkeypatch.syspath_prepend(str(Path.cwd()))
            for key, epochs, fewer in (("dense", 15, 9), ("epochs", 8, 5), ("fine_tune", 4, 3)):
                edit("kws.toml", f"\n{key} = {epochs}", f"\n{key} = {fewer}")
        else:
            assert name == "lissom"
            told = works(*words)
    assert Path("runs/kws-curve/report.html").exists()
    assert Path("runs/small/model.onnx").exists()
    [left] = re.findall(r"shrunk first, 4,996 weights → ([\d,]+)", told)
    assert int(left.replace(",", "")) < 2500


def edit(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


def data(**changes: Any) -> None:
    with np.load("kws.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= changes
    np.savez("kws.npz", **{name: a for name, a in arrays.items() if a is not None})


def unused() -> None:
    edit("kws.py", "from torch import nn", "import torch\nfrom torch import nn")
    edit("kws.py", "    return nn.Seq", "    class Net(nn.Sequential):\n"
         "        def forward(self, x):\n"
         "            return super().forward(x)\n\n"
         "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)\n"
         "    net = Net(*layers, *head)\n"
         "    net.extra = nn.Module()\n"
         "    net.extra.weight = nn.Parameter(torch.ones(3))\n"
         "    net.extra.forward = lambda x: x\n"
         "    return net\n    return nn.Seq")  # fmt: skip


MISTAKES: list[tuple[Any, str, str]] = [
    (lambda: edit("kws.toml", "epochs = 30", "epoch = 30"), "check kws.toml",
     r"kws\.toml, line \d+: train\.epoch: unknown key 'epoch'\. Did you mean 'epochs'"),
    (lambda: Path("kws.npz").rename("data.npz"), "check kws.toml",
     r"there is no .*kws\.npz: name it from the folder where the command is run,"),
    (lambda: data(X_test=np.zeros(3)), "check kws.toml",
     r"kws\.npz: unknown array 'X_test'\. Did you mean 'test_x'|Did you mean"),
    (lambda: edit("kws.toml", "kws:ds_cnn", "kwz:ds_cnn"), "check kws.toml",
     r"model\.make: .*No module named 'kwz'\. It is looked for in .* and among what is installed"),
    (lambda: edit("kws.toml", "kws:ds_cnn", "kws:dscnn"), "check kws.toml",
     r"model\.make: module 'kws' has no 'dscnn'\. Did you mean 'ds_cnn'"),
    (lambda: edit("kws.py", "def ds_cnn(", "def ds_cnn("
     ")) ("), "check kws.toml", r"cannot be imported, SyntaxError: "),
    (lambda: edit("kws.toml", "width = 32", "width = 32\nclasses = 3"), "check kws.toml",
     r"targets go up to 3 .*, but the network has outputs for classes 0 to 2"),
    (lambda: data(**{f"{p}_x": np.zeros((99, 250), np.float32) for p in ("train", "valid", "test")},
                  **{f"{p}_y": np.arange(99) % 4 for p in ("train", "valid", "test")}),
     "check kws.toml", r"the train batch of 'kws', \(float32 \[2, 250\], .*got input of size: "),
    (lambda: data(**{f"{p}_y": np.linspace(0, 1, n) for p, n in
                     (("train", 640), ("valid", 160), ("test", 160))}), "check kws.toml",
     r'and no labels: set \[task\] loss = "mse" for regression'),
    (lambda: data(train_x=np.full((640, 1, 25, 10), np.nan)), "check kws.toml",
     r"holds nan in row 0, .*: leave out such rows, 640 of 640"),
    (lambda: data(valid_x=None, valid_y=None), "check kws.toml",
     r"points of a path are chosen by held-out examples, .*: set data\.validation"),
    (lambda: edit("kws.toml", 'groups = "channels"', 'groups = "heads"'), "check kws.toml",
     r"penalties\.0 for model 'kws:ds_cnn': no heads can be removed .*it has channels"),
    (lambda: edit("kws.toml", 'groups = "channels"', 'groups = "channels"\nonly = ["conv1"]'),
     "check kws.toml", r"penalties\.0 for .*: 'conv1' matches none of the channels"),
    (unused, "check kws.toml",
     r"no gradient arrives at extra\.weight of model 'kws:ds_cnn': the loss does not depend"),
    (lambda: None, "check kws.toml --set train.epochs=1",
     r"scaled to 1 epochs, which are too few for it; \d+ are enough"),
    (lambda: None, "check kws.toml --set optimizer.name=Adamw",
     r"torch\.optim has no optimizer, got 'Adamw'\. Did you mean 'AdamW'\?"),
    (lambda: None, "check kws.toml --set optimizer.momentum=0.9",
     r"optimizer\.momentum: not an argument of torch\.optim\.AdamW"),
    (lambda: None, "check kws", r"there is no recipe 'kws'\..* a recipe of your own is a file "),
    (lambda: Path("runs/kws").mkdir(parents=True) or Path("runs/kws/x").touch(),
     "train kws.toml", r"runs/kws is not empty and not a run; choose another --out"),
]  # fmt: skip


@sampled(8)
@pytest.mark.parametrize(("do", "command", "message"), MISTAKES)
def test_mistakes_of_a_first_day(project: Path, do: Any, command: str, message: str) -> None:
    do()
    done = lissom(*command.split())
    assert done.exit_code == 2, done.output
    assert re.search(message, done.output), done.output
    assert "Traceback" not in done.output


@exhaustive
def test_a_run_from_elsewhere_waits_for_the_word(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project)
    record = Record(recipe=read_recipe("kws.toml"), seed=0, shape=[1, 25, 10], classes=4)
    keep_record(record, Path("run"))
    keep_weights(make_model(record.recipe, record.shape, record.classes), Path("run"))
    assert "4,996" in works("measure", "run")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))
    for command in ("measure run", "shrink run", "export run", "train run/recipe.json"):
        done = lissom(*command.split())
        assert done.exit_code == 2 and "say so with --trust" in done.output, done.output
    assert "4,996" in works("measure", "run", "--trust")
    assert lissom("measure", "run").exit_code == 2  # it is said each time


@pytest.mark.parametrize("name", ["digits-gates", "digits-lc", "digits-path-nested"])
def test_a_check_is_of_the_network_without_gates_and_masks(name: str) -> None:
    assert re.search(r"judged by error.* epochs", works("check", name), re.DOTALL)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("path.strengths=[0.1, 0.5, 0.4]", "strengths go from dense to empty, all of them growing"),
        ("path.points=2", "points=2 with the dense one leaves too few for strengths"),
    ],
)
def test_a_check_refuses_what_a_path_would(change: str, told: str, tmp_path: Path) -> None:
    """And nothing is begun, so that the mended command is not refused for what lies there."""
    for command in (
        ["check", "digits-path"],
        ["path", "digits-path", "--out", str(tmp_path / "c")],
    ):
        done = lissom(*command, "--set", change)
        assert done.exit_code == 2 and told in done.output.replace("\n", " ")
    assert not list(tmp_path.iterdir())


@exhaustive
@pytest.mark.parametrize(("precision", "width"), [("64-true", 8), ("bf16-true", 2)])
def test_a_run_is_measured_as_it_was_trained(project: Path, precision: str, width: int) -> None:
    words = ["kws.toml", "--set", f"train.precision={precision}"]
    works("check", *words)
    works("train", *words, "--quick", "--out", "run")
    assert json.loads(works("measure", "run", "--json"))["dense_bytes"] == 4996 * width


@exhaustive
def test_other_code_is_told(project: Path) -> None:
    """A run goes on with it after a warning; points of a curve would be of two experiments."""
    words = ["kws.toml", "--quick", "--set", "path.points=3"]
    works("train", *words, "--out", "run")
    works("path", *words, "--out", "curve")
    code = Path("kws.py").read_text()
    Path("kws.py").write_text("# a comment is no difference\n" + code)
    assert "other code" not in works("train", *words, "--out", "run", "--resume")
    Path("kws.py").write_text(code.replace("ReLU", "Tanh"))
    other = "was started with other code: the code of kws:ds_cnn is another"
    assert f"warning: run {other}" in works("train", *words, "--out", "run", "--resume")
    done = lissom("path", *words, "--out", "curve")
    assert done.exit_code == 2 and f"error: curve {other}" in done.output.replace("\n", " ")
    works("path", *words, "--out", "curve", "--retry-failed")
