"""The page of metrics says what the registry says."""

from pathlib import Path

import pytest

from unetcli.metrics import METRICS

PAGE = (Path(__file__).resolve().parents[2] / "unetcli" / "metrics" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_every_metric_is_described(metric):
    name = metric.name if metric.default is None else f"{metric.name}@{metric.default:g}"
    better = "higher" if metric.higher_is_better else "lower"
    assert f"| `{name}` | {better} | {metric.definition} | {metric.source} |" in PAGE
