"""Objects that are found band by band are those of the page as a whole."""

import csv
import io
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import objects_of
from PIL import Image
from scipy import ndimage
from skimage.measure import regionprops
from skimage.segmentation import find_boundaries

from unetcli.dataset.labels import LabelCoding
from unetcli.errors import OutputError
from unetcli.images import ImageInfo, ImageWriter, PixelSize
from unetcli.inference import instances
from unetcli.inference.instances import FileRows, ObjectFinder
from unetcli.inference.objecttable import ObjectsOutput
from unetcli.inference.outputs import OUTLINE, ObjectClassesOutput, OverlayOutput, PageResult
from unetcli.inference.records import Destinations


def random_classes(seed, height, width, share, grain, classes):
    """Noise at grain 1, blobs and holes of some pixels at larger grains."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // grain + 2, width // grain + 2))
    smooth = ndimage.zoom(coarse, grain, order=min(grain - 1, 2))[:height, :width]
    kinds = np.repeat(np.repeat(rng.integers(1, classes + 1, coarse.shape), grain, 0), grain, 1)[:height, :width]
    return np.where(smooth < share, kinds, 0).astype(np.uint8)


def found_in_bands(classes, heights, monkeypatch, at_once=1 << 20, **options):
    """Feed bands of these heights, in turn, while no more than `at_once` pixels are looked at together."""
    monkeypatch.setattr(instances, "BAND", at_once)
    file = io.BytesIO()
    finder = ObjectFinder(FileRows(file, classes.shape, 0, None), **options)
    top, turn = 0, 0
    while top < len(classes):
        finder.add(classes[top : top + heights[turn % len(heights)]])
        top += heights[turn % len(heights)]
        turn += 1
    return finder.finish()


def ids_of(found):
    bands = list(found.bands())
    assert [top for top, _ in bands] == list(np.cumsum([0] + [len(ids) for _, ids in bands])[:-1])
    return np.concatenate([ids for _, ids in bands])


pages = st.builds(
    random_classes,
    seed=st.integers(0, 10**6),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    share=st.floats(0.1, 0.9),
    grain=st.integers(1, 3),
    classes=st.integers(1, 3),
)
RINGS = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1], [1, 0, 2, 2, 2, 0, 1], [1, 0, 2, 0, 2, 0, 1],
                  [1, 0, 2, 2, 2, 0, 1], [1, 0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1]], np.uint8)  # fmt: skip


@given(
    classes=pages,
    heights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    at_once=st.integers(1, 300),
    min_size=st.integers(0, 6),
    fill_holes=st.booleans(),
    ridges=st.booleans(),
)
@example(RINGS, [1], 1, 0, True, False)
@example(3 - RINGS - 2 * (RINGS == 0) - (RINGS == 0), [2], 7, 0, True, False)
@example(np.ones((1, 9), np.uint8), [1], 1, 10, True, True)
def test_bands_do_not_matter(classes, heights, at_once, min_size, fill_holes, ridges):
    with pytest.MonkeyPatch.context() as patch:
        options = {"min_size": min_size, "fill_holes": fill_holes, "give_back_ridges": ridges}
        found = found_in_bands(classes, heights, patch, at_once, **options)
        expected = objects_of(classes, **options)
        np.testing.assert_array_equal(ids_of(found), expected)
        assert len(found) == expected.max()
        for region, kind in zip(regionprops(expected), found.classes, strict=True):
            one = found.measures.at(region.label - 1)
            assert (one.top, one.left, one.bottom, one.right) == region.bbox
            assert one.area == region.area
            assert one.center == pytest.approx(region.centroid)
            assert kind in classes[expected == region.label]


def test_a_spiral_across_bands_is_one_object(monkeypatch):
    """Arms that are joined only at the far end of the page."""
    comb = np.zeros((200, 41), np.uint8)
    comb[:, ::2] = 1
    comb[-1] = 1
    assert len(found_in_bands(comb, [3], monkeypatch, 100)) == 1
    assert len(found_in_bands(comb[:-1], [3], monkeypatch, 100)) == 21


def test_rings_in_rings(monkeypatch):
    """Background belongs to the innermost object around it, also between two rings."""
    found = ids_of(found_in_bands(RINGS, [2], monkeypatch, 9, fill_holes=True, give_back_ridges=False))
    expected = np.ones((7, 7), int)
    expected[2:5, 2:5] = 2
    np.testing.assert_array_equal(found, expected)


def test_a_full_disk_is_told(tmp_path):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    finder = ObjectFinder(FileRows(Full(), (4, 4), 0, tmp_path / "m.tif"))
    with pytest.raises(OutputError, match="disk full") as caught:
        finder.add(np.ones((4, 4), np.uint8))
    assert caught.value.path == tmp_path / "m.tif"


def info_of(height, width, pages=1):
    return ImageInfo(path=None, format="tiff", axes="YX", file_shape=(height, width), pages=pages, height=height,
                     width=width, channels=1, dtype=np.dtype(np.uint8), bits=8, pixel_size=PixelSize(0.5, 0.25, "µm"),
                     page_axes="Z" if pages > 1 else "", page_shape=(pages,) if pages > 1 else ())  # fmt: skip


@pytest.mark.parametrize("pages", [1, 2])
def test_overlays_are_drawn_in_bands(tmp_path, monkeypatch, pages):
    classes = random_classes(1, 60, 43, 0.5, 3, 2)
    found = found_in_bands(classes, [7], monkeypatch, 200, give_back_ridges=False)
    pixels = np.random.default_rng(0).random((60, 43, 1), np.float32)
    paths = Destinations(tmp_path / "m.tif", overlay=tmp_path / "o.png").overlays(pages)
    writer = partial(ImageWriter, like=info_of(60, 43), dtype=np.uint8, channels=3, kind="overlay")
    output = OverlayOutput([writer(path) for path in paths])
    for page in range(pages):
        output.write_page(PageResult(page, found, pixels, lambda part: part))
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == (["o.png"] if pages == 1 else ["o_0000.png", "o_0001.png"])
    picture = np.asarray(Image.open(tmp_path / written[0]))
    outlines = find_boundaries(ids_of(found), mode="inner", connectivity=1)
    np.testing.assert_array_equal((picture == OUTLINE).all(axis=2), outlines)
    np.testing.assert_array_equal(picture[~outlines], (pixels[~outlines] ** 0.7 * 255).astype(np.uint8).repeat(3, 1))


def test_masks_of_objects_are_written_in_bands(monkeypatch):
    """Every pixel has the value of its object's class, also in holes that were filled."""
    classes = random_classes(1, 60, 43, 0.5, 3, 3)
    options = {"min_size": 9, "fill_holes": True, "give_back_ridges": False}
    found = found_in_bands(classes, [7], monkeypatch, 200, **options)
    assert len(set(found.classes)) == 3
    written = []
    coding = LabelCoding("semantic", (0, 50, 7, 255), ("background", "a", "b", "c"))
    writer = SimpleNamespace(write_rows=written.append)
    ObjectClassesOutput(writer, coding.encode).write_page(PageResult(0, found, None, None))
    assert len(written) > 10
    ids = objects_of(classes, **options)
    values = [0, *(coding.values[kind] for kind in found.classes)]
    np.testing.assert_array_equal(np.concatenate(written), np.array(values)[ids])


