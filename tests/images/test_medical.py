"""NIfTI and DICOM: the slices, values and geometry that nibabel and pydicom see."""

import gzip
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

from unetcli.errors import InputError, UnetWarning, UsageError
from unetcli.images import ImageWriter, open_image
from unetcli.images.dicom import holds_series
from unetcli.images.files import InputFile

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

from dicoms import dicom  # noqa: E402

AFFINE = np.array([[-0.7, 0.1, 0, 90], [0.1, 0.8, 0, -120], [0, 0, 2.5, 7], [0, 0, 0, 1]])


def volume(path, shape=(12, 9, 5), dtype=np.int16, slope=None, kind=None):
    pixels = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    image = (kind or nibabel.Nifti1Image)(pixels, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return pixels


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 5), (12, 9, 5, 3), (12, 9, 1, 3), (12, 9, 5, 2, 3)])
def test_nifti_slices(tmp_path, name, shape):
    pixels = volume(tmp_path / name, shape)
    full = pixels.reshape(*shape, *[1] * (5 - len(shape)))
    with open_image(tmp_path / name) as image:
        info = image.info
        assert (info.height, info.width, info.channels) == (9, 12, full.shape[4])
        assert info.pages == full.shape[2] * full.shape[3]
        for index, page in enumerate(image.pages()):
            t, z = divmod(index, full.shape[2])
            assert (page[:] == full[:, :, z, t].transpose(1, 0, 2)).all()
            assert (page[2:5, 3:9] == full[3:9, 2:5, z, t].transpose(1, 0, 2)).all()
        np.testing.assert_allclose(info.orientation, AFFINE, atol=1e-6)
        assert info.pixel_size.unit == "mm"
        assert info.pixel_size.x == pytest.approx(np.linalg.norm(AFFINE[:3, 0]), rel=1e-6)


def test_nifti_2_and_scaled_values(tmp_path):
    pixels = volume(tmp_path / "a.nii", kind=nibabel.Nifti2Image)
    with open_image(tmp_path / "a.nii") as image:
        assert (image.page(3)[:, :, 0] == pixels[:, :, 3].T).all()
    nibabel.save(nibabel.Nifti1Image(pixels, AFFINE), tmp_path / "b.nii")
    data = bytearray((tmp_path / "b.nii").read_bytes())
    data[112:120] = np.array([0.5, -10], np.float32).tobytes()
    (tmp_path / "b.nii").write_bytes(data)
    with open_image(tmp_path / "b.nii") as image:
        np.testing.assert_allclose(image.page(3)[:, :, 0], nibabel.load(tmp_path / "b.nii").get_fdata()[:, :, 3].T)
        assert "values scaled as the header says" in image.info.notes


@pytest.mark.parametrize("output", ["m.nii", "m.nii.gz"])
@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 5), (12, 9, 5, 3)])
def test_masks_come_back_with_their_orientation(tmp_path, output, shape):
    pixels = volume(tmp_path / "a.nii", shape)
    with open_image(tmp_path / "a.nii") as image:
        with ImageWriter(tmp_path / output, like=image.info, dtype=np.uint8) as writer:
            for page in image.pages():
                writer.write_rows((page[:] > 50).astype(np.uint8))
        other = image.info
    written = nibabel.load(tmp_path / output)
    assert (np.squeeze(np.asarray(written.dataobj)) == (pixels > 50)).all()
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.get_data_dtype() == np.uint8
    with open_image(tmp_path / output) as image:
        one, two = image.info.pixel_size, other.pixel_size
        assert (one.x, one.y, one.unit) == (two.x, two.y, two.unit)
        assert image.info.pages == other.pages


def test_nifti_that_is_damaged(tmp_path):
    volume(tmp_path / "a.nii")
    volume(tmp_path / "a.nii.gz")
    for name, cut in (("a.nii", 1), ("a.nii", 700), ("a.nii.gz", 1), ("a.nii.gz", 200)):
        data = (tmp_path / name).read_bytes()
        (tmp_path / ("cut_" + name)).write_bytes(data[:-cut])
        with pytest.raises(InputError, match="truncated"):
            open_image(tmp_path / ("cut_" + name))
    (tmp_path / "no.nii.gz").write_bytes(gzip.compress(b"not a volume" * 100))
    with pytest.raises(InputError, match="damaged NIfTI header"):
        open_image(tmp_path / "no.nii.gz")


