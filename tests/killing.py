"""SIGKILL at a moment, for the tests of runs and paths that survive it."""

import subprocess
import time
from collections.abc import Callable


def kill_when(process: "subprocess.Popen[bytes]", moment: Callable[[], bool]) -> None:
    """SIGKILL as soon as the moment has come."""
    try:
        while not moment():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait(timeout=60)
    assert process.returncode == -9