def test_the_table_has_a_row_per_object(monkeypatch):
    classes = random_classes(2, 50, 40, 0.45, 3, 2)
    found = found_in_bands(classes, [7], monkeypatch, 200)
    file = io.StringIO()
    output = ObjectsOutput(file, PixelSize(0.5, 0.25, "µm"), ("background", "a", "b"))
    output.write_page(PageResult(3, found, None, None))
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert len(rows) == len(found) > 5
    for region, row in zip(regionprops(ids_of(found)), rows, strict=True):
        assert (row["page"], row["id"], row["area"]) == ("3", str(region.label), str(int(region.area)))
        assert row["class"] in "ab"
        assert float(row["area_µm2"]) == pytest.approx(region.area * 0.125)
        y, x = region.centroid
        assert (float(row["centroid_y"]), float(row["centroid_x"])) == pytest.approx((y, x), abs=1e-3)
        assert float(row["centroid_x_µm"]) == pytest.approx(x * 0.25, abs=1e-5)
        assert tuple(int(row[name]) for name in ("top", "left", "bottom", "right")) == region.bbox


@pytest.mark.parametrize("unit", ["mm", "cm", "m"])
def test_small_objects_in_large_units_keep_their_digits(monkeypatch, unit):
    found = found_in_bands(random_classes(2, 50, 40, 0.45, 3, 2), [7], monkeypatch, 200)
    side = 5e-7 * {"mm": 1e3, "cm": 1e2, "m": 1}[unit]  # half a micrometer
    file = io.StringIO()
    ObjectsOutput(file, PixelSize(side, side, unit), ("background", "a", "b")).write_page(
        PageResult(3, found, None, None)
    )
    for row in csv.DictReader(io.StringIO(file.getvalue())):
        assert float(row[f"area_{unit}2"]) == pytest.approx(int(row["area"]) * side**2, rel=1e-8)
        assert float(row[f"centroid_y_{unit}"]) == pytest.approx(float(row["centroid_y"]) * side, abs=1e-3 * side)


def test_a_table_without_objects_has_its_header():
    file = io.StringIO()
    ObjectsOutput(file, None, ("background", "cell"))
    assert file.getvalue() == "page,id,class,area,centroid_y,centroid_x,top,left,bottom,right\n"
