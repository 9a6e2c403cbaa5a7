"""The planted defects of tests/mutants.py can still be planted; ``make mutants`` plants them."""

import ast
from pathlib import Path

import pytest
from mutants import DEFECTS, planted

TESTS = Path(__file__).parent


def test_there_are_enough():
    assert len(DEFECTS) >= 20
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defects_fit_the_code(defect):
    """The text to replace stands in its file once, what results is Python, and the named test exists."""
    ast.parse(planted(defect))
    file, *names = defect.test.split("::")
    nodes = ast.parse((TESTS / file).read_text(encoding="utf-8")).body
    for name in names:
        (found,) = [node for node in nodes if getattr(node, "name", None) == name]
        nodes = getattr(found, "body", [])


def test_a_defect_that_no_longer_fits_is_told(tmp_path):
    defect = DEFECTS[0]
    place = tmp_path / "unetcli" / defect.file
    place.parent.mkdir(parents=True)
    place.write_text(defect.text * 2)
    with pytest.raises(ValueError, match="2 times, not once"):
        planted(defect, tmp_path)
