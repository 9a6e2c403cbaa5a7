"""A surveyed data set as rows of text, for whoever shows them."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from unetcli.dataset.survey import Survey

_KINDS = 4  # of sizes and the like that are listed


def summary_rows(survey: Survey) -> list[tuple[str, str]]:
    """Return what was understood of a data set, a name and a text per row; only what could be told."""
    records = survey.records
    rows = [("layout", survey.layout), ("pairs by", survey.rule), ("pairs", _counted_pairs(survey))]
    if not records:
        return rows
    rows += [
        ("size", _kinds(f"{width}x{height}" for height, width, _ in survey.shapes)),
        ("pixels", _kinds(f"{record.info.bits}-bit {record.info.dtype.name}" for record in records)),
        ("axes", _kinds(record.info.axes for record in records)),
        ("channels", _kinds(str(channels) for _, _, channels in survey.shapes)),
    ]
    sizes = [record.info.pixel_size for record in records]
    if any(sizes):
        rows.append(("pixel size", _kinds(f"{s.y:.4g} x {s.x:.4g} {s.unit}" if s else "unknown" for s in sizes)))
    if survey.detected is not None:
        rows.append(("masks", survey.detected.describe()))
        objects = survey.objects
        name = "instances" if survey.detected.task == "instances" else "pieces"
        spread = f"{min(objects)} to {max(objects)}, median {statistics.median(objects):g}"
        rows.append((f"{name} per image", spread if min(objects) < max(objects) else str(objects[0])))
    return rows


def class_rows(survey: Survey) -> list[tuple[str, str, float]]:
    """Return name, mask value and share of the labelled pixels of each class."""
    coding = survey.coding
    values = [coding.shown(value) for value in coding.values]
    values += ["other"] * (len(coding.classes) - len(values))  # the objects of instance masks
    return list(zip(coding.classes, values, survey.class_shares, strict=True))


def _counted_pairs(survey: Survey) -> str:
    records, files = survey.records, len(survey.pairing.pairs)
    text = f"{len(records)} pages of {files} files" if len(records) != files else str(files)
    splits = Counter(record.pair.split for record in records if record.pair.split)
    return text + (f" ({', '.join(f'{split} {count}' for split, count in splits.items())})" if splits else "")


def _kinds(values: Iterable[str]) -> str:
    """Return the values with their numbers, the most frequent ones first."""
    counts: Sequence[tuple[str, int]] = Counter(values).most_common()
    if len(counts) == 1:
        return counts[0][0]
    shown = ", ".join(f"{value} ({count})" for value, count in counts[:_KINDS])
    return shown + (f" and {len(counts) - _KINDS} more" if len(counts) > _KINDS else "")
