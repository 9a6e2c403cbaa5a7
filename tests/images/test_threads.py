"""The threads that a process may compute with."""

import os

import pytest

from unetcli.images import threads
from unetcli.images.threads import compute_threads, cores, limit_threads


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(threads, "_limit", None)
    monkeypatch.setenv("ZARR_THREADING__MAX_WORKERS", "")


@pytest.mark.parametrize(
    ("limit", "variable", "expected"),
    [(None, None, cores()), (None, "3", 3), (2, "3", 2), (None, "many", cores()), (None, "0", 1)],
)
def test_what_decides(limit, variable, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert limit_threads(limit) == compute_threads() == expected
    assert os.environ["ZARR_THREADING__MAX_WORKERS"] == str(expected)
