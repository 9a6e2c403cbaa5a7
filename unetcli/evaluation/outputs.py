"""What an evaluation leaves behind: CSV rows, overlay pictures, and the report."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetcli import report
from unetcli.errors import UnetError, warn
from unetcli.evaluation.evaluate import SMALLEST_DIFFERENCE, PageJob, bounds_of
from unetcli.evaluation.overlays import draw_errors, draw_labels, key_of, shrink
from unetcli.evaluation.records import Evaluation, LabelledPage, leading_metric
from unetcli.images import atomic_path

GALLERY_SIZE = 48  # pages in a report, so that the file stays a few megabytes
WORST_FIRST = 24  # of them are the worst ones, the others spread over the rest
THUMBNAIL = 400  # largest side of a picture in the report


def csv_text(evaluation: Evaluation) -> str:
    """Return one line per page, class and metric; the value of what is undefined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "page", "class", "metric", "value"])
    for row in evaluation.rows:
        for metric, value in row.metrics.items():
            shown = "" if math.isnan(value) else repr(value)
            writer.writerow([row.name, row.page, row.class_name, metric, shown])
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all; bytes of file names that are no characters become escapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def overlay_paths(folder: Path, jobs: Sequence[PageJob]) -> list[Path]:
    """Return where the overlay of each page goes: the page is in the name where the file has several."""
    pages = Counter(job.case for job in jobs)
    names = [job.case.replace("/", "_") + (f"_page{job.page:04d}" if pages[job.case] > 1 else "") for job in jobs]
    return [folder / f"{name}.png" for name in names]


def write_overlay(path: Path, job: PageJob, task: str) -> None:
    """Write a PNG of where the prediction of a page is right and wrong."""
    from PIL import Image

    page = job.load()
    image = _image_of(job, page)
    pixels = draw_errors(page.truth, page.prediction, image, objects=task == "instances")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")


def _image_of(job: PageJob, page: LabelledPage) -> NDArray[np.uint8] | None:
    """Return what was segmented; None where it is not known or, which is said, cannot be shown beneath the truth."""
    try:
        image = None if job.image is None else job.image()
    except UnetError as error:
        warn(f"the image of {job.case} is not shown: {error}")
        return None
    if image is None or image.shape[:2] == page.truth.shape:
        return image
    sizes = (" x ".join(map(str, shape[:2])) for shape in (image.shape, page.truth.shape))
    warn(f"the image of {job.case} is not shown: it is {' pixels, its truth '.join(sizes)}")
    return None


def build_report(evaluation: Evaluation, jobs: Sequence[PageJob], title: str) -> str:
    """Return the report as one HTML document; `jobs` are the pages that were evaluated."""
    scored = len(evaluation.rows) // len(evaluation.scored_classes)
    lead = f"{evaluation.task}: {len(evaluation.cases)} cases, {scored} pages; distances in {evaluation.unit}"
    intervals = {entry.interval for classes in evaluation.summary.values() for entry in classes.values()}
    notes = [*evaluation.notes, *(f"95 % interval: {words}" for words in sorted(intervals))]
    parts = [report.section("Summary", [_summary_table(evaluation), report.bullets(notes), _definitions(evaluation)])]
    if evaluation.comparison:
        parts.append(report.section(f"Compared with {evaluation.other}", [_comparison_table(evaluation)]))
    parts.append(report.section("Distributions", [_plots(evaluation)]))
    parts.append(report.section("Confusion matrix", [report.matrix(evaluation.classes, evaluation.matrix)]))
    parts.append(_gallery(evaluation, jobs))
    parts.append(report.section("Rows", [_rows_table(evaluation)]))
    return report.document(title, lead, parts)


def _summary_table(evaluation: Evaluation) -> str:
    header = [
        "metric",
        "class",
        "mean",
        "SD",
        "median",
        "n",
        "undefined",
        "95 % low",
        "95 % high",
        "pooled",
    ]
    rows: list[list[str | float | int]] = []
    for metric in evaluation.metrics:
        for name, entry in evaluation.summary[metric.name].items():
            rows.append(
                [metric.name, name, entry.mean, entry.sd, entry.median, entry.n, entry.undefined, entry.ci_low,
                 entry.ci_high, evaluation.pooled[metric.name][name]]
            )  # fmt: skip
    return report.table(header, rows, "Over cases: a file is one case unless pages were asked for")


def _definitions(evaluation: Evaluation) -> str:
    rows = [
        [metric.name, "higher" if metric.higher_is_better else "lower", metric.definition, metric.source]
        for metric in evaluation.metrics
    ]
    return report.table(["metric", "better", "definition", "source"], rows)


def _comparison_table(evaluation: Evaluation) -> str:
    rows: list[list[str | float | int]] = [
        [
            metric,
            name,
            entry.difference,
            entry.n,
            entry.undefined,
            entry.ci_low,
            entry.ci_high,
            "undefined" if math.isnan(entry.p) else f"{entry.p:.2g}",
        ]
        for metric, classes in evaluation.comparison.items()
        for name, entry in classes.items()
    ]
    header = ["metric", "class", "difference", "n", "undefined", "95 % low", "95 % high", "Wilcoxon p"]
    return report.table(header, rows, "Paired over cases: this prediction minus the other")


