"""SIGKILL at a moment, for the tests of runs and paths that survive it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Protocol

import torch


class Process(Protocol):
    """What `subprocess.Popen` has too."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Forked:
    """A work in a process that is forked from this one, to be killed or waited for.

    It has all that this one has imported, which takes a new interpreter ten seconds; it says
    nothing, and ends with 0 if all went well.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setpgid(0, 0)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            torch.set_num_threads(1)  # the others are not there after a fork
            work()
            code = 0
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """Its exit code; None as long as it runs."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it is there; after so many seconds it is killed.

        Raises:
            subprocess.TimeoutExpired: then.
        """
        until = time.monotonic() + (timeout or 300)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired("a forked process", timeout or 300)
            time.sleep(0.002)
        return code


def kill_when(process: Process, moment: Callable[[], bool]) -> None:
    """SIGKILL as soon as the moment has come."""
    try:
        while not moment():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait(timeout=60)
    assert process.returncode == -9
