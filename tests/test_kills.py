"""SIGKILL at random moments: what goes on ends in the same bits as what nobody interrupted.

Each work is done in a process that is forked from this one, which has all that is slow to import.
Half of the moments are at a call of the system that opens, moves or removes files; the others are
at a time. Both are drawn from a seed.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Forked
from path_cases import path
from products import exhaustive, thinned, unlike
from training_cases import dense, trainer

from lissom.cli import app
from lissom.storage import LOCK, save_tensors

CALLS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")
SEED, LIMIT = 0, 60.0  # seconds until a work counts as hanging

Work = Callable[[Path], object]


def train(run: Path) -> None:
    made = trainer(dense(dropout=0.5), out=run, epochs=4, average_from=2)
    if (run / "checkpoint.pt").exists():
        made.resume()
    made.fit()
    save_tensors(made.model.state_dict(), run / "model.safetensors", "lissom tensors 1")


def by_command(*words: str) -> Work:
    return lambda run: command(words[0], str(run), *words[1:])


def command(*words: str) -> None:
    assert not app(list(words), standalone_mode=False)  # or it gives an exit code


def train_by_command(run: Path) -> None:
    changes = ["epochs=3", "cosine_from=none", "evaluate_every=1"]
    changes = [*(f"train.{change}" for change in changes), "method.finalize_at=none"]
    options = [word for change in changes for word in ("--set", change)]
    resume = ["--resume"] * (run / "recipe.json").exists()
    command("train", "digits-gates", *options, "--out", str(run), *resume)


def path_of(jobs: int) -> Work:
    return lambda out: path((1e-3, 1.0), points=3, seeds=2, out=out, jobs=jobs)


# Who is killed, and how often with LISSOM_ALL=1; in make test-all, a fifth as often.
WORKS: dict[str, tuple[Work, int]] = {
    "train": (train, 50),
    "lissom train": (train_by_command, 10),
    "path": (path_of(1), 40),
    "path with jobs": (path_of(2), 20),
    "path with a worker": (path_of(2), 20),
    "shrink": (by_command("shrink"), 15),
    "export": (by_command("export", "--to", "pt2"), 15),
    "ensemble": (by_command("ensemble", "--networks", "4"), 15),
    "report": (by_command("report"), 15),
}
ON_A_RUN = ("shrink", "export", "ensemble", "report")


def forked(work: Work, folder: Path, die_at: int | None = None) -> Forked:
    """The process that does this; it kills itself at the call of this number."""

    def counted() -> None:
        calls, me = 0, os.getpid()

        def count(event: str, arguments: Any) -> None:
            nonlocal calls
            if event in CALLS and os.getpid() == me:
                calls += 1
                if calls == die_at:
                    os.kill(me, signal.SIGKILL)

        sys.addaudithook(count)
        work(folder)
        (folder.parent / "calls").write_text(str(calls))

    return Forked(counted)


def children_of(process: int) -> list[int]:
    try:
        told = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return list(map(int, told.split()))


def content(folder: Path) -> dict[str, Any]:
    """All that is in a folder, without what may differ between two runs."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".json":
            found[name] = timeless(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            found[name] = [timeless(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.name in ("checkpoint.pt", "state.pt"):
            found[name] = repr(timeless(torch.load(file, weights_only=True)))
        else:
            found[name] = file.read_bytes() if file.is_file() else None
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = ("seconds", "command", "crc32", "runs")  # the last one holds the path
        return {key: timeless(inner) for key, inner in value.items() if key not in left_out}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with gates, for the commands that look at one."""
    made = tmp_path_factory.mktemp("run") / "run"
    assert forked(train_by_command, made).wait(LIMIT) == 0
    return made


def kill(kind: str, count: int, tmp_path: Path, run: Path | None) -> int:
    """How many of `count` works were killed before they had ended."""
    work, _ = WORKS[kind]
    draw = random.Random(f"{SEED} {kind}")

    def folder(name: str) -> Path:
        made = tmp_path / name / "out"
        made.parent.mkdir()
        if kind in ON_A_RUN:
            assert run is not None
            shutil.copytree(run, made)
        return made

    # In this process, so that no child has to import anything.
    (path_of(1) if "path" in kind else work)(folder("warm"))
    began, whole = time.monotonic(), folder("whole")
    assert forked(work, whole).wait(LIMIT) == 0
    seconds, calls = time.monotonic() - began, int((whole.parent / "calls").read_text())
    expected, killed = content(whole), 0
    for n in range(count):
        out = folder(str(n))
        worker = kind == "path with a worker"
        at_call = n % 2 == 0 and not worker
        child = forked(work, out, draw.randint(1, calls) if at_call else None)
        if not at_call:
            time.sleep(draw.uniform(0, seconds))
            victims = children_of(child.pid) if worker else [child.pid]
            for victim in draw.sample(victims, min(1, len(victims))):
                os.kill(victim, signal.SIGKILL)
        code = child.wait(LIMIT)
        # Another process makes the point of a worker that was killed, and nobody has to call again.
        assert code in (0, *[-signal.SIGKILL] * (not worker)), (kind, n, code)
        killed += len(victims) > 0 if worker else code != 0
        assert worker or forked(work, out).wait(LIMIT) == 0, (kind, n)
        found = content(out)
        assert found.keys() == expected.keys() and not list(out.rglob(LOCK)), (kind, n)
        assert [name for name in found if found[name] != expected[name]] == [], (kind, n)
    return killed


@exhaustive
def test_a_few_kills(tmp_path: Path) -> None:
    assert kill("train", 8, tmp_path, None) >= 4


@exhaustive
@pytest.mark.usefixtures("forked_makers")  # those that are spawned are killed in test_path_kill.py
@unlike
@pytest.mark.parametrize("kind", WORKS)
def test_many_kills(tmp_path: Path, run: Path, kind: str) -> None:
    count = len(thinned(range(WORKS[kind][1]), 5))
    assert kill(kind, count, tmp_path, run) >= count / 3


def test_there_are_two_hundred() -> None:
    assert sum(count for _, count in WORKS.values()) == 200
