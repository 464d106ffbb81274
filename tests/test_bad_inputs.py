"""Thousands of wrong inputs: each is answered in lissom's words, at once, and changes nothing."""

import ast
import gzip
import json
import linecache
import math
import os
import random as random_module
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from bad_calls import CALLS, Call
from bad_values import TENSORS, Users, nested, wrong
from test_damage import KINDS, parts_of, rewritten
from test_modrec import write_npz, write_pickle
from torch import Tensor, nn
from torch.optim import Optimizer
from training_cases import DENSE
from typer.testing import CliRunner

import lissom
from lissom.cli import app
from lissom.data import load_digits, load_mnist, load_modrec
from lissom.errors import LissomError
from lissom.recipes import RecipePath, make_trainer, read_recipe
from lissom.storage import save_state

SECONDS = 10
WORK = {"epochs", "rounds", "repeats", "steps", "restarts", "n", "samples", "points", "seeds"}
BYTES = 4 * 2**30
ROOT = Path(lissom.__file__).parent


class Hang(BaseException):
    """More than ten seconds."""


@contextmanager
def limits() -> Iterator[None]:
    """At most ten seconds, and 4 GB more than there are."""

    def ring(*_: Any) -> None:
        raise Hang

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, before[1]))
    old = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
        resource.setrlimit(resource.RLIMIT_AS, before)


# What must stay as it was.


def print_of(value: Any, depth: int = 0) -> Any:
    """Something that changes whenever a network, an optimizer or a tensor does."""
    if isinstance(value, Tensor):
        flags = (id(value), value.requires_grad, str(value.dtype), str(value.device), value.is_leaf)
        return flags, print_of(value.grad) if value.is_leaf else None, _bytes(value)
    if isinstance(value, nn.Module):
        modules = [
            (
                name, type(m), m.training, sorted(vars(m)), list(m._parameters), list(m._buffers),
                [len(hooks or ()) for key, hooks in vars(m).items() if "hooks" in key],
                {key: v for key, v in vars(m).items() if isinstance(v, int | float | str | tuple)},
            )
            for name, m in value.named_modules()
        ]  # fmt: skip
        tensors = [*value.named_parameters(), *value.named_buffers()]
        return [repr(m) for m in modules], [(name, print_of(t)) for name, t in tensors]
    if isinstance(value, Optimizer):
        hooks = [len(h) for key, h in vars(value).items() if "hooks" in key and h is not None]
        state = [(id(p), print_of(s)) for p, s in value.state.items()]
        return hooks, state, print_of(value.param_groups)
    if isinstance(value, lissom.Method):
        # Its state may be written down afresh for whoever asks: what counts is what it says.
        state = torch.utils._pytree.tree_map_only(
            Tensor, lambda tensor: repr(_bytes(tensor)), value.state_dict()
        )
        return value.finalized, print_of(state)
    if isinstance(value, Mapping) and depth < 9:
        return [(repr(key)[:99], print_of(v, depth + 1)) for key, v in value.items()]
    if isinstance(value, list | tuple) and depth < 9:
        return [print_of(v, depth + 1) for v in value]
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return repr(value) if isinstance(value, int | float | str | None) else None


def _bytes(tensor: Tensor) -> Any:
    if tensor.is_meta:
        return list(tensor.shape)
    try:
        return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    except (RuntimeError, ValueError):  # sparse, quantised, nested, lazy
        return tensor.layout, id(tensor)


def surroundings() -> Any:
    """What of the process a call has to leave alone."""
    return (
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(), os.getcwd(), list(sys.path),
        len(warnings.filters), torch.get_default_device(), sys.stdout, sys.stderr,
    )  # fmt: skip


def draws() -> Any:
    return (
        torch.get_rng_state().tolist(),
        random_module.getstate(),
        np.random.get_state()[1].tolist(),
    )


