"""Telling the label coding from the values of all masks.

Background is the value 0, or the lowest where no mask has a 0; among colors black, or the most frequent color.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from unetcli.dataset.evidence import Evidence
from unetcli.dataset.labels import MOST_CLASSES, TASKS, Color, LabelCoding
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

    Raises
    ------
    InputError : no foreground, blurred or negative values, values that fit the task badly, or either task.
    UsageError : another number of names than of classes.
    """
    if task != "auto" and task not in TASKS:
        raise UsageError(f"--task {task} is unknown", hint=f"--task takes auto, {', '.join(TASKS)}")
    masks = _one_kind(masks)
    ignored = _ignored_value(ignore, masks)
    masks = [mask.without(ignored) for mask in masks]
    _refuse_negative(masks)
    _refuse_blurred(masks)
    background = _background(masks)
    _refuse_without_foreground(masks, background)
    if declared and task != "instances":
        return _declared_coding(masks, declared, ignored, classes)
    evidence = Evidence.of(masks, background)
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


def _one_kind(masks: Sequence[MaskValues]) -> Sequence[MaskValues]:
    """Return the masks as numbers where all agree on what the numbers mean, else as colors."""
    if not masks:
        raise InputError("no mask could be read", hint="see the problems of the files")
    meaning: dict[int, Color] = {}
    for mask in masks:
        for value in mask.values if mask.colormap else ():
            if meaning.setdefault(int(value), mask.colormap[value]) != mask.colormap[value]:  # type: ignore[index]
                return [each.as_colors() for each in masks]
    if any(mask.kind == "colors" for mask in masks):
        return [each.as_colors() for each in masks]
    return masks


def _palette(masks: Sequence[MaskValues]) -> tuple[Color, ...] | None:
    """Return the palette that all masks share, as far as they use it."""
    if not all(mask.colormap for mask in masks):
        return None
    longest = max((mask.colormap or () for mask in masks), key=len)
    table = list(longest)
    for mask in masks:
        for value in mask.values:
            assert mask.colormap is not None
            table[value] = mask.colormap[value]
    return tuple(table)


def _ignored_value(ignore: int | str | None, masks: Sequence[MaskValues]) -> int | None:
    if ignore is None:
        return None
    text = str(ignore).strip()
    try:
        if text.startswith("#"):
            value = int(text[1:], 16)
            if masks[0].kind == "values":
                raise UsageError(f"--ignore {text} is a color, the masks hold numbers", hint="--ignore 255")
        else:
            value = int(text) if masks[0].kind == "values" else int(text) * 0x010101
    except ValueError as error:
        raise UsageError(f"--ignore {text} is no mask value", hint="--ignore 255, or --ignore '#ff0000'") from error
    if not any(value in mask.values for mask in masks):
        warn(f"--ignore {text}: no mask has this value")
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


def _refuse_blurred(masks: Sequence[MaskValues]) -> None:
    problems: list[UnetError] = []
    for mask in masks:
        if _is_blurred(mask):
            shown = ", ".join(map(str, mask.values[:3])) if mask.kind == "values" else f"#{mask.values[0]:06x}"
            problems.append(
                InputError(
                    f"has {len(mask.values)} values ({shown}, ...): masks must be lossless",
                    path=mask.path,
                    hint="save masks as PNG or TIFF, not as JPEG, and resize them without smoothing",
                )
            )
    raise_all(problems)


def _is_blurred(mask: MaskValues) -> bool:
    """Whether values lie between and around those that were drawn, as lossy compression and smoothing leave them."""
    if mask.lossy and len(mask.values) > 2:
        return mask.kind == "colors" or bool(np.diff(mask.values).min() < 8)
    if len(mask.values) < 8:
        return False
    if mask.kind == "values" and not (mask.values[-1] <= 255 and np.ptp(mask.values) >= 64):
        return False
    rare = np.argsort(mask.counts)[:-2]
    in_pieces = mask.pieces[rare].sum() > 2 * np.count_nonzero(mask.pieces[rare])
    return bool(in_pieces and mask.counts[rare].sum() < 0.2 * mask.counts.sum())


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
        return ("background", *(str(value) if kind == "values" else f"#{value:06x}" for value in values[1:]))
    if len(given) != expected:
        shown = ", ".join(str(value) if kind == "values" else f"#{value:06x}" for value in values[:_SHOWN])
        what = "background and objects" if task == "instances" else f"{expected} values ({shown})"
        raise UsageError(
            f"--classes names {len(given)} classes, the masks have {what}",
            hint="name all of them, background first: --classes background,nucleus",
        )
    if len(set(given)) < len(given) or not all(given):
        raise UsageError(f"--classes {','.join(given)}: names must differ", hint="--classes background,nucleus")
    return tuple(given)


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
    if len(values) < 2 or masks[0].kind == "colors":
        problems.append(InputError("dataset.json and masks do not fit", path=masks[0].path, hint="correct 'labels'"))
    raise_all(problems)
    if given is not None:
        names = list(_class_names("semantic", values, "values", given))
    coding = LabelCoding("semantic", tuple(values), tuple(names), ignored, "values", None)
    _warn_of_oddities(masks, coding)
    return coding


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
