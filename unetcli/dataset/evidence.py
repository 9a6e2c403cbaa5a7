"""Classes or instances? What the values of all masks speak for.

Ids of instances are one connected piece each and differ from file to file; values of classes come in many pieces and
are the same in all files. What lies between is not guessed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unetcli.dataset.maskvalues import MaskValues
from unetcli.errors import InputError

_NEARLY_EVERY = 0.9  # ids in one piece, for instances
_MIXED = 0.6  # below this, values are classes
_HALF = 0.5  # below this, they cannot be instances
_MANY_CLASSES = 32  # more than anyone draws without saying so
_FEW_VALUES = 8


@dataclass(frozen=True)
class Evidence:
    """What tells classes from instances.

    Parameters
    ----------
    ids : values that are not background, over all masks.
    in_one_piece : share of the values of each mask that are one connected piece; None where none was looked at.
    sets : the values of each mask that has some.
    fragmented : the value of most pieces, how many, and its mask.
    """

    ids: int
    largest: int
    in_one_piece: float | None
    sets: tuple[frozenset[int], ...]
    fragmented: tuple[int, int, MaskValues]

    @staticmethod
    def of(masks: Sequence[MaskValues], background: int) -> "Evidence":
        """Return what the masks show; at least one of them has foreground."""
        sets = []
        single = looked_at = 0
        fragmented = (0, 0, masks[0])
        for mask in masks:
            foreground = mask.without(background)
            if not len(foreground.values):
                continue
            sets.append(frozenset(map(int, foreground.values)))
            single += int((foreground.pieces == 1).sum())
            looked_at += int((foreground.pieces > 0).sum())
            most = int(foreground.pieces.argmax())
            if foreground.pieces[most] > fragmented[1]:
                fragmented = (int(foreground.values[most]), int(foreground.pieces[most]), mask)
        union = frozenset().union(*sets)
        return Evidence(len(union), max(union), single / looked_at if looked_at else None, tuple(sets), fragmented)

    @property
    def most_common(self) -> float:
        """Share of the masks that have the most common set of values."""
        return max(Counter(self.sets).values()) / len(self.sets)

    @property
    def sequential(self) -> bool:
        """Whether most masks number their values 1, 2, 3, ..."""
        return 2 * sum(ids == frozenset(range(1, len(ids) + 1)) for ids in self.sets) >= len(self.sets)

    def _below(self, share: float) -> bool:
        """Whether less than a share of the values are one piece, as far as any was looked at."""
        return self.in_one_piece is not None and self.in_one_piece < share

    def lean(self) -> str | None:
        """Return the task that the values speak for; None where they speak for both."""
        if self.ids == 1:
            return "semantic"
        if self.in_one_piece is None:
            return None
        if self.in_one_piece < _MIXED:
            return "semantic" if self.ids <= _MANY_CLASSES else None
        if self.in_one_piece < _NEARLY_EVERY:
            few = self.ids <= _FEW_VALUES or (not self.sequential and self.ids <= _MANY_CLASSES)
            return "semantic" if few and (self.ids <= 3 or self.most_common > 0.5) else None
        if len(self.sets) == 1:
            return "instances" if self.ids > _FEW_VALUES else None if self.sequential or self.ids > 3 else "semantic"
        if self.most_common > 0.5:
            return "semantic" if self.ids <= 3 or (self.ids <= _FEW_VALUES and not self.sequential) else None
        return "instances" if self.ids > _FEW_VALUES or (self.sequential and self.ids > 4) else None

    def decide(self, usual: str | None) -> str:
        """Return the usual task where the values allow it, else the one that they speak for.

        Raises
        ------
        InputError : they speak for both, or for neither.
        """
        if usual == "instances" and not self._below(_HALF):
            return usual
        found = self.lean()
        if found is None and self._below(_MIXED):
            mask = self.fragmented[2]
            raise InputError(
                f"has {len(mask.values)} values in many pieces, {self.ids} in all masks: masks must be lossless",
                path=mask.path,
                hint="save masks as PNG or TIFF, resize without smoothing; --task semantic if these are classes",
            )
        if found is None:
            looked_at = "" if self.in_one_piece is None else f", {self.in_one_piece:.0%} of them one connected piece"
            raise InputError(
                f"classes or instances? {self.ids} values (max {self.largest}){looked_at}, over {len(self.sets)} masks",
                hint="say which with --task semantic or --task instances",
            )
        return found

    def of_objects(self, task: str) -> str:
        """Return the task where each object has a file of its own.

        Raises
        ------
        InputError : other is asked for, or most files hold several pieces and nobody said that each is an object.
        """
        words = "one mask for each image, with a value per class"
        _, pieces, mask = self.fragmented
        if task == "semantic":
            raise InputError("has a file per object, which are no classes", path=mask.path, hint=f"save {words}")
        if task == "auto" and self._below(_HALF):
            raise InputError(
                f"one file per object, but most of them hold several pieces (one of this image {pieces})",
                path=mask.path,
                hint=f"--task instances, if each is one object all the same; else save {words}",
            )
        return "instances"

    def confirm(self, task: str) -> str:
        """Return the task that was asked for.

        Raises
        ------
        InputError : the values contradict it.
        """
        if task == "semantic" and self.lean() == "instances":
            raise InputError(
                f"looks like instance ids (max {self.largest}): {self.ids} values, nearly all one connected piece",
                hint="--task instances",
            )
        if task == "instances" and self._below(_HALF):
            value, pieces, mask = self.fragmented
            raise InputError(
                f"looks like classes, not instances: value {value} has {pieces} separate pieces",
                path=mask.path,
                hint="--task semantic",
            )
        return task
