"""Pairing by name: the rules, what is refused, and what a folder may hold besides."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from datasets import NUMBERS, image, mask, save, write_pairs
from hypothesis import given
from hypothesis import strategies as st

from unetcli.dataset.matching import Entry, match_names
from unetcli.dataset.names import folder_role, is_mask_name, is_output, natural_key, split_extension
from unetcli.dataset.pairs import find_pairs, match_files
from unetcli.errors import InputError, Problems, UnetError, UsageError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found(folder: Path, **options: bool) -> dict[str, str]:
    return {pair.images[0].name: pair.masks[0].name for pair in find_pairs(folder, **options).pairs}


def matched(images: list[str], masks: list[str]) -> dict[str, str]:
    pairs = match_names([Entry(name, (Path(name),)) for name in images], [Entry(name, (Path(name),)) for name in masks])
    return {image.name: mask.name for image, mask in pairs.pairs}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["a1", "a2", "a10"], ["a1", "a2", "a10"]),
        (["a1", "A2"], ["A1", "a2"]),
        (["a_img", "b_img"], ["a_mask", "b_mask"]),
        (["img_1", "img_2"], ["mask_1", "mask_2"]),
        (["x", "y"], ["x-label", "y-label"]),
        (["t-01", "t-02"], ["t_ground_truth-01", "t_ground-truth-02"]),
        (["a", "ab", "abc"], ["a_cells", "ab_cells", "abc_cells"]),
        (["n1", "n2"], ["drawn-by-me n1", "drawn-by-me n2"]),
        (["img1", "img2"], ["img0001", "img0002"]),
        (["frame_001_raw", "frame_002_raw"], ["seg001", "seg002"]),
        (["plate7_c1", "plate7_c2"], ["manual-1-final", "manual-2-final"]),
        (["case_0000", "item_0000"], ["case", "item"]),
        (["t_0000", "t_0001"], ["t_0000_mask", "t_0001_mask"]),
        ([f"{number}" for number in range(1, 11)], [f"{number:02d}" for number in range(1, 11)]),
        ([f"{number}" for number in range(11)], [f"{number:04d}" for number in range(11)]),
        (["a", "ab", "abc", "b"], ["ab", "abb", "abcb", "bb"]),  # one name is equal by coincidence
        ([unicodedata.normalize("NFD", "zéro"), "un"], [unicodedata.normalize("NFC", "zéro"), "un"]),
    ],
)
def test_rules_of_pairing(images: list[str], masks: list[str]) -> None:
    expected = dict(zip(images, masks, strict=True))
    assert matched(images, masks) == expected
    assert matched(images[::-1], masks) == expected  # the order means nothing


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["red", "green"], ["one", "two"]),
        (["a1", "b1"], ["x1", "y1"]),
        (["a_1", "b_1"], ["m_1", "m_2"]),
        (["t01", "t1", "t2"], ["t001", "t0002"]),
    ],
)
def test_names_without_a_relation_are_not_paired(images: list[str], masks: list[str]) -> None:
    assert matched(images, masks) == {}


def test_of_rules_that_pair_the_same_the_strictest_is_named() -> None:
    images = [Entry(name, (Path(name),)) for name in ("a1", "a2", "zz")]
    masks = [Entry(name, (Path(name),)) for name in ("a1", "a2", "yy")]
    assert match_names(images, masks).rule == "equal names"


def test_a_shifted_numbering_is_not_repaired(tmp_path: Path) -> None:
    touch(tmp_path, *[f"images/img{number}.tif" for number in range(5)])
    touch(tmp_path, *[f"masks/img{number}.tif" for number in range(1, 6)])
    with pytest.raises(InputError) as error:
        find_pairs(tmp_path)
    assert "img0.tif" in error.value.message
    assert "img5.tif" in error.value.message
    assert len(found(tmp_path, pair_by_order=True)) == 5


@given(st.lists(st.text("ab01_-é ", min_size=1, max_size=8), min_size=1, max_size=12, unique_by=str.casefold))
def test_equal_names_are_always_paired(names: list[str]) -> None:
    assert matched(names, names) == {name: name for name in names}


@given(
    st.lists(st.integers(0, 500), min_size=2, max_size=12, unique=True), st.sampled_from(["_mask", "-label", "_roi"])
)
def test_a_suffix_is_found_whatever_the_numbers(numbers: list[int], suffix: str) -> None:
    images = [f"img{number}" for number in numbers]
    assert matched(images, [name + suffix for name in images]) == {name: name + suffix for name in images}


def test_extensions_may_differ(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.TIF", "images/b.tiff", "images/c.jpg", "masks/a.tiff", "masks/b.png", "masks/c.ome.tif")
    assert found(tmp_path) == {"a.TIF": "a.tiff", "b.tiff": "b.png", "c.jpg": "c.ome.tif"}


def test_orphans_are_listed_with_the_nearest_names(tmp_path: Path) -> None:
    touch(tmp_path, *[f"images/cell_{number:02d}.tif" for number in range(30)])
    touch(tmp_path, *[f"masks/cell_{number:02d}.tif" for number in range(12, 30)], "masks/sell_00.tif")
    with pytest.raises(InputError) as error:
        find_pairs(tmp_path)
    assert "12 images have no mask" in error.value.message
    assert "cell_00.tif (nearest: sell_00.tif)" in error.value.message
    assert "and 2 more" in error.value.message
    assert "1 mask has no image: sell_00.tif (nearest: cell_00.tif)" in error.value.message
    assert "--allow-unpaired" in str(error.value.hint)
    pairing = find_pairs(tmp_path, allow_unpaired=True)
    assert len(pairing.pairs) == 18
    assert len(pairing.left_out) == 13


@pytest.mark.parametrize(
    "names",
    [
        ("images/a.tif", "images/a.png", "masks/a.tif"),
        ("images/a.tif", "images/A.TIF", "masks/a.tif"),
        ("images/a.tif", "masks/a.tif", "masks/a.png"),
        ("images/a.tif", "masks/a_mask.tif", "masks/a_label.tif"),
    ],
)
def test_two_files_for_one_role_are_both_named(names: tuple[str, ...], tmp_path: Path) -> None:
    touch(tmp_path, "images/b.tif", "masks/b.tif" if "_" not in names[1] else "masks/b_mask.tif", *names)
    with pytest.raises(InputError) as error:
        find_pairs(tmp_path)
    problems = error.value.problems if isinstance(error.value, Problems) else (error.value,)
    text = " ".join(problem.message for problem in problems)
    twice = [name for name in names if name.split("/")[0] == ("masks" if names[1].startswith("masks") else "images")]
    assert all(name.split("/")[1] in text for name in twice)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as usage:
        find_pairs(tmp_path / "absent")
    assert usage.value.exit_code == 2
    for folder in (tmp_path / "empty", touch(tmp_path / "texts", "readme.txt", "images/notes.md")):
        folder.mkdir(exist_ok=True)
        with pytest.raises(InputError, match="no images found") as error:
            find_pairs(folder)
        assert str(folder) in str(error.value)
        assert "images/x.tif" in str(error.value.hint)
    assert not any((tmp_path / "empty").iterdir())


def test_images_without_masks_say_what_was_expected(tmp_path: Path) -> None:
    touch(tmp_path, *[f"n{number}.tif" for number in range(12)])
    with pytest.raises(InputError, match="12 images, 0 masks") as error:
        find_pairs(tmp_path)
    assert "masks/n0.tif" in error.value.message
    assert "x_mask.tif" in str(error.value.hint)
    touch(tmp_path / "only", "masks/a.tif")
    with pytest.raises(InputError, match="no images found, 1 masks"):
        find_pairs(tmp_path / "only")


def test_what_is_hidden_or_predicted_is_no_image(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif", "masks/a.tif", "masks/a_pred.tif", "masks/a.stardist.tif", "images/a_OUT.png")
    touch(tmp_path, "images/._a.tif", "images/.DS_Store", "images/Thumbs.db", "images/~$a.tif", ".git/images/b.tif")
    touch(
        tmp_path, "__MACOSX/images/c.tif", "unet.run/previews/images/d.tif", "dataset.json", "images/x.zarr.part/0.tif"
    )
    pairing = find_pairs(tmp_path)
    assert [pair.name for pair in pairing.pairs] == ["a"]
    assert sorted(item.path.name for item in pairing.left_out) == ["a.stardist.tif", "a_OUT.png", "a_pred.tif"]
    assert not is_output("prediction_of_nothing.tif")
    assert not is_output("img_predator.tif")
    assert not is_output("zoom_out.png")


def test_links_in_a_circle_are_ignored_and_dangling_ones_named(tmp_path: Path) -> None:
    data = touch(tmp_path / "data", "images/a.tif", "masks/a.tif")
    (data / "up").symlink_to("..")
    (data / "images/round").symlink_to("../images")
    (data / "self").symlink_to("self")
    elsewhere = touch(tmp_path / "elsewhere", "b.tif")
    (data / "images/b.tif").symlink_to(elsewhere / "b.tif")
    (data / "masks/b.tif").symlink_to(elsewhere / "b.tif")
    assert [pair.name for pair in find_pairs(data).pairs] == ["a", "b"]
    (data / "images/gone.tif").symlink_to("nowhere.tif")
    with pytest.raises(InputError, match=r"gone\.tif.*nowhere\.tif"):
        find_pairs(data)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "store/1/a.tif", "store/2/a.tif")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images").symlink_to("../store/1")
    (tmp_path / "data/masks").symlink_to("../store/2")
    assert found(tmp_path / "data") == {"a.tif": "a.tif"}


@pytest.mark.parametrize(
    "stem",
    ["with space", "new\nline", "[1]", "é", "caf\udce9", "-rf", "x" * 251, "$(touch x)", "a;rm -r b", "*", "<script>"],
)
def test_odd_names_work(stem: str, tmp_path: Path) -> None:
    for name in (f"images/{stem}.tif", f"masks/{stem}.tif"):
        path = os.fsencode(tmp_path / name)
        Path(os.fsdecode(path)).parent.mkdir(exist_ok=True)
        Path(os.fsdecode(path)).touch()
    pairing = find_pairs(tmp_path)
    assert [pair.name for pair in pairing.pairs] == [stem]
    assert pairing.pairs[0].images[0].exists()
    only_image = tmp_path / "images" / f"{stem}.tif"
    assert found_by_glob(only_image, tmp_path / "masks" / f"{stem}.tif") == [stem]


def found_by_glob(images: Path, masks: Path) -> list[str]:
    return [pair.name for pair in find_pairs([], images=str(images), masks=str(masks)).pairs]


def test_globs_name_images_and_masks(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.tif", "a/2.tif", "b/drawn1.png", "b/drawn2.png", "b/notes.txt")
    pairing = find_pairs([], images=f"{tmp_path}/a/*.tif", masks=f"{tmp_path}/b/*.png")
    assert [pair.masks[0].name for pair in pairing.pairs] == ["drawn1.png", "drawn2.png"]
    pairing = find_pairs([], images=f"{tmp_path}/a", masks=f"{tmp_path}/b")  # folders stand for the images in them
    assert len(pairing.pairs) == 2
    touch(tmp_path, "s1/img.tif", "s1/mask.tif", "s2/img.tif", "s2/mask.tif")
    pairing = find_pairs([], images=f"{tmp_path}/s*/img.tif", masks=f"{tmp_path}/s*/mask.tif")
    assert [(p.images[0].parent.name, p.masks[0].parent.name) for p in pairing.pairs] == [("s1", "s1"), ("s2", "s2")]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ([], {}),
        ([], {"images": "a/*.tif"}),
        ([], {"images": "nothing/*.tif", "masks": "a/*.tif"}),
        ([], {"images": "a/*.tif", "masks": "a/1.tif"}),
        (["a"], {"images": "a/*.tif", "masks": "b/*.tif"}),
        (["a/1.tif"], {}),
        (["a/1.tif", "b"], {}),
        (["a/1.tif", "a/2.tif", "b/1.tif"], {}),
        (["b/1_mask.tif", "a/1.tif"], {}),
        (["a", "absent"], {}),
    ],
)
def test_wrong_usage_is_told(
    data: list[str], options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.tif", "a/2.tif", "b/1.tif", "b/1_mask.tif")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        find_pairs([Path(name) for name in data], **options)  # type: ignore[arg-type]
    assert error.value.hint


def test_two_files_two_folders_and_several_data_sets(tmp_path: Path) -> None:
    touch(tmp_path, "stack.tif", "drawn.tif", "in/1.tif", "labels/1.tif", "other/images/2.tif", "other/masks/2.tif")
    touch(tmp_path, "third/images/2.tif", "third/masks/2.tif")
    both = find_pairs([tmp_path / "stack.tif", tmp_path / "drawn.tif"])
    assert (both.pairs[0].name, both.pairs[0].masks[0].name, both.rule) == ("stack", "drawn.tif", "as named")
    folders = find_pairs([tmp_path / "in", tmp_path / "labels"])
    assert folders.pairs[0].masks[0].parent.name == "labels"
    joined = find_pairs([tmp_path / "other", tmp_path / "third"])
    assert [pair.name for pair in joined.pairs] == ["other/images/2", "third/images/2"]


def test_names_of_several_data_sets_are_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"{place}/{role}/2.tif" for place in ("a/cells", "b") for role in ("images", "masks")))
    monkeypatch.chdir(tmp_path / "a")
    for data in (["cells", tmp_path / "b"], ["cells", "../b"], [tmp_path / "a/cells", tmp_path / "b"]):
        names = [pair.name for pair in find_pairs([Path(path) for path in data]).pairs]
        stored = [pair.name for pair in find_pairs([Path(path).absolute() for path in data]).pairs]
        assert names == stored
        assert names == ["a/cells/images/2", "b/images/2"]


def test_two_folders_keep_their_splits(tmp_path: Path) -> None:
    for role in ("images", "labels"):
        touch(tmp_path, *(f"{role}/{split}/{name}.png" for split, name in (("train", 1), ("train", 2), ("val", 1))))
    touch(tmp_path, "images/test/9.png")
    pairing = find_pairs([tmp_path / "images", tmp_path / "labels"])
    assert [(pair.name, pair.split) for pair in pairing.pairs] == [
        ("train/1", "train"), ("train/2", "train"), ("val/1", "validation"),
    ]  # fmt: skip
    assert [item.path.name for item in pairing.left_out] == ["9.png"]
    touch(tmp_path, "images/extra/7.png")
    pairing = find_pairs([tmp_path / "images", tmp_path / "labels"], allow_unpaired=True)
    assert [pair.split for pair in pairing.pairs] == ["train", "train", "validation"]
    touch(tmp_path, "masks/1.png", "masks/2.png", "more/train/1.png", "more/train/2.png")
    assert [pair.split for pair in find_pairs([tmp_path / "more", tmp_path / "masks"]).pairs] == [None, None]


def test_order_pairs_only_when_asked_and_only_equal_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "images/red.tif", "images/blue.tif", "masks/one.tif", "masks/two.tif")
    with pytest.raises(InputError):
        find_pairs(tmp_path)
    pairing = find_pairs(tmp_path, pair_by_order=True)
    assert [(p.images[0].stem, p.masks[0].stem) for p in pairing.pairs] == [("blue", "one"), ("red", "two")]
    assert "order" in pairing.rule
    touch(tmp_path, "masks/three.tif")
    with pytest.raises(InputError, match="2 images and 3 masks"):
        find_pairs(tmp_path, pair_by_order=True)


def test_pairs_come_in_natural_order(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/n{}.png", "masks/n{}.png", (10, 2, 1))
    assert [pair.name for pair in find_pairs(tmp_path).pairs] == ["n1", "n2", "n10"]
    assert sorted(["b", "a10", "a9", "1"], key=natural_key) == ["1", "a9", "a10", "b"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif", "masks/a.tif")
    (tmp_path / "masks").chmod(0)
    try:
        if os.access(tmp_path / "masks", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(InputError, match="permission denied"):
            find_pairs(tmp_path)
    finally:
        (tmp_path / "masks").chmod(0o755)


def test_names_of_folders_and_files() -> None:
    assert folder_role("imagesTr") == ("images", "train")
    assert folder_role("labelsTs") == ("masks", "test")
    assert folder_role("Ground_Truth") == ("masks", None)
    assert folder_role("annotations_prepped_test") == ("masks", "test")
    assert folder_role("test_plates") == (None, None)
    assert folder_role("tr") == (None, None)
    assert is_mask_name("train-labels")
    assert not is_mask_name("mask")
    assert not is_mask_name("nuclei_01")
    assert split_extension("a.b.OME.TIF") == ("a.b", ".ome.tif")
    assert split_extension("scan.nii.gz") == ("scan", ".nii.gz")
    assert split_extension(".tif") == (".tif", "")


def test_one_wrong_name_among_thousands_is_found(tmp_path: Path) -> None:
    count = 2000
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"cell_{number}.tif").touch()
    assert len(find_pairs(tmp_path).pairs) == count
    (tmp_path / "masks/cell_1999.tif").rename(tmp_path / "masks/cel_1999.tif")
    with pytest.raises(InputError, match=r"nearest: cel_1999\.tif"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        ("a{}.tif", "a{}.png"),
        ("a{}_cp_masks.tif", "a{}.tif"),
        ("a{}_pred.tif", "a{}_mask.tif"),
        ("a{}_OUT.png", "a{}.gif"),
        ("{}_predict.png", "{}.png"),
        ("a{}.tif", "a{}_masks.tif"),
        ("case_{}_0000.tif", "case_{}.nii.gz"),
        ("cell-{}-prediction.tif", "cell-{}-label.tif"),
        ("n{}.stardist.tif", "n{}.tif"),
    ],
)
def test_predictions_find_their_truths(prediction: str, truth: str, tmp_path: Path) -> None:
    for number in NUMBERS:
        touch(tmp_path, f"p/{prediction.format(number)}", f"t/{truth.format(number)}")
    matches = match_files(tmp_path / "p", tmp_path / "t")
    assert len(matches) == len(NUMBERS)
    for number, (_, prediction_path, truth_path) in zip(NUMBERS, matches, strict=True):
        assert prediction_path.name == prediction.format(number)
        assert truth_path.name == truth.format(number)
    assert match_files(list((tmp_path / "p").iterdir()), tmp_path / "t") == matches


def test_one_prediction_and_one_truth_are_a_match(tmp_path: Path) -> None:
    save(tmp_path / "mask.tif", mask(0))
    save(tmp_path / "train-labels.tif", np.stack([mask(0)] * 2))
    match = match_files(tmp_path / "mask.tif", tmp_path / "train-labels.tif")
    assert [(m.name, m.prediction.name) for m in match] == [("train-labels", "mask.tif")]


def test_predictions_without_truth_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "p/a1.tif", "p/a2.tif", "p/b9.tif", "t/a1.tif", "t/a2.tif", "t/c9.tif")
    with pytest.raises(InputError) as error:
        match_files(tmp_path / "p", tmp_path / "t")
    assert "1 truth has no prediction: c9.tif (nearest: b9.tif)" in error.value.message
    assert "1 prediction has no truth: b9.tif (nearest: c9.tif)" in error.value.message
    with pytest.raises(UsageError):
        match_files(tmp_path / "absent", tmp_path / "t")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images found"):
        match_files(tmp_path / "p", tmp_path / "empty")
    touch(tmp_path, "p/a1.png")
    with pytest.raises(UnetError) as both:
        match_files(tmp_path / "p", tmp_path / "t")
    assert "a1.png" in str(getattr(both.value, "problems", both.value))


def test_nothing_is_written_into_the_data(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/{}.png", "masks/{}.png")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    save(tmp_path.parent / "elsewhere.png", image(0))
    find_pairs(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
