"""What is held out for validation."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetcli.dataset.pairs import Pair
from unetcli.dataset.patches import Sample
from unetcli.errors import InputError, UsageError
from unetcli.images import IntensityRange
from unetcli.training.split import hold_out_region, split_fold, split_pairs


def files(number, **changes):
    names = [f"cell_{i:02d}" for i in range(number)]
    return [
        Pair(name, (Path(f"images/{name}.tif"),), (Path(f"masks/{name}.tif"),), page=0, **changes) for name in names
    ]


def stack(pages, name="train-volume"):
    image, mask = Path(f"{name}.tif"), Path(f"{name}-labels.tif")
    return [Pair(f"{name}.tif[{page}]", (image,), (mask,), page=page) for page in range(pages)]


@given(number=st.integers(4, 300), seed=st.integers(0, 5))
def test_images_are_divided_from_four_on(number, seed):
    split = split_pairs(files(number), seed=seed)
    assert not split.by_region
    assert sorted(split.training + split.validation) == list(range(number))
    assert len(split.validation) == max(1, round(0.2 * number))
    assert split == split_pairs(files(number), seed=seed)


def test_another_seed_divides_otherwise():
    assert len({split_pairs(files(50), seed=seed).validation for seed in range(5)}) > 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_images_are_shared(number):
    split = split_pairs(files(number))
    assert split.by_region
    assert split.training == split.validation == tuple(range(number))
    assert "optimistic" in split.rule


def test_a_stack_gives_a_block_at_its_end():
    split = split_pairs(stack(24))
    assert split.validation == (19, 20, 21, 22, 23)
    assert split.training == tuple(range(19))


def test_many_stacks_are_divided_by_file():
    pairs = [pair for name in "abcdef" for pair in stack(7, name)]
    split = split_pairs(pairs)
    held = {pairs[index].images for index in split.validation}
    assert len(held) == 1
    assert not held & {pairs[index].images for index in split.training}


def test_pages():
    split = split_pairs(stack(24), "20-23")
    assert split.validation == (20, 21, 22, 23)
    assert split_pairs(stack(24), "5").validation == (5,)


def test_fraction():
    assert len(split_pairs(files(10), "0.5").validation) == 5
    assert len(split_pairs(files(10), "0.01").validation) == 1


def test_glob():
    assert split_pairs(files(12), "cell_1*").validation == (10, 11)
    assert split_pairs(stack(24), "train-volume.tif[7]").validation == (7,)


@pytest.mark.parametrize(
    "text", ["cell_03\ncell_05.tif\n", "id,split\ncell_03,val\ncell_04,train\ncell_05,validation\n"]
)
def test_list_file(tmp_path, text):
    path = tmp_path / "split.csv"
    path.write_text(text)
    assert split_pairs(files(12), str(path)).validation == (3, 5)


def test_list_file_with_unknown_names(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("cell_03\nnobody\n")
    with pytest.raises(InputError, match="nobody"):
        split_pairs(files(12), str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,split\ncell_03\ncell_04,train\n", "selects nothing of 12"),
        (b"id,split\ncell_0\x80,val\n", "is no list of names .*utf-8"),
        (b"id,split\n" + b"x" * 200_000 + b",val\n", "is no list of names .*field"),
        (b"\n".join(b"cell_%02d" % number for number in range(12)), "selects every image of 12"),
        (b"", "selects nothing of 12"),
    ],
    ids=["short row", "bytes", "long field", "every image", "empty"],
)
def test_damaged_lists(tmp_path, content, words):
    """Found by tests/faults/fuzz.py: 19, 159."""
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        split_pairs(files(12), str(path))
    assert caught.value.hint


def test_a_list_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("a\n")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        split_pairs(files(6), str(tmp_path / "list.txt"))


@pytest.mark.parametrize("line", ["b.tif", "b", "b.tif[0]\nb.tif[1]\nb.tif[2]"])
def test_a_list_that_names_a_stack_holds_out_all_its_pages(tmp_path, line):
    pairs = [*stack(3, "a"), *stack(3, "b"), *stack(3, "c")]
    path = tmp_path / "list.txt"
    path.write_text(line)
    assert split_pairs(pairs, str(path)).validation == (3, 4, 5)


def test_a_list_must_say_which_of_two_files_it_means(tmp_path):
    pairs = [
        Pair(f"{group}/1", (Path(f"{group}/images/1.tif"),), (Path(f"{group}/masks/1.tif"),), page=0) for group in "ABC"
    ]
    path = tmp_path / "list.txt"
    path.write_text("1.tif\n")
    with pytest.raises(InputError, match=r"1 names are those of several files: 1\.tif"):
        split_pairs(pairs, str(path))
    path.write_text("B/1\n")
    assert split_pairs(pairs, str(path)).validation == (1,)


def test_test_images_of_a_list_stay_out_of_training(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("id,split\ncell_03,val\ncell_04,test\ncell_05, Testing\ncell_06,train\n")
    split = split_pairs(files(8), str(path))
    assert split.validation == (3,)
    assert split.training == (0, 1, 2, 6, 7)
    path.write_text("id,split\ncell_03,val\ncell_04,dev\n")
    with pytest.raises(InputError, match="1 words are no split: dev"):
        split_pairs(files(8), str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,split\ncell_03,val\ncell_03.tif,test\n", "cell_03"),
        ("id,split\ncell_03,val\ncell_03,train\n", "cell_03"),
        ("id,split\ncell_08,val\n", "cell_08"),  # a test image of the folder
    ],
)
def test_an_image_belongs_to_one_split(tmp_path, text, said):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"1 images are in several splits: {said}"):
        split_pairs([*files(8), *files(9, split="test")[8:]], str(path))


def test_a_list_as_people_write_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "list.csv"
    path.write_text("ID, Split\n cell_03 , VAL \nimages/cell_05.tif,val\ncell_08,test\n\ncell_01\nnobody,train\n")
    split = split_pairs([*files(8), *files(9, split="test")[8:]], str(path))
    assert split.validation == (3, 5)
    assert split.training == (0, 1, 2, 4, 6, 7)


def test_a_folder_of_test_images_alone():
    with pytest.raises(InputError, match="all 3 images belong to the test split"):
        split_pairs(files(3, split="test"))


@pytest.mark.parametrize(("number", "fraction", "held"), [(2, "0.5", 1), (3, "0.34", 1), (3, "0.7", 2), (4, "0.9", 3)])
def test_a_fraction_that_is_asked_for_holds_out_whole_images(number, fraction, held):
    split = split_pairs(files(number), fraction)
    assert len(split.validation) == held
    assert not split.by_region


def test_one_image_shares_whatever_the_fraction():
    assert split_pairs(files(1), "0.5").by_region


def test_every_stack_keeps_a_page_to_train_on():
    split = split_pairs([*stack(4, "a"), *stack(3, "b")], "0.9")
    assert split.validation == (1, 2, 3, 5, 6)


def test_the_folder_says_it():
    pairs = [*files(5), *files(2, split="validation"), *files(2, split="test")]
    split = split_pairs(pairs)
    assert split.validation == (5, 6)
    assert split.training == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("40-50", "--validation 40-50: the data have pages 0 to 23"),
        ("22-24", "--validation 22-24: the data have pages 0 to 23"),
        ("5-3", "--validation 5-3: the data have pages 0 to 23"),
        ("nothing*", "nothing[*] is no file or folder"),
        ("absent.txt", "absent.txt is no file or folder"),
        ("1.0", "lies between 0 and 1"),
        ("0-23", "selects every image of 24"),
    ],
)
def test_selections_that_cannot_be(selection, words):
    with pytest.raises(UsageError, match=words) as caught:
        split_pairs(stack(24), selection)
    assert "--validation " in caught.value.hint


def test_a_folder_of_other_images(tmp_path):
    with pytest.raises(UsageError, match="no image of the data is in this folder") as caught:
        split_pairs(files(5), str(tmp_path))
    assert f"unet train DATA {tmp_path} --validation {tmp_path}" in caught.value.hint


def test_one_image_makes_no_folds():
    with pytest.raises(UsageError, match="one image does not make folds") as caught:
        split_fold(files(1), 1, 2)
    assert "leave --folds out" in caught.value.hint


@given(height=st.integers(8, 80), width=st.integers(8, 80), gap=st.integers(0, 30))
def test_regions_share_no_labelled_pixel_and_keep_a_gap(height, width, gap):
    labels = np.random.default_rng(0).integers(0, 2, (height, width)).astype(np.int32)
    sample = Sample("one", np.zeros((height, width, 1)), IntensityRange((0.0,), (1.0,), (0.0,)), labels)
    training, held_out = hold_out_region(sample, gap)
    used, held = training.labels != -1, held_out.labels != -1
    assert used.any()
    assert held.any()
    assert not (used & held).any()
    np.testing.assert_array_equal(training.labels[used], labels[used])
    np.testing.assert_array_equal(held_out.labels[held], labels[held])
    axis = 0 if height >= width else 1
    used_lines, held_lines = (np.flatnonzero(part.any(axis=1 - axis)) for part in (used, held))
    distance = np.abs(used_lines[:, None] - held_lines[None]).min()
    assert distance == min(gap, max(height, width) // 8) + 1
    np.testing.assert_array_equal(sample.labels, labels)


@given(
    top=st.integers(0, 30),
    left=st.integers(0, 30),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    gap=st.integers(0, 9),
)
def test_regions_of_a_partly_annotated_image_are_those_of_its_annotated_part(top, left, height, width, gap):
    inner = np.random.default_rng(0).integers(0, 2, (height, width)).astype(np.int32)
    labels = np.full((90, 80), -1, np.int32)
    labels[top : top + height, left : left + width] = inner
    intensity = IntensityRange((0.0,), (1.0,), (0.0,))
    parts = hold_out_region(Sample("one", np.zeros((90, 80, 1)), intensity, labels), gap)
    alone = hold_out_region(Sample("one", np.zeros((height, width, 1)), intensity, inner), gap)
    for part, expected in zip(parts, alone, strict=True):
        np.testing.assert_array_equal(part.labels[top : top + height, left : left + width], expected.labels)
        assert (part.labels != -1).sum() == (expected.labels != -1).sum() > 0


@given(number=st.integers(4, 60), folds=st.integers(2, 8), seed=st.integers(0, 3))
def test_folds_hold_every_image_out_once(number, folds, seed):
    for pairs in (files(number), stack(number), [*stack(number, "a"), *stack(3, "b")]):
        if folds > len(pairs):
            with pytest.raises(UsageError, match=f"do not make {folds} folds"):
                split_fold(pairs, 1, folds, seed=seed)
            continue
        splits = [split_fold(pairs, fold, folds, seed=seed) for fold in range(1, folds + 1)]
        held_out = [index for split in splits for index in split.validation]
        assert sorted(held_out) == list(range(len(pairs)))
        for split in splits:
            assert sorted(split.training + split.validation) == list(range(len(pairs)))


def test_folds_of_a_stack_are_blocks_and_test_images_stay_out():
    assert [split_fold(stack(10), fold, 3).validation for fold in (1, 2, 3)] == [(0, 1, 2), (3, 4, 5), (6, 7, 8, 9)]
    pairs = [*files(6), *files(3, split="test")]
    held_out = [index for fold in (1, 2, 3) for index in split_fold(pairs, fold, 3).validation]
    assert sorted(held_out) == list(range(6))
