"""Which images, or which parts of them, are held out for validation."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.labels import IGNORE
from unetcli.dataset.pairs import Pair
from unetcli.dataset.patches import Sample
from unetcli.errors import InputError, UsageError

DEFAULT_FRACTION = 0.2
FEWEST_FOR_SPLIT = 4  # images; fewer share an image between training and validation
HELD_OUT_SHARE = 0.25  # of such a shared image
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
        list file: one name per line, or CSV with the columns ``id`` and ``split``.

    Raises
    ------
    UsageError : `validation` selects nothing, or everything, or pages that are not there.
    """
    named = [index for index, pair in enumerate(pairs) if pair.split == "validation"]
    tested = {index for index, pair in enumerate(pairs) if pair.split == "test"}
    usable = [index for index in range(len(pairs)) if index not in tested]
    if validation == "auto":
        if named:
            return _checked(usable, named, f"{len(named)} images of the folder's validation split")
        return _automatic(pairs, usable, DEFAULT_FRACTION, seed)
    if Path(validation).is_file():
        chosen = _listed(pairs, usable, Path(validation))
        if len(set(chosen)) in (0, len(usable)):
            what = "every image" if chosen else "nothing"
            raise InputError(
                f"selects {what} of {len(usable)} images", path=validation, hint="list some of the images, not all"
            )
    elif "." in validation and validation.replace(".", "", 1).isdigit():
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


def _automatic(pairs: Sequence[Pair], usable: Sequence[int], fraction: float, seed: int) -> Split:
    if len(usable) < FEWEST_FOR_SPLIT:
        rule = f"a quarter of each of {len(usable)} images, apart by a gap (optimistic: the same images are trained on)"
        return Split(tuple(usable), tuple(usable), by_region=True, rule=rule)
    stacks = _stacks(pairs, usable)
    if len(stacks) >= FEWEST_FOR_SPLIT:  # whole files: the pages of a stack resemble each other
        files = list(stacks.values())
        held = max(1, round(fraction * len(files)))
        order = np.random.default_rng(seed).permutation(len(files))[:held]
        chosen = sorted(index for file in order for index in files[int(file)])
        return _checked(usable, chosen, f"{held} of {len(files)} files, drawn with seed {seed}")
    chosen = []
    for pages in stacks.values():  # the end of each stack, as one block: neighbouring pages resemble each other
        chosen += pages[len(pages) - max(1, round(fraction * len(pages))) :] if len(pages) > 1 else []
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
    chosen = [
        index
        for index in usable
        if any(fnmatch(name, selection) for name in (pairs[index].name, *map(str, pairs[index].images)))
    ]
    if not chosen:
        raise UsageError(f"--validation {selection} is no file or folder, and no image has such a name", hint=FORMS)
    return chosen


def _listed(pairs: Sequence[Pair], usable: Sequence[int], path: Path) -> list[int]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(text.splitlines(), restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"is no list of names ({error})", path=path, hint="plain text, one name per line") from None
    if rows and {"id", "split"} <= set(rows[0]):
        names = {row["id"] for row in rows if row["split"].strip().lower() in ("val", "valid", "validation")}
    else:
        names = {line.strip() for line in text.splitlines() if line.strip()}
    by_name = {name: index for index in usable for name in _names(pairs[index])}
    unknown = sorted(name for name in names if name not in by_name)
    if unknown:
        shown = ", ".join(unknown[:10])
        raise InputError(
            f"{len(unknown)} names are no image of the data set: {shown}", path=path, hint="one name per line"
        )
    return sorted({by_name[name] for name in names})


def _names(pair: Pair) -> tuple[str, ...]:
    return pair.name, pair.images[0].name, pair.images[0].stem


def hold_out_region(sample: Sample, gap: int) -> tuple[Sample, Sample]:
    """Return an image's labels for training and for validation, each with the other's part ignored.

    The longer axis is cut where the held-out quarter, at its beginning or end, resembles the whole most in its share
    of foreground; a strip of at most `gap` pixels, and an eighth of the side, is left out between the two.
    """
    labels = sample.labels
    side = max(labels.shape)
    along = labels if labels.shape[0] == side else labels.T
    held = max(1, int(side * HELD_OUT_SHARE))
    strip = min(gap, side // 8)
    wanted = _foreground_share(along)
    ends = (np.s_[:held], np.s_[side - held :])
    distances = [abs(_foreground_share(along[end]) - wanted) for end in ends]
    at_start = distances[0] < distances[1]

    training, validation = labels.copy(), np.full_like(labels, IGNORE)
    train_view = training if labels.shape[0] == side else training.T
    validation_view = validation if labels.shape[0] == side else validation.T
    end = ends[0] if at_start else ends[1]
    validation_view[end] = along[end]
    train_view[np.s_[: held + strip] if at_start else np.s_[side - held - strip :]] = IGNORE
    return replace(sample, labels=training), replace(sample, labels=validation)


def _foreground_share(labels: NDArray[np.int32]) -> float:
    known = labels[labels != IGNORE]
    return float((known > 0).mean()) if known.size else -1.0
