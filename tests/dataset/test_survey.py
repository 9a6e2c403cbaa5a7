"""Decoding every file once: what is known afterwards, and everything that is wrong, together."""

import json
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from datasets import LAYOUTS, NUMBERS, SHAPE, folder_per_image, image, isbi_files, mask, nnunet, save, write_pairs
from PIL import Image

from unetcli.dataset import loading
from unetcli.dataset.examination import pixel_hash
from unetcli.dataset.labels import IGNORE
from unetcli.dataset.loading import load_pair
from unetcli.dataset.pairs import collect_pairs, find_pairs
from unetcli.dataset.samples import SampleCache
from unetcli.dataset.survey import Survey, survey
from unetcli.dataset.table import class_rows, summary_rows
from unetcli.errors import InputError, Problems, UnetWarning, UsageError
from unetcli.images import intensity_range, open_image
from unetcli.images.volumes import OpenVolumes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pairs(tmp_path, "images/n{}.tif", "masks/n{}.png")
    return tmp_path


def surveyed(folder: Path | list[Path], **options: object) -> Survey:
    return survey(find_pairs(folder), **options)  # type: ignore[arg-type]


def test_a_good_folder(folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = surveyed(folder, progress=lambda done, total: steps.append((done, total)))
    found.check()
    assert [(pair.name, pair.page) for pair in found.pairs] == [(f"n{number}", 0) for number in NUMBERS]
    assert found.shapes == ((*SHAPE, 1),) * 4
    assert (found.channels, found.axes, found.pixel_size) == (1, "YX", None)
    assert found.coding.values == (0, 255)
    assert found.class_shares[1] == pytest.approx(sum(number + 2 for number in NUMBERS) / (4 * SHAPE[0] * SHAPE[1]))
    assert found.objects == (2, 3, 4, 5)
    assert found.duplicates == ()
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.normalization["name"] == "percentile"


def test_the_number_of_workers_changes_nothing(folder: Path) -> None:
    before = threading.active_count()
    first, second = surveyed(folder, workers=1), surveyed(folder, workers=3)
    assert first.as_json() == second.as_json()
    assert threading.active_count() == before  # no thread is left behind


def test_pixels_are_loaded_as_stored_with_the_range_of_their_file(folder: Path) -> None:
    found = surveyed(folder)
    pixels, intensity, labels = load_pair(found.pairs[2], found.coding)
    np.testing.assert_array_equal(pixels[:, :, 0], image(2))
    np.testing.assert_array_equal(labels, mask(2) > 0)
    assert labels.dtype == np.int32
    assert intensity == intensity_range([image(2)])


def test_stacks_become_a_pair_per_page(tmp_path: Path) -> None:
    found = surveyed(isbi_files(tmp_path))
    assert [(pair.name, pair.page) for pair in found.pairs] == [(f"train-volume.tif[{n}]", n) for n in NUMBERS]
    whole = intensity_range([image(number) for number in NUMBERS])
    for number, pair in enumerate(found.pairs):
        pixels, intensity, labels = load_pair(pair, found.coding)
        np.testing.assert_array_equal(pixels[:, :, 0], image(number))
        np.testing.assert_array_equal(labels > 0, mask(number) > 0)
        assert intensity == whole
    assert any("4 pages" in note for note in found.notes)


def test_pages_are_selected(tmp_path: Path) -> None:
    files = isbi_files(tmp_path)
    assert [pair.page for pair in surveyed(files, pages=range(1, 3)).pairs] == [1, 2]
    with pytest.raises(UsageError, match="pages 2-7 were asked for, the file has 4"):
        surveyed(files, pages=range(2, 8)).check()


def test_many_pages_are_examined_in_parts(tmp_path: Path) -> None:
    for name, make in (("a.tif", image), ("b.tif", mask)):
        save(tmp_path / name, np.stack([make(number % 7) for number in range(37)]))
    found = surveyed([tmp_path / "a.tif", tmp_path / "b.tif"])
    assert [pair.page for pair in found.pairs] == list(range(37))


def test_axes_override_those_of_the_file(tmp_path: Path) -> None:
    stack = np.stack([image(number) for number in range(2)])
    for name, pixels in (("a.tif", stack), ("b.tif", mask(0))):
        tifffile.imwrite(tmp_path / name, pixels, photometric="minisblack", metadata=None)
    files = [tmp_path / "a.tif", tmp_path / "b.tif"]
    with pytest.raises(InputError, match="2 pages, its mask has 1"):
        surveyed(files).check()
    found = surveyed(files, axes="CYX")
    found.check()
    assert found.channels == 2
    assert found.axes_override == "CYX"
    pixels, _, _ = load_pair(found.pairs[0], found.coding, axes="CYX")
    np.testing.assert_array_equal(pixels, np.moveaxis(stack, 0, -1))


def test_objects_of_a_file_each_are_merged(tmp_path: Path) -> None:
    found = surveyed(folder_per_image(tmp_path))
    assert found.coding.task == "instances"
    assert found.objects == (2, 3, 4, 5)
    _, _, labels = load_pair(found.pairs[3], found.coding)
    assert sorted(np.unique(labels)) == [0, 1, 2, 3, 4, 5]
    save(next((tmp_path / "stage1_train/0a7f/masks").iterdir()), mask(0)[:-1])
    with pytest.raises(InputError, match=r"24x20|24x19"):
        surveyed(tmp_path).check()


def test_files_of_an_object_each_are_never_classes(tmp_path: Path) -> None:
    """The place of a file in its folder says nothing."""
    folder_per_image(tmp_path)
    for folder in sorted((tmp_path / "stage1_train").iterdir()):
        number = int(folder.name[0])
        for path in (folder / "masks").iterdir():
            path.unlink()
        save(folder / "masks/nucleus.png", mask(number))
        save(folder / "masks/membrane.png", mask(number)[::-1])
    for task, said in (("auto", "most of them hold several pieces"), ("semantic", "which are no classes")):
        with pytest.raises(InputError, match=said) as error:
            surveyed(tmp_path, task=task).check()
        assert "with a value per class" in str(error.value.hint)
    found = surveyed(tmp_path, task="instances")
    found.check()
    assert found.objects == (2, 2, 2, 2)


@pytest.mark.parametrize("values", [(0, 255), (0, 1, 2), (0, 3, 255)])
def test_a_mask_in_a_folder_of_its_own_is_like_any_other(tmp_path: Path, values: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    drawn = [np.array(values, np.uint8)[rng.integers(0, len(values), SHAPE)] for _ in NUMBERS]
    for number, pixels in zip(NUMBERS, drawn, strict=True):
        save(tmp_path / f"{number}a/images/{number}a.png", image(number))
        save(tmp_path / f"{number}a/masks/mask.png", pixels)
    found = surveyed(tmp_path)
    found.check()
    assert (found.coding.task, found.coding.values) == ("semantic", values)
    np.testing.assert_array_equal(found.coding.encode(load_pair(found.pairs[1], found.coding)[2]), drawn[1])


def test_an_animation_is_opened_anew_for_every_page(tmp_path: Path) -> None:
    """Its reader has a place in the file, which threads cannot share."""
    frames = [Image.fromarray(image(0) + number) for number in range(20)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    volumes = OpenVolumes(2)
    for _ in range(3):
        with volumes.open(open_image, tmp_path / "a.gif") as found:
            assert found.info.pages == 20
    assert not volumes._volumes


@pytest.mark.parametrize("damage", ["size", "strip"])
def test_pages_that_are_not_selected_may_be_unlike_or_damaged(tmp_path: Path, damage: str) -> None:
    pages = np.stack([image(0) + number for number in range(4)])
    for name, stack in (("train-volume.tif", pages), ("train-labels.tif", np.stack([mask(1)] * 4))):
        with tifffile.TiffWriter(tmp_path / name) as writer:
            for number, pixels in enumerate(stack):
                cut = pixels[:-2] if damage == "size" and number == 3 else pixels
                writer.write(cut, photometric="minisblack", metadata=None, compression="zlib")
    if damage == "strip":
        path = tmp_path / "train-volume.tif"
        with tifffile.TiffFile(path) as tiff:
            at = tiff.pages[3].dataoffsets[0]
        content = bytearray(path.read_bytes())
        content[at : at + 8] = bytes(8)
        path.write_bytes(content)
    files = [tmp_path / "train-volume.tif", tmp_path / "train-labels.tif"]
    with pytest.raises(InputError):
        surveyed(files).check()
    found = surveyed(files, pages=range(1, 3))
    found.check()
    assert [pair.page for pair in found.pairs] == [1, 2]
    loading._stack_range.cache_clear()
    samples = SampleCache(found.pairs, found.coding)
    with pytest.warns(UnetWarning, match="the selected pages alone decide"):
        first = samples[0]
    np.testing.assert_array_equal(first.image[..., 0], pages[1])
    assert first.intensity == intensity_range([page[..., None] for page in pages[1:3]])
    np.testing.assert_array_equal(samples[1].labels, mask(1) > 0)


def test_a_long_stack_is_not_opened_for_every_page_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = np.stack([image(0) + number for number in range(20)])
    tifffile.imwrite(tmp_path / "train-volume.tif", pages, photometric="minisblack", compression="zlib")
    tifffile.imwrite(tmp_path / "train-labels.tif", np.stack([mask(1)] * 20), photometric="minisblack")
    found = surveyed([tmp_path / "train-volume.tif", tmp_path / "train-labels.tif"])
    found.check()
    opened = []

    def counting(path: Path, *said: object, **more: object) -> object:
        opened.append(path)
        return open_image(path, *said, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "open_image", counting)
    samples = SampleCache(found.pairs, found.coding)
    for number, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.image[..., 0], pages[number])
    assert len(opened) <= 5  # twice each, and for the range of intensities
    assert not samples.volumes._volumes


def test_an_image_with_one_object_is_read_like_those_with_several(tmp_path: Path) -> None:
    """What is gray at its rim belongs to it."""
    folder_per_image(tmp_path)
    masks = sorted((tmp_path / "stage1_train/0a7f/masks").iterdir())
    for path in masks[1:]:
        path.unlink()
    rim = mask(0)
    rim[4, 6:9] = 90, 120, 200
    save(masks[0], rim)
    found = surveyed(tmp_path)
    found.check()
    assert found.objects == (1, 3, 4, 5)
    _, _, labels = load_pair(found.pairs[0], found.coding)
    np.testing.assert_array_equal(labels, rim > 0)


def test_all_problems_come_together_and_the_rest_is_known(folder: Path) -> None:
    save(folder / "masks/n0.png", mask(0)[:, :-1])
    save(folder / "masks/n1.png", mask(1).T)
    (folder / "images/n2.tif").write_bytes((folder / "images/n2.tif").read_bytes()[:300])
    found = surveyed(folder)
    assert [str(problem.path).rsplit("/", 1)[1] for problem in found.problems] == ["n0.tif", "n1.tif", "n2.tif"]
    assert "image 24x20, mask 23x20" in str(found.problems[0])
    assert "turn" in str(found.problems[1].hint)
    assert found.coding.values == (0, 255)  # the table can still be shown
    with pytest.raises(Problems):
        found.check()


def test_problems_of_names_and_of_files_come_together(folder: Path) -> None:
    save(folder / "images/lonely.tif", image(0))
    (folder / "images/n2.tif").write_text("hello")
    with pytest.raises(Problems) as error:
        survey(collect_pairs(folder)).check()
    assert "lonely.tif" in error.value.problems[0].message
    assert "n2.tif" in str(error.value.problems[1])


def test_every_corrupt_file_among_many_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/{}.png", "masks/{}.png", range(40))
    for number in (7, 23):
        (tmp_path / f"images/{number}.png").write_bytes((tmp_path / "images/0.png").read_bytes()[:60])
    (tmp_path / "masks/31.png").write_text("hello")
    with pytest.raises(Problems) as error:
        surveyed(tmp_path).check()
    assert sorted(Path(str(problem.path)).name for problem in error.value.problems) == ["23.png", "31.png", "7.png"]
    assert error.value.exit_code == 3


def test_mixed_channels_name_two_files(folder: Path) -> None:
    save(folder / "images/n3.tif", np.dstack([image(3)] * 3))
    with pytest.raises(InputError) as error:
        surveyed(folder).check()
    assert "n0.tif" in str(error.value)
    assert "n3.tif" in str(error.value)
    assert "3 in 1" in str(error.value)


def test_mixed_bit_depths_are_said(folder: Path) -> None:
    save(folder / "images/n3.tif", image(3).astype(np.uint16) * 257)
    found = surveyed(folder)
    found.check()
    assert any("8-bit uint8 (3), 16-bit uint16 (1)" in note for note in found.notes)


def test_identical_images_are_grouped_whatever_their_format(folder: Path) -> None:
    save(folder / "images/n3.tif", image(1))
    Image.fromarray(image(1)).save(folder / "images/n2.png")
    (folder / "images/n2.tif").unlink()
    found = surveyed(folder)
    assert found.duplicates == ((1, 2, 3),)
    assert any("identical images: n1, n2, n3" in note for note in found.notes)


def test_the_fingerprint_knows_names_and_contents(folder: Path) -> None:
    first = surveyed(folder).fingerprint
    assert surveyed(folder).fingerprint == first
    save(folder / "masks/n0.png", mask(1))
    changed = surveyed(folder).fingerprint
    assert changed != first
    save(folder / "masks/n0.png", mask(0))
    assert surveyed(folder).fingerprint == first
    for name in ("images/n{}.tif", "masks/n{}.png"):
        (folder / name.format(3)).rename(folder / name.format(9))
    assert surveyed(folder).fingerprint != first


def test_hashes_know_type_and_shape() -> None:
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3)
    assert pixel_hash(pixels) == pixel_hash(pixels.astype(">u2")) == pixel_hash(np.asfortranarray(pixels))
    assert len({pixel_hash(a) for a in (pixels, pixels.T, pixels.astype(np.int16), pixels + 1)}) == 4


def test_pixels_that_are_not_finite_and_constant_images(folder: Path) -> None:
    pixels = image(0).astype(np.float32)
    pixels[3, :2] = np.nan, np.inf
    save(folder / "images/n0.tif", pixels)
    with pytest.warns(UnetWarning, match=r"n0\.tif: 2 of 480 pixels \(0\.42 %\)"):
        surveyed(folder).check()
    save(folder / "images/n0.tif", np.full(SHAPE, 100, np.uint8))
    with pytest.warns(UnetWarning, match=r"n0\.tif: constant image \(value 100\)"):
        surveyed(folder).check()
    save(folder / "images/n0.tif", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(InputError, match="all pixels are NaN"):
        surveyed(folder).check()


def test_a_stack_may_have_pages_without_content(tmp_path: Path) -> None:
    pages = [image(number).astype(np.float32) for number in NUMBERS]
    pages[1][:] = 3
    pages[2][:] = np.nan
    files = isbi_files(tmp_path)
    save(files[0], np.stack(pages))
    with pytest.warns(UnetWarning, match=r"train-volume\.tif\[2\]: 480 of 480"):
        found = surveyed(files)
    found.check()
    assert len(found.pairs) == 4


def test_palette_masks_keep_their_colors(folder: Path) -> None:
    for number in NUMBERS:
        picture = Image.fromarray((mask(number) > 0).astype(np.uint8), mode=None).convert("L").convert("P")
        picture.putdata(((mask(number) > 0) * 2).ravel().tolist())
        picture.putpalette([0, 0, 0, 9, 9, 9, 255, 128, 0])
        picture.save(folder / f"masks/n{number}.png")
    coding = surveyed(folder).coding
    assert coding.values == (0, 2)
    assert coding.palette is not None
    assert coding.palette[2] == (255, 128, 0)


def save_indices(path: Path, indices: np.ndarray, colors: list[tuple[int, int, int]]) -> None:
    """Write a PNG whose palette is as short as `colors`."""
    header = struct.pack(">IIBBBBB", indices.shape[1], indices.shape[0], 8, 3, 0, 0, 0)
    rows = zlib.compress(np.pad(indices.astype(np.uint8), ((0, 0), (1, 0))).tobytes())
    chunks = [(b"IHDR", header), (b"PLTE", bytes(np.array(colors, np.uint8))), (b"IDAT", rows), (b"IEND", b"")]
    data = [
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))


def test_indices_may_lie_beyond_a_short_palette(folder: Path) -> None:
    drawn = [np.minimum(mask(number), 1) for number in NUMBERS]
    for number in NUMBERS:
        drawn[number][10:, 12:] = 255
        save_indices(folder / f"masks/n{number}.png", drawn[number], [(0, 0, 0), (128, 0, 0)])
    found = surveyed(folder, ignore=255)
    found.check()
    assert (found.coding.values, found.coding.ignore) == ((0, 1), 255)
    np.testing.assert_array_equal(load_pair(found.pairs[1], found.coding)[2], drawn[1].astype(np.uint8).view(np.int8))


@pytest.mark.parametrize("levels", [2, 4, 16, 256])
def test_palettes_that_are_gray_may_contradict_those_of_other_masks(levels: int, folder: Path) -> None:
    ramp = [(gray, gray, gray) for gray in np.linspace(0, 255, levels).astype(int)]
    for number in NUMBERS:
        inside = mask(number) > 0
        palette = ramp[::-1] if number == 2 else ramp
        save_indices(folder / f"masks/n{number}.png", (inside ^ (number == 2)) * (levels - 1), palette)
    found = surveyed(folder)
    found.check()
    assert (found.coding.kind, found.coding.values) == ("colors", (0, 0xFFFFFF))
    for number in NUMBERS:
        np.testing.assert_array_equal(load_pair(found.pairs[number], found.coding)[2], mask(number) > 0)


def test_masks_where_white_is_zero_may_be_among_masks_in_color(folder: Path) -> None:
    for number in NUMBERS[:2]:
        (folder / f"masks/n{number}.png").unlink()
        tifffile.imwrite(folder / f"masks/n{number}.tif", mask(number), photometric="miniswhite")
    for number in NUMBERS[2:]:
        save(folder / f"masks/n{number}.png", np.dstack([mask(number), mask(number), mask(number) * 0]))
    found = surveyed(folder)
    found.check()
    np.testing.assert_array_equal(load_pair(found.pairs[0], found.coding)[2] > 0, mask(0) > 0)


def test_rgb_masks_become_classes(folder: Path) -> None:
    for number in NUMBERS:
        save(folder / f"masks/n{number}.png", np.dstack([mask(number), mask(number) // 2, mask(number) * 0]))
    found = surveyed(folder)
    assert found.coding.kind == "colors"
    _, _, labels = load_pair(found.pairs[0], found.coding)
    np.testing.assert_array_equal(labels, mask(0) > 0)
    assert class_rows(found)[1][:2] == ("foreground", "#ff7f00")


def test_jpeg_masks_are_refused(folder: Path) -> None:
    for number in NUMBERS:
        (folder / f"masks/n{number}.png").unlink()
        Image.fromarray(mask(number)).save(folder / f"masks/n{number}.jpg", quality=60)
    with pytest.raises(Problems) as error:
        surveyed(folder).check()
    assert len(error.value.problems) == 4
    assert all("lossless" in problem.message for problem in error.value.problems)


def test_ignored_pixels_and_empty_masks(folder: Path) -> None:
    drawn = mask(0)
    drawn[10:] = 7
    save(folder / "masks/n0.png", drawn)
    save(folder / "masks/n1.png", drawn * 0)
    found = surveyed(folder, ignore=7)
    found.check()
    _, _, labels = load_pair(found.pairs[0], found.coding)
    np.testing.assert_array_equal(labels == IGNORE, drawn == 7)
    assert any("1 of 4 masks have no foreground: n1" in note for note in found.notes)
    assert sum(found.class_shares) == pytest.approx(1)


def test_problems_of_the_coding_are_problems_of_the_data(folder: Path) -> None:
    with pytest.raises(UsageError, match="3 classes"):
        surveyed(folder, classes=["a", "b", "c"]).check()
    for number in NUMBERS:
        save(folder / f"masks/n{number}.png", mask(number) * 0)
    found = surveyed(folder)
    with pytest.raises(InputError, match="no foreground in 4 masks"):
        _ = found.coding
    assert found.as_json()["coding"] is None
    assert summary_rows(found)


def test_a_file_that_may_not_be_read_is_found_before_the_start(folder: Path) -> None:
    (folder / "masks/n1.png").chmod(0)
    try:
        if os.access(folder / "masks/n1.png", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(InputError, match=r"n1\.png: permission denied"):
            surveyed(folder).check()
    finally:
        (folder / "masks/n1.png").chmod(0o644)


def test_a_mask_that_changed_meanwhile_is_refused(folder: Path) -> None:
    found = surveyed(folder)
    save(folder / "masks/n0.png", mask(0)[:-2])
    with pytest.raises(InputError, match="mask 24x18"):
        load_pair(found.pairs[0], found.coding)
    save(folder / "masks/n0.png", mask(0, 9))
    with pytest.raises(InputError, match=r"n0\.png: 2 pixels have values that are no label: 9"):
        load_pair(found.pairs[0], found.coding)


def test_channel_files_must_fit_each_other(tmp_path: Path) -> None:
    nnunet(tmp_path)
    save(tmp_path / "imagesTr/case_001_0001.png", image(1)[:-1])
    with pytest.raises(InputError, match=r"case_001_0001\.png: 24x19, but case_001_0000\.png has 24x20"):
        surveyed(tmp_path).check()


def test_pixel_sizes_are_known_where_all_agree(folder: Path) -> None:
    for number in NUMBERS:
        tifffile.imwrite(
            folder / f"images/n{number}.tif", image(number), imagej=True, resolution=(4, 4), metadata={"unit": "um"}
        )
    assert surveyed(folder).pixel_size == (0.25, 0.25, "µm")
    save(folder / "images/n0.tif", image(0))
    assert surveyed(folder).pixel_size is None


def test_rows_say_what_was_understood(tmp_path: Path) -> None:
    rows = dict(summary_rows(surveyed(LAYOUTS["L7 StarDist"](tmp_path / "a"))))
    assert rows["pairs"] == "4 (train 3, test 1)"
    assert rows["size"] == "24x20"
    assert rows["pixels"] == "8-bit uint8"
    assert rows["pieces per image"] == "2 to 5, median 3.5"
    assert "0 background, 255 foreground" in rows["masks"]
    rows = dict(summary_rows(surveyed(isbi_files(tmp_path / "b"))))
    assert rows["pairs"] == "4 pages of 1 files"


def test_what_is_odd_about_any_file_is_told_with_its_name(folder: Path) -> None:
    tifffile.imwrite(folder / "images/n2.tif", 255 - image(2), photometric="miniswhite")
    (note,) = [note for note in surveyed(folder).notes if "inverted" in note]
    assert note.startswith("n2.tif: ")


def test_what_holds_for_many_files_is_said_once(folder: Path) -> None:
    for number in NUMBERS:
        transparent = np.dstack([np.repeat(image(number)[..., None], 3, axis=2), image(number)])
        Image.fromarray(transparent).save(folder / f"images/n{number}.png")
        (folder / f"images/n{number}.tif").unlink()
    for workers in (1, 3):
        with pytest.warns(UnetWarning) as told:
            found = surveyed(folder, workers=workers)
        assert [str(each.message) for each in told] == [f"{folder}/images/n0.png and 3 more: alpha is dropped"]
        load_pair(found.pairs[2], found.coding)  # says nothing, or the test fails


def test_the_survey_is_plain_data(folder: Path) -> None:
    data = json.loads(json.dumps(surveyed(folder).as_json()))
    assert data["pairs"] == 4
    assert [(entry["name"], entry["value"]) for entry in data["classes"]] == [("background", 0), ("foreground", 255)]
    assert set(data["images"]) == {f"n{number}" for number in NUMBERS}
    assert data["problems"] == []
    assert (data["sizes"], data["pixels"]) == ({f"{SHAPE[1]}x{SHAPE[0]}": 4}, {"8-bit uint8": 4})
    assert data["objects"] == {f"n{number}": number + 2 for number in NUMBERS}


def test_development_data_is_surveyed(development_data: Path) -> None:
    isbi = surveyed(development_data / "isbi2012")
    isbi.check()
    assert (len(isbi.pairs), isbi.coding.values, isbi.channels) == (24, (0, 255), 1)
    cells = surveyed(development_data / "wbc")
    cells.check()
    assert (len(cells.pairs), cells.coding.task, cells.coding.values) == (200, "semantic", (0, 128, 255))
    nuclei = surveyed(development_data / "dsb2018")
    nuclei.check()
    assert (len(nuclei.pairs), nuclei.coding.task, nuclei.channels) == (89, "instances", 3)
