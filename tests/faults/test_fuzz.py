"""Damaged files of every kind through the real command (FAULTS, SEC10); ``make fuzz`` runs 5,000 of them."""

import pytest
from faults import fuzz, good_files


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A folder with models and data sets; changed by no test."""
    folder = tmp_path_factory.mktemp("good")
    good_files.write_home(folder)
    return folder


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_damaged_files(first, zygote, good):
    outcomes, finds = fuzz.fuzz(first, 50, zygote, good)
    assert not finds, "\n".join([*finds, "to see one again: python tests/faults/fuzz.py show NUMBER FOLDER"])
    codes = {code for _, code in outcomes}
    assert {0, 3, 4} <= codes <= fuzz.CODES


def test_a_number_stands_for_a_file():
    kinds = set()
    for number in range(len(fuzz.KINDS)):
        kind, damaged = fuzz.make(number)
        assert fuzz.make(number) == (kind, damaged)
        kinds.add(kind)
    assert kinds == {kind.__name__ for kind in fuzz.KINDS}
    assert len({str(fuzz.make(number)[1].files) for number in range(200)}) > 190


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (fuzz.Damaged({}, ("infer", "absent.tif", "-o", "m.tif")), "exit code 2"),
        (fuzz.Damaged({"m.tif": good_files.tiff((9, 9))}, ("evaluate", "m.tif", "{home}/scan.tif")), "left"),
        (fuzz.Damaged({}, ("infer", "{home}/scan.tif", "-o", "n.tif", "-m", "{home}/gray.safetensors")), "left"),
    ],
    ids=["code", "no output", "another file"],
)
def test_finds_are_told(damaged, words, monkeypatch, zygote, good, tmp_path):
    monkeypatch.setattr(fuzz, "make", lambda number: ("kind", damaged))
    code, find = fuzz.perform(7, zygote, good, tmp_path)
    assert code == -1
    assert find.startswith("7 (kind): ")
    assert words in find
