"""What a prediction is worth: pure functions of (truth, prediction), and the registry that names them."""

from unetcli.metrics.registry import DEFAULTS, METRICS, Metric, find_metric

__all__ = ["DEFAULTS", "METRICS", "Metric", "find_metric"]
