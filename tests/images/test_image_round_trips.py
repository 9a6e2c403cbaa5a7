"""What is written comes back, whatever the file looks like inside, and any region equals that of the whole."""

import io
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from images.raw_tiff import raw_tiff
from PIL import Image as Picture

from unetcli.errors import InputError, UnetWarning
from unetcli.images import ImageWriter, open_image

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
sizes = st.integers(1, 40)


@st.composite
def stacks(draw):
    """Return axes, pixels and the options of tifffile for a file of any inner form."""
    axes = draw(st.sampled_from(["YX", "ZYX", "TZYX", "CYX", "ZCYX", "TCZYX", "YXS", "ZYXS", "QYX"]))
    small = {"Z": 3, "T": 2, "C": 4, "S": 3, "Q": 3}
    shape = tuple(small[a] if a in small else draw(sizes) for a in axes)
    dtype = draw(st.sampled_from(DTYPES))
    options = {"photometric": "rgb" if "S" in axes else "minisblack", "metadata": {"axes": axes}}
    options["byteorder"] = draw(st.sampled_from("<>"))
    options["bigtiff"] = draw(st.booleans())
    form = draw(st.sampled_from(["strip", "strips", "tiles"]))
    if form == "strips":
        options["rowsperstrip"] = draw(st.integers(1, 9))
    elif form == "tiles":
        options["tile"] = (16 * draw(st.integers(1, 2)), 16 * draw(st.integers(1, 2)))
    options["compression"] = draw(st.sampled_from([None, "zlib", "lzw", "packbits", "zstd"]))
    if (
        options["compression"] in ("zlib", "lzw", "zstd")
        and draw(st.booleans())
        and "64" not in dtype
        and dtype != "float16"
    ):
        options["predictor"] = True
    if "C" not in axes and "S" not in axes:
        options["planarconfig"] = None
    seed = draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    limits = (0, 200) if dtype.startswith("u") else (-100, 100)
    return axes, rng.integers(*limits, shape).astype(dtype), options


def as_pages(axes, pixels):
    """Return an array of any axes as (pages, height, width, channels): pages first, channels last."""
    order = [a for a in axes if a not in "YXCS"] + ["Y", "X"] + [a for a in axes if a in "CS"]
    moved = pixels.transpose([axes.index(a) for a in order])
    height, width = pixels.shape[axes.index("Y")], pixels.shape[axes.index("X")]
    channels = int(np.prod([pixels.shape[axes.index(a)] for a in axes if a in "CS"]))
    return moved.reshape(-1, height, width, channels)


@given(stacks(), st.data())
def test_tiff_of_any_form(stack, data):
    axes, pixels, options = stack
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    file.seek(0)
    expected = as_pages(axes, pixels)
    with open_image(file, name="a.tif") as image:
        info = image.info
        assert (info.pages, *info.shape) == expected.shape
        assert info.dtype == pixels.dtype
        assert info.axes == axes
        for index, page in enumerate(expected):
            source = image.page(index)
            assert (source[:] == page).all()
            y0, y1 = sorted(data.draw(st.tuples(*[st.integers(0, info.height)] * 2)))
            x0, x1 = sorted(data.draw(st.tuples(*[st.integers(0, info.width)] * 2)))
            region = source[y0:y1, x0:x1]
            assert region.shape == (y1 - y0, x1 - x0, info.channels)
            assert (region == page[y0:y1, x0:x1]).all()
            assert region.dtype.isnative


@pytest.mark.parametrize("order", ["ZCT", "CTZ", "TZC"])
def test_ome_in_any_order(tmp_path, order):
    axes = order + "YX"
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 20, 30)).astype(np.uint8)
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 500.0, "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 2.0}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": axes, **size})
    with open_image(tmp_path / "a.ome.tif") as image:
        assert image.info.axes == axes
        assert image.info.flavor == "ome"
        assert image.info.pixel_size.x == 0.25
        assert image.info.pixel_size.y == 0.5
        assert image.info.pixel_size.z == 2.0
        assert image.info.pixel_size.unit == "µm"
        assert (np.stack([p[:] for p in image.pages()]) == as_pages(axes, pixels)).all()


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_planar_colors(tmp_path, compression, planar):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, rowsperstrip=7,
                     compression=compression, metadata=None)  # fmt: skip
    with open_image(tmp_path / "a.tif") as image:
        assert (image.page(0)[:] == pixels).all()
        assert (image.page(0)[5:30, 10:14] == pixels[5:30, 10:14]).all()
        assert image.info.joint


