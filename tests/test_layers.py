"""Imports point down: never up, never in a circle (sideways only inside a wing)."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "unetcli"
FLOORS = {
    "errors": 0, "geometry": 1, "metrics": 1, "images": 2, "dataset": 3, "models": 3, "inference": 4,
    "training": 5, "evaluation": 5, "report": 5, "cli": 6, "__main__": 7, "__init__": -1,
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_wings(path: Path) -> set[str]:
    wings = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] if node.module != "unetcli" else [f"unetcli.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        wings |= {name.split(".")[1] for name in names if name.startswith("unetcli.")}
    return {"__init__" if wing.startswith("__") else wing for wing in wings}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(module):
    wing = wing_of(module)
    for other in imported_wings(module):
        assert other == wing or FLOORS[other] < FLOORS[wing] or other == "report", f"{module} imports {other}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(module):
    if wing_of(module) in ("cli", "__main__"):
        return
    text = module.read_text()
    assert not re.search(r"^\s*print\(", text, re.M)
    assert not re.search(r"^\s*(import|from) (rich|typer)", text, re.M)
