"""Every layout trains and infers with nothing but the folder named."""

import json
import re
from pathlib import Path

import pytest
from datasets import LAYOUTS, NUMBERS, SHAPE, mask

from unetcli.cli import run
from unetcli.dataset.labels import LabelCoding
from unetcli.images import open_image

SMALL = ["--features", "2", "--depth", "1", "--epochs", "1", "--threads", "1", "--workers", "0"]


def check_table(text, config):
    """Fail unless the table says what the four images of every layout are."""
    rows = dict(re.findall(r"^(\w[\w ]*?)  +(\S.*?) *$", text, re.MULTILINE))
    assert rows["layout"] == config["layout"]
    assert rows["pairs by"] == config["rule"]
    assert re.match(rf"{len(NUMBERS)}( \(| pages of 1 files|$)", rows["pairs"])
    assert rows["size"] == f"{SHAPE[1]}x{SHAPE[0]}"
    assert rows["pixels"] == "8-bit uint8"
    assert rows["channels"] == str(config["channels"])
    coding = LabelCoding.from_json(config["coding"])
    assert rows["masks"] == coding.describe()
    drawn = [int((mask(number) > 0).sum()) for number in NUMBERS]
    counted = rows["instances per image" if coding.task == "instances" else "pieces per image"]
    assert counted == f"{min(drawn)} to {max(drawn)}, median {sorted(drawn)[1] + 0.5:g}"  # pieces of one pixel each
    share = sum(drawn) / (SHAPE[0] * SHAPE[1] * len(NUMBERS))
    assert re.search(rf"^{coding.classes[1]} .* {share:.1%}$", text, re.MULTILINE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_trains_and_infers(layout, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    data = LAYOUTS[layout](folder)
    monkeypatch.chdir(tmp_path)
    assert run(["train", *map(str, data), *SMALL, "--json", "-"]) == 0
    captured = capsys.readouterr()
    trained = json.loads(captured.out)
    assert 0 < trained["train"] <= trained["pairs"]
    assert 0 < trained["validation"] <= trained["pairs"]
    config = json.loads((tmp_path / "unet.run/config.json").read_text())["data"]
    assert config["layout"] in captured.err
    assert config["pairs"] == trained["pairs"] == len(NUMBERS)
    check_table(captured.err, config)
    images = sorted(path for path in folder.rglob("*") if path.suffix in (".tif", ".tiff", ".png", ".bmp"))
    files = images[: config["channels"]] if layout.endswith("nnU-Net") else images[:1]  # a file per channel
    with open_image(files[0]) as image:
        scan = image.info
    assert run(["infer", *map(str, files), "-o", "mask.tif", "-q"]) == 0
    with open_image(tmp_path / "mask.tif") as mask:
        assert (mask.info.height, mask.info.width, mask.info.pages) == (scan.height, scan.width, scan.pages)


def test_the_readme_shows_what_a_dry_run_prints(capsys, monkeypatch):
    """Line by line, but for what depends on the machine."""
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root)
    page = (root / "README.md").read_text(encoding="utf-8")
    command, *shown = re.search(r"```\n\$ unet (train .*--dry-run\n[^`]*)```", page)[1].splitlines()
    assert run([*command.split(), "--overwrite"]) == 0
    printed = capsys.readouterr().err.splitlines()
    machine = re.compile(r"device |this will take|hint: |-+  -+$")
    expected, found = ([line for line in lines if not machine.match(line)] for lines in (shown, printed))
    assert found == expected
    assert any(line.startswith("this will take about") for line in shown)
