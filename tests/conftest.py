"""Which tests this machine can run, and fixtures for all of them."""

import gc
import os
from pathlib import Path

import pytest

# Before torch is imported, and also for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCH_FAKE_TENSOR_DISPATCH_CACHE"] = "0"  # keys with sizes that are open cost too much

import torch
from products import mark_rest_of_products

# All their cases are exhaustive, and what they import takes seconds.
SLOW_TO_IMPORT = ("test_integrations_lightning.py", "test_integrations_transformers.py")

# While tests are collected all that is made stays, a million objects; looking for garbage among
# them, then and at each turn during the tests, takes a third of the time to collect them.
gc.disable()

# torch.manual_seed also writes down three stacks, for devices that are not there: 1 ms in a test.
if not torch.accelerator.is_available():
    torch.manual_seed = lambda seed: torch.default_generator.manual_seed(int(seed))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    left_out = config.option.markexpr == "not exhaustive"
    return True if left_out and collection_path.name in SLOW_TO_IMPORT else None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_rest_of_products(items)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("real_data") and not os.environ.get("LISSOM_DATA_DIR"):
        pytest.skip("LISSOM_DATA_DIR is not set")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small networks are faster on one thread, and their sums come in one order.

    For the whole session, since runs that are compared may be made by fixtures of any scope.
    """
    torch.set_num_threads(1)