def files_in(folder: Path) -> dict[str, Any]:
    return {
        str(file): (file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else None
        for file in folder.rglob("*")
    }


# What may be said.


@cache
def raises_in(file: str) -> list[tuple[int, int]]:
    """The lines of the `raise` statements of a file."""
    tree = ast.parse("".join(linecache.getlines(file)))
    return [
        (n.lineno, n.end_lineno or n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Raise)
    ]


def in_own_words(error: BaseException) -> bool:
    """Whether it is lissom's own error, or the user's; a TypeError or ValueError that it raises."""
    if isinstance(error, LissomError | Users | MemoryError):
        return True
    if "can't allocate memory" in str(error) or "Overflow when unpacking" in str(error):
        return True  # a size was asked for that no machine has
    if isinstance(error, TypeError | ValueError):
        last = traceback.extract_tb(error.__traceback__)[-1]
        if ROOT in Path(last.filename).parents:
            lines = raises_in(last.filename)
            return any(start <= (last.lineno or 0) <= end for start, end in lines)
    return False


def of_the_users(error: BaseException, trains: bool) -> bool:
    """Whether a mistake is in what the user wrote: in a call, a function of theirs, a network."""
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    own = [ROOT in file.parents for file in frames]
    if not any(own) or (isinstance(error, TypeError) and "positional arg" in str(error)):
        return True
    after = frames[len(own) - own[::-1].index(True) :] if any(own) else []
    return trains and any(file.name == "module.py" for file in after)


def fault(call: Call, changed: Mapping[str, Any], folder: Path) -> str | None:
    """What is wrong with how wrong arguments are answered, or None."""
    given = {**call.given, **changed}
    watched = (call.watched, given)
    torch.manual_seed(0)
    before = print_of(watched), surroundings(), files_in(folder), draws()
    refused: BaseException | None = None
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call.function(**given)
    except Hang:
        return "takes more than ten seconds\n" + traceback.format_exc()
    except BaseException as error:
        refused = error
        if not in_own_words(error) and not of_the_users(error, call.trains):
            return "".join(traceback.format_exception(error))
    if surroundings() != before[1]:
        return "leaves the process changed"
    after = files_in(folder)
    if any(".part" in name for name in after):
        return f"leaves {after.keys() - before[2].keys()}"
    if refused is not None and not call.trains:
        if print_of(watched) != before[0]:
            return f"refuses and changes what it was given: {refused!r}"
        if after != before[2]:
            return f"refuses and writes {after.keys() ^ before[2].keys()}: {refused!r}"
        if draws() != before[3] and in_own_words(refused):
            return f"refuses and draws random numbers: {refused!r}"
    return None


def bad_call(name: str, number: int, folder: Path) -> tuple[str, Call, dict[str, Any]]:
    """The call of this name with one argument wrong, or two; and what is wrong."""
    random = Random(f"{name} {number}")
    torch.manual_seed(number)
    call = CALLS[name](folder)
    names = list(call.given)
    chosen = random.sample(names, min(len(names), 2 if random.random() < 0.1 else 1))
    changed, told = {}, []
    for argument in chosen:
        what, changed[argument] = wrong(call.given[argument], random, folder)
        while argument in WORK and isinstance(changed[argument], int) and changed[argument] > 9:
            what, changed[argument] = wrong(call.given[argument], random, folder)
        told.append(f"{argument}: {what}")
    return ", ".join(told), call, changed


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CALLS)
def test_the_call_itself_works(name: str, own_folder: Path) -> None:
    call = CALLS[name](own_folder)
    call.function(**call.given)


def try_calls(name: str, numbers: range, folder: Path) -> None:
    faults = []
    for number in numbers:
        what, call, changed = bad_call(name, number, folder)
        if found := fault(call, changed, folder):
            faults.append(f"{name}, {what} ({number}): {found}")
    assert not faults, "\n\n".join(faults)


EACH = 20


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments(name: str, own_folder: Path) -> None:
    try_calls(name, range(EACH), own_folder)


# Files that say what cannot be: of every kind, and of forms that no kind has.


def changed(value: Any, random: Random) -> Any:
    """A nested plain value in which one place is another."""
    if isinstance(value, dict | list) and value and random.random() < 0.8:
        copied: Any = value.copy()
        key = (
            random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        )
        how = random.random()
        if how < 0.7:
            copied[key] = changed(value[key], random)
        elif how < 0.85:
            del copied[key]
        elif isinstance(copied, dict):
            copied[random.choice(["", "x", "format", "__class__", "a" * 5000])] = value[key]
        else:
            copied.insert(key, value[key])
        return copied
    if isinstance(value, Tensor) and random.random() < 0.7:
        with suppress(RuntimeError, TypeError, IndexError):
            return TENSORS[random.choice(list(TENSORS))](value)
    return random.choice(PLAIN)()


