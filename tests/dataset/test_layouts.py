"""Every layout is understood with nothing but the folder named, and the same images give the same pairs in all."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import LAYOUTS, NUMBERS, cellpose, image, mask, nnunet, save, write_pairs

from unetcli.dataset.loading import load_pair
from unetcli.dataset.pairs import Pairing, find_pairs
from unetcli.dataset.survey import survey
from unetcli.errors import InputError, Problems


def left_out(pairing: Pairing) -> dict[str, str]:
    return {item.path.name: item.reason for item in pairing.left_out}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_images_give_the_same_pairs(layout: str, tmp_path: Path) -> None:
    pairing = find_pairs(LAYOUTS[layout](tmp_path))
    surveyed = survey(pairing)
    assert surveyed.problems == ()
    contents = set()
    for pair in surveyed.pairs:
        pixels, _, labels = load_pair(pair, surveyed.coding)
        contents.add((int(pixels[0, 0, 0]) - 10, int((labels > 0).sum()) - 2))
    assert contents == {(number, number) for number in NUMBERS}
    assert len({pair.name for pair in surveyed.pairs}) == len(surveyed.pairs) == len(NUMBERS)
    assert pairing.layout
    assert pairing.rule


@pytest.mark.parametrize(
    ("layout", "words", "rule"),
    [
        ("L1 nnU-Net", "nnU-Net", "channel"),
        ("L2 Cellpose", "_masks", "_masks"),
        ("L3 milesial", "imgs/ + masks/", "_mask"),
        ("L6 ISBI folder", "-labels", "-labels"),
        ("L7 StarDist", "images/ + masks/", "equal names"),
        ("L9 BiaPy raw, label", "raw/ + label/", "equal names, masks with groundtruth"),
        ("L11 deepflash2", "images/ + masks/", "_roi-by-ann"),
        ("L16 Cell Tracking Challenge", "Cell Tracking", "frame"),
        ("L17 DSB 2018", "folder per image", "folder"),
        ("L19 two extensions", "masks in .png", "equal names"),
    ],
)
def test_layout_and_rule_are_said(layout: str, words: str, rule: str, tmp_path: Path) -> None:
    pairing = find_pairs(LAYOUTS[layout](tmp_path))
    assert words in pairing.layout
    assert rule in pairing.rule


def test_splits_are_used(tmp_path: Path) -> None:
    pairing = find_pairs(LAYOUTS["L7 StarDist"](tmp_path))
    assert [pair.split for pair in pairing.pairs] == ["train", "train", "train", "test"]
    for name, split in (("val", "validation"), ("VALID", "validation"), ("Testing", "test"), ("training", "train")):
        folder = tmp_path / name
        write_pairs(folder, f"{name}/images/{{}}.png", f"{name}/masks/{{}}.png")
        assert {pair.split for pair in find_pairs(folder).pairs} == {split}
    write_pairs(tmp_path / "turned", "images/train/{}.png", "masks/train/{}.png")
    assert find_pairs(tmp_path / "turned").pairs[0].split == "train"


def test_carvana_has_the_masks_of_a_split_beside_it(tmp_path: Path) -> None:
    write_pairs(tmp_path, "train/car_{}.jpg", "train_masks/car_{}_mask.gif")
    save(tmp_path / "test/car_9.png", image(0))
    pairing = find_pairs(tmp_path)
    assert [pair.name for pair in pairing.pairs] == [f"car_{number}" for number in NUMBERS]
    assert left_out(pairing) == {"car_9.png": "test image without mask"}


def test_images_without_masks_by_design_are_left_out_and_listed(tmp_path: Path) -> None:
    frames = {f"t{number:03d}.tif": "frame without annotation" for number in range(3, 9)}
    others = dict.fromkeys(("man_track000.tif", "mask000.tif"), "no part of the layout")
    assert left_out(find_pairs(LAYOUTS["L16 Cell Tracking Challenge"](tmp_path / "a"))) == {**frames, **others}
    assert left_out(find_pairs(LAYOUTS["L6 ISBI folder"](tmp_path / "b"))) == {
        "test-volume.tif": "test image without mask"
    }
    assert left_out(find_pairs(LAYOUTS["L1 nnU-Net"](tmp_path / "c"))) == {
        f"case_100_000{channel}.png": "test image without mask" for channel in range(2)
    }


def test_nnunet_states_classes_ignore_and_channels(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "cell": 1, "ignore": 2}, "file_ending": ".png"})
    )
    pairing = find_pairs(tmp_path)
    assert (pairing.declared, pairing.ignore) == (((0, "background"), (1, "cell")), 2)
    assert [path.name for path in pairing.pairs[0].images] == ["case_000_0000.png", "case_000_0001.png"]
    with pytest.warns(UserWarning, match="--ignore 2"):
        surveyed = survey(pairing)
    assert surveyed.coding.classes == ("background", "cell")
    assert surveyed.channels == 2
    pixels, intensity, _ = load_pair(surveyed.pairs[0], surveyed.coding)
    assert len(intensity.low) == 2
    np.testing.assert_array_equal(pixels, np.dstack([image(0), image(0)[::-1]]))


@pytest.mark.parametrize("description", [None, {"labels": {"background": 0, "cell": 1}}])
@pytest.mark.parametrize("first", [0, 1])
def test_numbers_that_masks_have_too_are_no_channels(tmp_path: Path, description: object, first: int) -> None:
    write_pairs(tmp_path, "imagesTr/img_{:04d}.png", "labelsTr/img_{:04d}.png", range(first, first + 4))
    if description:
        (tmp_path / "dataset.json").write_text(json.dumps(description))
    pairs = find_pairs(tmp_path).pairs
    assert [pair.name for pair in pairs] == [f"img_{number:04d}" for number in range(first, first + 4)]
    assert all(pair.images[0].name == pair.masks[0].name for pair in pairs)


def test_nnunet_that_lacks_a_channel_or_has_a_broken_description(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "imagesTr/case_002_0001.png").unlink()
    with pytest.raises(InputError, match="case_002_0001 is missing"):
        find_pairs(tmp_path)
    for text in (
        "{",
        "[]",
        '{"labels": {"a": "b"}}',
        '{"labels": {"background": 0, "cell": 1, "ignore": []}}',  # found by tests/faults/fuzz.py (4318)
        '{"labels": {"background": 0, "cell": 1, "ignore": 4294967295}}',  # found by tests/faults/fuzz.py (38)
        '{"labels": {"background": 0, "cell": [1, 2], "ignore": -4}}',
        '{"dataset": {"x": 3}}',
        '{"dataset": {"x": {"images": ["n"], "label": "l"}}}',
        '{"dataset": {"x": {"images": [], "label": "labelsTr/case_000.png"}}}',  # found by tests/faults/fuzz.py (1538)
        json.dumps({"dataset": {"x": {"images": ["n" * 5000], "label": "\0"}}}),
    ):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(InputError) as error:
            find_pairs(tmp_path)
        assert str(error.value.path).endswith("dataset.json")


def test_nnunet_may_list_its_files(tmp_path: Path) -> None:
    nnunet(tmp_path)
    cases = {
        f"n{number}": {
            "images": [f"imagesTr/case_{number:03d}_0000.png"],
            "label": f"labelsTr/case_{number:03d}.png",
        }
        for number in NUMBERS[:2]
    }
    (tmp_path / "dataset.json").write_text(json.dumps({"dataset": cases}))
    assert [pair.name for pair in find_pairs(tmp_path).pairs] == ["n0", "n1"]


def test_of_several_nnunet_data_sets_one_must_be_named(tmp_path: Path) -> None:
    nnunet(tmp_path / "Dataset001")
    nnunet(tmp_path / "Dataset002")
    with pytest.raises(InputError, match="Dataset001, Dataset002"):
        find_pairs(tmp_path)


def test_files_without_a_place_in_the_layout_are_listed(tmp_path: Path) -> None:
    nnunet(tmp_path)
    save(tmp_path / "overview.png", image(0))
    assert left_out(find_pairs(tmp_path))["overview.png"] == "no part of the layout"


def test_an_image_may_begin_with_a_word_for_masks(tmp_path: Path) -> None:
    write_pairs(tmp_path, "label_{}.tif", "label_{}_mask.tif")
    assert find_pairs(tmp_path).pairs[0].images[0].name == "label_0.tif"
    write_pairs(tmp_path / "b", "img_{}.tif", "mask_{}.tif")
    assert find_pairs(tmp_path / "b").pairs[0].masks[0].name == "mask_0.tif"


def test_cell_tracking_prefers_gold_and_takes_single_slices(tmp_path: Path) -> None:
    save(tmp_path / "01/t000.tif", np.stack([image(number) for number in NUMBERS]))
    save(tmp_path / "01_GT/SEG/man_seg_000_001.tif", mask(1))
    save(tmp_path / "01_GT/SEG/man_seg_000_003.tif", mask(3))
    save(tmp_path / "01_ST/SEG/man_seg000.tif", np.stack([mask(0)] * 4))
    pairing = find_pairs(tmp_path)
    assert [(pair.name, pair.page, pair.mask_page) for pair in pairing.pairs] == [("t000[1]", 1, 0), ("t000[3]", 3, 0)]
    assert "silver truth" in left_out(pairing)["man_seg000.tif"]
    surveyed = survey(pairing)
    assert surveyed.problems == ()
    pixels, _, labels = load_pair(surveyed.pairs[1], surveyed.coding)
    assert (pixels[0, 0, 0], (labels > 0).sum()) == (13, 5)


def test_a_pickle_of_cellpose_is_refused_and_never_loaded(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", image(0))
    (tmp_path / "a_seg.npy").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    with pytest.raises(InputError, match=r"a_seg\.npy.*pickle") as error:
        find_pairs(tmp_path)
    assert "save" in str(error.value.hint).lower()
    cellpose(tmp_path / "b")
    assert left_out(find_pairs(tmp_path / "b")) == {
        "cell0_img_cp_masks.tif": "output of a program",
        "cell0_img_flows.tif": "output of a program",
    }


def test_two_folders_for_one_role_are_not_chosen_from(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/{}.png", "masks/{}.png")
    write_pairs(tmp_path, "images/{}.png", "instances/{}.png")
    with pytest.raises(InputError) as error:
        find_pairs(tmp_path)
    assert "instances" in error.value.message
    assert "--masks" in str(error.value.hint)


def test_two_extensions_of_gray_images_are_told_apart_by_their_values(tmp_path: Path) -> None:
    write_pairs(tmp_path, "{}.png", "{}.tif")
    assert {pair.masks[0].suffix for pair in find_pairs(tmp_path).pairs} == {".tif"}
    for number in NUMBERS:
        save(tmp_path / f"{number}.tif", image(number + 1))
    with pytest.raises(InputError, match="8 images, 0 masks"):
        find_pairs(tmp_path)


def test_groups_that_share_names_are_named_by_their_folders(tmp_path: Path) -> None:
    for group in ("A01", "A02"):
        write_pairs(tmp_path, f"{group}/images/{{}}.png", f"{group}/masks/{{}}.png", NUMBERS[:1])
    assert [pair.name for pair in find_pairs(tmp_path).pairs] == ["A01/images/0", "A02/images/0"]


def test_a_test_split_with_some_masks_must_have_all(tmp_path: Path) -> None:
    write_pairs(tmp_path, "train/images/{}.png", "train/masks/{}.png")
    write_pairs(tmp_path, "test/images/{}.png", "test/masks/{}.png")
    (tmp_path / "test/masks/2.png").unlink()
    with pytest.raises(InputError, match=r"1 image has no mask: 2\.png"):
        find_pairs(tmp_path)


def test_development_data_is_understood(development_data: Path) -> None:
    isbi = find_pairs(development_data / "isbi2012")
    assert [pair.masks[0].name for pair in isbi.pairs] == ["train-labels.tif"]
    assert left_out(isbi) == {"test-volume-unlabelled.tif": "test image without mask"}
    nuclei = find_pairs(development_data / "dsb2018")
    assert len(nuclei.pairs) == 89
    cells = find_pairs(development_data / "wbc")
    assert len(cells.pairs) == 200
    assert (cells.pairs[0].images[0].name, cells.pairs[0].masks[0].name) == ("001.bmp", "001.png")


def test_problems_of_several_kinds_come_together(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/{}.png", "masks/{}.png")
    save(tmp_path / "images/0.tif", image(0))
    save(tmp_path / "masks/lonely.png", mask(0))
    with pytest.raises(Problems) as error:
        find_pairs(tmp_path)
    text = " ".join(str(problem) for problem in error.value.problems)
    assert "lonely.png" in text
    assert "0.tif" in text
