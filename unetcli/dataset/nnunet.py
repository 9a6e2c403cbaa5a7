"""The layout of nnU-Net: ``imagesTr/CASE_0000.png`` + ``labelsTr/CASE.png``, a file per channel, ``dataset.json``."""

import json
import re
from collections.abc import Mapping, Sequence
from os.path import isfile  # False for names that no file can have, where Path.is_file raises
from pathlib import Path
from typing import Any

from unetcli.dataset.arrangement import Arrangement, Group, entries_of
from unetcli.dataset.labels import LARGEST_VALUE
from unetcli.dataset.listing import File, Folder, LeftOut, Listing
from unetcli.dataset.matching import Entry
from unetcli.errors import InputError, UnetError

_CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_LARGEST_DESCRIPTION = 64 << 20  # bytes


def recognize(listing: Listing) -> Arrangement | None:
    """Return the images and masks of an nnU-Net data set; None where the folder is none.

    Raises
    ------
    InputError : `dataset.json` is damaged, or the folder holds several data sets.
    """
    by_name = {(folder.path.parent, folder.path.name.lower()): folder for folder in listing.folders}
    found = []
    for folder in listing.folders:
        home = folder.path.parent
        labels = by_name.get((home, "labelstr"))
        if folder.path.name.lower() != "imagestr" or not folder.files or labels is None:
            continue
        description = _read_description(home / "dataset.json")
        if description or _has_channels(folder.files):
            tests = by_name.get((home, "imagests")), by_name.get((home, "labelsts"))
            found.append((home, (folder, labels), tests, description))
    if len(found) > 1:
        raise InputError(
            f"{len(found)} nnU-Net data sets: {', '.join(home.name for home, *_ in found)}",
            path=listing.root,
            hint=f"name one of them: unet train {found[0][0]}",
        )
    return _arrange(listing, *found[0]) if found else None


def _has_channels(files: Sequence[File]) -> bool:
    """Whether files are called as those of channels are, and some of them as those of the first."""
    channels = {found[2] if (found := _CHANNEL.match(file.stem)) else None for file in files}
    return None not in channels and "0000" in channels


def _arrange(
    listing: Listing,
    home: Path,
    training: tuple[Folder, Folder],
    tests: tuple[Folder | None, Folder | None],
    description: Mapping[str, Any],
) -> Arrangement:
    ending = str(description.get("file_ending", "")).lower()
    left_out: list[LeftOut] = []
    problems: list[UnetError] = []

    def usable(folder: Folder | None) -> Sequence[File]:
        files = folder.files if folder else ()
        left_out.extend(
            LeftOut(file.path, f"not {ending}, as dataset.json says")
            for file in files
            if not file.path.name.lower().endswith(ending)
        )
        return [file for file in files if file.path.name.lower().endswith(ending)]

    explicit = description.get("dataset")
    if explicit:
        groups = [_explicit(explicit, home)]
    else:
        masks = entries_of([file.path for file in usable(training[1])])
        groups = [Group(_cases(usable(training[0]), masks, problems), masks, "train")]
    if tests[0] is not None:
        masks = entries_of([file.path for file in usable(tests[1])])
        images = _cases(usable(tests[0]), masks, problems)
        if not masks:
            images = tuple(entry._replace(optional="test image without mask") for entry in images)
        groups.append(Group(images, masks, "test"))
    declared, ignore = _labels(description, home / "dataset.json")
    return Arrangement(
        "nnU-Net",
        listing.root,
        tuple(groups),
        "case, a file per channel",
        tuple(left_out),
        declared=declared,
        ignore=ignore,
        problems=tuple(problems),
    )


def _cases(files: Sequence[File], masks: Sequence[Entry], problems: list[UnetError]) -> tuple[Entry, ...]:
    """Return an entry per case with the files of its channels in order; a number that all masks have too is no channel.

    Parameters
    ----------
    problems : to which what is wrong with them is added.
    """
    cases: dict[str, dict[str, Path]] = {}
    whole = {file.stem for file in files} == {mask.name for mask in masks}
    for file in files:
        found = None if whole else _CHANNEL.match(file.stem)
        case, channel = (found[1], found[2]) if found else (file.stem, "0000")
        if channel in cases.setdefault(case, {}):
            problems.append(
                InputError(
                    f"{file.path.name} and {cases[case][channel].name} are the same channel of one case",
                    path=file.path.parent,
                    hint="keep one of them",
                )
            )
        cases[case][channel] = file.path
    complete = {channel for channels in cases.values() for channel in channels}
    for case, channels in cases.items():
        if missing := sorted(complete - set(channels)):
            problems.append(
                InputError(
                    f"case {case} has {len(channels)} of {len(complete)} channel files; {case}_{missing[0]} is missing",
                    path=next(iter(channels.values())).parent,
                    hint="add the file, or remove the case",
                )
            )
    return tuple(Entry(case, tuple(cases[case][channel] for channel in sorted(cases[case]))) for case in cases)


def _explicit(dataset: Any, home: Path) -> Group:
    """Return the group that ``"dataset": {case: {"images": [...], "label": ...}}`` lists."""
    try:
        images = [Entry(str(case), tuple(home / name for name in parts["images"])) for case, parts in dataset.items()]
        masks = [Entry(str(case), (home / parts["label"],)) for case, parts in dataset.items()]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"its 'dataset' has no images and label for every case ({error})",
            path=home / "dataset.json",
            hint="remove 'dataset' to have the files paired by name",
        ) from error
    if without := [entry.name for entry in images if not entry.files]:
        raise InputError(
            f"its 'dataset' lists no image for {len(without)} cases, such as {without[0]}",
            path=home / "dataset.json",
            hint="name the images of every case, or remove 'dataset' to have the files paired by name",
        )
    absent = [path for entry in (*images, *masks) for path in entry.files if not isfile(path)]  # noqa: PTH113
    if absent:
        raise InputError(
            f"lists {len(absent)} files that do not exist, such as {absent[0]}",
            path=home / "dataset.json",
            hint="correct the paths; they are relative to dataset.json",
        )
    return Group(tuple(images), tuple(masks))


def _read_description(path: Path) -> Mapping[str, Any]:
    """Return what `dataset.json` says; nothing where there is none."""
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > _LARGEST_DESCRIPTION:
            raise ValueError(f"{path.stat().st_size} bytes")
        description = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(description, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no valid JSON ({error})", path=path, hint="correct it, or remove it") from error
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", path=path, hint="make it readable, or remove it"
        ) from error
    return description


def _labels(description: Mapping[str, Any], path: Path) -> tuple[tuple[tuple[int, str], ...] | None, int | None]:
    """Return value and name of each class, and the ignored value; None where nothing is stated, or only regions."""
    labels = description.get("labels")
    if not isinstance(labels, dict) or not labels:
        return None, None
    if all(str(name).isdecimal() for name in labels):  # {"0": "background"}, as version 1 has it
        labels = {str(name): int(value) for value, name in labels.items()}
    ignore = labels.get("ignore")
    values = {name: value for name, value in labels.items() if name != "ignore"}
    regions = any(isinstance(value, list) for value in values.values())
    stated = [*([] if regions else values.values()), *([] if ignore is None else [ignore])]
    if not all(isinstance(value, int) and 0 <= value <= LARGEST_VALUE for value in stated):
        raise InputError(
            f"its 'labels' are no whole numbers from 0 to {LARGEST_VALUE}: {labels}",
            path=path,
            hint="correct or remove 'labels'",
        )
    if regions:
        return None, ignore
    return tuple(sorted((value, str(name)) for name, value in values.items())), ignore
