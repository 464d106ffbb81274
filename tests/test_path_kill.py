"""A path that is killed by SIGKILL and called again ends in the same bits as one that was not."""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import Forked, kill_when
from path_cases import fit, make, path, same_weights, timeless
from torch import nn

from lissom.curves import Curve, Start

pytestmark = pytest.mark.exhaustive  # test_path.py has kills within one process

# Slow enough to be killed, with a line in a log for each training that began.
SCRIPT = """
import sys, time
from pathlib import Path
from path_cases import fit, path

def slow(net, strength, start):
    with (Path(sys.argv[1]) / "trained.log").open("a") as log:
        log.write(f"{start.seed} {strength}\\n")
    time.sleep(0.1)
    return fit(net, strength, start)

if __name__ == "__main__":
    path(fit=slow, out=sys.argv[1], jobs=2)
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[Path], "subprocess.Popen[bytes]"]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}

    def run(out: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, script, out], env=environment)

    return run


def finished(out: Path) -> int:
    return len(list(out.glob("seed*/*/point.json")))


def test_killed_twice_and_called_again(tmp_path: Path) -> None:
    whole, out = path(), tmp_path / "path"  # in this process first, which the others are forks of

    def slow(net: nn.Module, strength: float | None, start: Start) -> object:
        """As in the script."""
        with (out / "trained.log").open("a") as log:
            log.write(f"{start.seed} {strength}\n")
        time.sleep(0.1)
        return fit(net, strength, start)

    def start() -> Forked:
        return Forked(lambda: path(fit=slow, out=out))

    kill_when(start(), lambda: finished(out) >= 2)
    early = finished(out)
    # The second time amid the files of a point, if the moment is caught.
    kill_when(
        start(),
        lambda: finished(out) >= 7 and len(list(out.glob("seed*/*/network.*"))) > finished(out),
    )
    assert 2 <= early < 7 <= finished(out) < 12
    halves = finished(out)
    trained = (out / "trained.log").read_text().splitlines()
    assert len(trained) <= halves + 2  # no finished point was repeated, at most two were cut short
    assert start().wait(timeout=300) == 0
    lines = (out / "trained.log").read_text().splitlines()
    assert len(lines) - len(trained) == 12 - halves
    assert len(set(lines)) == 12
    resumed = Curve.load(out, make)
    assert timeless(resumed) == timeless(whole) and same_weights(resumed, whole)
    assert str(resumed.knee()) == str(whole.knee())


def test_killed_with_processes(
    tmp_path: Path,
    start: Callable[[Path], "subprocess.Popen[bytes]"],
    forked_makers: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed as anybody's are, and called again in this process, which can fork others."""
    out = tmp_path / "path"
    kill_when(start(out), lambda: finished(out) >= 4)
    time.sleep(0.5)
    early = finished(out)
    assert early < 12
    time.sleep(1)
    assert finished(out) == early  # the processes died with their parent
    monkeypatch.setattr(sys, "argv", ["script.py", str(out)])
    runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")
    beside, whole = Curve.load(out), path()
    assert timeless(beside) == timeless(whole) and same_weights(beside, whole)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from path_cases import path\npath(jobs=2, seeds=1)\n")
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "under `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]
