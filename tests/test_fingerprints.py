"""Two experiments in one folder: what tells functions apart, and what makes no difference."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from path_cases import fit, path
from products import exhaustive
from torch import nn

from lissom.curves import fingerprints
from lissom.curves.fingerprints import differences, fingerprint
from lissom.errors import PathError

BEFORE = '''
import functools, types
import torch
from torch import nn

EPOCHS, RATE, PLACE, DEVICE = 5, 1e-2, "/mnt/data", "cuda"
CONFIG = {"depth": 3, "name": "a"}
args = types.SimpleNamespace(width=8, resume=False)
calls, log = 0, []

class Base:
    def scale(self):
        return 1.0

class Net(Base, nn.Module):
    WIDTH = 4
    def __init__(self, width=16):
        super().__init__()
        self.layer = nn.Linear(6, width)
    def forward(self, x):
        return self.layer(x).relu() * self.scale()

class Trainer:
    def __init__(self, rate):
        self.rate, self.calls, self.unread = rate, 0, object()
    def __call__(self, net, strength, start):
        self.calls += 1
        return self.rate * helper(net)
    def fit(self, net, strength, start):
        return self.rate

def helper(net):
    return {"one", "two", "three"} and args.width + RATE

def deep(net):
    return (lambda: [helper(n) + EPOCHS for n in net])()

def made(rate):
    count = 0
    def fit(net, strength, start):
        nonlocal count
        count += 1
        return rate
    return fit

def fit(net, strength, start, momentum=0.9, *, decay=0.1):
    """Trains."""
    global calls
    calls += 1  # a counter
    log.append(strength)
    net.resume()
    weight = CONFIG["depth"] * args.width
    return deep(net), weight, PLACE, DEVICE

@torch.no_grad()
def error(net):
    return net.error + EPOCHS

@functools.lru_cache
def cached(net):
    return RATE

partial = functools.partial(helper, rate=1)
method = Trainer(0.1).fit
trainer = Trainer(0.1)
closure = made(0.1)
by_lambda = lambda net, strength, start: RATE
def make_model(seed):
    return Net()
'''
ALL = (
    "fit",
    "error",
    "cached",
    "partial",
    "method",
    "trainer",
    "closure",
    "by_lambda",
    "make_model",
)

# What is changed, to what, and which functions differ then.
CHANGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a global": ("DEVICE = 5,", "DEVICE = 6,", ("fit", "error")),
    "a float": ("1e-2", "2e-2", ("fit", "partial", "trainer", "cached", "by_lambda")),
    "a key": ('"depth": 3', '"depth": 4', ("fit",)),
    "an attribute": ("width=8", "width=9", ("fit", "partial", "trainer")),
    "a default": ("momentum=0.9", "momentum=0.8", ("fit",)),
    "a keyword's default": ("decay=0.1", "decay=0.2", ("fit",)),
    "a closure": ("made(0.1)", "made(0.2)", ("closure",)),
    "an argument of a partial": ("rate=1)", "rate=2)", ("partial",)),
    "an object": ("trainer = Trainer(0.1)", "trainer = Trainer(0.2)", ("trainer",)),
    "an object of a method": ("method = Trainer(0.1)", "method = Trainer(0.2)", ("method",)),
    "a helper's code": ("args.width + RATE", "args.width - RATE", ("fit", "partial", "trainer")),
    "code within a lambda": ("+ EPOCHS for", "* EPOCHS for", ("fit",)),
    "code of a lambda": ("start: RATE", "start: -RATE", ("by_lambda",)),
    "code under a decorator": ("net.error +", "net.error -", ("error",)),
    "a method": ("return self.rate * ", "return 2 * self.rate * ", ("trainer",)),
    "a network": ("self.layer(x).relu()", "self.layer(x).tanh()", ("make_model",)),
    "a network's base": ("return 1.0", "return 2.0", ("make_model",)),
    "a network's default": ("width=16", "width=32", ("make_model",)),
    "a network's constant": ("WIDTH = 4", "WIDTH = 5", ("make_model",)),
    "a comment": ("# a counter", "# counts", ()),
    "other lines": ("import functools", "\n\nimport functools", ()),
    "a docstring": ('"""Trains."""', '"""Trains well."""', ()),
    "no docstring": ('    """Trains."""\n', "", ()),
    "a local name": ("weight", "w", ()),
    "a counter": ("calls, log = 0", "calls, log = 7", ()),
    "a closure's counter": ("count = 0", "count = 7", ()),
    "a log": ("log = 0, []", "log = 0, [1, 2]", ()),
    "what nobody reads": ("resume=False", "resume=True", ()),
    "a key that nobody reads": ('"name": "a"', '"name": "b"', ()),
    "where data are": ("/mnt/data", "/data", ()),
    "a device": ('"cuda"', '"cuda:1"', ()),
    "another name": ("def deep(net)", "deep = None\ndef deep(net)", ()),
}  # fmt: skip


def functions_of(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "script.py", "exec"), namespace)
    return {name: namespace[name] for name in ALL}


@pytest.mark.parametrize("change", CHANGES)
def test_what_tells_functions_apart(change: str) -> None:
    old, new, expected = CHANGES[change]
    assert old in BEFORE
    before = functions_of(BEFORE)
    after = functions_of(BEFORE.replace(old, new))
    differ = {
        name for name in ALL
        if differences(fingerprint(f=before[name]), fingerprint(f=after[name]))
    }  # fmt: skip
    # A class is read whole, and trainer and method have one.
    extra = {"method"} if {"trainer", "method"} & set(expected) else set()
    assert set(expected) <= differ <= {*expected, *extra}


def test_calls_change_nothing() -> None:
    functions = functions_of(BEFORE)
    before = fingerprint(**functions)
    functions["closure"](None, None, None)
    with pytest.raises(AttributeError):
        functions["fit"]([], None, None)
    assert fingerprint(**functions) == before


@exhaustive
def test_another_process_finds_the_same(tmp_path: Path) -> None:
    """Sets of words have another order in each."""
    script = tmp_path / "script.py"
    script.write_text(
        BEFORE + "from lissom.curves.fingerprints import fingerprint\n"
        f"print(fingerprint(**{{name: globals()[name] for name in {ALL}}}))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == str(fingerprint(**functions_of(BEFORE))), done.stderr


def test_of_libraries_there_are_names() -> None:
    found = fingerprint(
        error=nn.functional.cross_entropy, fit=nn.Linear(2, 2), make_model=len, test=None
    )
    assert found["error"] == "torch.nn.functional.cross_entropy"
    assert found["fit"] == "torch.nn.modules.linear.Linear"
    assert set(found) == {"error", "fit", "make_model", "test", "python"}


def test_another_python_has_other_code_but_the_same_values() -> None:
    rate = 0.1

    def reading() -> float:
        return rate

    now = fingerprint(f=reading)
    old = {**now, "f": "code 0", "python": "3.10"}
    assert differences(old, now) == []
    assert differences({**old, "f.rate": "0.2"}, now) == ["f.rate was 0.2 and is 0.1"]
    assert differences({**now, "f": "code 0"}, now) == ["the code of f is another"]


def test_odd_things_are_no_trouble() -> None:
    class Everything:
        def __getattr__(self, name: str) -> Any:
            return Everything()

    loop: list[Any] = []
    loop.append(loop)
    args = argparse.Namespace(rate=0.1, me=None)
    args.me = args
    data, everything = torch.zeros(3, 2), Everything()

    def odd() -> Any:
        return args.rate, args.me, loop, data, everything.anything, later

    assert "f.args.rate" in fingerprint(f=odd)
    larger = fingerprint(f=odd)
    data = torch.zeros(4, 2)
    told = differences(larger, fingerprint(f=odd))
    assert told == ["f.data was torch.Tensor (3, 2) and is torch.Tensor (4, 2)"]
    later = None
    assert fingerprints.DEVICE.fullmatch("cuda:0")


def test_a_changed_function_is_refused_in_a_folder_that_holds_points(tmp_path: Path) -> None:
    def fit_at(rate: float) -> Callable[..., Any]:
        def training(net: nn.Module, strength: float | None, start: Any) -> Any:
            return fit(net, None if strength is None else rate * strength, start)

        return training

    given = {"strengths": (1e-3, 1.0), "points": 3, "seeds": 1, "out": tmp_path / "p"}
    whole = path(fit=fit_at(1.0), **given)
    assert path(fit=fit_at(1.0), **given).points == whole.points  # as a cell that is run again
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for changed in ({"fit": fit_at(2.0)}, {"error": lambda net: 0.5}, {"make_model": lambda s: 1}):
        changed = {"fit": fit_at(1.0), **changed}
        if "make_model" in changed:
            changed["make_model"] = lambda seed: nn.Sequential(
                nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)
            )
        name = "fit.rate was 1.0 and is 2.0" if len(changed) == 1 else "the code of .* is another"
        with pytest.raises(PathError, match=f"another experiment: {name}.*retry_failed=True"):
            path(**given, **changed)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert path(fit=fit_at(2.0), **given, retry_failed=True).points == whole.points
    with pytest.raises(PathError, match=r"fit\.rate was 2\.0 and is 1\.0"):
        path(fit=fit_at(1.0), **given)


def test_a_training_that_was_cut_short_counts_too(tmp_path: Path) -> None:
    """What it left in its folder would be gone on with."""

    def killed(net: nn.Module, strength: float | None, start: Any) -> None:
        if leaves:
            (start.folder / "checkpoint").touch()
        raise KeyboardInterrupt

    for leaves in (False, True):
        with pytest.raises(KeyboardInterrupt):
            path([1e-3], fit=killed, out=tmp_path / "p", seeds=1)
        if leaves:
            with pytest.raises(PathError, match="the code of fit is another"):
                path([1e-3], out=tmp_path / "p", seeds=1)
        else:  # there is nothing to go on with
            with pytest.raises(ZeroDivisionError):
                path([1e-3], out=tmp_path / "p", seeds=1, progress=lambda event: 1 / 0)
            shutil.rmtree(tmp_path / "p")