def _plots(evaluation: Evaluation) -> str:
    plots = []
    for metric in evaluation.metrics:
        for name, entry in evaluation.summary[metric.name].items():
            title = metric.name if len(evaluation.scored_classes) == 1 else f"{metric.name}, {name}"
            values = evaluation.values[metric.name][name]
            plots.append(
                report.distribution(title, values, entry.mean, (entry.ci_low, entry.ci_high), bounds_of(metric))
            )
    legend = report.key({"a case": report.BLUE, "mean and its 95 % interval": report.ORANGE})
    return f'{legend}<div class="plots">{"".join(plots)}</div>'


def _rows_table(evaluation: Evaluation) -> str:
    header = ["name", "page", "class", *(metric.name for metric in evaluation.metrics)]
    rows: list[list[str | float | int]] = [
        [row.name, row.page, row.class_name, *row.metrics.values()] for row in evaluation.rows
    ]
    return report.table(header, rows)


def _gallery(evaluation: Evaluation, jobs: Sequence[PageJob]) -> str:
    metric = leading_metric(evaluation.metrics)
    per_page = len(evaluation.scored_classes)
    values = [row.metrics[metric.name] for row in evaluation.rows[per_page - 1 :: per_page]]
    order = sort_pages(values, higher_is_better=metric.higher_is_better)
    chosen = spread(order)
    objects = evaluation.task == "instances"
    pages = Counter(job.case for job in jobs)
    pictures = []
    for index in chosen:
        job, page = jobs[index], jobs[index].load()
        image = _image_of(job, page)
        layers = [
            ("truth", draw_labels(page.truth, objects=objects)),
            ("prediction", draw_labels(page.prediction, objects=objects)),
            ("errors", draw_errors(page.truth, page.prediction, image, objects=objects)),
        ]
        if image is not None:
            layers.insert(0, ("image", image))
        value = "undefined" if math.isnan(values[index]) else f"{values[index]:.4f}"
        name = f"{job.case}, page {job.page}" if pages[job.case] > 1 else job.case
        small: tuple[tuple[str, NDArray[np.uint8]], ...] = tuple((word, shrink(p, THUMBNAIL)) for word, p in layers)
        pictures.append(report.Picture(name, f"{metric.name} {value}", small))
    shown = (
        "" if len(chosen) == len(jobs) else f": {len(chosen)} of {len(jobs)} pages, the {WORST_FIRST} worst among them"
    )
    title = f"From worst to best by {metric.name}{shown}"
    return report.section(title, [report.key(key_of(evaluation.task)), report.gallery(pictures)])


def sort_pages(values: Sequence[float], *, higher_is_better: bool) -> list[int]:
    """Return the indices from the worst value to the best, undefined ones last."""
    sign = 1 if higher_is_better else -1
    return sorted(
        range(len(values)), key=lambda i: (math.isnan(values[i]), sign * values[i] if values[i] == values[i] else 0)
    )


def spread(order: Sequence[int]) -> list[int]:
    """Return at most `GALLERY_SIZE` of the pages: the first ones, and others evenly from the rest with the last."""
    if len(order) <= GALLERY_SIZE:
        return list(order)
    rest = order[WORST_FIRST:]
    places = np.linspace(0, len(rest) - 1, GALLERY_SIZE - WORST_FIRST).round().astype(int)
    return [*order[:WORST_FIRST], *(rest[place] for place in places)]


def summary_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """Yield the lines of the summary for people: metric, class, mean, SD, median, n, undefined, interval, pooled."""
    for metric in evaluation.metrics:
        for name, entry in evaluation.summary[metric.name].items():
            pooled = evaluation.pooled[metric.name][name]
            differs = not math.isnan(pooled) and not abs(pooled - entry.mean) < SMALLEST_DIFFERENCE
            interval = "-" if math.isnan(entry.ci_low) else f"{number(entry.ci_low)} to {number(entry.ci_high)}"
            yield [
                metric.name, name, number(entry.mean), number(entry.sd), number(entry.median), str(entry.n),
                str(entry.undefined), interval, number(pooled) if differs else "",
            ]  # fmt: skip


def number(value: float) -> str:
    """Return a score as tables show it; "-" where it is undefined."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def row_cells(evaluation: Evaluation) -> Iterator[list[str]]:
    """Yield the lines of the table of rows: name, page, class, and a value per metric."""
    for row in evaluation.rows:
        yield [row.name, str(row.page), row.class_name, *(number(value) for value in row.metrics.values())]


def comparison_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """Yield the lines of the comparison: metric, class, difference, n, undefined, interval, p."""
    for metric, classes in evaluation.comparison.items():
        for name, entry in classes.items():
            interval = "-" if math.isnan(entry.ci_low) else f"{entry.ci_low:+.4f} to {entry.ci_high:+.4f}"
            difference = "-" if math.isnan(entry.difference) else f"{entry.difference:+.4f}"
            p = "-" if math.isnan(entry.p) else f"{entry.p:.3g}"
            yield [metric, name, difference, str(entry.n), str(entry.undefined), interval, p]
