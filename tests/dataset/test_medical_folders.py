"""NIfTI volumes and DICOM series as training data: a stack each, whatever their masks are stored as."""

import json
import multiprocessing
import pickle
import warnings
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from datasets import save

from unetcli.cli import run
from unetcli.dataset.loading import load_pair
from unetcli.dataset.pairs import find_pairs, match_files
from unetcli.dataset.samples import SampleCache
from unetcli.dataset.survey import survey
from unetcli.errors import InputError, Problems, UnetError, UnetWarning, UsageError
from unetcli.images import open_image
from unetcli.images.volumes import OpenVolumes

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

from dicoms import dicom, series  # noqa: E402

SHAPE = (4, 30, 36)  # pages, height, width
SMALL = ["--features", "2", "--depth", "1", "--epochs", "1", "--threads", "1", "--workers", "0"]
DICOM_AFFINE = np.array([[-0.7, 0, 0, 90], [0, -0.8, 0, 120], [0, 0, 2.5, 7], [0, 0, 0, 1]])  # of `dicoms.series`


def scan(number):
    """A volume whose first pixel tells which one and which page it is."""
    pixels = np.random.default_rng(number).integers(0, 900, SHAPE).astype(np.int16)
    pixels[:, 0, 0] = 100 * number + np.arange(SHAPE[0])
    return pixels


def labels(number):
    """Masks with one more row of foreground on every page."""
    drawn = np.zeros(SHAPE, np.uint8)
    for page in range(SHAPE[0]):
        drawn[page, 5 : 6 + page + number, 10:20] = 1
    return drawn


def nifti(path, pixels, affine=DICOM_AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(pixels.transpose(2, 1, 0), affine), path)
    return path


def check(data, count=2):
    """Every page of every volume is paired with the mask of that page."""
    found = survey(find_pairs(data))
    assert found.problems == ()
    assert len(found.pairs) == count * SHAPE[0]
    for number in range(count):
        for page in range(SHAPE[0]):
            pixels, _, drawn = load_pair(found.pairs[number * SHAPE[0] + page], found.coding)
            assert pixels[0, 0, 0] == 100 * number + page
            assert (drawn > 0).sum() == 10 * (1 + page + number)
    return found


def as_nifti(place, drawn, number):
    nifti(place.with_suffix(".nii.gz"), drawn)


def as_series(place, drawn, number):
    series(place, drawn, uid=f"9.{number}")


def as_tiff(place, drawn, number):
    save(place.with_suffix(".tif"), drawn)


@pytest.mark.parametrize("write_mask", [as_nifti, as_series, as_tiff])
@pytest.mark.parametrize("names", ["case{}", "1.2.840.{}"])
def test_a_series_is_a_stack_with_a_mask(write_mask, names, tmp_path):
    for number in range(2):
        name = names.format(number)
        series(tmp_path / "images" / name, scan(number), uid=f"1.{number}")
        place = tmp_path / "masks" / name
        write_mask(place if write_mask is as_series else place.parent / (name + ".x"), labels(number), number)
    found = check(tmp_path)
    assert "images/ + masks/" in found.layout
    assert found.pairs[0].images[0].is_dir()


def test_foreign_files_among_the_slices(tmp_path):
    for number in range(2):
        folder = series(tmp_path / f"images/case{number}", scan(number), uid=f"1.{number}")
        for name in ("Thumbs.db", "zz-notes.txt", ".DS_Store"):
            (folder / name).write_bytes(b"x" * 900)
        nifti(tmp_path / f"masks/case{number}.nii.gz", labels(number))
    check(tmp_path)


def test_a_series_beside_its_mask(tmp_path):
    for number in range(2):
        series(tmp_path / f"case{number}", scan(number), uid=f"1.{number}")
        nifti(tmp_path / f"case{number}_mask.nii", labels(number))
    check(tmp_path)