PLAIN: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1, lambda: 1.5, lambda: 2**70,
    lambda: -(10**400), lambda: math.nan, lambda: math.inf, lambda: "", lambda: "x", lambda: "1",
    lambda: "ü\0" * 999, lambda: [], lambda: {}, lambda: [None], lambda: {"x": []},
    lambda: [0] * 9999, lambda: nested(90), lambda: {"node": 0}, lambda: 1e-320,
]  # fmt: skip


def rewrite(file: Path, random: Random) -> None:
    """Change what a file says, in its own form and without a checksum that would tell."""
    content = file.read_bytes()
    if file.suffix == ".jsonl":
        lines = [json.loads(line) for line in content.splitlines()]
        at = random.randrange(len(lines))
        lines[at].pop("crc32")
        lines[at] = changed(lines[at], random)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif file.suffix == ".json":
        record = json.loads(content)
        record.pop("crc32")
        file.write_text(json.dumps(changed(record, random)))
    elif file.suffix == ".pt":
        state = torch.load(file, weights_only=True)
        kind = state.pop("format")
        state = changed(state, random)
        with suppress(RuntimeError, TypeError, AttributeError, NotImplementedError):
            save_state(state, file, kind)
    else:
        record, tensors = parts_of(file)
        if random.random() < 0.3:
            odd = changed(tensors, random)
            tensors = odd if isinstance(odd, dict) else {}
        else:
            record = changed(record, random)
        with suppress(Exception):  # safetensors has no such form
            rewritten(file, record, tensors)


def replace_by(file: Path, random: Random) -> None:
    """Something that is no file of any of lissom's kinds."""
    file.unlink()
    how = random.randrange(12)
    if how == 0:
        file.mkdir()
    elif how == 1:
        file.symlink_to(file)
    elif how == 2:
        file.symlink_to("/dev/zero")
    elif how == 3:
        os.mkfifo(file)
    elif how == 4:
        file.write_bytes(gzip.compress(bytes(10**7)))
    elif how == 5:
        with ZipFile(file, "w", ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**7))
    else:
        file.write_bytes([
            b"", b"\xff\xfe", b"[" * 10**5, b'{"a":' * 10**5, b"9" * 10**5,
            (2**40).to_bytes(8, "little") + b"{}",
        ][how - 6])  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a file of each kind."""
    made = {kind: tmp_path_factory.mktemp("kind") for kind in KINDS}
    for kind, case in KINDS.items():
        case.write(made[kind])
    return made


def try_files(kind: str, numbers: range, kept: Path, folder: Path) -> None:
    faults = []
    for number in numbers:
        random = Random(f"{kind} {number}")
        copied = shutil.copytree(kept, folder / str(number))
        rewrite(copied / KINDS[kind].name, random) if number % 4 else replace_by(
            copied / KINDS[kind].name, random
        )
        # It makes networks, and looks whether they were left alone.
        call = Call(lambda folder: KINDS[kind].read(folder), {"folder": copied}, trains=True)
        if found := fault(call, {}, copied):
            faults.append(f"{kind} {number}: {found}")
        shutil.rmtree(copied)
    assert not faults, "\n\n".join(faults)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_files_that_say_what_cannot_be(
    folders: dict[str, Path], kind: str, own_folder: Path
) -> None:
    try_files(kind, range(60), folders[kind], own_folder)


# Recipes.

VALUES = [
    "", "true", "-1", "0", "1.5", "nan", "inf", "1e400", "9" * 400, '"x"', '""', "[]", "{}", "[1]",
    '["x", 1]', "2026-01-01", "[" * 3000 + "]" * 3000, '"""', "{a = {b = {c = 1}}}", '"\\u0000"',
    '"none"', "0x7fffffffffffffffffff", "[[1e-3, 2]]", "'../x.toml'", '"os:system"', '"torch:nn"',
]  # fmt: skip


