"""Values of `unet train` that cannot be, which are usage errors before any work, in a dry run too."""

import json

import pytest
from faults.harness import check_form
from training.test_small_data import FAST, write

from unetcli.cli import run
from unetcli.cli.console import readable_seconds


@pytest.fixture
def cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cells", 4)
    return tmp_path


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["real", "dry"])
@pytest.mark.parametrize(
    "option",
    [
        ["--border-sigma", "0"],
        ["--border-sigma", "-3"],
        ["--border-sigma", "1e9"],
        ["--border-sigma", "nan"],
        ["--border-weight", "inf"],
        ["--learning-rate", "0"],
        ["--learning-rate", "-1"],
        ["--learning-rate", "nan"],
        ["--learning-rate", "inf"],
        ["--seed", "99999999999999999999"],
    ],
    ids="=".join,
)
def test_numbers_out_of_range(option, dry_run, cells, capsys):
    before = sorted(cells.rglob("*"))
    assert run(["train", "cells", *FAST, *option, *dry_run]) == 2
    error = capsys.readouterr().err
    check_form(2, error)
    assert option[0].lstrip("-").replace("-", " ") in error.replace("-", " ")
    assert sorted(cells.rglob("*")) == before


def test_the_model_to_start_from_is_not_replaced(cells, capsys):
    assert run(["train", "cells", *FAST, "-q"]) == 0
    before = (cells / "unet.safetensors").read_bytes()
    assert run(["train", "cells", "--init", "./unet.safetensors", "--overwrite", "--epochs", "1"]) == 2
    error = capsys.readouterr().err
    assert "unet.safetensors: is the model to start from" in error
    check_form(2, error)
    assert (cells / "unet.safetensors").read_bytes() == before


def test_no_document_in_place_of_a_model(cells, capsys):
    """What failed is that very name."""
    assert run(["train", "cells", *FAST, "-o", "m.safetensors", "--json", "m.safetensors"]) == 2
    assert "two results would be written to it" in capsys.readouterr().err
    assert not (cells / "m.safetensors").exists()
    assert run(["train", "cells", *FAST, "--json", "m.json", "--features", "0"]) != 0
    assert json.loads((cells / "m.json").read_text())["exit"] == 2


def test_the_plan_says_what_was_taken(cells, capsys):
    arguments = ["train", "cells", "--features", "4", "--depth", "2", "--dry-run", "--threads", "1"]
    assert run([*arguments, "--patch-size", "85", "--recipe", "paper"]) == 0
    said = capsys.readouterr().err
    assert "warning: this network takes no patches of 85 pixels: 84 is taken" in said
    assert "paper: sgd, learning rate 0.0001, constant" in said


def test_the_time_of_all_folds_is_told(cells, capsys):
    arguments = [
        "train",
        "cells",
        "--features",
        "4",
        "--depth",
        "2",
        "--dry-run",
        "--threads",
        "1",
        "--max-time",
        "20m",
    ]
    assert run([*arguments, "--folds", "4", "--json", "-"]) == 0
    out, said = capsys.readouterr()
    assert "this fold will take about 20 min, with those that follow about 80 min and " in said
    assert json.loads(out)["estimate_seconds"] == 4 * 1200
    assert "hint: --features" not in said


@pytest.mark.parametrize(("seconds", "words"), [
    (99.4, "99 s"), (99.6, "1 min 40 s"), (119.6, "2 min 0 s"), (599.4, "9 min 59 s"), (599.7, "10 min"),
])  # fmt: skip
def test_durations(seconds, words):
    assert readable_seconds(seconds) == words


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--features", "64", "--depth", "2", "--epochs", "9999999"], "hint: --features 24 --max-time 20m is"),
        (["--features", "64", "--depth", "2", "--max-time", "2h"], "hint: --features 24 is"),
        (["--features", "4", "--depth", "2", "--epochs", "9999999"], "hint: --max-time 20m is"),
        (["--features", "4", "--depth", "2", "--max-time", "2h"], None),
    ],
    ids=["both", "features", "time", "neither"],
)
def test_a_hint_for_those_who_would_wait_long(options, hint, cells, capsys):
    assert run(["train", "cells", *options, "--dry-run", "--device", "cpu", "--threads", "1"]) == 0
    said = capsys.readouterr().err
    assert (hint in said) if hint else ("far quicker" not in said)
