"""From labelled pages to scores, and from the scores of pages to those of cases."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.evaluation.records import MEAN_CLASS, LabelledPage, PageScores, Row
from unetcli.metrics import Metric
from unetcli.metrics.partition import connected


def score_page(
    page: LabelledPage, task: str, classes: Sequence[str], metrics: Sequence[Metric], *, count_empty: bool = False
) -> PageScores:
    """Return the scores of one page.

    Parameters
    ----------
    task : "binary", "classes", "instances" or "membranes".
    classes : names, background first; objects are of the first class after it.
    count_empty : whether what is undefined, because truth and prediction are both empty, counts as perfect.
    """
    rows, bases = [], {}
    hidden = page.truth < 0
    ignored = hidden if hidden.any() else None
    for index, name in list(enumerate(classes))[1:]:
        values = {}
        for metric in metrics:
            key = (name, metric.basis)
            if key not in bases:
                truth, prediction = _inputs(metric, page, task, index, hidden)
                bases[key] = metric.prepare(truth, prediction, ignored=ignored, spacing=page.spacing)
            values[metric.name] = metric.score(bases[key])
        rows.append(Row(page.case, page.page, name, values))
    if count_empty and not hidden.all():
        rows = [_with_empty_counted(row, metrics) for row in rows]
    if len(rows) > 1:
        rows.append(mean_row(rows, metrics))
    return PageScores(tuple(rows), bases, confusion_matrix(page, task, len(classes)))


def _inputs(
    metric: Metric, page: LabelledPage, task: str, index: int, hidden: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return truth and prediction of one class in the form that the metric takes."""
    if task == "instances":
        truth, prediction = page.truth > 0, page.prediction > 0
    else:
        truth, prediction = page.truth == index, page.prediction == index
    if metric.takes == "objects":
        if task == "instances":
            return page.truth, page.prediction
        return connected(truth), connected(prediction & ~hidden)
    if metric.takes == "membranes" and page.probability is not None:
        return truth, page.probability
    return truth, prediction


def mean_row(rows: Sequence[Row], metrics: Sequence[Metric]) -> Row:
    """Return the row of the means over the classes where they are defined."""
    means = {metric.name: mean_of([row.metrics[metric.name] for row in rows]) for metric in metrics}
    return Row(rows[0].name, rows[0].page, MEAN_CLASS, means)


def _with_empty_counted(row: Row, metrics: Sequence[Metric]) -> Row:
    perfect = {metric.name: 1.0 if metric.higher_is_better else 0.0 for metric in metrics}
    values = {name: perfect[name] if math.isnan(value) else value for name, value in row.metrics.items()}
    return Row(row.name, row.page, row.class_name, values)


def confusion_matrix(page: LabelledPage, task: str, classes: int) -> NDArray[np.int64]:
    """Return the number of pixels by true class (rows) and predicted class (columns), ignored pixels left out."""
    counted = page.truth >= 0
    truth, prediction = page.truth[counted], page.prediction[counted]
    if task == "instances":
        truth, prediction = (truth > 0).astype(np.int32), (prediction > 0).astype(np.int32)
    cells = np.bincount(truth.astype(np.int64) * classes + prediction, minlength=classes * classes)
    return cells.reshape(classes, classes)


def case_values(pages: Sequence[PageScores], metrics: Sequence[Metric]) -> Iterator[tuple[str, str, float]]:
    """Yield (metric, class, value) of one case from its pages: their mean, or pooled where the source does that."""
    names = [row.class_name for row in pages[0].rows]
    for metric in metrics:
        by_class: dict[str, float] = {}
        for number, name in enumerate(names):
            values = [page.rows[number].metrics[metric.name] for page in pages]
            if name == MEAN_CLASS and metric.stack == "pooled":
                by_class[name] = mean_of([by_class[other] for other in names[:-1]])
            elif len(pages) > 1 and metric.stack == "pooled":
                pooled = metric.pooled([page.bases[name, metric.basis] for page in pages])
                by_class[name] = mean_of(values) if math.isnan(pooled) else pooled
            else:
                by_class[name] = mean_of(values)
            yield metric.name, name, by_class[name]


def pooled_values(pages: Sequence[PageScores], metrics: Sequence[Metric]) -> dict[str, dict[str, float]]:
    """Return each metric over the pixels and objects of all pages together, by class; nan where it cannot be."""
    names = [row.class_name for row in pages[0].rows]
    result = {}
    for metric in metrics:
        by_class = {
            name: metric.pooled([page.bases[name, metric.basis] for page in pages])
            for name in names
            if name != MEAN_CLASS
        }
        if MEAN_CLASS in names:
            by_class[MEAN_CLASS] = mean_of(list(by_class.values()))
        result[metric.name] = by_class
    return result


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values that are not nan; nan where there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