def test_jpeg_in_tiff_becomes_rgb(tmp_path):
    ramp = np.linspace(0, 200, 64).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], -1)
    strip = imagecodecs.jpeg8_encode(pixels, colorspace="RGB", outcolorspace="YCBCR")
    page = {"width": 64, "height": 64, "bits": (8, 8, 8), "samples": 3, "rows": 64, "data": strip}
    (tmp_path / "a.tif").write_bytes(raw_tiff({**page, "compression": 7, "photometric": 6}))
    with open_image(tmp_path / "a.tif") as image:
        assert image.info.channels == 3
        assert np.abs(image.page(0)[:].astype(int) - pixels).mean() < 4


def test_white_is_zero(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1000, (8, 8)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    with open_image(tmp_path / "a.tif") as image:
        assert (image.page(0)[:, :, 0] == 65535 - pixels).all()
        assert any("inverted" in note for note in image.info.notes)


def palette_image():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (256, 3)).astype(np.uint8), rng.integers(0, 256, (20, 30)).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.bmp", "a.gif"])
def test_palettes(tmp_path, name):
    table, indices = palette_image()
    if name.endswith("tif"):
        tifffile.imwrite(tmp_path / name, indices, photometric="palette", colormap=table.T.astype(np.uint16) * 257)
    else:
        picture = Picture.fromarray(indices)
        picture.putpalette(table.tobytes())
        picture.save(tmp_path / name)
    with open_image(tmp_path / name) as image:
        assert (image.page(0)[:] == table[indices]).all()
        assert image.info.channels == 3
        assert image.info.joint
    with open_image(tmp_path / name, palette="indices") as image:
        colors = np.array(image.info.colormap, np.uint8)
        assert (colors[image.page(0)[:, :, 0]] == table[indices]).all()
        if not name.endswith("gif"):  # which reorders its palette
            assert (image.page(0)[:, :, 0] == indices).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_palettes_of_grays_are_looked_up_in_masks_only(tmp_path, name, bits):
    levels = 1 << bits
    grays = np.arange(levels) * 255 // (levels - 1)
    indices = np.tile(np.arange(levels, dtype=np.uint8), (8, 16 // levels))
    if name.endswith("tif"):
        data = np.packbits((indices[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(8, -1), axis=1)
        page = {"width": 16, "height": 8, "rows": 8, "bits": bits, "photometric": 3, "data": data.tobytes()}
        (tmp_path / name).write_bytes(raw_tiff({**page, "colormap": (*(grays * 257).tolist(),) * 3}))
    else:
        picture = Picture.fromarray(indices, "P")
        picture.putpalette(grays.repeat(3).astype(np.uint8).tobytes())
        picture.save(tmp_path / name)
    for palette, expected in (
        ("colors", indices[..., None]),
        ("indices", indices[..., None]),
        ("mask colors", grays[indices][..., None].repeat(3, axis=2)),
    ):
        with open_image(tmp_path / name, palette=palette) as image:
            np.testing.assert_array_equal(image.page(0)[:], expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_alpha_is_dropped_with_a_word(tmp_path, name, channels):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, channels + 1)).astype(np.uint8)
    pixels[:5, :, -1] = 0
    if name.endswith("png"):
        Picture.fromarray(pixels).save(tmp_path / name)
    else:
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb" if channels == 3 else "minisblack",
                         planarconfig="contig", extrasamples=["unassalpha"])  # fmt: skip
    with pytest.warns(UnetWarning, match="alpha is dropped"):
        image = open_image(tmp_path / name)
    with image:
        kept = image.page(0)[:]
        assert (kept == pixels[:, :, :channels]).all()
        assert kept.flags.c_contiguous  # alpha takes no memory
        assert "alpha dropped" in image.info.notes
    if name.endswith("tif"):
        with open_image(tmp_path / name, axes="YXC") as image:
            assert (image.page(0)[:] == pixels).all()


@pytest.mark.parametrize("mode", ["gray", "gray+alpha", "rgb", "rgba"])
def test_png_of_16_bits_is_exact(tmp_path, mode):
    channels = {"gray": (), "gray+alpha": (2,), "rgb": (3,), "rgba": (4,)}[mode]
    pixels = np.random.default_rng(0).integers(0, 65535, (20, 30, *channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    if mode in ("gray+alpha", "rgba"):
        with pytest.warns(UnetWarning, match="alpha"):
            image = open_image(tmp_path / "a.png")
    else:
        image = open_image(tmp_path / "a.png")
    with image:
        assert image.info.dtype == np.uint16
        assert image.info.channels == (1 if "gray" in mode else 3)
        assert (image.page(0)[:] == pixels.reshape(20, 30, -1)[:, :, : image.info.channels]).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_keeps_its_values(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 1 << bits, (9, 16)).astype(np.uint8)
    rows = b"".join(
        b"\0" + int("".join(format(v, f"0{bits}b") for v in row), 2).to_bytes(16 * bits // 8, "big") for row in values
    )
    (tmp_path / "a.png").write_bytes(png_of(16, 9, bits, 0, rows))
    with open_image(tmp_path / "a.png") as image:
        assert (image.page(0)[:, :, 0] == values).all()


def png_of(width, height, bits, color, rows):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_jpeg_gray_rgb_and_cmyk(tmp_path):
    gray = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    Picture.fromarray(gray).save(tmp_path / "g.jpg", quality=100)
    with open_image(tmp_path / "g.jpg") as image:
        assert image.info.shape == (64, 64, 1)
        assert np.abs(image.page(0)[:, :, 0].astype(int) - gray).max() < 3
    Picture.new("RGB", (64, 64), (250, 10, 90)).save(tmp_path / "c.jpg")
    with open_image(tmp_path / "c.jpg") as image:
        assert image.info.shape == (64, 64, 3)
    Picture.new("CMYK", (64, 64)).save(tmp_path / "k.jpg")
    with pytest.raises(InputError, match="CMYK"):
        open_image(tmp_path / "k.jpg")


def test_animation_is_a_stack(tmp_path):
    frames = [Picture.new("RGB", (30, 20), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with open_image(tmp_path / "a.gif") as image:
        assert (image.info.pages, *image.info.shape) == (3, 20, 30, 3)
        means = [page[:].mean((0, 1)).tolist() for page in image.pages()]
    assert means == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("shape", [(3, 4, 9, 8), (5, 5, 9, 8), (4, 3, 9, 8), (2, 3, 2, 9, 8)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_several_axes_without_a_name(tmp_path, shape, compression):
    """As tifffile writes an array, if nothing is said of its axes."""
    pixels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", compression=compression)
    with open_image(tmp_path / "a.tif") as image:
        assert image.info.page_shape == shape[:-2]
        assert any("axes of unknown meaning" in note for note in image.info.notes)
        found = [page[:, :, 0] for page in image.pages()]
        with ImageWriter(tmp_path / "m.tif", like=image.info, dtype=np.uint8) as writer:
            writer.write_rows(np.concatenate(found).astype(np.uint8))
    np.testing.assert_array_equal(np.stack(found), pixels.reshape(-1, 9, 8))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "m.tif"), pixels.astype(np.uint8))


def test_pages_that_are_stored_in_different_ways(tmp_path):
    """As tiffcp joins files."""
    pixels = np.random.default_rng(0).integers(0, 999, (5, 40, 33)).astype(np.uint16)
    forms = [
        {"rowsperstrip": 8},
        {"compression": "lzw"},
        {"tile": (16, 16)},
        {},
        {"compression": "zlib", "predictor": 2},
    ]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page, form in zip(pixels, forms, strict=True):
            writer.write(page, photometric="minisblack", metadata=None, **form)
    with open_image(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(np.stack([page[:, :, 0] for page in image.pages()]), pixels)


def test_pages_whose_values_mean_different_things_are_no_stack(tmp_path):
    pixels = np.zeros((9, 8), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for photometric in ("minisblack", "miniswhite"):
            writer.write(pixels, photometric=photometric, metadata=None)
    with pytest.raises(InputError, match="pages differ: 9x8 uint8 minisblack, 9x8 uint8 miniswhite"):
        open_image(tmp_path / "a.tif")


def test_pages_of_another_file_are_never_read(tmp_path, monkeypatch):
    """Micro-Manager keeps an index of a set of files, which tifffile looks for in the working folder."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 99, (2, 9, 8)).astype(np.uint8)
    entries = b""
    for number, name in enumerate(("NDTiffStack.tif", "NDTiffStack_1.tif")):
        head = struct.pack("<4sIIIII", b"II*\0", 26, 483729, 2, 2355492, 2) + b"{}"
        page = {"width": 8, "height": 9, "rows": 9, "counts": 72, "micromanager": "{}"}
        data_at = len(head) + len(raw_tiff({**page, "offsets": 0})) - 8
        directory = raw_tiff({**page, "offsets": data_at, "lie": {"micromanager": (2, data_at + 72)}})[8:]
        (tmp_path / name).write_bytes(head + directory + pixels[number].tobytes() + b"{}")
        axes = json.dumps({"time": number}).encode()
        entries += struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name.encode()
        entries += struct.pack("<IiiiiIii", data_at, 8, 9, 0, 0, 0, 0, 0)
    (tmp_path / "NDTiff.index").write_bytes(entries)
    with tifffile.TiffFile("NDTiffStack.tif") as tiff:
        assert tiff.is_ndtiff
        assert tiff.series[0].shape[0] == 2
    with open_image("NDTiffStack.tif") as image:
        assert image.info.pages == 1
        np.testing.assert_array_equal(image.page(0)[:, :, 0], pixels[0])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_pictures_that_others_show_turned(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 99, (9, 8)).astype(np.uint8)
    for orientation in (1, 6):
        if name == "a.tif":
            tifffile.imwrite(tmp_path / name, pixels, extratags=[(274, 3, 1, orientation, True)])
        else:
            exif = Picture.Exif()
            exif[0x0112] = orientation
            Picture.fromarray(pixels).save(tmp_path / name, exif=exif)
        if orientation == 1:
            with open_image(tmp_path / name) as image:
                assert image.info.shape == (9, 8, 1)
            continue
        with (
            pytest.warns(UnetWarning, match="turned or mirrored .orientation 6."),
            open_image(tmp_path / name) as image,
        ):
            assert image.info.shape == (9, 8, 1)


def test_axes_named_by_the_user(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 4, 20, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", metadata={"axes": "TZYX"})
    for axes in ("ZCYX", "CZYX", "TZYX", "QCYX", "YXZC", "ZYCX"):
        with open_image(tmp_path / "a.tif", axes=axes) as image:
            assert image.info.axes == axes
            assert (np.stack([p[:] for p in image.pages()]) == as_pages(axes, pixels)).all()


def test_selected_pages(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 20, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", metadata={"axes": "ZYX"})
    with open_image(tmp_path / "a.tif", pages=range(4, 7)) as image:
        assert (image.info.pages, image.info.axes, image.info.file_shape) == (3, "ZYX", (3, 20, 30))
        assert (np.stack([p[:] for p in image.pages()])[:, :, :, 0] == pixels[4:7]).all()


def test_threads_share_an_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 200, 300)).astype(np.uint8)
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", rowsperstrip=16, compression=compression)
        with open_image(tmp_path / "a.tif") as image, ThreadPoolExecutor(8) as pool:

            def same(i, image=image):
                y, x = i * 7 % 180, i * 13 % 280
                return (image.page(i % 6)[y : y + 20, x : x + 20, 0] == pixels[i % 6, y : y + 20, x : x + 20]).all()

            assert all(pool.map(same, range(400)))


def test_opening_reads_only_the_header(tmp_path):
    """A sparse file of 3 GB opens at once, and a region of it is read in no time and memory."""
    path: Path = tmp_path / "a.tif"
    tifffile.imwrite(path, shape=(60_000, 50_000), dtype="uint8", photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset + 40_000 * 50_000 + 123)
        file.write(b"\x07")
    before = path.stat().st_blocks
    with open_image(path) as image:
        source = image.page(0)
        assert source[40_000:40_001, 120:126].ravel().tolist() == [0, 0, 0, 7, 0, 0]
        assert source[39_000:40_500, 0:1000].sum() == 7
    assert path.stat().st_blocks == before


@pytest.mark.parametrize("flavor", ["imagej", "ome", "plain"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_are_read_one_by_one(tmp_path, monkeypatch, flavor, compression):
    """No common file makes the reader decode all of it for one page."""
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 2, 40, 30)).astype(np.uint8)
    options = {"imagej": {"imagej": True}, "ome": {"ome": True}, "plain": {}}[flavor]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", compression=compression,
                     metadata={"axes": "TZCYX"}, **options)  # fmt: skip
    monkeypatch.setattr("unetcli.images.tiff.TiffImage._convert_whole", None)
    with open_image(tmp_path / "a.tif") as image:
        assert (np.stack([p[:] for p in image.pages()]) == as_pages("TZCYX", pixels)).all()
    tifffile.imwrite(tmp_path / "b.tif", pixels[0, 0, 0], photometric="minisblack", compression=compression, **options)
    with open_image(tmp_path / "b.tif") as image:
        assert (image.page(0)[:, :, 0] == pixels[0, 0, 0]).all()


def test_palette_and_alpha_with_axes_named_by_the_user(tmp_path):
    table, indices = palette_image()
    stack = np.stack([indices, indices[::-1]])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="palette", colormap=table.T.astype(np.uint16) * 257)
    with open_image(tmp_path / "a.tif", axes="YZX") as image:
        assert (np.stack([p[:] for p in image.pages()]) == table[stack.transpose(1, 0, 2)]).all()


def test_strips_scattered_over_the_file(tmp_path):
    """Strips stand in any order, with other bytes between them."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    strips = [pixels[y : y + 6].tobytes() for y in range(0, 20, 6)]
    page = {"width": 30, "height": 20, "rows": 6, "counts": tuple(map(len, strips))}
    start = len(raw_tiff({**page, "offsets": (1,) * 4}))
    data, offsets = b"", [0] * 4
    for i in (2, 0, 3, 1):
        offsets[i] = start + len(data)
        data += strips[i] + b"gap"
    (tmp_path / "a.tif").write_bytes(raw_tiff({**page, "offsets": tuple(offsets), "data": data}))
    with open_image(tmp_path / "a.tif") as image:
        assert (image.page(0)[:, :, 0] == pixels).all()
        for columns in (slice(3, 5), slice(2, 25)):
            assert (image.page(0)[4:15, columns, 0] == pixels[4:15, columns]).all()
