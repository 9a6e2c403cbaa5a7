"""From what the user named to pairs of image and mask."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from unetcli.dataset.arrangement import Arrangement, Group, entries_of, stem_of
from unetcli.dataset.layouts import arrange, group_of
from unetcli.dataset.listing import LeftOut, Listing, list_folder
from unetcli.dataset.matching import Entry, Matching, ambiguity, match_names, match_order, missing_partners
from unetcli.dataset.names import folder_role, is_hidden, is_mask_name, natural_key, prediction_key, split_extension
from unetcli.errors import InputError, UnetError, UsageError, raise_all
from unetcli.images.files import is_there
from unetcli.images.reader import is_image_folder


@dataclass(frozen=True)
class Pair:
    """An image with its mask.

    Parameters
    ----------
    name : unique in the data set.
    images : its file; several where each holds a channel.
    masks : its file; one for each object where these have files of their own.
    page : the page of the image, counted from 0; None before the files were opened, meaning all.
    mask_page : the page of the mask; None where it is that of the image.
    split : "train", "validation" or "test", where the data set says; None otherwise.
    objects : whether each file of the mask holds one object, however many there are.
    only : the pages of its files that are used, where not all are.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    page: int | None = None
    mask_page: int | None = None
    split: str | None = None
    objects: bool = False
    only: range | None = None


@dataclass(frozen=True)
class Pairing:
    """The pairs of a data set, and how they were found.

    Parameters
    ----------
    layout, rule : what was recognized and how names were matched, in words.
    pairs : in natural order.
    left_out : files that no pair uses, and why.
    root : the folder that was named; None for files and globs.
    task : for which the layout is used, "instances", or None.
    declared : value and name of each class, where a file of the data set states them.
    ignore : the mask value to leave out that it states.
    problems : names without partner or shared by several files.
    """

    layout: str
    rule: str
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...] = ()
    root: Path | None = None
    task: str | None = None
    declared: tuple[tuple[int, str], ...] | None = None
    ignore: int | None = None
    problems: tuple[UnetError, ...] = ()


def find_pairs(
    data: Path | Sequence[Path],
    *,
    images: str | None = None,
    masks: str | None = None,
    pair_by_order: bool = False,
    allow_unpaired: bool = False,
) -> Pairing:
    """Return what `collect_pairs` does where nothing is wrong with it.

    Raises
    ------
    UsageError, InputError : as there, and all problems of the names together.
    """
    pairing = collect_pairs(
        data, images=images, masks=masks, pair_by_order=pair_by_order, allow_unpaired=allow_unpaired
    )
    raise_all(pairing.problems)
    return pairing


def collect_pairs(
    data: Path | Sequence[Path],
    *,
    images: str | None = None,
    masks: str | None = None,
    pair_by_order: bool = False,
    allow_unpaired: bool = False,
) -> Pairing:
    """Return the pairs of image and mask in what the user named, and what is wrong with their names.

    Names only are looked at, no file is decoded. The problems are kept, so that they can be told together with those
    of the files.

    Parameters
    ----------
    data : a folder in any layout, several of them, a folder of images and one of masks, or an image and a mask, each
        a file or the folder of a DICOM series; empty where globs say it all.
    images, masks : globs, both or none.
    pair_by_order : pair images and masks by the order of their names.
    allow_unpaired : leave out what has no partner.

    Raises
    ------
    UsageError : a path is absent, a glob has no match, or the combination means nothing.
    InputError : no images, no masks, or nothing that can be paired; all problems together.
    """
    paths = [data] if isinstance(data, Path) else list(data)
    found = [_from_globs(images, masks)] if images or masks else _from_paths(paths)
    if (images or masks) and paths:
        raise UsageError("both a folder and globs are named", hint="use DATA, or --images GLOB --masks GLOB")
    pairings = [_pair(each, pair_by_order, allow_unpaired) for each in found]
    return pairings[0] if len(pairings) == 1 else _joined(pairings)


class Match(NamedTuple):
    """A prediction and the truth it is scored by."""

    name: str
    prediction: Path
    truth: Path