def other_text(text: str, random: Random) -> str:
    """A recipe with a line, a key or a value that is wrong."""
    lines = text.splitlines()
    at = random.randrange(len(lines))
    key = lines[at].partition("=")[0]
    how = random.randrange(8)
    if how < 4:
        lines[at] = f"{key}= {random.choice(VALUES)}"
    elif how == 4:
        del lines[at]
    elif how == 5:
        lines.insert(at, lines[at])
    elif how == 6:
        lines.insert(
            at, random.choice(["[", "x", "= 1", "a." * 5000 + "a = 1", "[[penalties]]", "[path]"])
        )
    else:
        lines[at] = lines[at][: random.randrange(len(lines[at]) + 1)]
    return "\n".join(lines)


DIGITS = load_digits().hold_out(100, seed=0)
HOUSE = Path(lissom.recipes.__file__).parent
TEXTS = [
    DENSE,
    *(
        (HOUSE / f"{name}.toml").read_text()
        for name in ("digits-path", "digits-gates", "digits-lc")
    ),
]


def made_from(recipe: str, changes: list[str]) -> None:
    """All that a recipe makes, up to its training."""
    read = read_recipe(recipe, changes)
    make_trainer(read, DIGITS, seed=0, out=None)


def try_recipes(numbers: range, folder: Path) -> None:
    faults = []
    for number in numbers:
        random = Random(f"a recipe {number}")
        text = random.choice(TEXTS)
        changes = []
        if number % 3 == 0:
            keys = [line.partition("=")[0].strip() for line in text.splitlines() if "=" in line]
            table = random.choice(
                ["train.", "data.", "model.", "optimizer.", "method.", "penalties.0.", ""]
            )
            changes = [f"{table}{random.choice(keys)}={random.choice(VALUES)}"]
        else:
            text = other_text(text, random)
        (folder / "recipe.toml").write_text(text)
        call = Call(
            made_from, {"recipe": str(folder / "recipe.toml"), "changes": changes}, trains=True
        )
        if found := fault(call, {}, folder):
            faults.append(f"{number}, {changes}: {found}")
    assert not faults, "\n\n".join(faults)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(4))
def test_recipes_that_say_what_cannot_be(own_folder: Path, part: int) -> None:
    try_recipes(range(part * 100, part * 100 + 100), own_folder)


# Data sets.


def write_idx(folder: Path) -> None:
    for name in ("train", "t10k"):
        images = np.zeros((4, 28, 28), np.uint8)
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(head + images.tobytes())
        )
        head = bytes([0, 0, 8, 1]) + (4).to_bytes(4, "big")
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + bytes(4)))


@cache
def half_a_gigabyte() -> bytes:
    """Of zeros, in half a megabyte."""
    return gzip.compress(bytes(2**29))


def damage_data(folder: Path, random: Random) -> None:
    file = random.choice(sorted(folder.iterdir()))
    content = bytearray(file.read_bytes())
    how = random.randrange(4)
    if how == 0:
        replace_by(file, random)
    elif how == 1 and file.suffix == ".gz":
        unpacked = bytearray(gzip.decompress(content))
        unpacked[random.randrange(16)] = random.randrange(256)
        file.write_bytes(gzip.compress(unpacked))
    elif how == 2:
        file.write_bytes(half_a_gigabyte() if random.random() < 0.2 else content[::-1])
    else:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        file.write_bytes(content)


def write_radio(folder: Path) -> None:
    write_npz(folder / "RML2016.10a.npz")


def write_radio_pickle(folder: Path) -> None:
    write_pickle(folder / "RML2016.10a_dict.pkl")


DATA: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "mnist": (write_idx, load_mnist),
    "npz": (write_radio, load_modrec),
    "pickle": (write_radio_pickle, load_modrec),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", DATA)
def test_damaged_data(own_folder: Path, kind: str) -> None:
    faults = []
    write, load = DATA[kind]
    for number in range(60):
        random = Random(f"{kind} {number}")
        folder = own_folder / str(number)
        folder.mkdir()
        write(folder)
        damage_data(folder, random)
        call = Call(lambda folder: load(folder), {"folder": folder})
        if found := fault(call, {}, folder):
            faults.append(f"{kind} {number}: {found}")
        shutil.rmtree(folder)
    assert not faults, "\n\n".join(faults)


# The command line.

