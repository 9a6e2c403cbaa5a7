"""What the user should be told about how a data set was understood."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from unetcli.dataset.examination import Record
from unetcli.dataset.labels import LabelCoding
from unetcli.dataset.maskvalues import MaskValues
from unetcli.dataset.pairs import Pairing

_SHOWN = 3


def notes_of(
    records: Sequence[Record], pairing: Pairing, coding: LabelCoding | None, duplicates: Sequence[Sequence[int]]
) -> tuple[str, ...]:
    """Return a line for each thing that is worth knowing.

    Parameters
    ----------
    coding : of the masks; None where it could not be told.
    duplicates : positions of identical images, group by group.
    """
    told = [*_file_notes(records), *_depth_note(records), *_left_out_note(pairing)]
    if coding is not None:
        told += [*_empty_note(records, coding), *_value_each_note(records, coding)]
    return (*told, *(f"identical images: {_some([records[i].pair.name for i in group])}" for group in duplicates))


def coded(record: Record, coding: LabelCoding) -> MaskValues:
    """Return the values of a mask as its coding counts them: colors, or numbers."""
    return record.mask.as_colors() if coding.kind == "colors" else record.mask


def depth_of(record: Record) -> str:
    """Return the bits and the type of an image, in words."""
    return f"{record.info.bits}-bit {record.info.dtype.name}"


def counted(values: Iterable[str]) -> dict[str, int]:
    """Return how many images have each value, the most frequent first."""
    return dict(Counter(values).most_common())


def _file_notes(records: Sequence[Record]) -> list[str]:
    """Return what was told of files, such as that they are inverted, and of which."""
    names: dict[str, dict[str, None]] = {}  # in order, each once
    for record in records:
        for note in record.info.notes:
            names.setdefault(note, {})[record.info.path.name] = None
    return [f"{_some(list(files))}: {note}" for note, files in names.items()]


def _depth_note(records: Sequence[Record]) -> list[str]:
    depths = counted(depth_of(record) for record in records)
    if len(depths) < 2:
        return []
    shown = ", ".join(f"{depth} ({count})" for depth, count in depths.items())
    return [f"images of several bit depths, {shown}: each file is scaled by itself"]


def _left_out_note(pairing: Pairing) -> list[str]:
    reasons: dict[str, list[Path]] = {}
    for item in pairing.left_out:
        reasons.setdefault(item.reason, []).append(item.path)
    return [
        f"{len(paths)} file{'s' if len(paths) > 1 else ''} left out, {reason}: {_some([path.name for path in paths])}"
        for reason, paths in reasons.items()
    ]


def _empty_note(records: Sequence[Record], coding: LabelCoding) -> list[str]:
    empty = [record.pair.name for record in records if not len(_foreground(record, coding))]
    return [f"{len(empty)} of {len(records)} masks have no foreground: {_some(empty)}"] if empty else []


def _value_each_note(records: Sequence[Record], coding: LabelCoding) -> list[str]:
    """Return what to say of masks that have one foreground value each, but not all the same one."""
    if coding.task == "instances" or coding.kind != "values":
        return []
    first: dict[int, str] = {}
    for record in records:
        values = _foreground(record, coding)
        if len(values) > 1:
            return []
        for value in values:
            first.setdefault(value, record.pair.name)
    if len(first) < 2:
        return []
    shown = ", ".join(f"{value} in {name}" for value, name in first.items())
    what = f"each mask has one value besides background, but not the same ({shown})"
    return [f"{what}: if all mean one class, save them alike"]


def _foreground(record: Record, coding: LabelCoding) -> list[int]:
    """Return the values of a mask that are neither ignored nor background."""
    return [int(value) for value in coded(record, coding).without(coding.ignore).without(coding.values[0]).values]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
