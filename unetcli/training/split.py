"""Which images, or which parts of them, are held out for validation."""

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.labels import IGNORE
from unetcli.dataset.names import SPLITS, split_extension
from unetcli.dataset.pairs import Pair
from unetcli.dataset.patches import Sample
from unetcli.errors import InputError, UsageError

DEFAULT_FRACTION = 0.2
FEWEST_FOR_SPLIT = 4  # images; fewer share an image between training and validation
HELD_OUT_SHARE = 0.25  # of such a shared image
_SPLITS = {"": "train", **SPLITS}  # words of a list's column `split`
FORMS = "--validation takes 0.2, pages (20-23), a folder or a glob of the data, or a list file"


@dataclass(frozen=True)
class Split:
    """Indices of the pairs to train on and to validate on; equal where regions of the same images are held out.

    Parameters
    ----------
    training, validation : positions in the list of pairs, in order.
    by_region : whether each image gives a region of its own to validation.
    rule : one line for the user.
    """

    training: tuple[int, ...]
    validation: tuple[int, ...]
    by_region: bool
    rule: str


def split_pairs(pairs: Sequence[Pair], validation: str = "auto", *, seed: int = 0) -> Split:
    """Return which pairs are held out.

    Parameters
    ----------
    validation : "auto", a fraction ("0.2"), pages of a stack ("20-23"), a folder, a glob over names or files, or a
        list file: one name per line, or CSV with the columns ``id`` and ``split``, whose test images stay out.

    Raises
    ------
    UsageError : `validation` selects nothing, or everything, or pages that are not there.
    """
    named = [index for index, pair in enumerate(pairs) if pair.split == "validation"]
    tested = {index for index, pair in enumerate(pairs) if pair.split == "test"}
    usable = [index for index in range(len(pairs)) if index not in tested]
    if not usable:
        raise InputError(f"all {len(pairs)} images belong to the test split", hint="name the folder of one split")
    if validation == "auto":
        if named:
            return _checked(usable, named, f"{len(named)} images of the folder's validation split")
        return _automatic(pairs, usable, None, seed)
    if Path(validation).is_file():
        chosen, tested = _listed(pairs, usable, Path(validation))
        usable = [index for index in usable if index not in tested]
        if len(set(chosen)) in (0, len(usable)):
            what = "every image" if chosen else "nothing"
            raise InputError(
                f"selects {what} of {len(usable)} images", path=validation, hint="list some of the images, not all"
            )
    elif "." in validation and validation.replace(".", "", 1).isdecimal():
        fraction = float(validation)
        if not 0 < fraction < 1:
            raise UsageError(f"--validation {validation}: a fraction lies between 0 and 1", hint="--validation 0.2")
        return _automatic(pairs, usable, fraction, seed)
    else:
        chosen = _selected(pairs, usable, validation)
    return _checked(usable, chosen, f"{len(chosen)} images selected by --validation {validation}")


