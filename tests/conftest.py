"""Which tests this machine can run, and fixtures for all of them."""

import os
from collections.abc import Iterator

import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("real_data") and not os.environ.get("LISSOM_DATA_DIR"):
        pytest.skip("LISSOM_DATA_DIR is not set")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread, and their sums come in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
