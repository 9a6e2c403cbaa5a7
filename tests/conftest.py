"""Fixtures for every test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import unetcli  # noqa: F401  # sets what must be set before torch and albumentations are imported

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("default", deadline=None, max_examples=30)
settings.load_profile("default")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread: small networks do not wait for others, and sums have one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def development_data() -> Path:
    """The folder of real images that may lie beside the project; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}")
    return folder
