"""Everything that is known of a data set before a network is trained on it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from unetcli.dataset.detection import detect_coding
from unetcli.dataset.examination import Record, examine
from unetcli.dataset.labels import LabelCoding
from unetcli.dataset.notes import coded, counted, depth_of, notes_of
from unetcli.dataset.pairs import Pair, Pairing
from unetcli.errors import InputError, Problems, UnetError, raise_all
from unetcli.images.normalization import rule

_HASH_DIGITS = 16  # of an image, in a model file

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Survey:
    """A data set that was decoded once.

    Parameters
    ----------
    pairing : what was recognized.
    records : of every page of every pair that could be read, in order.
    problems : everything that keeps the data set from being used.
    detected : the coding of its masks; None where it could not be told.
    axes_override : what the user said about the axes of the images.
    """

    pairing: Pairing
    records: tuple[Record, ...]
    problems: tuple[UnetError, ...]
    detected: LabelCoding | None
    axes_override: str | None = None

    def check(self) -> None:
        """Raise all problems.

        Raises
        ------
        UnetError : the problem, or `Problems`.
        """
        raise_all(self.problems)

    @property
    def layout(self) -> str:
        """What was recognized, in words."""
        return self.pairing.layout

    @property
    def rule(self) -> str:
        """How masks were found for images, in words."""
        return self.pairing.rule

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs, a page each."""
        return tuple(record.pair for record in self.records)

    @property
    def coding(self) -> LabelCoding:
        """The coding of the masks.

        Raises
        ------
        UnetError : it could not be told; all problems.
        """
        if self.detected is None:
            self.check()
        assert self.detected is not None
        return self.detected

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Height, width and channels of each image."""
        return tuple(record.shape for record in self.records)

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return _most_common([record.shape[2] for record in self.records])

    @property
    def axes(self) -> str:
        """Axes of the image files, as understood; of most of them, should they differ."""
        return _most_common([record.info.axes for record in self.records])

    @property
    def pixel_size(self) -> tuple[float, float, str] | None:
        """Height and width of a pixel, and their unit; None unless all images say the same."""
        sizes = {(size.y, size.x, size.unit) if (size := record.info.pixel_size) else None for record in self.records}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def normalization(self) -> dict[str, Any]:
        """The rule by which intensities are brought to one scale."""
        return rule()

    @property
    def image_hashes(self) -> list[str]:
        """The beginning of the hash of each image, by which a model knows what it was trained on."""
        return [record.image_hash[:_HASH_DIGITS] for record in self.records]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of all images and masks."""
        digest = hashlib.sha256()
        for line in sorted(f"{r.pair.name}\0{r.image_hash}\0{r.mask_hash}\n" for r in self.records):
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def duplicates(self) -> tuple[tuple[int, ...], ...]:
        """Positions of pairs with identical images, group by group."""
        groups: dict[str, list[int]] = {}
        for index, record in enumerate(self.records):
            groups.setdefault(record.image_hash, []).append(index)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    @property
    def class_shares(self) -> tuple[float, ...]:
        """Share of the labelled pixels that each class has; background and objects for instances."""
        coding = self.coding
        counts = [0] * len(coding.classes)
        for record in self.records:
            for value, count in zip(*_values(record, coding), strict=True):
                if coding.task == "instances":
                    counts[int(value != coding.values[0])] += count
                else:
                    counts[coding.values.index(value)] += count
        return tuple(count / max(1, sum(counts)) for count in counts)

    @property
    def foreground_shares(self) -> tuple[float, ...]:
        """Share of the labelled pixels of each image that are no background; 0 where none is labelled."""
        background, shares = self.coding.values[0], []
        for record in self.records:
            values, counts = _values(record, self.coding)
            there = sum(count for value, count in zip(values, counts, strict=True) if value != background)
            shares.append(there / max(1, sum(counts)))
        return tuple(shares)

    @property
    def objects(self) -> tuple[int, ...]:
        """Instances in each image; connected pieces of foreground values where the masks hold classes.

        Of masks of classes larger than `LARGEST_SIDE`, the pieces are those of one part of that size.
        """
        coding = self.coding
        found = []
        for record in self.records:
            values = coded(record, coding).without(coding.ignore).without(coding.values[0])
            found.append(len(values.values) if coding.task == "instances" else int(values.pieces.sum()))
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should be told about how the data set was understood."""
        return notes_of(self.records, self.pairing, self.detected, self.duplicates)

    def as_json(self) -> dict[str, Any]:
        """Return the survey as plain data."""
        coding = self.detected
        shares = self.class_shares if coding else ()
        return {
            "layout": self.layout,
            "rule": self.rule,
            "pairs": len(self.records),
            "sizes": counted(f"{width}x{height}" for height, width, _ in self.shapes),
            "pixels": counted(depth_of(record) for record in self.records),
            "pixel_size": self.pixel_size,
            "axes": self.axes if self.records else None,
            "channels": self.channels if self.records else None,
            "coding": coding.to_json() if coding else None,
            "classes": [
                {"name": name, "value": _value_of(coding, number), "share": share}
                for number, (name, share) in enumerate(zip(coding.classes, shares, strict=True))
            ]
            if coding
            else [],
            "objects": dict(zip((r.pair.name for r in self.records), self.objects, strict=True)) if coding else {},
            "fingerprint": self.fingerprint,
            "images": {r.pair.name: [r.image_hash[:_HASH_DIGITS], r.mask_hash[:_HASH_DIGITS]] for r in self.records},
            "left_out": [{"path": str(item.path), "reason": item.reason} for item in self.pairing.left_out],
            "notes": list(self.notes),
            "problems": [{"error": str(problem), "hint": problem.hint} for problem in self.problems],
        }


def survey(
    pairing: Pairing,
    *,
    task: str = "auto",
    ignore: int | str | None = None,
    classes: Sequence[str] | None = None,
    axes: str | None = None,
    pages: range | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Return what all files of a data set hold, each decoded once, and everything that is wrong with them.

    Problems, those of the pairing among them, are collected, not raised; see `Survey.check`.

    Parameters
    ----------
    task : "semantic", "instances", or "auto".
    ignore : the mask value to leave out.
    classes : names, background first.
    axes : of the images, in place of what the files say.
    pages : those of every stack that count.
    workers : threads; as many as cores where None.
    progress : called with the number of pages that are done and of all.
    """
    records, problems = examine(pairing.pairs, axes=axes, pages=pages, workers=workers, progress=progress)
    problems = [*pairing.problems, *problems, *_mixed_channels(records)]
    detected = None
    if records:
        try:
            detected = detect_coding(
                [record.mask for record in records],
                task,
                ignore=pairing.ignore if ignore is None else ignore,
                classes=classes,
                declared=pairing.declared,
                usual=pairing.task,
                objects=any(pair.objects for pair in pairing.pairs),
            )
        except Problems as error:
            problems += error.problems
        except UnetError as error:
            problems.append(error)
    return Survey(pairing, tuple(records), tuple(problems), detected, axes)


def _mixed_channels(records: Sequence[Record]) -> list[UnetError]:
    """Return the problem of images that differ in their channels."""
    by_channels: dict[int, list[Record]] = {}
    for record in records:
        by_channels.setdefault(record.shape[2], []).append(record)
    if len(by_channels) < 2:
        return []
    several = sorted(by_channels.items(), key=lambda item: -len(item[1]))
    shown = ", ".join(f"{channels} in {len(found)} ({found[0].pair.images[0].name})" for channels, found in several)
    return [
        InputError(
            f"the images differ in their channels: {shown}",
            path=several[1][1][0].pair.images[0],
            hint="convert all images to one number of channels, or train on one kind at a time",
        )
    ]


def _values(record: Record, coding: LabelCoding) -> tuple[list[int], list[int]]:
    values = coded(record, coding).without(coding.ignore)
    return values.values.tolist(), values.counts.tolist()


def _value_of(coding: LabelCoding, number: int) -> int | str | None:
    """Return what stands for a class in the masks; None for the objects of instance masks."""
    if number >= len(coding.values):
        return None
    value = coding.values[number]
    return value if coding.kind == "values" else coding.shown(value)


def _most_common(values: Sequence[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]
