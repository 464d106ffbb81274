"""lissom in loops that others wrote: a callback for each framework, in a module of its own.

A cluster is an executor for `lissom.path`.

    from lissom.integrations.lightning import LissomCallback
    from lissom.integrations.transformers import LissomCallback
    from lissom.integrations.skorch import LissomCallback
    from lissom.integrations.ray import RayExecutor

What a loop has to do for a method is in `handles.py`, once; a callback says at which of its
framework's events. A framework is imported in its module alone.
"""

from importlib import import_module
from typing import Any

FRAMEWORKS = ("lightning", "ray", "skorch", "transformers")


def __getattr__(name: str) -> Any:
    """The module of a framework, which nothing has imported yet."""
    if name in FRAMEWORKS:
        return import_module(f"lissom.integrations.{name}")
    raise AttributeError(f"module 'lissom.integrations' has no attribute {name!r}", name=name)
