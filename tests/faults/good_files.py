"""Good files of many kinds, as bytes: what the damaged ones are made of."""

import io
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import torch
from handmade import describe
from PIL import Image as Picture

from unetcli.models import build_network
from unetcli.models.modelfile import save_model


def tiff(shape, dtype="uint8", high=200, **options) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, high, shape).astype(dtype)
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def picture(kind: str, mode: str, high: int = 255) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, high, (30, 40, 3)).astype(np.uint8)
    Picture.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def nifti(shape, dtype="int16", high=100) -> bytes:
    import nibabel

    pixels = np.random.default_rng(0).integers(0, high, shape).astype(dtype)
    return nibabel.Nifti1Image(pixels, np.diag([0.7, 0.8, 2.5, 1])).to_bytes()


def dicom() -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("a.dcm", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = CTImageStorage, "1.2.3.4", "1.2.3"
    data.Rows, data.Columns, data.SamplesPerPixel, data.NumberOfFrames = 9, 12, 1, 2
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 1
    data.PhotometricInterpretation, data.RescaleSlope, data.RescaleIntercept = "MONOCHROME1", 2, -1024
    data.PixelSpacing, data.ImagePositionPatient = [0.8, 0.7], [-90, -120, 7]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelData = np.arange(216, dtype=np.int16).tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def images() -> list[tuple[str, bytes, int]]:
    """Return (name, bytes, channels) of images in every format that is read."""
    found = [
        ("a.tif", tiff((40, 50)), 1),
        ("a.tif", tiff((3, 40, 50), photometric="minisblack"), 1),
        ("a.tif", tiff((40, 50), bigtiff=True), 1),
        ("a.tif", tiff((40, 50), "uint16", compression="lzw", predictor=True, byteorder=">"), 1),
        ("a.tif", tiff((40, 50), "float32", compression="zlib", predictor=True), 1),
        ("a.tif", tiff((64, 64, 3), photometric="rgb", compression="jpeg", tile=(32, 32)), 3),
        ("a.tif", tiff((3, 20, 20), photometric="rgb", planarconfig="separate"), 3),
        ("a.tif", tiff((2, 3, 20, 20), imagej=True, metadata={"axes": "ZCYX"}), 3),
        ("a.tif", tiff((2, 3, 20, 20), ome=True, metadata={"axes": "ZCYX"}), 3),
        ("a.tif", tiff((40, 50), photometric="palette", colormap=np.arange(768, dtype="uint16").reshape(3, 256)), 3),
    ]
    for compression in ("packbits", "zstd", "jpeg2000", "lerc", "jpegxl", "png"):
        found.append(("a.tif", tiff((64, 64), compression=compression), 1))
    for kind, name in (("PNG", "a.png"), ("JPEG", "a.jpg"), ("BMP", "a.bmp"), ("GIF", "a.gif"), ("TIFF", "a.tif")):
        for mode in ("L", "RGB", "P")[: 2 if kind == "JPEG" else 3]:
            found.append((name, picture(kind, mode), 3 if mode != "L" else 1))
    found += [("a.nii", nifti((12, 9, 4)), 1), ("a.nii", nifti((12, 9), "float32"), 1), ("a.dcm", dicom(), 1)]
    return found


def described() -> list[tuple[tuple[int, ...], dict, str]]:
    """Return (shape, options of tifffile, description) of TIFF files whose description says what their axes are."""
    found = []
    for shape, options in (
        ((2, 3, 20, 20), {"imagej": True, "metadata": {"axes": "ZCYX", "unit": "um", "spacing": 2.0}}),
        ((2, 3, 20, 20), {"ome": True, "metadata": {"axes": "CZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}}),
        ((4, 20, 20), {"ome": True, "metadata": {"axes": "TYX"}}),
        ((4, 20, 20), {"metadata": {"axes": "ZYX"}}),
    ):
        with tifffile.TiffFile(io.BytesIO(tiff(shape, photometric="minisblack", **options))) as file:
            found.append((shape, options, file.pages.first.description))
    return found


def scans() -> list[dict[str, bytes]]:
    """Return the files of OME-Zarr folders, NGFF 0.4 and 0.5."""
    import zarr

    found = []
    for version, format in (("0.4", 2), ("0.5", 3)):
        scene = {
            "axes": [
                {"name": "z", "type": "space"},
                *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx"),
            ],
            "datasets": [
                {"path": "full", "coordinateTransformations": [{"type": "scale", "scale": [2.0, 0.5, 0.5]}]},
            ],
        }
        with tempfile.TemporaryDirectory() as folder:
            group = zarr.open_group(folder, mode="w", zarr_format=format)
            if format == 2:
                group.attrs["multiscales"] = [{**scene, "version": version}]
            else:
                group.attrs["ome"] = {"version": version, "multiscales": [scene]}
            pixels = np.random.default_rng(0).integers(0, 200, (2, 30, 40)).astype(np.uint16)
            group.create_array("full", shape=pixels.shape, dtype=pixels.dtype, chunks=(1, 16, 16))[:] = pixels
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            found.append({f"a.zarr/{path.relative_to(folder)}": path.read_bytes() for path in files})
    return found


def masks() -> list[tuple[str, bytes]]:
    """Return (name, bytes) of masks of two classes, and of objects."""
    return [
        ("a.tif", tiff((40, 50), high=2)),
        ("a.tif", tiff((40, 50), "uint16", high=9, compression="zlib")),
        ("a.tif", tiff((3, 40, 50), high=2, photometric="minisblack", compression="lzw")),
        ("a.tif", tiff((40, 50), "float32", high=2)),
        ("a.png", picture("PNG", "P", 2)),
        ("a.png", picture("PNG", "L", 2)),
        ("a.nii", nifti((12, 9, 4), "uint8", 2)),
    ]


DATASET = {
    "channel_names": {"0": "T2"},
    "labels": {"background": 0, "cell": 1, "ignore": 2},
    "numTraining": 2,
    "file_ending": ".tif",
    "dataset": {
        f"c{number}": {"images": [f"imagesTr/c{number}_0000.tif"], "label": f"labelsTr/c{number}.tif"}
        for number in range(2)
    },
}
LIST = "id,split\n" + "".join(f"c{number},{'val' if number == 3 else 'train'}\n" for number in range(4))


def write_home(folder) -> None:
    """Write models of one and three channels and two data sets of small noise into an empty folder."""
    torch.manual_seed(0)
    arguments = {"features": 4, "depth": 1}
    for name, channels in (("gray", 1), ("rgb", 3)):
        network = build_network("unet", channels=channels, classes=2, **arguments)
        description = describe(arguments, channels=channels, pixel_size=(0.5, 0.5, "µm"), training={"epoch": 1})
        save_model(folder / f"{name}.safetensors", network, description)
    (folder / "scan.tif").write_bytes(tiff((40, 50)))
    for number in range(4):
        for place in (f"cells/images/c{number}.tif", f"nnunet/imagesTr/c{number}_0000.tif"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(tiff((40, 50)))
        for place in (f"cells/masks/c{number}.tif", f"nnunet/labelsTr/c{number}.tif"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(tiff((40, 50), high=2))
