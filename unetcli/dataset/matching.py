"""Which mask belongs to which image, by their names alone."""

import difflib
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unetcli.dataset.names import affix_and_number, bare_key, mask_suffix, number_key, plain_key
from unetcli.errors import InputError

SHOWN = 10  # names in a message
_NEIGHBOURS = 50  # names next to each other in the alphabet that are looked at for the nearest one
_LOOKED_AT = 500  # names without a partner that are looked at, too
_NO_COINCIDENCE = 0.9  # share of the names that a strict rule must explain to be followed without a look at others
_FIRST = 10  # images from whose names an affix is inferred


class Entry(NamedTuple):
    """One image, or one mask, by the name it is paired by.

    Parameters
    ----------
    name : without extension.
    files : several where each holds a channel, or an object.
    page : the page meant; None means all.
    optional : why the image needs no mask; None where it needs one.
    objects : whether each file of the mask holds one object.
    """

    name: str
    files: tuple[Path, ...]
    page: int | None = None
    optional: str | None = None
    objects: bool = False


@dataclass(frozen=True)
class Matching:
    """What was matched, how, and what was not.

    Parameters
    ----------
    rule : in words.
    pairs : image and mask.
    images, masks : those without a partner.
    ambiguous : entries of one role that share a name.
    """

    rule: str
    pairs: tuple[tuple[Entry, Entry], ...]
    images: tuple[Entry, ...]
    masks: tuple[Entry, ...]
    ambiguous: tuple[tuple[Entry, ...], ...] = ()


Key = Callable[[str], Hashable]


@dataclass(frozen=True)
class _Rule:
    """Names belong together where the keys are equal; a key of None belongs to nothing.

    `loose` rules are followed only where no two entries of a role share a key.
    """

    words: str
    image_key: Key
    mask_key: Key
    loose: bool = False


def _first_channel_key(stem: str) -> str:
    bare = bare_key(stem)
    return bare.removesuffix("_0000")


_EQUAL = _Rule("equal names", plain_key, plain_key)
_FIXED = (
    _EQUAL,
    _Rule("equal names without the words for image and mask", bare_key, bare_key),
    _Rule("equal names without _0000", _first_channel_key, bare_key, loose=True),
)


def match_names(
    images: Sequence[Entry], masks: Sequence[Entry], *, mask_key: Callable[[str], str] | None = None
) -> Matching:
    """Return the pairs under the first rule that pairs nearly all, else under the one that pairs most.

    The rules, in order: equal names; equal names without words such as ``_mask``; one beginning or ending that all
    masks add to the names of the images; equal prefix and number; equal number, where all images and all masks are
    named alike.

    Parameters
    ----------
    mask_key : what is equal to the image's name, where masks have names of their own kind (predictions).
    """
    own = _rules_for_predictions(mask_key) if mask_key else ()
    best, most = None, -1
    for rule in (*own, *_rules(images, masks)):
        found, shared = _follow(rule, images, masks)
        if found is not None and shared > most:
            best, most = found, shared
        if shared >= (1 if rule.loose else _NO_COINCIDENCE) * min(len(images), len(masks)):
            break
    assert best is not None
    return best


def _rules_for_predictions(mask_key: Callable[[str], str]) -> tuple[_Rule, ...]:
    words = "equal names without the words for predictions"
    return (
        _Rule(words, plain_key, mask_key),
        _Rule(f"{words} and masks", bare_key, lambda stem: _first_channel_key(mask_key(stem))),
    )


def match_order(images: Sequence[Entry], masks: Sequence[Entry], root: Path | None) -> Matching:
    """Return the pairs by the order of the names alone.

    Raises
    ------
    InputError : not as many masks as images.
    """
    required = [image for image in images if image.optional is None]
    if len(required) != len(masks):
        raise InputError(
            f"{len(required)} images and {len(masks)} masks cannot be paired by order",
            path=root,
            hint="name the images and masks that belong together with --images GLOB --masks GLOB",
        )
    optional = tuple(image for image in images if image.optional is not None)
    return Matching("by order, as asked", tuple(zip(required, masks, strict=True)), optional, ())


def _rules(images: Sequence[Entry], masks: Sequence[Entry]) -> Iterator[_Rule]:
    yield from _FIXED
    yield from _affixes(images, masks)
    yield _Rule("equal prefix and number", number_key, number_key, loose=True)
    around_images = {around[0] for image in images if (around := affix_and_number(image.name))}
    around_masks = {around[0] for mask in masks if (around := affix_and_number(mask.name))}
    if len(around_images) == len(around_masks) == 1:
        (before, after), (mask_before, mask_after) = around_images.pop(), around_masks.pop()
        words = f"equal number in {before}N{after} and {mask_before}N{mask_after}"
        yield _Rule(words, _number_alone, _number_alone, loose=True)


def _number_alone(stem: str) -> int | None:
    found = affix_and_number(stem)
    return found[1] if found else None


