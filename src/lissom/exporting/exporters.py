"""What all targets need of the libraries that write them: presence, silence, errors in a line."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from types import ModuleType

from lissom.errors import LissomError


def optional(name: str, extra: str = "onnx") -> ModuleType:
    """A library of an extra, or what to install."""
    try:
        return import_module(name)
    except ImportError as error:
        raise LissomError(
            f"this needs {name.partition('.')[0]}, which is not installed: "
            f"pip install 'lissom[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' progress, log and warnings; what goes wrong is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