def match_files(
    predictions: Path | Sequence[Path], truths: Path | Sequence[Path], *, names: Mapping[Path, str] | None = None
) -> list[Match]:
    """Return predictions with their truths: files or folders of them, paired by name like training data.

    Words such as ``_pred`` and ``_cp_masks`` do not count. One file and one file are always a match.

    Parameters
    ----------
    names : of the images behind the truths, which are tried before the truths' own.

    Raises
    ------
    UsageError : a path is absent.
    InputError : a folder without images, files without partner, names shared by several files.
    """
    sides = [_files_below([side] if isinstance(side, Path) else side) for side in (predictions, truths)]
    if len(sides[0]) == len(sides[1]) == 1:
        return [Match(stem_of(sides[1][0]), sides[0][0], sides[1][0])]
    truth_entries, prediction_entries = entries_of(sides[1]), entries_of(sides[0])
    named = [truth_entries]
    if names:
        named.insert(0, tuple(entry._replace(name=names[entry.files[0]]) for entry in truth_entries))
    for entries in named:
        matching = match_names(entries, prediction_entries, mask_key=prediction_key)
        if not (matching.images or matching.masks or matching.ambiguous):
            break
    problems: list[UnetError] = []
    if matching.ambiguous:
        problems.append(ambiguity(matching.ambiguous, None, remedy=""))
    if matching.images or matching.masks:
        lonely = missing_partners(matching.images, matching.masks, truth_entries, prediction_entries, None)
        message = lonely.message.replace("image", "truth").replace("mask", "prediction")
        problems.append(InputError(message, hint="name the files that belong together, in the same number"))
    raise_all(problems)
    found = [Match(truth.name, prediction.files[0], truth.files[0]) for truth, prediction in matching.pairs]
    return sorted(found, key=lambda match: natural_key(match.name))


