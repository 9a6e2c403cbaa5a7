"""Mask values are those that are stored, however the file says they are to be shown."""

import numpy as np
import pytest
import tifffile

from unetcli.cli import run
from unetcli.dataset.loading import load_pair
from unetcli.dataset.pairs import collect_pairs
from unetcli.dataset.survey import survey


@pytest.mark.parametrize("kind", ["bool", "uint8"])
def test_white_is_zero(tmp_path, kind, capsys):
    """tifffile writes one-bit masks so, ImageJ masks with an inverting table."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "plain"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        mask = np.zeros((40, 40), bool)
        mask[5:15, 5 : 15 + number] = True
        stored = mask if kind == "bool" else mask.astype(np.uint8) * 255
        tifffile.imwrite(tmp_path / f"images/{number}.tif", rng.integers(0, 99, mask.shape, np.uint8))
        tifffile.imwrite(tmp_path / f"masks/{number}.tif", stored, photometric="miniswhite")
        tifffile.imwrite(tmp_path / f"plain/{number}.tif", mask.astype(np.uint8) * 255)
    found = survey(collect_pairs([], images=str(tmp_path / "images/*"), masks=str(tmp_path / "masks/*")))
    found.check()
    assert found.class_shares[1] == pytest.approx(115 / 1600)
    _, _, labels = load_pair(found.pairs[0], found.coding)
    assert labels[5:15, 5:15].all()
    assert labels.sum() == 100
    assert run(["evaluate", str(tmp_path / "plain"), str(tmp_path / "masks"), "--fail-under", "dice=1"]) == 0


def test_white_is_zero_in_the_masks_of_single_objects(tmp_path):
    for name in "ab":
        for kind in ("images", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
        image = np.random.default_rng(0).integers(0, 99, (40, 40), np.uint8)
        tifffile.imwrite(tmp_path / name / "images" / f"{name}.tif", image)
        for number in range(2):
            mask = np.zeros((40, 40), bool)
            mask[5:15, 5 + 20 * number : 15 + 20 * number] = True
            tifffile.imwrite(tmp_path / name / "masks" / f"{number}.tif", mask)
    found = survey(collect_pairs([tmp_path]))
    found.check()
    assert found.objects == (2, 2)
    assert found.class_shares[1] == pytest.approx(200 / 1600)


def test_two_codings_of_one_class_are_suspected(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        mask = np.zeros((40, 40), np.uint8)
        mask[5:15:3, 5 : 15 + number] = 255 if number % 2 else 1
        tifffile.imwrite(
            tmp_path / f"images/{number}.tif", np.full((40, 40), number, np.uint8) + np.eye(40, dtype=np.uint8)
        )
        tifffile.imwrite(tmp_path / f"masks/{number}.tif", mask)
    found = survey(collect_pairs([tmp_path]))
    assert [note for note in found.notes if "(1 in 0, 255 in 1)" in note]
    mask[30:35, 30:35] = 1  # now one mask has both: two classes
    tifffile.imwrite(tmp_path / "masks/3.tif", mask)
    assert not [note for note in survey(collect_pairs([tmp_path])).notes if "each mask" in note]
