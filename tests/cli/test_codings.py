"""What masks say is understood without a flag, told in one line, and written again by ``unet infer``."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from unetcli.cli import run
from unetcli.models.modelfile import load_model, save_model

FEW = ["--features", "4", "--depth", "1", "--epochs", "1", "--threads", "1", "--workers", "0"]
SIDE = 64
COLORS = [(0, 0, 0), (230, 30, 40), (20, 200, 250)]


def classes(seed):
    """Background, discs and squares: 0, 1, 2."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    for number in range(10):
        cy, cx = rng.uniform(6, SIDE - 6, 2)
        near = np.hypot(y - cy, x - cx) if number % 2 else np.maximum(abs(y - cy), abs(x - cx))
        drawn[near < 6] = 1 + number % 2
    return drawn


def ids(seed):
    """Twelve separate objects with ids of their own in every image."""
    drawn = np.zeros((SIDE, SIDE), np.uint16)
    for number in range(12):
        y, x = 16 * (number // 4) + 2, 16 * (number % 4) + 2
        drawn[y : y + 9 + seed % 3, x : x + 11] = 100 * seed + 1 + number
    return drawn


def save_tiff(path, pixels):
    tifffile.imwrite(path.with_suffix(".tif"), pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")


def save_palette(path, pixels):
    picture = Image.fromarray(pixels, "P")
    picture.putpalette([part for color in COLORS for part in color])
    picture.save(path.with_suffix(".png"))


def binary(seed):
    return (classes(seed) > 0).astype(np.uint8)


CODINGS = {
    # how masks are made and saved, the words of the table, the values that come out, their type
    "0/1": (binary, save_tiff, "0 background, 1 foreground", {0, 1}, np.uint8),
    "0/255": (lambda n: binary(n) * 255, save_tiff, "0 background, 255 foreground", {0, 255}, np.uint8),
    "bool": (lambda n: binary(n) > 0, save_tiff, "0 background, 1 foreground", {0, 1}, np.uint8),
    "1 and 2": (lambda n: binary(n) + np.uint8(1), save_tiff, "1 background, 2 foreground", {1, 2}, np.uint8),
    "gaps": (lambda n: np.array([0, 5, 300], np.uint16)[classes(n)], save_tiff, "0 background, 5 5, 300 300",
             {0, 5, 300}, np.uint16),
    "signed": (lambda n: classes(n).astype(np.int16), save_tiff, "0 background, 1 1, 2 2", {0, 1, 2}, np.uint8),
    "float": (lambda n: classes(n).astype(np.float32), save_tiff, "0 background, 1 1, 2 2", {0, 1, 2}, np.uint8),
    "palette": (classes, save_palette, "palette indices, 0 background, 1 1, 2 2", {0, 1, 2}, np.uint8),
    "colors": (lambda n: np.array(COLORS, np.uint8)[classes(n)], save_tiff,
               "#000000 background, #14c8fa #14c8fa, #e61e28 #e61e28", {0, 1, 2}, np.uint8),
    "ids": (ids, save_tiff, "an id per object, 0 background", set(range(SIDE * SIDE)), np.uint16),
}  # fmt: skip


def scramble(model):
    """Give a model random weights with which every class appears, in place of a long training."""
    network, description, _ = load_model(Path(model))
    image = torch.from_numpy(tifffile.imread("data/images/c0.tif")[None, None] / np.float32(180))
    torch.manual_seed(0)
    rarest = 0
    while rarest < 50:  # pixels
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.3)
            counts = network(image).argmax(1).flatten().bincount(minlength=description.classes)
            rarest = int(counts.min())
    save_model(Path(model), network, description)


@pytest.mark.parametrize("coding", CODINGS)
def test_what_comes_in_goes_out(coding, tmp_path, monkeypatch, capsys):
    make, save, said, values, dtype = CODINGS[coding]
    monkeypatch.chdir(tmp_path)
    for seed in range(4):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
        mask = make(seed)
        there = (ids if coding == "ids" else classes)(seed)
        image = 60 * np.minimum(there, 2) + np.random.default_rng(seed).integers(20, 60, there.shape)
        tifffile.imwrite(tmp_path / f"data/images/c{seed}.tif", image.astype(np.uint8))
        save(tmp_path / f"data/masks/c{seed}", mask)
    assert run(["train", "data", *FEW]) == 0
    assert said in capsys.readouterr().err
    scramble("unet.safetensors")
    assert run(["infer", "data/images/c0.tif", "-o", "m.tif", "-q"]) == 0
    with tifffile.TiffFile("m.tif") as file:
        mask, page = file.asarray(), file.pages[0]
        assert mask.dtype == dtype
        assert set(np.unique(mask)) <= values
        assert len(np.unique(mask)) == len(values) or coding == "ids"
        if coding in ("palette", "colors"):
            shown = page.colormap.T[: len(COLORS)] // 257
            expected = COLORS if coding == "palette" else [COLORS[0], COLORS[2], COLORS[1]]  # by their numbers
            np.testing.assert_array_equal(shown, expected)
    if coding in ("palette", "colors"):
        assert run(["infer", "data/images/c0.tif", "-o", "m.png", "-q"]) == 0
        with Image.open("m.png") as picture:
            assert {color for _, color in picture.convert("RGB").getcolors()} <= set(COLORS)
    assert run(["evaluate", "data", "-m", "unet.safetensors", "-q"]) == 0
