"""What scores of several cases say together: mean, spread, and how far the mean can be trusted.

The interval is for the mean over cases of the kind that were scored; pages of one stack resemble each other and count
as one case. From 20 cases on it is a percentile bootstrap, widened for the sample size ("expanded percentile",
Hesterberg 2015); below that resampling sees too little, and Student's t is used.

How often the interval holds the true mean, in 2,000 simulated sets of skewed scores (Beta(9, 1), mean 0.9): 90 % at 5
cases, 91 % at 10, 93 % at 20, 94.5 % at 50. Few skewed scores promise more than they hold: their worst case is missing.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_FOR_BOOTSTRAP = 20
RESAMPLES = 4000
CONFIDENCE = 0.95
_CHUNK = 1 << 22  # numbers drawn at once


@dataclass(frozen=True)
class Summary:
    """Scores of several cases.

    Parameters
    ----------
    mean, sd, median : over the cases with a defined value; nan where there is none (sd: fewer than two).
    n : number of those cases.
    undefined : number of the others.
    ci_low, ci_high : 95 % interval of the mean; nan where there is none.
    interval : how it was made, or why there is none.
    """

    mean: float
    sd: float
    median: float
    n: int
    undefined: int
    ci_low: float
    ci_high: float
    interval: str


@dataclass(frozen=True)
class Difference:
    """Scores of one prediction minus those of another on the same cases.

    Parameters
    ----------
    difference : their mean, positive where the first is larger.
    n, undefined : number of cases where both are defined, and of the others.
    ci_low, ci_high, interval : as in `Summary`.
    p : two-sided Wilcoxon signed-rank test; nan without cases, 1 where no case differs.
    """

    difference: float
    n: int
    undefined: int
    ci_low: float
    ci_high: float
    interval: str
    p: float


def summarize(
    values: Sequence[float], *, bounds: tuple[float, float] = (-math.inf, math.inf), seed: int = 0
) -> Summary:
    """Return what the values of all cases say together; nan is an undefined case.

    Parameters
    ----------
    values : one per case.
    bounds : what values are possible; the interval keeps to it.
    seed : of the resampling.
    """
    everything = np.asarray(values, np.float64)
    defined = everything[~np.isnan(everything)]
    undefined = int(everything.size - defined.size)
    if not defined.size:
        return Summary(math.nan, math.nan, math.nan, 0, undefined, math.nan, math.nan, "no case has a defined value")
    low, high, interval = confidence_interval(defined, seed=seed)
    return Summary(
        float(defined.mean()),
        float(defined.std(ddof=1)) if defined.size > 1 else math.nan,
        float(np.median(defined)),
        int(defined.size),
        undefined,
        max(low, bounds[0]) if math.isfinite(low) else low,
        min(high, bounds[1]) if math.isfinite(high) else high,
        interval,
    )


def compare(values: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Difference:
    """Return the paired difference `values` - `others`, one entry per case in the same order."""
    first, second = np.asarray(values, np.float64), np.asarray(others, np.float64)
    assert first.shape == second.shape
    defined = ~np.isnan(first) & ~np.isnan(second)
    differences = first[defined] - second[defined]
    undefined = int(first.size - differences.size)
    if not differences.size:
        return Difference(math.nan, 0, undefined, math.nan, math.nan, "no case has both values", math.nan)
    low, high, interval = confidence_interval(differences, seed=seed)
    return Difference(
        float(differences.mean()), int(differences.size), undefined, low, high, interval, wilcoxon(differences)
    )


def wilcoxon(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; cases without a difference are left out."""
    from scipy import stats

    changed = differences[differences != 0]
    return float(stats.wilcoxon(changed).pvalue) if changed.size else 1.0


def confidence_interval(values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float, str]:
    """Return the 95 % interval of the mean, and how it was made or why there is none."""
    size = values.size
    if size < 2:
        return math.nan, math.nan, "one case has no interval"
    mean = float(values.mean())
    if size < FEWEST_FOR_BOOTSTRAP:
        half = _student(size) * float(values.std(ddof=1)) / math.sqrt(size)
        return mean - half, mean + half, f"Student's t (fewer than {FEWEST_FOR_BOOTSTRAP} cases)"
    tail = _expanded_tail(size)
    low, high = np.quantile(bootstrap_means(values, seed=seed), [tail, 1 - tail])
    return float(low), float(high), f"percentile bootstrap, {RESAMPLES} resamples of cases"


def bootstrap_means(values: NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Return the means of `resamples` samples drawn from the values with replacement, the same in every run."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // values.size)
    parts = []
    for start in range(0, resamples, at_once):
        drawn = generator.integers(0, values.size, (min(at_once, resamples - start), values.size))
        parts.append(values[drawn].mean(axis=1))
    return np.concatenate(parts)


@functools.cache
def _student(size: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, size - 1))


@functools.cache
def _expanded_tail(size: int) -> float:
    """Return the share cut off each end, so that the interval of normal data is as wide as Student's."""
    from scipy import stats

    return float(stats.norm.cdf(-math.sqrt(size / (size - 1)) * _student(size)))
