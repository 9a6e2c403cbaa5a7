"""The values that pass through an evaluation, and its JSON document."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.evaluation.statistics import Difference, Summary
from unetcli.metrics import Metric

MEAN_CLASS = "mean"  # the row over all classes


@dataclass(frozen=True)
class LabelledPage:
    """One page of a truth and of its prediction, in one coding.

    Parameters
    ----------
    case : what counts as one in statistics: the name of the file.
    page : index of the page in the truth.
    truth : class indices or object ids, 0 background, negative where ignored (H, W).
    prediction : the same, without ignored pixels (H, W).
    probability : of the inside, where the prediction is a probability map (H, W); else None.
    spacing : size of a pixel (y, x) in the unit of distances.
    """

    case: str
    page: int
    truth: NDArray[np.int32]
    prediction: NDArray[np.int32]
    probability: NDArray[np.float32] | None = None
    spacing: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Row:
    """The scores of one page and class; nan is undefined."""

    name: str
    page: int
    class_name: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class PageScores:
    """The rows of one page, and what pooling and the confusion matrix need.

    Parameters
    ----------
    rows : one per class, and their mean where there are several.
    bases : by class and basis, from which metrics over several pages follow.
    matrix : pixels by true class (rows) and predicted class (columns).
    """

    rows: tuple[Row, ...]
    bases: dict[tuple[str, str], Any]
    matrix: NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """Everything an evaluation found.

    Parameters
    ----------
    task : "binary", "classes", "instances" or "membranes".
    cases : names of what counts as one.
    classes : names, background first.
    metrics : in the order of the tables.
    rows : per page and class.
    values : the value of each case, by metric and class, in the order of `cases`.
    summary, pooled : over the cases, by metric and class; pooled is nan where the metric cannot be.
    matrix : pixels by true class and predicted class.
    comparison : `summary` minus that of the other prediction, where there is one.
    other : the other prediction.
    unit : of distances.
    notes : what the user should know about how it was counted.
    """

    task: str
    cases: tuple[str, ...]
    classes: tuple[str, ...]
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    values: dict[str, dict[str, tuple[float, ...]]]
    summary: dict[str, dict[str, Summary]]
    pooled: dict[str, dict[str, float]]
    matrix: NDArray[np.int64]
    comparison: dict[str, dict[str, Difference]] = field(default_factory=dict)
    other: Path | None = None
    unit: str = "pixels"
    notes: tuple[str, ...] = ()

    @property
    def scored_classes(self) -> tuple[str, ...]:
        """Names of the classes that have rows, the mean last."""
        return tuple(dict.fromkeys(row.class_name for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the JSON document as plain data; nan stays nan."""
        document: dict[str, Any] = {
            "task": self.task,
            "cases": len(self.cases),
            "unit": self.unit,
            "notes": list(self.notes),
            "rows": [
                {"name": row.name, "page": row.page, "class": row.class_name, "metrics": row.metrics}
                for row in self.rows
            ],
            "summary": {
                metric: {name: _summary_json(summary) for name, summary in classes.items()}
                for metric, classes in self.summary.items()
            },
            "pooled": self.pooled,
        }
        if self.comparison:
            document["comparison"] = {
                metric: {name: dict(vars(difference)) for name, difference in classes.items()}
                for metric, classes in self.comparison.items()
            }
        return document


def _summary_json(summary: Summary) -> dict[str, Any]:
    keys = ("mean", "sd", "median", "n", "undefined", "ci_low", "ci_high")
    return {key: getattr(summary, key) for key in keys}


def worst_cases(evaluation: Evaluation, number: int = 3) -> list[tuple[str, float]]:
    """Return the cases with the worst values of the leading metric, worst first, undefined ones left out."""
    metric = leading_metric(evaluation.metrics)
    values = evaluation.values[metric.name][evaluation.scored_classes[-1]]
    known = [(name, value) for name, value in zip(evaluation.cases, values, strict=True) if not math.isnan(value)]
    return sorted(known, key=lambda pair: pair[1], reverse=not metric.higher_is_better)[:number]


def leading_metric(metrics: Sequence[Metric]) -> Metric:
    """Return the metric by which images are sorted: the first of a short list that was computed, else the first."""
    by_name = {metric.name: metric for metric in metrics}
    return next((by_name[name] for name in ("v_rand", "pq", "dice", "iou") if name in by_name), metrics[0])