def split_fold(pairs: Sequence[Pair], fold: int, folds: int, *, seed: int = 0) -> Split:
    """Return the split of one fold of a cross-validation: each image is held out in exactly one fold.

    Whole files are dealt out where there are enough of them; the pages of fewer stacks in contiguous blocks. Images
    of the folder's test split stay out.

    Parameters
    ----------
    fold : which, from 1 to `folds`.

    Raises
    ------
    UsageError : fewer images than folds.
    """
    usable = [index for index, pair in enumerate(pairs) if pair.split != "test"]
    stacks = _stacks(pairs, usable)
    if len(stacks) >= folds:
        files = list(stacks.values())
        order = np.random.default_rng(seed).permutation(len(files))[fold - 1 :: folds]
        chosen = sorted(index for file in order for index in files[int(file)])
        return _checked(usable, chosen, f"fold {fold} of {folds}: {len(order)} of {len(files)} files, seed {seed}")
    if len(usable) < 2:
        raise UsageError("one image does not make folds", hint="leave --folds out: a part of it is held out")
    if len(usable) < folds:
        raise UsageError(f"{len(usable)} images do not make {folds} folds", hint=f"--folds {len(usable)}")
    chosen = usable[len(usable) * (fold - 1) // folds : len(usable) * fold // folds]
    return _checked(usable, chosen, f"fold {fold} of {folds}: {len(chosen)} of {len(usable)} pages, in blocks")


def _stacks(pairs: Sequence[Pair], usable: Sequence[int]) -> dict[Path, list[int]]:
    stacks: dict[Path, list[int]] = {}
    for index in usable:
        stacks.setdefault(pairs[index].images[0], []).append(index)
    return stacks


def _checked(usable: Sequence[int], chosen: Sequence[int], rule: str) -> Split:
    training = tuple(index for index in usable if index not in set(chosen))
    if not chosen or not training:
        what = "nothing" if not chosen else "every image"
        raise UsageError(f"--validation selects {what} of {len(usable)} images", hint=FORMS)
    return Split(training, tuple(chosen), by_region=False, rule=rule)


def _automatic(pairs: Sequence[Pair], usable: Sequence[int], asked: float | None, seed: int) -> Split:
    """Return the split of `asked`, a fraction, or of the usual one; where none is asked for, few images share."""
    fraction = asked or DEFAULT_FRACTION
    if len(usable) < (FEWEST_FOR_SPLIT if asked is None else 2):
        rule = f"a quarter of each of {len(usable)} images, apart by a gap (optimistic: the same images are trained on)"
        return Split(tuple(usable), tuple(usable), by_region=True, rule=rule)
    stacks = _stacks(pairs, usable)
    if len(stacks) >= FEWEST_FOR_SPLIT or len(stacks) == len(usable):  # whole files: pages of one are alike
        files = list(stacks.values())
        held = min(max(1, round(fraction * len(files))), len(files) - 1)
        order = np.random.default_rng(seed).permutation(len(files))[:held]
        chosen = sorted(index for file in order for index in files[int(file)])
        return _checked(usable, chosen, f"{held} of {len(files)} files, drawn with seed {seed}")
    chosen = []
    for pages in stacks.values():  # the end of each stack, as one block: neighbouring pages resemble each other
        chosen += pages[len(pages) - min(max(1, round(fraction * len(pages))), len(pages) - 1) :]
    return _checked(usable, chosen, f"the last {len(chosen)} of {len(usable)} pages")


def _selected(pairs: Sequence[Pair], usable: Sequence[int], selection: str) -> list[int]:
    """Return the pairs on the pages ``A-B`` or ``A``, or in a folder, or whose name or file a glob matches."""
    pages, folder = re.fullmatch(r"(\d+)(?:-(\d+))?", selection), Path(selection)
    if pages:
        first, last = int(pages[1]), int(pages[2] or pages[1])
        present = {page for index in usable if (page := pairs[index].page) is not None}
        if not first <= last or not {first, last} <= present:
            there = f"pages {min(present)} to {max(present)}" if present else "no pages"
            raise UsageError(f"--validation {selection}: the data have {there}", hint=FORMS)
        return [index for index in usable if (page := pairs[index].page) is not None and first <= page <= last]
    if folder.is_dir():
        inside = folder.resolve()
        chosen = [index for index in usable if any(inside in path.resolve().parents for path in pairs[index].images)]
        if not chosen:
            raise UsageError(
                "no image of the data is in this folder of --validation",
                path=folder,
                hint=f"name the folder among the data, too: unet train DATA {folder} --validation {folder}",
            )
        return chosen
    from_here = str(folder.absolute())
    chosen = [
        index
        for index in usable
        if selection == pairs[index].name
        or fnmatch(pairs[index].name, selection)
        or any(
            fnmatch(str(path), selection) or fnmatch(str(path.absolute()), from_here) for path in pairs[index].images
        )
    ]
    if not chosen:
        raise UsageError(f"--validation {selection} is no file or folder, and no image has such a name", hint=FORMS)
    return chosen


def _listed(pairs: Sequence[Pair], usable: Sequence[int], path: Path) -> tuple[list[int], set[int]]:
    """Return the pairs that a list file names for validation, and for the test split; a stack's name means its pages.

    Raises
    ------
    InputError : no list; names of no image, of several files or in several splits, or splits that are unknown.
    """
    listed = _rows_of(path)

    def refuse(what: str, wrong: Collection[str], hint: str = "one name per line, as unet prints it") -> None:
        if wrong:
            raise InputError(f"{len(wrong)} {what}: {', '.join(sorted(wrong)[:10])}", path=path, hint=hint)

    refuse("words are no split", {word for _, word in listed if word not in _SPLITS}, "train, validation or test")
    files: defaultdict[str, dict[Path, list[int]]] = defaultdict(dict)
    for index, pair in enumerate(pairs):
        for name in _names(pair):
            files[name].setdefault(pair.images[0], []).append(index)
    meant = [
        (name, files.get(name) or files.get(str(Path(name).absolute())) or {}, _SPLITS[word]) for name, word in listed
    ]
    refuse(
        "names are no image of the data set", {name for name, found, split in meant if split != "train" and not found}
    )
    refuse(
        "names are those of several files",
        {name for name, found, split in meant if split != "train" and len(found) > 1},
    )
    splits: defaultdict[int, set[str]] = defaultdict(set)
    for _, found, split in meant:
        for indices in found.values() if len(found) == 1 else ():
            for index in indices:
                splits[index].add(split)
    for index in splits.keys() - set(usable):
        splits[index].add("test")
    refuse("images are in several splits", {pairs[index].name for index, said in splits.items() if len(said) > 1})
    validation, test = ({index for index, said in splits.items() if kind in said} for kind in ("validation", "test"))
    return sorted(validation), test


def _rows_of(path: Path) -> list[tuple[str, str]]:
    """Return the names of a list file and the word for the split of each, "validation" where it has none.

    Raises
    ------
    InputError : no text, no table, or not to be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"is no list of names ({error})", path=path, hint="plain text, one name per line") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path, hint="make the list readable") from None
    header = [cell.lower() for cell in table[0]] if table else []
    if not {"id", "split"} <= set(header):
        return [(line.strip(), "validation") for line in text.splitlines() if line.strip()]
    rows = [dict(zip(header, row, strict=False)) for row in table[1:]]
    return [(row.get("id", ""), row.get("split", "").lower()) for row in rows]


def _names(pair: Pair) -> set[str]:
    """Return what a list may call a pair: its name, or that of its file, which all pages of a stack share."""
    path = pair.images[0]
    return {pair.name, path.name, path.stem, split_extension(path.name)[0], str(path.absolute())}


def hold_out_region(sample: Sample, gap: int) -> tuple[Sample, Sample]:
    """Return an image's labels for training and for validation, each with the other's part ignored.

    What is labelled is cut across its longer axis, where the held-out quarter, at its beginning or end, resembles the
    whole most in its share of foreground; a strip of at most `gap` pixels, and an eighth of the side, is left out
    between the two.
    """
    labels = sample.labels
    if (labels == IGNORE).all():
        return sample, sample
    lines = [np.flatnonzero((labels != IGNORE).any(axis=axis)) for axis in (1, 0)]  # rows, columns
    (top, bottom), (left, right) = ((int(found[0]), int(found[-1]) + 1) for found in lines)
    training, validation = labels.copy(), np.full_like(labels, IGNORE)
    parts = [part[top:bottom, left:right] for part in (labels, training, validation)]
    along, train_view, validation_view = parts if bottom - top >= right - left else [part.T for part in parts]
    side = len(along)
    held = max(1, int(side * HELD_OUT_SHARE))
    strip = min(gap, side // 8)
    wanted = _foreground_share(along)
    ends = (np.s_[:held], np.s_[side - held :])
    distances = [abs(_foreground_share(along[end]) - wanted) for end in ends]
    at_start = distances[0] < distances[1]
    end = ends[0] if at_start else ends[1]
    validation_view[end] = along[end]
    train_view[np.s_[: held + strip] if at_start else np.s_[side - held - strip :]] = IGNORE
    return replace(sample, labels=training), replace(sample, labels=validation)


def _foreground_share(labels: NDArray[np.int32]) -> float:
    return float((labels[labels != IGNORE] > 0).mean())
