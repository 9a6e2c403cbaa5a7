"""From pages of truth and prediction to everything that is reported about them."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import UsageError, raise_all
from unetcli.evaluation.records import MEAN_CLASS, Evaluation, LabelledPage, PageScores
from unetcli.evaluation.scoring import case_values, pooled_values, score_page
from unetcli.evaluation.statistics import compare, summarize
from unetcli.metrics import DEFAULTS, Metric, find_metric

SMALLEST_DIFFERENCE = 5e-5  # between a pooled value and the mean of the cases, to be worth showing


@dataclass(frozen=True)
class PageJob:
    """A page that waits to be scored.

    Parameters
    ----------
    case, page : as in `LabelledPage`.
    load : reads truth and prediction.
    image : reads what was segmented, as uint8 (H, W, 3); None where that is not known.
    """

    case: str
    page: int
    load: Callable[[], LabelledPage]
    image: Callable[[], NDArray[np.uint8]] | None = None


@dataclass(frozen=True)
class Rules:
    """How pages are scored and counted.

    Parameters
    ----------
    task : "binary", "classes", "instances" or "membranes".
    classes : names, background first.
    metrics : what is computed.
    pages_are_cases : whether every page counts as a case of its own.
    count_empty : whether images without anything in truth and prediction count as perfect.
    unit : of distances.
    seed : of the resampling behind the intervals.
    """

    task: str
    classes: tuple[str, ...]
    metrics: tuple[Metric, ...]
    pages_are_cases: bool = False
    count_empty: bool = False
    unit: str = "pixels"
    seed: int = 0


@dataclass(frozen=True)
class PageScored:
    """Progress: a page is done."""

    name: str
    page: int
    done: int
    total: int


def choose_metrics(names: str | None, task: str) -> tuple[Metric, ...]:
    """Return the metrics of a list separated by commas, or those that suit the task.

    Raises
    ------
    UsageError : an unknown metric, or one twice.
    """
    chosen = DEFAULTS[task] if names is None else [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise UsageError("--metrics names none", hint="--metrics dice,iou")
    metrics = tuple(metric_named(name) for name in chosen)
    twice = [name for number, name in enumerate(chosen) if name in chosen[:number]]
    if twice:
        raise UsageError(f"--metrics names {twice[0]} twice", hint="name every metric once")
    return metrics


def metric_named(name: str) -> Metric:
    """Return the metric of a name.

    Raises
    ------
    UsageError : there is none, or it does not take that parameter.
    """
    try:
        return find_metric(name)
    except ValueError as error:
        raise UsageError(str(error), hint="unet evaluate --help lists the metrics") from None


def evaluate(
    jobs: Sequence[PageJob], rules: Rules, notes: Sequence[str] = (), *, workers: int = 1
) -> Iterator[PageScored | Evaluation]:
    """Score all pages, yielding progress and, at the end, the evaluation, which does not depend on `workers`.

    Parameters
    ----------
    jobs : pages, those of one case next to each other.
    notes : what is to be said with the result.
    workers : threads that read and score.
    """
    cases: dict[str, list[PageScores]] = {}
    matrix = np.zeros((len(rules.classes), len(rules.classes)), np.int64)
    for number, (job, scores) in enumerate(zip(jobs, _scored(jobs, rules, workers), strict=True), start=1):
        matrix += scores.matrix
        case = f"{job.case} page {job.page}" if rules.pages_are_cases else job.case
        cases.setdefault(case, []).append(scores)
        yield PageScored(job.case, job.page, number, len(jobs))
    yield _conclude(cases, matrix, rules, notes)


def _scored(jobs: Sequence[PageJob], rules: Rules, workers: int) -> Iterator[PageScores]:
    """Yield the scores of the pages in order; only a few pages are in memory at a time."""

    def score(job: PageJob) -> PageScores:
        return score_page(job.load(), rules.task, rules.classes, rules.metrics, count_empty=rules.count_empty)

    if workers <= 1:
        yield from map(score, jobs)
        return
    executor = ThreadPoolExecutor(workers)
    waiting: deque[Future[PageScores]] = deque()
    try:
        for job in jobs:
            waiting.append(executor.submit(score, job))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _conclude(
    cases: dict[str, list[PageScores]], matrix: NDArray[np.int64], rules: Rules, notes: Sequence[str]
) -> Evaluation:
    values: dict[str, dict[str, list[float]]] = {metric.name: {} for metric in rules.metrics}
    for pages in cases.values():
        for metric, class_name, value in case_values(pages, rules.metrics):
            values[metric].setdefault(class_name, []).append(value)
    every_page = [page for pages in cases.values() for page in pages]
    rows = tuple(row for page in every_page for row in page.rows)
    return Evaluation(
        task=rules.task,
        cases=tuple(cases),
        classes=rules.classes,
        metrics=rules.metrics,
        rows=rows,
        values={
            metric: {name: tuple(numbers) for name, numbers in classes.items()} for metric, classes in values.items()
        },
        summary={
            metric.name: {
                name: summarize(numbers, bounds=bounds_of(metric), seed=rules.seed)
                for name, numbers in values[metric.name].items()
            }
            for metric in rules.metrics
        },
        pooled=pooled_values(every_page, rules.metrics),
        matrix=matrix,
        unit=rules.unit,
        notes=(*notes, *_notes_on_counting(cases, rules)),
    )


def bounds_of(metric: Metric) -> tuple[float, float]:
    """Return the values that a metric can have."""
    return (0.0, math.inf) if metric.unit else (0.0, 1.0)


def _notes_on_counting(cases: dict[str, list[PageScores]], rules: Rules) -> list[str]:
    notes = []
    stacks = max(len(pages) for pages in cases.values()) > 1
    if rules.pages_are_cases:
        notes.append(
            "every page counts as a case: pages of one stack resemble each other, the intervals are too narrow"
        )
    elif stacks:
        pooled = [metric.name for metric in rules.metrics if metric.stack == "pooled"]
        together = f" ({', '.join(pooled)}: over all its pages together)" if pooled else ""
        notes.append(f"the pages of a file are one case, its value their mean{together}; --cases pages counts pages")
    undefined = sum(
        any(math.isnan(value) for value in row.metrics.values())
        for pages in cases.values()
        for p in pages
        for row in p.rows
    )
    if undefined and not rules.count_empty:
        notes.append(
            f"{undefined} rows have undefined values (nothing there in truth and prediction) and are left out of the "
            "means; --count-empty counts them as perfect"
        )
    return notes


def with_comparison(evaluation: Evaluation, other: Evaluation, path: Path, *, seed: int = 0) -> Evaluation:
    """Return an evaluation with its paired differences to that of another prediction, at `path`, for the same truth."""
    assert evaluation.cases == other.cases
    comparison = {
        metric: {name: compare(values, other.values[metric][name], seed=seed) for name, values in classes.items()}
        for metric, classes in evaluation.values.items()
    }
    return replace(evaluation, comparison=comparison, other=path)


@dataclass(frozen=True)
class Limit:
    """A value that the mean of a metric must not miss.

    Parameters
    ----------
    metric : its name as in the tables, and `class_name`, where one was given.
    value : the limit.
    lower : whether the mean must be at least the value (else at most).
    """

    metric: Metric
    class_name: str | None
    value: float
    lower: bool


def parse_limit(text: str, *, lower: bool) -> Limit:
    """Return the limit of ``NAME=VALUE`` or ``NAME[CLASS]=VALUE``.

    Raises
    ------
    UsageError : not of this form, an unknown metric, or the wrong direction for it.
    """
    option = "--fail-under" if lower else "--fail-over"
    name, equals, number = text.rpartition("=")
    class_name = None
    if name.endswith("]") and "[" in name:
        name, _, class_name = name[:-1].partition("[")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not name or math.isnan(value):
        raise UsageError(f"{option} {text} is not NAME=VALUE", hint=f"{option} {'dice=0.9' if lower else 'hd95=5'}")
    metric = metric_named(name)
    if metric.higher_is_better != lower:
        other = "--fail-over" if lower else "--fail-under"
        kind = "an error" if lower else "a score"
        raise UsageError(f"{option} {text}: {name} is {kind}", hint=f"use {other} {text}")
    return Limit(metric, class_name, value, lower)


def check_limits(limits: Sequence[Limit], classes: Sequence[str]) -> None:
    """Raise if a limit names a class that will not be scored.

    Parameters
    ----------
    classes : names, background first.

    Raises
    ------
    UsageError : says which classes there are.
    """
    scored = [*classes[1:], *([MEAN_CLASS] if len(classes) > 2 else [])]
    raise_all(
        [
            UsageError(f"there is no class {limit.class_name!r}", hint=f"there are {', '.join(scored)}")
            for limit in limits
            if limit.class_name is not None and limit.class_name not in scored
        ]
    )


def missed(limit: Limit, evaluation: Evaluation) -> str | None:
    """Return what to say when the mean over cases misses a limit; None when it does not. Undefined misses."""
    class_name = limit.class_name or evaluation.scored_classes[-1]
    mean = evaluation.summary[limit.metric.name][class_name].mean
    if mean >= limit.value if limit.lower else mean <= limit.value:
        return None
    shown = "undefined" if math.isnan(mean) else f"{mean:.6g}"
    where = f"[{class_name}]" if limit.class_name else ""
    return f"{limit.metric.name}{where} is {shown}, {'below' if limit.lower else 'above'} {limit.value:g}"