def _files_below(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not is_there(path):
            raise _absent(path)
        if not path.is_dir() or is_image_folder(path):
            files.append(path)
            continue
        below = []
        for folder, folders, names in os.walk(path):
            stores = [name for name in folders if name.endswith(".zarr")]
            folders[:] = [name for name in folders if not (is_hidden(name) or name.endswith((".zarr", ".zarr.part")))]
            below += [
                Path(folder) / name for name in (*names, *stores) if split_extension(name)[1] and not is_hidden(name)
            ]
        if not below:
            raise InputError("no images found", path=path, hint="name the folder that holds the masks")
        files += sorted(below, key=lambda file: natural_key(str(file)))
    return files


def _from_globs(images: str | None, masks: str | None) -> Arrangement:
    if not images or not masks:
        raise UsageError("--images and --masks belong together", hint="--images 'a/*.tif' --masks 'b/*.tif'")
    found = [_matching_files(pattern) for pattern in (images, masks)]
    both = sorted(set(found[0]) & set(found[1]))
    if both:
        raise UsageError(
            f"{len(both)} files are matched by both globs, such as {both[0]}", hint="make --images match images only"
        )
    return Arrangement(f"globs {images} + {masks}", None, (Group(entries_of(found[0]), entries_of(found[1])),))


def _matching_files(pattern: str) -> list[Path]:
    """Return the files that a glob matches; a folder stands for the files in it."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        names = [str(child) for child in path.iterdir() if split_extension(child.name)[1] or child.is_dir()]
    else:
        names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)  # noqa: PTH207 - absolute too
    files = [Path(name) for name in sorted(names, key=natural_key) if not is_hidden(Path(name).name)]
    files = [file for file in files if not file.is_dir() or is_image_folder(file)]
    if not files:
        raise UsageError(f"no file matches {pattern}", hint="quote the glob, and check the folder in it")
    return files


def _from_paths(paths: Sequence[Path]) -> list[Arrangement]:
    if not paths:
        raise UsageError("no data named", hint="name a folder: unet train FOLDER")
    for path in paths:
        if not is_there(path):
            raise _absent(path)
    folders = [path for path in paths if path.is_dir()]
    if len(paths) == 2 and all(path not in folders or is_image_folder(path) for path in paths):
        return [_two_files(*paths)]
    if len(folders) == len(paths):
        if (
            len(paths) == 2
            and [folder_role(path.resolve().name)[0] for path in paths][1] == "masks"
            and paths[0] != paths[1]
        ):
            return [_two_folders(*paths)]
        return [_from_folder(path) for path in paths]
    raise UsageError(
        f"{len(paths) - len(folders)} files and {len(folders)} folders are named",
        hint="name a folder, or an image file and its mask file: unet train train-volume.tif train-labels.tif",
    )


def _two_files(image: Path, mask: Path) -> Arrangement:
    """Return an image, a file or the folder of a DICOM series, and its mask."""
    if is_mask_name(stem_of(image)) and not is_mask_name(stem_of(mask)):
        raise UsageError("the mask is named before the image", hint=f"unet train {mask} {image}")
    entries = Entry(stem_of(image), (image,)), Entry(stem_of(image), (mask,))
    return Arrangement("an image file and a mask file", None, (Group(entries[:1], entries[1:]),), "as named")


def _from_folder(path: Path) -> Arrangement:
    listing = list_folder(path)
    try:
        found = arrange(listing)
    except InputError:
        raise_all(listing.problems)  # a folder that may not be read explains what is missing
        raise
    return replace(found, problems=(*listing.problems, *found.problems))


def _two_folders(images: Path, masks: Path) -> Arrangement:
    listings = [list_folder(path) for path in (images, masks)]
    raise_all([problem for listing in listings for problem in listing.problems])
    for listing in listings:
        if not any(listing.files):
            raise InputError("no images found", path=listing.root, hint="see unet train --help")
    left_out = tuple(item for listing in listings for item in listing.left_out)
    return Arrangement(f"folders {images.name}/ + {masks.name}/", None, _alike(*listings), left_out=left_out)


def _alike(images: Listing, masks: Listing) -> tuple[Group, ...]:
    """Return the groups and splits of a folder of images where that of the masks has the same, else one group of all.

    Masks beside each other may be those of images in sub-folders.
    """
    sides: list[dict[tuple[tuple[str, ...], str | None], list[Path]]] = [{}, {}]
    for side, listing in zip(sides, (images, masks), strict=True):
        for folder in listing.folders:
            if folder.files:
                side.setdefault((folder.group, folder.split), []).extend(file.path for file in folder.files)
    lonely = sides[0].keys() - sides[1].keys()
    flat = ((), None) in sides[1] and any(split != "test" for _, split in lonely)
    if flat or not sides[1].keys() <= sides[0].keys():
        everything = [file.path for file in images.files], [file.path for file in masks.files]
        return (group_of(*everything, None),)
    return tuple(group_of(files, sides[1].get(place, ()), place[1]) for place, files in sides[0].items())


def _absent(path: Path) -> UsageError:
    return UsageError("no such file or folder", path=path, hint="check the name; no glob is looked for here")


def _pair(found: Arrangement, by_order: bool, allow_unpaired: bool) -> Pairing:
    """Return the pairs of an arrangement, or raise all that keeps it from being used."""
    problems = list(found.problems)
    left_out = list(found.left_out)
    pairs: list[Pair] = []
    rules: list[str] = []
    lonely_images: list[Entry] = []
    lonely_masks: list[Entry] = []
    for group in found.groups:
        matching = match_order(group.images, group.masks, found.root) if by_order else _match(group)
        if matching.ambiguous:
            problems.append(ambiguity(matching.ambiguous, found.root))
        if matching.pairs and matching.rule not in rules:
            rules.append(matching.rule)
        pairs += [_pair_of(image, mask, group.split) for image, mask in matching.pairs]
        left_out += [LeftOut(path, e.optional) for e in matching.images if e.optional for path in e.files]
        lonely_images += [entry for entry in matching.images if not entry.optional]
        lonely_masks += matching.masks
    if lonely_images or lonely_masks:
        if allow_unpaired and pairs:
            left_out += [LeftOut(path, "no mask") for entry in lonely_images for path in entry.files]
            left_out += [LeftOut(path, "no image") for entry in lonely_masks for path in entry.files]
        else:
            every_image = [entry for group in found.groups for entry in group.images]
            every_mask = [entry for group in found.groups for entry in group.masks]
            problems.append(missing_partners(lonely_images, lonely_masks, every_image, every_mask, found.root))
    if not pairs:
        raise_all(problems)
        raise InputError("no image has a mask", path=found.root, hint="see unet train --help")
    return Pairing(
        found.layout,
        found.rule if found.rule and not by_order else "; ".join(rules),
        tuple(_uniquely_named(pairs, found.root)),
        tuple(left_out),
        found.root,
        found.task,
        found.declared,
        found.ignore,
        tuple(problems),
    )


def _match(group: Group) -> Matching:
    if not group.images or not group.masks:
        return Matching("", (), group.images, group.masks)
    return match_names(group.images, group.masks)


def _pair_of(image: Entry, mask: Entry, split: str | None) -> Pair:
    mask_page = None if image.page is None else 0
    return Pair(image.name, image.files, mask.files, image.page, mask_page, split, mask.objects)


def _uniquely_named(pairs: Sequence[Pair], root: Path | None) -> Iterator[Pair]:
    """Yield the pairs in natural order, named by their paths where stems are not unique."""
    names = [pair.name for pair in pairs]
    if len(set(names)) < len(names):
        places = [os.path.abspath(pair.images[0].parent) for pair in pairs]  # noqa: PTH100 - the same from any folder
        top = root or os.path.commonpath(places)
        names = [os.path.relpath(Path(place, pair.name), top) for place, pair in zip(places, pairs, strict=True)]
    named = (pair if pair.name == name else replace(pair, name=name) for pair, name in zip(pairs, names, strict=True))
    return iter(sorted(named, key=lambda pair: natural_key(pair.name)))


def _joined(pairings: Sequence[Pairing]) -> Pairing:
    """Return the pairs of several folders as one data set."""
    first = pairings[0]
    for other in pairings[1:]:
        if (other.declared, other.ignore, other.task) != (first.declared, first.ignore, first.task):
            raise InputError(
                "states other classes than the first folder", path=other.root, hint="train on folders of one kind"
            )
    pairs = [pair for pairing in pairings for pair in pairing.pairs]
    return replace(
        first,
        layout="; ".join(dict.fromkeys(pairing.layout for pairing in pairings)),
        rule="; ".join(dict.fromkeys(pairing.rule for pairing in pairings)),
        pairs=tuple(_uniquely_named(pairs, None)),
        left_out=tuple(item for pairing in pairings for item in pairing.left_out),
        root=None,
        problems=tuple(problem for pairing in pairings for problem in pairing.problems),
    )
