"""What the name of a file or folder says: image, mask or output, which split, and what it is paired by."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

EXTENSIONS = (
    *(".ome.tif", ".ome.tiff", ".nii.gz", ".tif", ".tiff", ".btf", ".tf8", ".lsm", ".stk", ".svs", ".ndpi"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".dib", ".gif", ".nii", ".dcm", ".ome.zarr", ".zarr"),
)

IMAGE_FOLDERS = {"images", "image", "imgs", "img", "raw", "x", "inputs", "input"}
MASK_FOLDERS = {
    *("masks", "mask", "instances", "instance", "nuclei", "segmentation", "segmentations", "labels", "label", "y"),
    *("gt", "groundtruth", "annotations", "annotation", "targets", "target", "seg"),
}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FOLDER_FILLERS = {"prepped", "stage1", "stage2", "set", "data", "split"}  # words that say nothing about a folder

_MASK_WORDS = {"mask", "masks", "label", "labels", "seg", "gt", "annotation", "annotations", "groundtruth"}
_MASK_SUFFIXES = {*_MASK_WORDS, "instances", "instance", "segmentation", "target"}
_IMAGE_WORDS = {"img", "image", "images", "raw", "volume", "volumes", "input"}

_TRUTH = re.compile(r"ground[ _-]truth")
_SEPARATORS = re.compile(r"[ _.\-]+")
_NUMBERS = re.compile(r"(\d+)")
_LAST_NUMBER = re.compile(r"^(.*?)(\d+)(\D*)$", re.DOTALL)
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "__pycache__"}
_NNUNET_FOLDER = re.compile(r"^(images|labels)(tr|ts)$", re.IGNORECASE)
# Outputs of Cellpose, milesial's and zhixuhao's U-Nets, StarDist, and of programs that say "pred" or "prob".
_OUTPUT = re.compile(
    r"_cp_masks|_cp_output|_flows|_cellprob|\.stardist\.|(?-i:_OUT\.png$)"
    r"|_(pred|preds|predict|predicted|prediction|predictions|prob|probs|probability|probabilities)(?![a-z])",
    re.IGNORECASE,
)
_PREDICTION = re.compile(
    r"_cp_masks|_out$|\.stardist$|[_-](pred|preds|predict|predicted|prediction|predictions|probs?|probabilit(y|ies))$"
)


def split_extension(name: str) -> tuple[str, str]:
    """Return the stem and the extension, in small letters, of an image file; the extension is empty for other files."""
    small = name.lower()
    for extension in EXTENSIONS:
        if small.endswith(extension) and len(small) > len(extension):
            return name[: -len(extension)], extension
    return name, ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no part of a data set: hidden, or left behind by the system or an office program."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM_FILES


def is_output(name: str) -> bool:
    """Whether a file's name is one that this or another program gives to what it predicts."""
    return _OUTPUT.search(name) is not None


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names as people do: ``img2`` before ``img10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _NUMBERS.split(name) if part]


@lru_cache(maxsize=4096)
def folder_role(name: str) -> tuple[str | None, str | None]:
    """Return what a folder's name says: "images", "masks" or None, and "train", "validation", "test" or None.

    ``imagesTr``, ``train_masks`` and ``annotations_prepped_test`` say both.
    """
    if found := _NNUNET_FOLDER.match(name):
        name = f"{found[1]}_{'train' if found[2].lower() == 'tr' else 'test'}"
    words = _words(name)
    roles = [word for word in words if word in IMAGE_FOLDERS | MASK_FOLDERS]
    splits = [word for word in words if word in SPLITS]
    others = set(words) - set(roles) - set(splits) - _FOLDER_FILLERS
    if others or len(roles) > 1 or len(splits) > 1:
        return None, None
    role = None if not roles else "images" if roles[0] in IMAGE_FOLDERS else "masks"
    return role, SPLITS[splits[0]] if splits else None


def is_mask_name(stem: str) -> bool:
    """Whether a stem says, by its last or its first word, that the file is a mask."""
    words = _words(stem)
    return len(words) > 1 and (words[-1] in _MASK_SUFFIXES or words[0] in _MASK_WORDS)


def ends_as_mask(stem: str) -> bool:
    """Whether a stem says by its last word that the file is a mask."""
    words = _words(stem)
    return len(words) > 1 and words[-1] in _MASK_SUFFIXES


def is_test_name(stem: str) -> bool:
    """Whether a stem says that the file belongs to a test split, as ``test-volume`` does."""
    words = _words(stem)
    return bool(words) and SPLITS.get(words[0]) == "test"


def mask_suffix(stem: str) -> str:
    """Return the word, with its separator where it ends or begins the stem, by which it says that it is a mask."""
    words = _words(stem)
    if words[-1] in _MASK_SUFFIXES:
        found = re.search(r"[ _.\-]+(ground[ _-]truth|[^ _.\-]+)$", stem, re.IGNORECASE)
        return found[0] if found else stem
    if words[0] in _MASK_WORDS:
        return re.split(r"(?<=[ _.\-])", stem)[0]
    return next((word for word in words if word in _MASK_SUFFIXES), stem)


def plain_key(stem: str) -> str:
    """Return a stem in one spelling: composed characters, small letters."""
    return stem.casefold() if stem.isascii() else unicodedata.normalize("NFC", stem).casefold()


def bare_key(stem: str) -> str:
    """Return a stem without the words that say image or mask: ``training_groundtruth-0001`` as ``training_0001``."""
    words = _words(stem)
    kept = [word for word in words if word not in _MASK_SUFFIXES and word not in _IMAGE_WORDS]
    return "_".join(kept or words)


def prediction_key(stem: str) -> str:
    """Return the stem of the image from which a prediction was made: ``a_cp_masks`` as ``a``."""
    stem = plain_key(stem)
    while (shorter := _PREDICTION.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem


def number_key(stem: str) -> tuple[str, int] | None:
    """Return the prefix and the last number of a stem without role words; None where it has no number."""
    found = _LAST_NUMBER.match(bare_key(stem))
    return (f"{found[1].rstrip('_')}/{found[3].lstrip('_')}", int(found[2])) if found else None


def affix_and_number(stem: str) -> tuple[tuple[str, str], int] | None:
    """Return what stands around the last number of a stem, and the number; None where there is none."""
    found = _LAST_NUMBER.match(plain_key(stem))
    return ((found[1], found[3]), int(found[2])) if found else None


def _words(name: str) -> Sequence[str]:
    return [word for word in _SEPARATORS.split(_TRUTH.sub("groundtruth", plain_key(name))) if word]
