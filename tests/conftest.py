"""Which tests this machine can run, and fixtures for all of them."""

import gc
import logging
import os
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, and also for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_TQDM_PATCH_PRINT"] = "0"  # Ray's own print would stay for all tests after it
os.environ["TORCH_FAKE_TENSOR_DISPATCH_CACHE"] = "0"  # keys with sizes that are open cost too much

import torch
import torch.fx.config
from products import beyond_most, exhaustive, left_out, mark_rest_of_products

from lissom.curves import makers

# All their cases are exhaustive, and what they import takes seconds.
SLOW_TO_IMPORT = ("test_integrations_lightning.py", "test_integrations_transformers.py")

# While tests are collected all that is made stays, a million objects; looking for garbage among
# them, then and at each turn during the tests, takes a third of the time to collect them.
gc.disable()

# Files are synced to outlast a power cut, which no test makes, and each sync takes milliseconds.
os.fsync = lambda descriptor: None

# Where in which file each operator of a graph was called; no test reads it.
torch.fx.config.do_not_emit_stack_traces = True

# What torch notes of each symbol of a graph, with two stacks; pytest would collect it for no one.
logging.getLogger("torch.__trace").addHandler = lambda handler: None

# torch.manual_seed also writes down three stacks, for devices that are not there: 1 ms in a test.
if not torch.accelerator.is_available():
    torch.manual_seed = lambda seed: torch.default_generator.manual_seed(int(seed))

export_to_onnx = torch.onnx.export


def export_with_one_library(*given: Any, **options: Any) -> Any:
    """Torch's, which would read the functions of its library anew for each file, in 0.5 s."""
    from torch.onnx._internal.exporter._registration import onnxscript_apis as library

    if not hasattr(library.get_torchlib_ops, "cache_info"):
        library.get_torchlib_ops = cache(library.get_torchlib_ops)
    return export_to_onnx(*given, **options)


torch.onnx.export = export_with_one_library


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    left_out = config.option.markexpr == "not exhaustive"
    return True if left_out and collection_path.name in SLOW_TO_IMPORT else None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    mark_rest_of_products(items)
    if not any(".py" in asked for asked in config.args):  # a file that is named is run whole
        left = left_out(items)
        for item in beyond_most(items):
            item.add_marker(exhaustive)
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("real_data") and not os.environ.get("LISSOM_DATA_DIR"):
        pytest.skip("LISSOM_DATA_DIR is not set")


@pytest.fixture
def forked_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of paths are forked, and not spawned, which takes each of them ten seconds."""
    monkeypatch.setattr(makers, "get_context", lambda method: get_context("fork"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small networks are faster on one thread, and their sums come in one order.

    For the whole session, since runs that are compared may be made by fixtures of any scope.
    """
    torch.set_num_threads(1)
