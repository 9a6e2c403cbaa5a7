"""Telling the label coding from the values of all masks.

Background is the value 0, or the lowest where no mask has a 0; among colors black, or the most frequent color.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from unetcli.dataset.evidence import Evidence
from unetcli.dataset.labels import LARGEST_VALUE, LONGEST_NAME, MOST_CLASSES, TASKS, Color, LabelCoding
from unetcli.dataset.maskvalues import MaskValues
from unetcli.errors import InputError, UnetError, UsageError, raise_all, warn

_SHOWN = 10


def detect_coding(
    masks: Sequence[MaskValues],
    task: str = "auto",
    *,
    ignore: int | str | None = None,
    classes: Sequence[str] | None = None,
    declared: Sequence[tuple[int, str]] | None = None,
    usual: str | None = None,
    objects: bool = False,
) -> LabelCoding:
    """Return the coding of a data set's masks.

    Parameters
    ----------
    masks : the values of every mask, page by page.
    task : "semantic", "instances", or "auto".
    ignore : the value to leave out: a number, or a color as "#rrggbb".
    classes : names of the classes, background first.
    declared : value and name of each class, where the data set states them.
    usual : the task for which the layout is used; taken unless the values contradict it.
    objects : whether each object has a file of its own.

    Raises
    ------
    InputError : no foreground, blurred or negative values, values that fit the task badly, or either task; classes
        that the data set states badly.
    UsageError : another number of names than of classes, or names or a value to leave out that cannot be.
    """
    if task != "auto" and task not in TASKS:
        raise UsageError(f"--task {task} is unknown", hint=f"--task takes auto, {', '.join(TASKS)}")
    masks = _one_kind(masks, ignore)
    ignored = _ignored_value(ignore, masks)
    masks = [mask.without(ignored) for mask in masks]
    _refuse_negative(masks)
    if task == "auto" and (declared or _names_every_value(classes, masks)):
        task = "semantic"
    _refuse_blurred(masks, task)
    background = _background(masks)
    _refuse_without_foreground(masks, background)
    if declared and task != "instances":
        return _declared_coding(masks, declared, ignored, classes)
    if background == ignored:
        raise InputError(
            f"{_shown(background, masks[0].kind)} is ignored, and the masks have one value besides: no background",
            path=masks[0].path,
            hint="leave --ignore out, or give what is ignored a value of its own",
        )
    evidence = Evidence.of(masks, background)
    if objects:
        decided = evidence.of_objects(task)
    else:
        decided = evidence.decide(usual) if task == "auto" else evidence.confirm(task)
    values = [background] if decided == "instances" else _class_values(masks, background)
    coding = LabelCoding(
        decided,
        tuple(values),
        _class_names(decided, values, masks[0].kind, classes),
        ignored,
        masks[0].kind,
        _palette(masks),
    )
    _warn_of_oddities(masks, coding)
    return coding


def _one_kind(masks: Sequence[MaskValues], ignore: int | str | None) -> Sequence[MaskValues]:
    """Return the masks as numbers where all agree on what the numbers mean, but the ignored one, else as colors."""
    if not masks:
        raise InputError("no mask could be read", hint="see the problems of the files")
    meaning: dict[int, Color] = {}
    for mask in masks:
        for value in mask.values if mask.colormap else ():
            color = mask.colormap[value]  # type: ignore[index]
            if meaning.setdefault(int(value), color) != color and str(value) != str(ignore):
                return [each.as_colors() for each in masks]
    if any(mask.kind == "colors" for mask in masks):
        return [each.as_colors() for each in masks]
    return masks


def _palette(masks: Sequence[MaskValues]) -> tuple[Color, ...] | None:
    """Return the palette that all masks share, as far as they use it; None where it has more than 256 colors."""
    if not all(mask.colormap for mask in masks):
        return None
    longest = max((mask.colormap or () for mask in masks), key=len)
    table = list(longest)
    for mask in masks:
        for value in mask.values:
            assert mask.colormap is not None
            table[value] = mask.colormap[value]
    return tuple(table) if len(table) <= 256 else None


def ignored_number(ignore: int | str, masks: Sequence[MaskValues]) -> int:
    """Return the value to leave out as the number that stands for it in the masks.

    Raises
    ------
    UsageError : a color where the masks hold numbers, or no value that a mask can have.
    """
    in_color = any(mask.kind == "colors" for mask in masks)
    text = str(ignore).strip()
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        if not in_color:
            raise UsageError(f"--ignore {text} is a color, the masks hold numbers", hint="--ignore 255")
        return int(text[1:], 16)
    lowest, highest = (0, 255) if in_color else (-LARGEST_VALUE, LARGEST_VALUE)
    if not re.fullmatch(r"[+-]?\d+", text) or not lowest <= int(text) <= highest:
        raise UsageError(f"--ignore {text} is no mask value", hint="--ignore 255, or --ignore '#ff0000'")
    return int(text) * (0x010101 if in_color else 1)


def _ignored_value(ignore: int | str | None, masks: Sequence[MaskValues]) -> int | None:
    if ignore is None:
        return None
    value = ignored_number(ignore, masks)
    if not any(value in mask.values for mask in masks):
        warn(f"--ignore {ignore}: no mask has this value")
    return value


def _refuse_negative(masks: Sequence[MaskValues]) -> None:
    raise_all(
        [
            InputError(
                f"has negative values ({mask.values[0]})",
                path=mask.path,
                hint=f"--ignore {mask.values[0]} leaves them out",
            )
            for mask in masks
            if len(mask.values) and mask.values[0] < 0
        ]
    )


def _names_every_value(classes: Sequence[str] | None, masks: Sequence[MaskValues]) -> bool:
    """Whether there are as many names as values, and more than instances have."""
    return classes is not None and 2 < len(classes) == len({int(value) for mask in masks for value in mask.values})


def _refuse_blurred(masks: Sequence[MaskValues], task: str) -> None:
    """Refuse masks that look blurred, but not lossless ones whose values were said to be classes."""
    problems: list[UnetError] = []
    for mask in masks:
        if (mask.lossy or task != "semantic") and _is_blurred(mask):
            shown = ", ".join(_shown(value, mask.kind) for value in mask.values[:3])
            hint = "save masks as PNG or TIFF, not as JPEG, and resize them without smoothing"
            problems.append(
                InputError(
                    f"has {len(mask.values)} values ({shown}, ...): masks must be lossless",
                    path=mask.path,
                    hint=hint if mask.lossy else f"{hint}; --task semantic, if each value is a class",
                )
            )
    raise_all(problems)


def _is_blurred(mask: MaskValues) -> bool:
    """Whether values lie between and around those that were drawn, as lossy compression and smoothing leave them."""
    if mask.lossy and len(mask.values) > 2:
        return mask.kind == "colors" or _has_neighbours(mask)
    if len(mask.values) < 8:
        return False
    if mask.kind == "values" and not (mask.values[-1] <= 255 and np.ptp(mask.values) >= 64):
        return False
    *rare, second, first = np.argsort(mask.counts)
    if abs(first - second) < len(mask.values) - 1 and not _has_neighbours(mask):
        return False  # not all lie between two
    in_pieces = mask.pieces[rare].sum() > 2 * np.count_nonzero(mask.pieces[rare])
    return bool(in_pieces and mask.counts[rare].sum() < 0.2 * mask.counts.sum())


def _has_neighbours(mask: MaskValues) -> bool:
    """Whether some numbers, or colors in each of their parts, are closer to each other than anyone draws."""
    if mask.kind == "values":
        return bool(np.diff(mask.values).min() < 8)
    return len(np.unique(mask.values & 0xF8F8F8)) < len(mask.values)


def _background(masks: Sequence[MaskValues]) -> int:
    totals: Counter[int] = Counter()
    for mask in masks:
        totals.update(dict(zip(map(int, mask.values), map(int, mask.counts), strict=True)))
    if 0 in totals or len(totals) <= 1:
        return 0
    return min(totals) if masks[0].kind == "values" else max(totals, key=lambda color: (totals[color], -color))


def _refuse_without_foreground(masks: Sequence[MaskValues], background: int) -> None:
    if not any((mask.values != background).any() for mask in masks):
        raise InputError(
            f"no foreground in {len(masks)} masks: every pixel is background or ignored",
            path=masks[0].path,
            hint="check that these are the masks, and that --ignore does not name the foreground",
        )


def _class_values(masks: Sequence[MaskValues], background: int) -> list[int]:
    values = sorted({int(value) for mask in masks for value in mask.values} - {background})
    if len(values) >= MOST_CLASSES:
        raise InputError(
            f"{len(values) + 1} values, at most {MOST_CLASSES} classes can be learned",
            path=masks[0].path,
            hint="--task instances, if each value is an object",
        )
    return [background, *values]


def _class_names(task: str, values: Sequence[int], kind: str, given: Sequence[str] | None) -> tuple[str, ...]:
    expected = 2 if task == "instances" else len(values)
    if given is None:
        if task == "instances":
            return "background", "object"
        if len(values) == 2:
            return "background", "foreground"
        return ("background", *(_shown(value, kind) for value in values[1:]))
    if len(given) != expected:
        shown = ", ".join(_shown(value, kind) for value in values[:_SHOWN])
        what = "background and objects" if task == "instances" else f"{expected} values ({shown})"
        raise UsageError(
            f"--classes names {len(given)} classes, the masks have {what}",
            hint="name all of them, background first: --classes background,nucleus",
        )
    if wrong := _wrong_with(given):
        raise UsageError(f"--classes {','.join(given)}: {wrong}", hint="--classes background,nucleus")
    return tuple(given)


def _wrong_with(names: Sequence[str]) -> str | None:
    """Return what keeps classes from having these names."""
    if len(set(names)) < len(names) or not all(names):
        return "names must differ"
    longest = max(names, key=len, default="")
    if len(longest) <= LONGEST_NAME:
        return None
    return f"{longest[:_SHOWN]}... has {len(longest)} characters, {LONGEST_NAME} are allowed"


def _declared_coding(
    masks: Sequence[MaskValues], declared: Sequence[tuple[int, str]], ignored: int | None, given: Sequence[str] | None
) -> LabelCoding:
    """Return the coding that the data set states, if the masks keep to it."""
    values = [value for value, _ in declared if value != ignored]
    names = [name for value, name in declared if value != ignored]
    problems: list[UnetError] = []
    for mask in masks:
        unknown = [int(value) for value in mask.values if value not in values]
        if unknown:
            problems.append(
                InputError(
                    f"has values that dataset.json does not list: {', '.join(map(str, unknown[:_SHOWN]))}",
                    path=mask.path,
                    hint="add them to 'labels' in dataset.json, or correct the mask",
                )
            )
    problems += [
        InputError(f"dataset.json and masks do not fit: {wrong}", path=masks[0].path, hint="correct 'labels'")
        for wrong in _wrong_with_declared(values, names, masks[0].kind)
    ]
    raise_all(problems)
    if given is not None:
        names = list(_class_names("semantic", values, "values", given))
    coding = LabelCoding("semantic", tuple(values), tuple(names), ignored, "values", None)
    _warn_of_oddities(masks, coding)
    return coding


def _wrong_with_declared(values: Sequence[int], names: Sequence[str], kind: str) -> Iterator[str]:
    """Yield what keeps the values and names of classes that a data set states from being used."""
    if kind == "colors":
        yield "the masks have colors"
    if not 2 <= len(values) <= MOST_CLASSES:
        yield f"{len(values)} classes, 2 to {MOST_CLASSES} can be learned"
    if max(values, default=0) > LARGEST_VALUE:
        yield f"{max(values)} is a class, labels go up to {LARGEST_VALUE}"
    of_value: dict[int, str] = {}
    for value, name in zip(values, names, strict=True):
        if of_value.setdefault(value, name) != name:
            yield f"{of_value[value]} and {name} are both {value}"
    if wrong := _wrong_with(names):
        yield wrong


def _shown(value: int, kind: str) -> str:
    return str(value) if kind == "values" else f"#{value:06x}"


def _warn_of_oddities(masks: Sequence[MaskValues], coding: LabelCoding) -> None:
    """Warn of a class that only one of several masks has, and of masks that are foreground throughout."""
    full = [mask for mask in masks if len(mask.values) and coding.values[0] not in mask.values]
    if full and (len(coding.values) == 2 or len(full) == len(masks)):
        warn(f"{len(full)} of {len(masks)} masks have no background pixel", path=full[0].path)
    if coding.task == "instances" or len(masks) < 3:
        return
    for value, name in list(zip(coding.values, coding.classes, strict=True))[1:]:
        having = [mask for mask in masks if value in mask.values]
        if len(having) == 1 and len(coding.values) > 2:
            share = 100 * having[0].shares[value]
            shown = "" if name == coding.shown(value) else f" ({name})"
            warn(
                f"is the only one of {len(masks)} masks with value {coding.shown(value)}{shown}, "
                f"on {share:.2g} % of its pixels",
                path=having[0].path,
            )