@pytest.mark.parametrize(("unit", "seconds"), [("sec", 1), ("msec", 1e-3), ("usec", 1e-6), ("hz", None)])
def test_time_steps_of_nifti_come_back(unit, seconds, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 100, (12, 9, 5, 3)).astype(np.int16)
    written = nibabel.Nifti1Image(pixels, AFFINE)
    written.header["pixdim"][4] = 2.5
    written.header.set_xyzt_units("mm", unit)
    nibabel.save(written, tmp_path / "a.nii")
    with open_image(tmp_path / "a.nii") as image:
        expected = None if seconds is None else pytest.approx(2.5 * seconds)
        assert image.info.frame_interval == expected
        with ImageWriter(tmp_path / "m.nii", like=image.info, dtype=np.uint8) as writer:
            writer.write_rows(np.zeros((9 * 15, 12), np.uint8))
    header = nibabel.load(tmp_path / "m.nii").header
    assert header.get_zooms()[3] == (1 if seconds is None else expected)
    assert header.get_xyzt_units() == ("mm", "sec")
    volume(tmp_path / "b.nii")
    for axes in (None, "TYX"):
        with open_image(tmp_path / "b.nii", axes) as image:
            assert image.info.frame_interval is None


def patched(path, *fields):
    """Write a volume whose header holds other bytes: pairs of their place and an array."""
    volume(path)
    data = bytearray(path.read_bytes())
    for place, values in fields:
        data[place : place + values.nbytes] = values.tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("value", [0, np.nan])
def test_nifti_without_a_usable_affine(value, tmp_path):
    codes, rows = np.array([0, 1], np.int16), np.full(12, value, np.float32)
    path = patched(tmp_path / "a.nii", (252, codes), (280, rows))
    with pytest.warns(UnetWarning, match=r"a\.nii: has an affine that"):
        image = open_image(path)
    expected = nibabel.load(tmp_path / "a.nii").header.get_base_affine()
    np.testing.assert_allclose(image.info.orientation, expected)
    with image, ImageWriter(tmp_path / "m.nii", like=image.info, dtype=np.uint8) as writer:
        writer.write_rows(np.zeros((45, 12), np.uint8))
    np.testing.assert_allclose(nibabel.load(tmp_path / "m.nii").affine, expected, atol=1e-5)


def test_nifti_of_a_negative_size(tmp_path):
    for shape in ((-12, -9, 5), (-12, 9, 5)):
        path = patched(tmp_path / "a.nii", (42, np.array(shape, np.int16)))
        with pytest.raises(InputError, match="has the shape"):
            open_image(path)
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(InputError, match="has the shape"):
            open_image(tmp_path / "a.nii.gz")


def test_nifti_in_color_loses_alpha(tmp_path):
    for letters in ("RGB", "RGBA"):
        pixels = np.zeros((12, 9, 5), [(letter, np.uint8) for letter in letters])
        for number, letter in enumerate(letters):
            pixels[letter] = np.random.default_rng(number).integers(0, 255, pixels.shape)
        nibabel.save(nibabel.Nifti1Image(pixels, AFFINE), tmp_path / f"{letters}.nii.gz")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with open_image(tmp_path / f"{letters}.nii.gz") as image:
                assert (image.info.channels, image.info.joint) == (3, True)
                assert ("alpha dropped" in image.info.notes) == (letters == "RGBA")
                expected = np.stack([pixels[letter][:, :, 2].T for letter in "RGB"], axis=2)
                np.testing.assert_array_equal(image.page(2)[:], expected)
                np.testing.assert_array_equal(image.page(2)[1:8, 5:6], expected[1:8, 5:6])
        assert [str(each.message.message) for each in caught] == ["alpha is dropped"] * (letters == "RGBA")


def test_what_nifti_cannot_hold(tmp_path):
    volume(tmp_path / "a.nii")
    with open_image(tmp_path / "a.nii") as image, pytest.raises(UsageError, match="NIfTI cannot hold 2 channels"):
        ImageWriter(tmp_path / "m.nii", like=image.info, dtype=np.float32, channels=2, kind="probabilities")