def test_a_series_without_extensions(tmp_path):
    for number in range(2):
        folder = series(tmp_path / f"images/case{number}", scan(number), uid=f"1.{number}")
        for path in folder.iterdir():
            path.rename(path.with_suffix(""))
        nifti(tmp_path / f"masks/case{number}.nii.gz", labels(number))
    check(tmp_path)


def test_a_series_and_its_mask_are_named(tmp_path):
    series(tmp_path / "ct", scan(0))
    nifti(tmp_path / "organ.nii.gz", labels(0))
    series(tmp_path / "organ", labels(0), uid="9")
    check([tmp_path / "ct", tmp_path / "organ.nii.gz"], 1)
    check([tmp_path / "ct", tmp_path / "organ"], 1)
    with pytest.raises(UsageError):
        find_pairs([tmp_path / "organ.nii.gz", tmp_path])


def test_series_are_found_by_globs(tmp_path):
    for number in range(2):
        series(tmp_path / f"p{number}/ct", scan(number), uid=f"1.{number}")
        nifti(tmp_path / f"p{number}/organ.nii.gz", labels(number))
    globs = {"images": str(tmp_path / "*/ct"), "masks": str(tmp_path / "*/organ.nii.gz")}
    found = survey(find_pairs([], **globs))
    assert [pair.page for pair in found.pairs] == [0, 1, 2, 3] * 2


def test_slices_with_a_mask_each_and_single_images_are_no_series(tmp_path):
    for number in range(2):
        for z, page in enumerate(scan(number)):
            place = tmp_path / f"a/images/case{number}"
            place.mkdir(parents=True, exist_ok=True)
            dicom(place / f"{z}.dcm", page, SeriesInstanceUID=f"1.{number}", ImagePositionPatient=[0, 0, z])
            save(tmp_path / f"a/masks/case{number}/{z}.png", labels(number)[z])
    check(tmp_path / "a")
    for part in ("images", "masks"):
        (tmp_path / f"b/{part}/ward").mkdir(parents=True)
    for number in range(3):
        dicom(tmp_path / f"b/images/ward/{number}.dcm", scan(number)[0], SeriesInstanceUID=f"1.{number}")
        dicom(tmp_path / f"b/masks/ward/{number}.dcm", labels(number)[0], SeriesInstanceUID=f"2.{number}")
    assert [pair.images[0].name for pair in find_pairs(tmp_path / "b").pairs] == ["0.dcm", "1.dcm", "2.dcm"]


def test_a_mixed_folder_says_how_many_series_it_holds(tmp_path):
    series(tmp_path / "images/case0", scan(0), uid="1.0")
    dicom(tmp_path / "images/case0/5-odd.dcm", scan(1)[0], SeriesInstanceUID="1.1")
    nifti(tmp_path / "masks/case0.nii", labels(0))
    with pytest.raises(InputError, match="2 DICOM series"):
        survey(find_pairs(tmp_path)).check()


def test_pages_of_series_and_mask_must_agree(tmp_path):
    series(tmp_path / "images/case0", scan(0))
    nifti(tmp_path / "masks/case0.nii", labels(0)[:3])
    with pytest.raises(InputError, match="4 pages, its mask has 3"):
        survey(find_pairs(tmp_path)).check()


FLIP_ROWS = DICOM_AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, 29], [0, 0, 1, 0], [0, 0, 0, 1]])
FLIP_SLICES = DICOM_AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]])
TURNED = DICOM_AFFINE @ np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("affine", "words"), [(FLIP_ROWS, "its rows"), (FLIP_SLICES, "its slices"), (TURNED, "rows, ")]
)
def test_a_mask_mirrored_or_turned_in_space_is_refused(affine, words, tmp_path):
    series(tmp_path / "images/case0", scan(0))
    nifti(tmp_path / "masks/case0.nii", labels(0), affine)
    with pytest.raises(UnetError, match=r"case0\.nii") as error:
        survey(find_pairs(tmp_path)).check()
    assert words.replace("rows, ", "") in error.value.message
    assert "affine" in error.value.hint


