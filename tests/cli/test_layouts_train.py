"""Every layout trains and infers with nothing but the folder named."""

import json

import pytest
from datasets import LAYOUTS

from unetcli.cli import run
from unetcli.images import open_image

SMALL = ["--features", "2", "--depth", "1", "--epochs", "1", "--threads", "1", "--workers", "0"]


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
    assert config["pairs"] == trained["pairs"] > 0
    images = sorted(path for path in folder.rglob("*") if path.suffix in (".tif", ".tiff", ".png", ".bmp"))
    files = images[: config["channels"]] if layout.endswith("nnU-Net") else images[:1]  # a file per channel
    with open_image(files[0]) as image:
        scan = image.info
    assert run(["infer", *map(str, files), "-o", "mask.tif", "-q"]) == 0
    with open_image(tmp_path / "mask.tif") as mask:
        assert (mask.info.height, mask.info.width, mask.info.pages) == (scan.height, scan.width, scan.pages)
