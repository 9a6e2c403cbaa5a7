"""Which files of a folder are images and which are masks: one function and one line in `LAYOUTS` per convention.

A layout says only what is what. Which mask belongs to which image is found by name, in `matching`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unetcli.dataset import nnunet
from unetcli.dataset.arrangement import Arrangement, Group, entries_of
from unetcli.dataset.listing import File, Folder, LeftOut, Listing
from unetcli.dataset.matching import Entry
from unetcli.dataset.names import ends_as_mask, is_mask_name, is_test_name, mask_suffix, natural_key
from unetcli.errors import InputError

TEST_WITHOUT_MASKS = "test image without mask"
_SAMPLES = 5  # pairs looked into, where only the content tells image from mask
_FEWER = 4  # times fewer values in the mask than in the image


@dataclass(frozen=True)
class Layout:
    """A convention: its name, what it looks like, and the function that recognizes it (None: another one)."""

    name: str
    example: str
    recognize: Callable[[Listing], Arrangement | None]


def arrange(listing: Listing) -> Arrangement:
    """Return which files below a folder are images and which are masks, by the first layout that fits.

    Raises
    ------
    InputError : no images, or no masks.
    """
    for layout in LAYOUTS:
        found = layout.recognize(listing)
        if found is not None:
            return replace(found, left_out=(*listing.left_out, *found.left_out, *_unused(listing, found)))
    raise _not_understood(listing)


def _unused(listing: Listing, found: Arrangement) -> list[LeftOut]:
    """Return the files for which the layout has no place."""
    used = [path for group in found.groups for entry in (*group.images, *group.masks) for path in entry.files]
    used += [item.path for item in found.left_out]
    if len(used) == sum(len(folder.files) for folder in listing.folders):
        return []
    places = set(used)
    return [LeftOut(file.path, "no part of the layout") for file in listing.files if file.path not in places]


def cell_tracking(listing: Listing) -> Arrangement | None:
    """``01/t000.tif`` + ``01_GT/SEG/man_seg000.tif``; frames without annotation are left out.

    ``man_seg_000_005.tif`` annotates slice 5 of frame 0. The silver truth (``01_ST``) serves where there is no gold.
    """
    by_parts = {folder.parts: folder for folder in listing.folders}
    groups, left_out = [], []
    for folder in listing.folders:
        truths = [
            by_parts[parts]
            for kind in ("GT", "ST")
            if folder.parts and (parts := (*folder.parts[:-1], f"{folder.parts[-1]}_{kind}", "SEG")) in by_parts
        ]
        truths = [truth for truth in truths if truth.files]
        if not truths or not re.fullmatch(r"\d{2,}", folder.parts[-1]):
            continue
        groups.append(_annotated_frames(folder, truths[0]))
        left_out += [
            LeftOut(file.path, "silver truth beside a gold one") for truth in truths[1:] for file in truth.files
        ]
    if not groups:
        return None
    return Arrangement(
        "Cell Tracking Challenge", listing.root, tuple(groups), "number of the frame", tuple(left_out), task="instances"
    )


def _annotated_frames(frames: Folder, truth: Folder) -> Group:
    """Return frames and masks, both named as the frames are; a frame stands there once per annotated slice."""
    stems = {int(found[1]): file.stem for file in frames.files if (found := re.fullmatch(r"t(\d+)", file.stem))}
    masks: list[Entry] = []
    slices: dict[str, list[int | None]] = {}
    for file in truth.files:
        found = re.fullmatch(r"man_seg_?(\d+)(?:_(\d+))?", file.stem)
        stem = stems.get(int(found[1]), file.stem) if found else file.stem
        if found and found[2]:
            slices.setdefault(stem, []).append(int(found[2]))
        masks.append(Entry(f"{stem}[{int(found[2])}]" if found and found[2] else stem, (file.path,)))
    images = [
        Entry(file.stem if page is None else f"{file.stem}[{page}]", (file.path,), page, "frame without annotation")
        for file in frames.files
        for page in slices.get(file.stem, [None])
    ]
    return Group(tuple(images), tuple(masks), frames.split)


def folder_per_image(listing: Listing) -> Arrangement | None:
    """``ID/images/ID.png`` + ``ID/masks/*.png``, one object per file; a mask where all images have a single file."""
    by_path = {folder.path: folder for folder in listing.folders}
    groups = []
    merged = False
    for folder in listing.folders:
        if folder.role != "images" or not folder.files:
            continue
        file = folder.files[0]
        if len(folder.files) > 1 or file.stem != folder.path.parent.resolve().name:
            return None
        objects = [
            object_file.path
            for below in folder.path.parent.iterdir()
            if below in by_path and by_path[below].role == "masks"
            for object_file in by_path[below].files
        ]
        merged |= bool(objects) and [path.stem for path in objects] != [file.stem]
        masks = (Entry(file.stem, tuple(objects)),) if objects else ()
        optional = TEST_WITHOUT_MASKS if folder.split == "test" and not masks else None
        groups.append(Group((Entry(file.stem, (file.path,), optional=optional),), masks, folder.split))
    if not merged:
        return None
    if all(len(mask.files) == 1 for group in groups for mask in group.masks):
        return Arrangement("one folder per image", listing.root, tuple(groups), "name of the folder")
    apart = tuple(replace(group, masks=tuple(mask._replace(objects=True) for mask in group.masks)) for group in groups)
    return Arrangement(
        "one folder per image, one file per object", listing.root, apart, "name of the folder", task="instances"
    )


def role_folders(listing: Listing) -> Arrangement | None:
    """``images/`` + ``masks/`` and their synonyms, in folders for splits and groups or not.

    Images may also lie beside the folder of masks (``x.tif`` + ``masks/x.tif``, ``train/`` + ``train_masks/``).
    """
    places: dict[tuple[tuple[str, ...], str | None], dict[str | None, list[Folder]]] = {}
    for folder in listing.folders:
        if folder.files:
            places.setdefault((folder.group, folder.split), {}).setdefault(folder.role, []).append(folder)
    groups: list[Group] = []
    left_out: list[LeftOut] = []
    problems: list[InputError] = []
    layout = None
    for (_, split), roles in places.items():
        masks, beside = roles.get("masks", []), roles.get(None, [])
        images = roles.get("images") or (beside if masks else [])
        if images is not beside:
            reason = TEST_WITHOUT_MASKS if split == "test" else "outside the folders of images and masks"
            left_out += [LeftOut(file.path, reason) for folder in beside for file in folder.files]
        problems += [_several(found, listing.root) for found in (images, masks) if len(found) > 1]
        if images and masks and layout is None:
            layout = f"folders {_shown(images[0], listing)} + {_shown(masks[0], listing)}"
        if images or masks:
            groups.append(group_of(_paths_in(images), _paths_in(masks), split))
    if layout is None:
        return None
    return Arrangement(layout, listing.root, tuple(groups), left_out=tuple(left_out), problems=tuple(problems))


def _paths_in(folders: Sequence[Folder]) -> list[Path]:
    return [file.path for folder in folders for file in folder.files]


def group_of(images: Sequence[Path], masks: Sequence[Path], split: str | None) -> Group:
    """Return the images and masks of a split; those to test need no masks, if they have none at all."""
    optional = TEST_WITHOUT_MASKS if split == "test" and not masks else None
    return Group(entries_of(images, optional), entries_of(masks), split)


def _several(folders: Sequence[Folder], root: Path) -> InputError:
    names = ", ".join(str(folder.path) for folder in folders)
    role = folders[0].role or "images"
    return InputError(
        f"{len(folders)} folders could hold the {role}: {names}",
        path=root,
        hint=f"choose with --images GLOB --masks GLOB, for example --{role} '{folders[0].path}/*'",
    )


def _shown(folder: Folder, listing: Listing) -> str:
    return f"{folder.parts[-1] if folder.parts else listing.root.name}/"


def same_folder(listing: Listing) -> Arrangement | None:
    """``x.tif`` + ``x_mask.tif`` in one folder; also two stacks, ``train-volume.tif`` + ``train-labels.tif``."""
    by_ending = any(ends_as_mask(file.stem) for file in listing.files)
    is_mask = ends_as_mask if by_ending else is_mask_name
    groups = []
    word = None
    for folder in listing.folders:
        masks = [file for file in folder.files if is_mask(file.stem)]
        images = [file for file in folder.files if not is_mask(file.stem)]
        if masks and images and word is None:
            word = mask_suffix(masks[0].stem)
        if folder.files:
            groups.append(_beside(images, [file.path for file in masks], folder.split))
    return Arrangement(f"one folder, masks with {word}", listing.root, tuple(groups)) if word else None


def _beside(images: Sequence[File], masks: Sequence[Path], split: str | None) -> Group:
    """Return a group in which images that say "test" need no mask."""

    def needs_none(entry: Entry) -> bool:
        return is_test_name(entry.name) or (split == "test" and not masks)

    entries = entries_of([file.path for file in images])
    return Group(
        tuple(entry._replace(optional=TEST_WITHOUT_MASKS) if needs_none(entry) else entry for entry in entries),
        entries_of(masks),
        split,
    )


def two_extensions(listing: Listing) -> Arrangement | None:
    """``x.bmp`` + ``x.png`` in one folder, where the files of one extension hold few values."""
    groups: list[Group] = []
    layout = None
    for folder in listing.folders:
        by_extension: dict[str, dict[str, File]] = {}
        for file in folder.files:
            kind = ".tif" if file.extension == ".tiff" else file.extension
            by_extension.setdefault(kind, {})[file.stem] = file
        if len(by_extension) == 2 and len(folder.files) == sum(map(len, by_extension.values())):
            first, second = by_extension
            both = [stem for stem in by_extension[first] if stem in by_extension[second]]
            chosen = _extension_of_masks(by_extension, both) if 2 * len(both) >= len(by_extension[first]) else None
            if chosen is not None:
                other = second if chosen == first else first
                masks = [file.path for file in by_extension[chosen].values()]
                groups.append(_beside(list(by_extension[other].values()), masks, folder.split))
                layout = f"one name, images in {other}, masks in {chosen}"
                continue
        if folder.files:
            groups.append(_beside(folder.files, [], folder.split))
    return Arrangement(layout, listing.root, tuple(groups)) if layout else None


def _extension_of_masks(by_extension: dict[str, dict[str, File]], stems: Sequence[str]) -> str | None:
    """Return the extension whose files have far fewer values than their partners, in every pair looked into."""
    spread = stems[:: max(1, len(stems) // _SAMPLES)][:_SAMPLES]
    counts = [tuple(_values(files[stem].path) for files in by_extension.values()) for stem in spread]
    known = [(first, second) for first, second in counts if first and second]
    for index, extension in enumerate(by_extension):
        if known and all(pair[index] * _FEWER <= pair[1 - index] for pair in known):
            return extension
    return None


def _values(path: Path) -> int:
    """Return how many values, or colors, the first page of a file has; 0 where it cannot be read."""
    import numpy as np

    from unetcli.images import open_image

    try:
        with open_image(path) as image:
            pixels = image.page(0)[:]
    except InputError:
        return 0  # reported, with everything else, when all files are decoded
    return len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0))


def cellpose_pickles(listing: Listing) -> Arrangement | None:
    """``x.tif`` + ``x_seg.npy``: recognized and refused, since such a file holds a pickle, which can run code."""
    found = [folder.path / name for folder in listing.folders for name in folder.others if name.endswith("_seg.npy")]
    if not found:
        return None
    raise InputError(
        f"{len(found)} masks of Cellpose in _seg.npy files ({found[0].name}): they hold pickles, which can run code",
        path=listing.root,
        hint="save them as images: in the Cellpose window 'File > Save masks as PNG/tif', or cellpose --save_tif",
    )


LAYOUTS = (
    Layout("nnU-Net", "imagesTr/x_0000.png + labelsTr/x.png", nnunet.recognize),
    Layout("Cell Tracking Challenge", "01/t000.tif + 01_GT/SEG/man_seg000.tif", cell_tracking),
    Layout("one folder per image", "x/images/x.png + x/masks/*.png, one object per file", folder_per_image),
    Layout("folders", "images/x.tif + masks/x.tif", role_folders),
    Layout("one folder", "x.tif + x_mask.tif, or train-volume.tif + train-labels.tif", same_folder),
    Layout("two extensions", "x.bmp + x.png", two_extensions),
    Layout("Cellpose", "x.tif + x_masks.tif", cellpose_pickles),
)


def _not_understood(listing: Listing) -> InputError:
    """Return the error of a folder without images, or without masks."""
    files = list(listing.files)
    masks = [file for file in files if is_mask_name(file.stem)]
    masks += [file for folder in listing.folders if folder.role == "masks" for file in folder.files]
    if not files or len(masks) == len(files):
        looked = ", ".join(str(folder.path) for folder in sorted(listing.folders, key=_depth)[:5])
        what = f"no images found, {len(files)} masks" if files else "no images found"
        return InputError(
            f"{what} (looked in {looked}{', ...' if len(listing.folders) > 5 else ''})",
            path=listing.root,
            hint=f"expected {_examples()}; see unet train --help",
        )
    image = next(file for file in files if file not in masks)
    return InputError(
        f"{len(files) - len(masks)} images, {len(masks)} masks; expected {listing.root}/masks/{image.path.name}, "
        f"or {image.stem}_mask{image.extension} beside the image",
        path=listing.root,
        hint=f"tried {_examples()}; --images GLOB --masks GLOB names anything else",
    )


def _depth(folder: Folder) -> tuple[int, list[tuple[int, int, str]]]:
    return len(folder.parts), natural_key(str(folder.path))


def _examples() -> str:
    return "; ".join(_each_example())


def _each_example() -> Iterator[str]:
    return (layout.example for layout in LAYOUTS)
