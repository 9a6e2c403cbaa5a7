"""What the README says: its commands run, its pictures exist, its exit codes are those of the program."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetcli import errors
from unetcli.cli import run

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["--features", "4", "--depth", "2", "--epochs", "1", "--threads", "1", "--task", "instances"]


def commands():
    """Return every line of a code block that begins with `unet`, without its comment."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", README, re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("unet ")]


def test_there_are_commands():
    assert {shlex.split(line)[1] for line in commands()} >= {"train", "infer", "evaluate"}


def test_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, name in (("cells", "images"), ("cells", "masks"), ("masks", ""), ("truth", "")):
        place = tmp_path / folder / name
        place.mkdir(parents=True)
        for number in range(5):
            ids = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((16, 16))).astype(np.uint16)
            ids[::16] = ids[:, ::16] = 0
            ids[ids > 10 + number] = 0
            noise = rng.normal(500, 30, ids.shape)
            tifffile.imwrite(
                place / f"{number}.tif", ids if name != "images" else (noise + 500 * (ids > 0)).astype(np.uint16)
            )
    tifffile.imwrite("scan.tif", rng.integers(0, 2000, (90, 80)).astype(np.uint16))
    for line in commands():
        arguments = shlex.split(line)[1:]
        extra = SMALL if arguments[0] == "train" and "--dry-run" not in arguments else []
        assert run([*arguments, *extra, "--quiet"]) == 0, line
    assert (tmp_path / "unet.safetensors").is_file()
    assert (tmp_path / "mask.tif").is_file()


@pytest.mark.parametrize(
    "page", ["README.md", "sample_data/README.md", "tests/bench/README.md", "tests/pipelines/README.md"]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_exit_codes():
    stated = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", README, re.M) for code in row.split(",")}
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.UnetError)
    }
    assert codes | {0, 129, 130, 141, 143} == stated


@pytest.mark.parametrize("command", ["train", "infer", "evaluate"])
def test_options_of_the_readme_exist(command, capsys):
    assert run([command, "--help"]) == 0
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    sections = {"train": "## Training", "infer": "## Inference", "evaluate": "## Evaluation"}
    section = README.split(sections[command])[1].split("\n## ")[0]
    section = re.sub("torchrun .*? -m unetcli", "unet", section)  # its options are not ours
    assert set(re.findall(r"`[^`]*`", section))
    for option in re.findall(r"--[a-z][a-z-]+", section):
        assert option in known, option
