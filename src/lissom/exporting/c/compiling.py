"""C compiled on this machine: run here, or measured for a Cortex-M4."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from lissom.errors import LissomError

COMPILERS = ("gcc", "cc", "clang")
ARM = "arm-none-eabi-gcc"
CORTEX_M4 = "-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard"


def compiler() -> str | None:
    """A C compiler of this machine."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def compiled(path: Path, arena_bytes: int, outputs: int) -> Callable[[Tensor], Tensor]:
    """What computes [n, outputs] from floats [n, …] by NAME.c, one example after another.

    Raises:
        LissomError: if it does not compile.
    """
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder) / f"{path.stem}.so"
        _called(compiler(), "-std=c99", "-O1", "-shared", "-fPIC", path, "-o", library, "-lm")
        infer = getattr(ctypes.CDLL(str(library)), f"{path.stem}_infer")
    arena = (ctypes.c_double * (arena_bytes // 8 + 1))()

    def run(x: Tensor) -> Tensor:
        x, y = x.float().contiguous(), torch.empty(len(x), outputs)
        for here, there in zip(x, y, strict=True):
            infer(ctypes.c_void_p(here.data_ptr()), ctypes.c_void_p(there.data_ptr()), arena)
        return y

    return run


def flash_on_cortex_m4(path: Path) -> int | None:
    """Bytes of code and constants of NAME.c as -Os makes them; None without the compiler."""
    if shutil.which(ARM) is None:
        return None
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "net.o"
        flags = [*CORTEX_M4.split(), "-Os", "-std=c99", "-ffreestanding"]
        _called(ARM, *flags, "-c", path, "-o", made)
        said = _called("arm-none-eabi-size", made)
    text, data = re.findall(r"\d+", said.splitlines()[1])[:2]
    return int(text) + int(data)


def _called(*command: object) -> str:
    """What a program says.

    Raises:
        LissomError: if it fails, with its first complaint.
    """
    words = [str(word) for word in command]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    if said.returncode:
        lines = [line for line in said.stderr.splitlines() if "error" in line] or [said.stderr]
        raise LissomError(f"{Path(words[0]).name} does not take the C that was written: {lines[0]}")
    return said.stdout