def _affixes(images: Sequence[Entry], masks: Sequence[Entry]) -> Iterator[_Rule]:
    """Yield rules for what masks add to the names of images, inferred from the first images."""
    names = [plain_key(mask.name) for mask in masks]
    endings: Counter[str] = Counter()
    beginnings: Counter[str] = Counter()
    for image in images[:_FIRST]:
        stem = plain_key(image.name)
        endings.update(name.removeprefix(stem) for name in names if name.startswith(stem) and name != stem)
        beginnings.update(name.removesuffix(stem) for name in names if name.endswith(stem) and name != stem)
    for ending, _ in endings.most_common(3):
        yield _Rule(f"masks end in {ending}", plain_key, _without_ending(ending), loose=True)
    for beginning, _ in beginnings.most_common(3):
        yield _Rule(f"masks begin with {beginning}", plain_key, _without_beginning(beginning), loose=True)


def _without_ending(ending: str) -> Key:
    return lambda stem: plain_key(stem).removesuffix(ending) if plain_key(stem).endswith(ending) else None


def _without_beginning(beginning: str) -> Key:
    return lambda stem: plain_key(stem).removeprefix(beginning) if plain_key(stem).startswith(beginning) else None


def _follow(rule: _Rule, images: Sequence[Entry], masks: Sequence[Entry]) -> tuple[Matching | None, int]:
    """Return what a rule matches, None where it must not be followed, and how many keys images and masks share."""
    by_key: dict[Hashable, tuple[list[Entry], list[Entry]]] = {}
    for role, entries, key_of in ((0, images, rule.image_key), (1, masks, rule.mask_key)):
        for entry in entries:
            key = key_of(entry.name)
            by_key.setdefault((id(entry),) if key is None else key, ([], []))[role].append(entry)
    ambiguous = [entries for both in by_key.values() for entries in both if len(entries) > 1]
    if ambiguous and rule.loose:
        return None, 0
    clear = [both for both in by_key.values() if max(map(len, both)) == 1]
    pairs = tuple((image[0], mask[0]) for image, mask in clear if image and mask)
    matching = Matching(
        _suffix_words(pairs) if rule.image_key is bare_key and rule.mask_key is bare_key else rule.words,
        pairs,
        tuple(image[0] for image, mask in clear if not mask),
        tuple(mask[0] for image, mask in clear if not image),
        tuple(tuple(entries) for entries in ambiguous),
    )
    return matching, sum(1 for image, mask in by_key.values() if image and mask)


def _suffix_words(pairs: Sequence[tuple[Entry, Entry]]) -> str:
    """Return the rule of equal names with the words that were left out."""
    if not pairs:
        return _FIXED[1].words
    _, mask = pairs[0]
    if bare_key(mask.name) == plain_key(mask.name).replace("-", "_"):
        return _FIXED[1].words
    return f"equal names, masks with {mask_suffix(mask.name)}"


def ambiguity(
    groups: Sequence[tuple[Entry, ...]], root: Path | None, remedy: str = ", or choose with --images GLOB --masks GLOB"
) -> InputError:
    """Return the error of names that several files of one role share; `remedy` besides keeping one of them."""
    shown = "; ".join(" and ".join(str(entry.files[0]) for entry in entries) for entries in groups[:SHOWN])
    return InputError(
        f"{_counted(len(groups), 'name is', 'names are')} shared by several files: {shown}{_more(len(groups))}",
        path=root,
        hint=f"keep one file of each name{remedy}",
    )


def missing_partners(
    images: Sequence[Entry],
    masks: Sequence[Entry],
    every_image: Sequence[Entry],
    every_mask: Sequence[Entry],
    root: Path | None,
) -> InputError:
    """Return the error that lists images without mask and masks without image, each with the nearest name."""
    parts = []
    for entries, others, lonely, words in (
        (images, every_mask, masks, ("image has no mask", "images have no mask")),
        (masks, every_image, images, ("mask has no image", "masks have no image")),
    ):
        if entries:
            nearest = _Nearest(lonely, others)
            shown = ", ".join(f"{entry.files[0].name}{nearest(entry)}" for entry in entries[:SHOWN])
            parts.append(f"{_counted(len(entries), *words)}: {shown}{_more(len(entries))}")
    return InputError(
        "; ".join(parts),
        path=root,
        hint="--allow-unpaired leaves them out; --images GLOB --masks GLOB names images and masks",
    )


class _Nearest:
    """Finds the name most like another: one without a partner, else any next to it in the alphabet."""

    def __init__(self, lonely: Sequence[Entry], others: Sequence[Entry]) -> None:
        self.lonely = {entry.name: entry.files[0].name for entry in lonely[:_LOOKED_AT]}
        self.others = {entry.name: entry.files[0].name for entry in others}
        self.sorted = sorted(self.others)

    def __call__(self, entry: Entry) -> str:
        at = bisect(self.sorted, entry.name)
        around = {name: self.others[name] for name in self.sorted[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]}
        for names, likeness in ((self.lonely, 0.5), ({**self.lonely, **around}, 0.0)):
            if found := difflib.get_close_matches(entry.name, names, n=1, cutoff=likeness):
                return f" (nearest: {names[found[0]]})"
        return ""


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _more(count: int) -> str:
    return f" and {count - SHOWN} more" if count > SHOWN else ""