def test_a_mask_elsewhere_in_space_is_a_warning(tmp_path):
    series(tmp_path / "images/case0", scan(0))
    moved = DICOM_AFFINE.copy()
    moved[0, 3] += 20
    nifti(tmp_path / "masks/case0.nii", labels(0), moved)
    with pytest.warns(UnetWarning, match=r"case0\.nii: lies elsewhere"):
        check(tmp_path, 1)


def test_nnunet_volumes_of_two_channels(tmp_path):
    for number in range(2):
        for channel in range(2):
            nifti(tmp_path / f"imagesTr/case_{number}_000{channel}.nii.gz", scan(number) + channel)
        nifti(tmp_path / f"labelsTr/case_{number}.nii.gz", labels(number))
    nifti(tmp_path / "imagesTs/case_9_0000.nii.gz", scan(9))
    nifti(tmp_path / "imagesTs/case_9_0001.nii.gz", scan(9))
    description = {"labels": {"background": 0, "organ": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    found = check(tmp_path)
    assert found.layout == "nnU-Net"
    assert found.channels == 2
    assert found.coding.classes == ("background", "organ")
    assert [len(item) for item in (found.pairing.left_out, found.pairing.pairs)] == [2, 2]


def test_volumes_train_and_their_masks_come_back_in_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        series(tmp_path / f"data/images/case{number}", scan(number), uid=f"1.{number}")
        nifti(tmp_path / f"data/masks/case{number}.nii.gz", labels(number))
    assert run(["train", "data", *SMALL, "-q"]) == 0
    assert run(["infer", "data/images/case0", "-o", "mask.nii.gz", "-q"]) == 0
    written = nibabel.load(tmp_path / "mask.nii.gz")
    assert written.shape == SHAPE[::-1]
    np.testing.assert_allclose(written.affine, DICOM_AFFINE, atol=1e-5)
    assert set(np.unique(np.asarray(written.dataobj))) <= {0, 1}
    assert run(["infer", "data/images", "-o", "masks", "-q"]) == 0  # every series of the folder
    assert {path.name: tifffile.imread(path).shape for path in (tmp_path / "masks").iterdir()} == {
        f"case{number}.tif": SHAPE for number in range(2)
    }
    assert run(["evaluate", "masks", "data", "-q"]) == 0
    assert run(["evaluate", "data", "-m", "unet.safetensors", "-q"]) == 0


def test_predictions_are_scored_against_a_series(tmp_path):
    series(tmp_path / "organ", labels(0))
    nifti(tmp_path / "mask.nii.gz", labels(0))
    assert match_files(tmp_path / "mask.nii.gz", tmp_path / "organ")[0].truth == tmp_path / "organ"


def test_what_is_wrong_with_a_volume_is_said_once(tmp_path):
    tall(tmp_path)
    nifti(tmp_path / "masks/case1.nii.gz", np.tile(labels(1), (6, 1, 1)), FLIP_ROWS)
    with pytest.raises(UnetError) as caught:
        survey(find_pairs(tmp_path)).check()
    assert not isinstance(caught.value, Problems)
    assert "its rows run in other directions" in caught.value.message


@pytest.fixture
def opened(monkeypatch):
    """What was opened in full, in order: a .nii.gz that was unpacked, a slice whose header was read."""
    from unetcli.images import dicom, nifti

    paths = []

    def counted(read):
        def reading(file):
            paths.append(file.path)
            return read(file)

        return reading

    monkeypatch.setattr(nifti, "_unpacked", counted(nifti._unpacked))
    monkeypatch.setattr(dicom, "_read_header", counted(dicom._read_header))
    return paths


def tall(folder):
    """Two volumes of 24 pages: a series with a compressed mask, and a compressed image with a compressed mask."""
    for number in range(2):
        pixels = np.tile(scan(number), (6, 1, 1))
        nifti(folder / f"masks/case{number}.nii.gz", np.tile(labels(number), (6, 1, 1)))
        series(folder / "images/case0", pixels) if number == 0 else nifti(folder / "images/case1.nii.gz", pixels)
    return folder


@pytest.mark.parametrize("workers", [1, 3])
def test_a_volume_is_not_opened_for_every_page_of_it(workers, tmp_path, opened):
    pairs = find_pairs(tall(tmp_path))
    opened.clear()
    found = survey(pairs, workers=workers)
    found.check()
    assert max(map(opened.count, opened)) <= (2 if workers == 1 else 1)  # one: for the number of pages, then for these
    for folder, coding in ((SampleCache(found.pairs, found.coding), None), (None, found.coding)):
        opened.clear()
        volumes = OpenVolumes(2)
        for number, pair in enumerate(found.pairs):
            pixels = folder[number].image if folder else load_pair(pair, coding, volumes=volumes)[0]
            assert pixels[0, 0, 0] == 100 * (number // 24) + number % 4
        assert max(map(opened.count, opened)) <= 2  # for the range of intensities, then for all pages
        assert folder is None or not folder.volumes._volumes
        volumes.close()


def test_a_volume_that_another_one_replaced_is_opened_anew(tmp_path, opened):
    pair = replace(find_pairs(tall(tmp_path)).pairs[1], page=0)
    coding = survey(find_pairs(tmp_path)).coding
    with closing(OpenVolumes(2)) as volumes:
        before = load_pair(pair, coding, volumes=volumes)[0]
        nifti(tmp_path / "new.nii.gz", np.tile(scan(1) + 7, (6, 1, 1))).replace(pair.images[0])
        assert (load_pair(pair, coding, volumes=volumes)[0] == before + 7).all()
    pair = replace(find_pairs(tmp_path).pairs[0], page=0)
    with closing(OpenVolumes(2)) as volumes:
        before = load_pair(pair, coding, volumes=volumes)[0]
        first = next(path for path in pair.images[0].iterdir() if path.name.endswith("-0.dcm"))
        dicom(first, scan(0)[0] + 5, ImagePositionPatient=[-90, -120, 7], InstanceNumber=1)
        assert (load_pair(pair, coding, volumes=volumes)[0] == before + 5).all()
        pair.masks[0].unlink()
        with pytest.raises(InputError, match="does not exist"):
            load_pair(pair, coding, volumes=volumes)


def test_few_volumes_stay_open_and_those_in_use_do(tmp_path):
    paths = [nifti(tmp_path / f"{number}.nii.gz", scan(number)) for number in range(4)]
    volumes = OpenVolumes(2)
    with volumes.open(open_image, paths[0]) as first:
        for path in paths[1:]:
            with volumes.open(open_image, path) as image, volumes.open(open_image, path) as again:
                assert again is image
                assert len(volumes._volumes) == 2
        assert first.page(0)[:].shape == (*SHAPE[1:], 1)
    kept = [volume.image for volume in volumes._volumes.values()]
    assert kept == [first, image]
    sent = pickle.loads(pickle.dumps(volumes))
    assert (sent._limit, len(sent._volumes)) == (2, 0)
    process = multiprocessing.get_context("fork").Process(target=_read_all, args=(volumes, paths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        process.start()
    process.join()
    assert process.exitcode == 0
    volumes.close()
    assert not volumes._volumes
    assert all(image._file.file.closed for image in kept)


def _read_all(volumes, paths):
    for number, path in enumerate(paths):
        with volumes.open(open_image, path) as image:
            assert [int(page[0:1, 0:1].max()) for page in image.pages()] == list(range(100 * number, 100 * number + 4))


def test_scoring_does_not_open_a_volume_for_every_page(tmp_path, opened):
    """It is opened for its header, for its values, and for all pages that are scored."""
    pixels = np.tile(labels(0), (6, 1, 1))
    paths = [nifti(tmp_path / name, pixels) for name in ("t.nii.gz", "p.nii.gz")]
    assert run(["evaluate", str(paths[1]), str(paths[0]), "-q", "--fail-under", "dice=1"]) == 0
    assert max(map(opened.count, opened)) <= 3