OPTIONS: dict[str, list[str]] = {
    "train": ["--set", "--out", "--seed", "--device", "--resume", "--overwrite", "--data-dir"],
    "path": ["--set", "--out", "--from-scratch", "--jobs", "--device", "--data-dir"],
    "choose": ["--knee", "--within", "--budget", "--axis", "--out"],
    "recipes": [],
    "measure": ["--tolerance", "--json"],
    "shrink": ["--round-to", "--inputs", "--out"],
    "export": ["--to", "--dense", "--round-to", "--no-pad", "--batch", "--out"],
    "report": ["--out"],
    "ensemble": ["--networks", "--seed", "--out", "--data-dir"],
    "distill": ["--rounds", "--examples", "--seed", "--out", "--data-dir"],
}
WORDS = [
    "", "x", "-1", "0", "1.5", "nan", "inf", "1e400", "9" * 30, "none", "all", "ü" * 300, "a\0b",
    "/dev/null", "/proc/self/mem", "no/such/folder", ".", "..", "nonzeros=1", "bytes=nan", "=",
    "train.epochs=0", "model=none", "penalties.0=1", "a.b.c.d=1", "cuda:99", "warp", "onnx", "pt2",
    "--", "-h", "[/b]", "0.1,0.2", "0.1,x", "'", '"', "\udcff", "{}", "*", "~",
]  # fmt: skip
FLAGS = {"--knee", "--json", "--inputs", "--dense", "--no-pad", "--resume", "--overwrite"}


def command(random: Random, places: list[str]) -> list[str]:
    name = random.choice(list(OPTIONS))
    words = [name]
    if name != "recipes" and random.random() < 0.95:
        words.append(random.choice([*places, *places, *places, *WORDS]))
    for option in random.sample(OPTIONS[name], random.randint(0, min(2, len(OPTIONS[name])))):
        words += [option] if option in FLAGS else [option, random.choice([*WORDS, *places])]
    if random.random() < 0.1:
        words.append(random.choice(WORDS))
    return words


@contextmanager
def short() -> Iterator[None]:
    """Training that is asked for ends at its first step: what is tried here is what is said."""

    def stop(*_: Any, **__: Any) -> Any:
        raise LissomError("so far so good")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lissom.Trainer, "fit", stop)
        patch.setattr(RecipePath, "run", stop)
        patch.setattr(lissom.distill, "distill_to_trees", stop)
        yield


def try_commands(numbers: range, folder: Path) -> None:
    faults = []
    for number in numbers:
        random = Random(f"a command {number}")
        words = command(random, ["run", "a_path", "quick.toml", "run/recipe.json", "digits-demo"])
        with short():
            call = Call(invoke, {"words": words}, trains=True)
            if found := fault(call, {}, folder):
                faults.append(f"{number}: lissom {shlex.join(words)}: {found}")
    assert not faults, "\n\n".join(faults)


def invoke(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    if isinstance(result.exception, Hang):
        raise result.exception
    if result.exit_code not in (0, 1, 2) or "Traceback" in result.output:
        raise AssertionError(f"exit {result.exit_code}: {result.output}") from result.exception
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code and not result.output.strip():
        raise AssertionError(f"exit {result.exit_code} without a word")


@pytest.fixture
def with_runs(folders: dict[str, Path], own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path, str(own_folder)])  # as commands do
    shutil.copytree(folders["recipe"], own_folder / "run")
    shutil.copytree(folders["path"], own_folder / "a_path")
    (own_folder / "quick.toml").write_text(DENSE)
    return own_folder


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(4))
def test_commands_that_cannot_be(with_runs: Path, part: int) -> None:
    try_commands(range(part * 100, part * 100 + 100), with_runs)


# A little of each, in every run of the tests.

SLOW = (
    "export",
    "shrink",
    "path",
    "trainer",
    "distill",
    "curve",
    "Curve",
    "heads",
    "report",
    "load",
)


def test_some_wrong_inputs_of_each_sort(folders: dict[str, Path], with_runs: Path) -> None:
    for name in CALLS:
        if not name.startswith(SLOW):
            try_calls(name, range(1), with_runs)
    for kind in ("network", "recipe", "events", "classes"):
        try_files(kind, range(3), folders[kind], with_runs)
    try_recipes(range(6), with_runs)
    try_commands(range(6), with_runs)
