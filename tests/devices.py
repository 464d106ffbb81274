"""The devices that tests are repeated on; conftest.py skips the GPU where there is none."""

import pytest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
