"""DICOM files for tests."""

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def dicom(path, pixels, **tags):
    """Write a CT slice, or frames, of 0.8 x 0.7 mm pixels, with `tags` in place of the usual ones."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[-2:] if pixels.ndim < 4 and tags.get("SamplesPerPixel", 1) == 1 else (9, 12)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.SeriesInstanceUID = "1.2.3"
    data.PixelSpacing = [0.8, 0.7]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-90, -120, 7]
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)


def series(folder, pixels, spacing=2.5, uid="1.2.3"):
    """Write the slices (pages, height, width) of a series, under names that do not follow their order in space."""
    folder.mkdir(parents=True, exist_ok=True)
    for z, page in enumerate(pixels):
        name = f"{(z * 7 + 3) % 11}-{z}.dcm"
        place = [-90, -120, 7 + spacing * z]
        dicom(folder / name, page, ImagePositionPatient=place, InstanceNumber=z + 1, SeriesInstanceUID=uid)
    return folder