def test_dicom_file(tmp_path):
    pixels = np.random.default_rng(0).integers(-500, 500, (9, 12)).astype(np.int16)
    dicom(tmp_path / "a.dcm", pixels)
    with open_image(tmp_path / "a.dcm") as image:
        assert (image.info.format, image.info.dtype, image.info.axes) == ("dicom", np.int16, "YX")
        assert (image.page(0)[:, :, 0] == pixels).all()
        assert (image.info.pixel_size.y, image.info.pixel_size.x, image.info.pixel_size.unit) == (0.8, 0.7, "mm")


def test_a_frame_is_read_without_the_others(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 64, 64)).astype(np.uint16)
    dicom(tmp_path / "c.dcm", pixels, NumberOfFrames=40)
    counts = []

    def counted(file, offset, count, read=InputFile.read):
        counts.append(count)
        return read(file, offset, count)

    monkeypatch.setattr(InputFile, "read", counted)
    with open_image(tmp_path / "c.dcm") as image:
        assert np.array_equal(image.page(39)[0:64, 0:64][:, :, 0], pixels[39])
    assert sum(counts) < pixels.nbytes / 4


def test_dicom_rescaled_inverted_frames_and_colors(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1000, (9, 12)).astype(np.uint16)
    dicom(tmp_path / "a.dcm", pixels, RescaleSlope=2, RescaleIntercept=-1024)
    with open_image(tmp_path / "a.dcm") as image:
        np.testing.assert_array_equal(image.page(0)[:, :, 0], pixels * 2.0 - 1024)
    dicom(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    with open_image(tmp_path / "b.dcm") as image:
        assert (image.page(0)[:, :, 0] == 65535 - pixels).all()
    dicom(tmp_path / "c.dcm", np.stack([pixels, pixels + 1, pixels + 2]), NumberOfFrames=3)
    with open_image(tmp_path / "c.dcm") as image:
        assert (image.info.pages, image.info.axes) == (3, "ZYX")
        assert [(page[:, :, 0] - pixels).max() for page in image.pages()] == [0, 1, 2]
    colors = np.random.default_rng(0).integers(0, 255, (9, 12, 3)).astype(np.uint8)
    dicom(tmp_path / "d.dcm", colors, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    with open_image(tmp_path / "d.dcm") as image:
        assert image.info.joint
        assert (image.page(0)[:] == colors).all()


def test_dicom_series_in_order_of_space(tmp_path):
    order = [3, 0, 4, 1, 2]
    for name, z in enumerate(order):
        position = [-90, -120, 7 + 2.5 * z]
        dicom(
            tmp_path / f"{name}", np.full((9, 12), z, np.uint16), ImagePositionPatient=position, InstanceNumber=99 - z
        )
    (tmp_path / "readme.txt").write_text("x" * 500)
    with open_image(tmp_path) as image:
        assert (image.info.pages, image.info.axes) == (5, "ZYX")
        assert [int(page[0:1, 0:1].max()) for page in image.pages()] == [0, 1, 2, 3, 4]
        assert image.info.pixel_size.z == 2.5
        with ImageWriter(tmp_path / "m.nii.gz", like=image.info, dtype=np.uint8) as writer:
            writer.write_rows(np.zeros((45, 12), np.uint8))
    expected = [[-0.7, 0, 0, 90], [0, -0.8, 0, 120], [0, 0, 2.5, 7], [0, 0, 0, 1]]
    np.testing.assert_allclose(nibabel.load(tmp_path / "m.nii.gz").affine, expected, atol=1e-6)


def test_slices_of_a_tilted_gantry_lie_beside_each_other(tmp_path):
    for z in range(4):
        dicom(tmp_path / f"{z}", np.zeros((9, 12), np.uint16), ImagePositionPatient=[-90, -120 + 0.6 * z, 7 + 2.5 * z])
    with open_image(tmp_path) as image:
        np.testing.assert_allclose([row[2] for row in image.info.orientation], [0, -0.6, 2.5, 0], atol=1e-9)
        assert image.info.pixel_size.z == 2.5


@pytest.mark.parametrize("spacing", [[0, 0], [0.7, -1]])
def test_lengths_that_cannot_be_are_none(tmp_path, spacing):
    dicom(tmp_path / "a.dcm", np.zeros((9, 12), np.uint16), PixelSpacing=spacing)
    with open_image(tmp_path / "a.dcm") as image:
        assert image.info.pixel_size is None


def group(**tags):
    """A functional group sequence of one item, as in enhanced files."""
    item = pydicom.Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return [item]


def enhanced(path, pixels, places, slopes=None, times=None):
    """An enhanced file, whose geometry and rescaling stand in functional groups only."""
    shared = group(
        PixelMeasuresSequence=group(PixelSpacing=[0.6, 0.5], SliceThickness=9),
        PlaneOrientationSequence=group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelValueTransformationSequence=group(RescaleSlope=2, RescaleIntercept=-1000),
    )
    each = []
    for number, z in enumerate(places):
        each += group(PlanePositionSequence=group(ImagePositionPatient=[10, 20, z]))
        if slopes:
            each[-1].PixelValueTransformationSequence = group(RescaleSlope=slopes[number], RescaleIntercept=1)
        if times:
            each[-1].FrameContentSequence = group(TemporalPositionIndex=times[number])
    dicom(
        path,
        pixels,
        NumberOfFrames=len(places),
        SharedFunctionalGroupsSequence=shared,
        PerFrameFunctionalGroupsSequence=each,
    )
    data = pydicom.dcmread(path)
    del data.PixelSpacing, data.ImageOrientationPatient, data.ImagePositionPatient
    data.save_as(path)


def test_enhanced_dicom_says_its_geometry_and_rescaling_in_groups(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1000, (3, 9, 12)).astype(np.uint16)
    enhanced(tmp_path / "a.dcm", pixels, [6, 0, 3])
    with open_image(tmp_path / "a.dcm") as image:
        size = image.info.pixel_size
        assert (size.y, size.x, size.z, size.unit) == (0.6, 0.5, 3, "mm")
        assert [row[3] for row in image.info.orientation] == [-10, -20, 0, 1]
        for page, stored in enumerate((1, 2, 0)):
            np.testing.assert_array_equal(image.page(page)[:, :, 0], pixels[stored] * 2.0 - 1000)
    enhanced(tmp_path / "b.dcm", pixels, [0, 3, 6], slopes=[1, 2, 5])
    with open_image(tmp_path / "b.dcm") as image:
        for page, slope in enumerate((1, 2, 5)):
            np.testing.assert_array_equal(image.page(page)[:, :, 0], pixels[page] * float(slope) + 1)


def test_dicom_with_time_points(tmp_path):
    pixels = np.arange(6, dtype=np.uint16)[:, None, None] * np.ones((9, 12), np.uint16)
    for name, numbers in (("by-time", [0, 1, 2, 3, 4, 5]), ("by-place", [0, 2, 4, 1, 3, 5])):
        (tmp_path / name).mkdir()
        for page, number in enumerate(numbers):
            position = [-90, -120, 2.5 * (page % 3)]
            dicom(tmp_path / name / f"{number}", pixels[page], ImagePositionPatient=position, InstanceNumber=number)
    enhanced(tmp_path / "a.dcm", pixels, [0, 0, 2.5, 2.5, 5, 5], times=[2, 1] * 3)
    for name, first in (("by-time", range(6)), ("by-place", range(6)), ("a.dcm", (1, 3, 5, 0, 2, 4))):
        with open_image(tmp_path / name) as image:
            assert (image.info.axes, image.info.page_shape) == ("TZYX", (2, 3))
            assert image.info.pixel_size.z == 2.5
            shown = [page[0, 0, 0] for page in image.pages()]
            assert shown == (list(first) if name != "a.dcm" else [value * 2.0 - 1000 for value in first])
        with open_image(tmp_path / name, "TZYX") as image:
            assert image.info.pages == 6
    (tmp_path / "by-time/3").unlink()
    with pytest.raises(InputError, match="1 at 1 of its places, 2 at 2") as caught:
        open_image(tmp_path / "by-time")
    assert "time point" in caught.value.hint


@pytest.mark.parametrize("name", ["Thumbs.db", "DICOMDIR", "readme.txt", "~$x.doc", "README"])
def test_a_foreign_file_among_the_slices(name, tmp_path):
    for z in range(3):
        dicom(tmp_path / f"a{z}.dcm", np.full((9, 12), z, np.uint16), ImagePositionPatient=[0, 0, z])
    (tmp_path / name).write_bytes((b"\0" * 128 + b"DICM").ljust(900, b"\0") if name == "DICOMDIR" else b"x" * 900)
    assert holds_series(tmp_path)
    with open_image(tmp_path) as image:
        assert image.info.pages == 3
    (tmp_path / "z.png").write_bytes(b"x" * 900)  # an image, or a mask, with a name of its own
    assert not holds_series(tmp_path)


def test_dicom_in_color_of_16_bits(tmp_path):
    colors = np.random.default_rng(0).integers(0, 60000, (9, 12, 3)).astype(np.uint16)
    dicom(tmp_path / "a.dcm", colors, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    with open_image(tmp_path / "a.dcm") as image:
        assert image.info.dtype == np.uint16
        assert (image.page(0)[:] == colors).all()


def test_slices_with_and_without_sign_are_not_alike(tmp_path):
    dicom(tmp_path / "a", np.full((9, 12), 40000, np.uint16))
    dicom(tmp_path / "b", np.full((9, 12), -7, np.int16), ImagePositionPatient=[0, 0, 50])
    with pytest.raises(InputError, match="slices differ: 12x9 of 16 bits, 12x9 of 16 bits with sign"):
        open_image(tmp_path)


def test_the_damaged_slice_of_a_series_is_named(tmp_path):
    for z in range(3):
        dicom(tmp_path / f"{z}.dcm", np.full((9, 12), z, np.uint16), ImagePositionPatient=[0, 0, z])
    (tmp_path / "1.dcm").write_bytes((tmp_path / "1.dcm").read_bytes()[:-50])
    with open_image(tmp_path) as image:
        with pytest.raises(InputError, match="cannot be decoded") as caught:
            image.page(1)[:]
        assert caught.value.path == tmp_path / "1.dcm"
        assert image.page(2)[0, 0, 0] == 2


def test_dicom_that_cannot_be_used(tmp_path):
    pixels = np.zeros((9, 12), np.uint16)
    dicom(tmp_path / "a.dcm", pixels)
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(data[:-50])
    with open_image(tmp_path / "b.dcm") as image, pytest.raises(InputError, match="cannot be decoded"):
        image.page(0)[:]
    (tmp_path / "b.dcm").unlink()
    dicom(tmp_path / "c.dcm", pixels, SeriesInstanceUID="1.2.4")
    with pytest.raises(InputError, match="holds 2 DICOM series"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"RescaleSlope": [1, 2]}, "damaged DICOM header"),  # found by tests/faults/fuzz.py (1182)
        ({"PixelSpacing": [0.8]}, "damaged DICOM header"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "damaged DICOM header"),
        ({"BitsAllocated": 4000}, "damaged DICOM header"),
        ({"NumberOfFrames": -2}, "damaged DICOM header|no pixels"),
        ({"NumberOfFrames": 2_000_000_000}, "damaged DICOM header"),
        ({"Rows": 0}, "no pixels"),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 0, "Rows": 3}, r"slices of the shape \(3, 12, 3\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_dicom_headers_that_are_damaged(tmp_path, tags, words):
    dicom(tmp_path / "a.dcm", np.zeros((9, 12), np.uint16))
    data = pydicom.dcmread(tmp_path / "a.dcm")
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(tmp_path / "b.dcm")
    with pytest.raises(InputError, match=words) as caught, open_image(tmp_path / "b.dcm") as image:
        image.page(0)[:]
    assert caught.value.hint


@pytest.mark.parametrize(("package", "name"), [("nibabel", "a.nii"), ("pydicom", "a.dcm")])
def test_hint_where_the_extra_is_absent(tmp_path, package, name):
    volume(tmp_path / "a.nii")
    dicom(tmp_path / "a.dcm", np.zeros((9, 12), np.uint16))
    code = f"""
        import sys
        sys.modules[{package!r}] = None
        from unetcli.images import open_image
        from unetcli.errors import InputError
        try:
            open_image({str(tmp_path / name)!r})
        except InputError as error:
            print(error.message, "|", error.hint)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert f"needs {package} | pip install 'unetcli[medical]'" in run.stdout
