"""The wheel: built, installed into an environment of its own, and used there without the project beside it."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import tifffile

import unetcli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
DEVELOPMENT = ("pytest", "_pytest", "hypothesis", "mypy", "ruff")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("the build needs hatchling, which cannot be downloaded here")
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def unet(wheel, tmp_path_factory):
    """A function that runs the installed program; torch and the other libraries are borrowed, but none for tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")}))
    libraries = folder / "libraries"  # of this environment, without this project
    libraries.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "unetcli" not in path.name and path.suffix != ".pth" and path.name not in DEVELOPMENT:
            (libraries / path.name).symlink_to(path)
    (site / "libraries.pth").write_text(f"{libraries}\n")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}

    def run(*arguments):
        return subprocess.run([folder / "env/bin/unet", *map(str, arguments)], cwd=folder, env=environment, timeout=300,
                              capture_output=True, text=True, check=False)  # fmt: skip

    assert str(site) in subprocess.run([python, "-c", "import unetcli; print(unetcli.__file__)"], cwd=folder, text=True,
                                       env=environment, capture_output=True, check=True).stdout  # fmt: skip
    return run


def test_what_is_in_it(wheel):
    """All modules, the licence, the command, and nothing that only the development needs."""
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "unetcli").rglob("*.py")}
    assert modules <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names} == {"unetcli", f"unetcli-{unetcli.__version__}.dist-info"}
    metadata = zipfile.ZipFile(wheel).read(f"unetcli-{unetcli.__version__}.dist-info/METADATA").decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert any("torch" in line for line in required)
    assert not any(name in line for line in required for name in DEVELOPMENT)


def test_it_works_alone(unet, tmp_path):
    """The three commands, in an environment that has what the wheel asks for and no more."""
    cells = ROOT / "sample_data/train"
    small = ["--features", "4", "--depth", "2", "--epochs", "1", "--patch-size", "84", "--workers", "0"]
    assert unet("--version").stdout == f"unet {unetcli.__version__}\n"
    for command in ([], ["train"], ["infer"], ["evaluate"]):
        shown = unet(*command, "--help")
        assert shown.returncode == 0, shown.stderr
        assert "Usage: unet" in shown.stdout
    dry = unet("train", cells, *small, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "folders images/ + masks/" in dry.stderr
    model, masks = tmp_path / "unet.safetensors", tmp_path / "masks"
    for arguments in (
        ["train", cells, "-o", model, *small],
        ["infer", ROOT / "sample_data/test/images", "-m", model, "-o", masks],
        ["evaluate", masks, ROOT / "sample_data/test/masks", "--report", tmp_path / "report.html"],
    ):
        ran = unet(*arguments)
        assert ran.returncode == 0, ran.stderr
    assert tifffile.imread(masks / "cell_12.tif").shape == (320, 320)
