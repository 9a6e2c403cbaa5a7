"""The metrics by name: definition, source and direction of each, and the function that computes it.

A metric is one function and one line below. Several metrics share what is costly about a pair of masks (its basis:
the confusion counts, the distances between the borders, the overlaps of the objects, ...), so the function takes the
basis and the line says which. Nothing here imports a numerical library: the help texts are made from this table.
"""

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Task = Literal["binary", "classes", "instances", "membranes"]
Input = Literal["mask", "objects", "membranes"]


@dataclass(frozen=True)
class Metric:
    """A metric: where its function lies, what it means, and who defined it.

    Parameters
    ----------
    name : as in tables and options; ``name@value`` sets the parameter.
    function : "module.function" in this package; takes the basis (and the parameter), returns a float.
    basis : "module.function"; takes (truth, prediction) and returns what several metrics share.
    takes : "mask" (boolean, one class), "objects" (ids), "membranes" (boolean truth, probability of the inside).
    higher_is_better : a score, or an error.
    definition, source : for the help text and the documentation.
    parameter : its name, when the metric has one.
    default : the parameter's value where none is given.
    unit : "pixels" for distances (which take the image's unit when a pixel size is given), else "".
    stack : how the pages of one stack make the value of the case: the mean, or pooled as the source does it.
    """

    name: str
    function: str
    basis: str
    takes: Input
    higher_is_better: bool
    definition: str
    source: str
    parameter: str | None = None
    default: float | None = None
    unit: str = ""
    stack: Literal["mean", "pooled"] = "mean"

    def __call__(self, truth: Any, prediction: Any, **options: Any) -> float:
        """Return the value for one image: `truth` and `prediction` are arrays of the kind in `takes`."""
        return self.score(self.prepare(truth, prediction, **options))

    def prepare(self, truth: Any, prediction: Any, **options: Any) -> Any:
        """Return the basis of one image; options are ``ignored=`` (H, W) bool and ``spacing=`` (y, x)."""
        return _function(self.basis)(truth, prediction, **options)

    def score(self, basis: Any) -> float:
        """Return the value that follows from a basis; nan where it is undefined."""
        function = _function(self.function)
        return float(function(basis) if self.parameter is None else function(basis, self.default))

    def pooled(self, bases: Sequence[Any]) -> float:
        """Return the value over several images taken as one; nan where the basis cannot be added up."""
        merged = getattr(type(bases[0]), "merged", None)
        return math.nan if merged is None else self.score(merged(bases))


@functools.cache
def _function(place: str) -> Callable[..., Any]:
    module, name = place.split(".")
    function: Callable[..., Any] = getattr(importlib.import_module(f"unetcli.metrics.{module}"), name)
    return function


def _overlap(name: str, definition: str, source: str, higher: bool = True) -> Metric:
    return Metric(name, f"overlap.{name}", "overlap.confusion", "mask", higher, definition, source)


def _distance(name: str, definition: str, source: str) -> Metric:
    return Metric(name, f"boundary.{name}", "boundary.surfaces", "mask", False, definition, source, unit="pixels")


def _objects(name: str, definition: str, source: str, at: float | None = None) -> Metric:
    parameter = None if at is None else "IoU threshold"
    place = f"instances.{name}"
    return Metric(name, place, "instances.overlaps", "objects", True, definition, source, parameter, at)


def _partition(name: str, definition: str, source: str, higher: bool = True) -> Metric:
    return Metric(
        name, f"partition.{name}", "partition.partition", "membranes", higher, definition, source, stack="pooled"
    )


FIJI = "Arganda-Carreras 2015; Fiji Trainable_Segmentation"
RELOADED = "Metrics Reloaded (Maier-Hein 2024)"
MONAI = "MONAI 1.6 (borders of pixels)"
BORDER = "border = mask without its 4-connected erosion, outside the image is background"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _overlap("pixel_error", "(FP + FN) / N", "Fiji PixelError at one threshold", higher=False),
        _overlap("iou", "TP / (TP + FP + FN)", RELOADED),
        _overlap("dice", "2 TP / (2 TP + FP + FN)", "Dice 1945; MedPy 0.5"),
        _overlap("precision", "TP / (TP + FP)", RELOADED),
        _overlap("recall", "TP / (TP + FN)", RELOADED),
        _overlap("specificity", "TN / (TN + FP)", RELOADED),
        _distance("hd", f"largest distance from one border to the other; {BORDER}", f"{RELOADED}, {MONAI}"),
        _distance("hd95", "larger of the two directed 95th percentiles of border distances", f"{RELOADED}, {MONAI}"),
        _distance("assd", "mean over the border distances of both directions, pooled", f"{RELOADED}, {MONAI}"),
        _distance("masd", "mean of the two directed mean border distances", RELOADED),
        Metric(
            "nsd", "boundary.nsd", "boundary.surfaces", "mask", True,
            "share of border pixels of both masks within the tolerance of the other border",
            f"Nikolov 2018, counted in pixels as in {MONAI}", "tolerance", 1.0,
        ),
        Metric(
            "boundary_f1", "boundary.boundary_f1", "boundary.surfaces", "mask", True,
            "harmonic mean of the shares of either border within the tolerance of the other",
            "Csurka 2013", "tolerance", 1.0,
        ),
        Metric(
            "boundary_iou", "boundary.boundary_iou", "boundary.bands", "mask", True,
            "IoU of the bands of mask pixels nearer to their own border than the width",
            f"Cheng 2021; {RELOADED}", "width", 2.0,
        ),
        Metric(
            "cldice", "topology.cldice", "topology.skeletons", "mask", True,
            "harmonic mean of the shares of each skeleton inside the other mask",
            "Shit 2021 (jocpae/clDice) with scikit-image's skeletonize",
        ),
        _partition("v_rand", "2 sum p_ij^2 / (sum t_i^2 + sum s_j^2) inside the true cells, thinned, best threshold",
                   FIJI),
        _partition("v_rand_split", "sum p_ij^2 / sum t_i^2 at the threshold of v_rand (1 = no splits)", FIJI),
        _partition("v_rand_merge", "sum p_ij^2 / sum s_j^2 at the threshold of v_rand (1 = no merges)", FIJI),
        _partition("v_info", "2 I(truth; prediction) / (H(truth) + H(prediction)), thinned, best threshold", FIJI),
        _partition("v_rand_unthinned", "v_rand of the 4-connected components instead of watershed basins", FIJI),
        _partition("v_info_unthinned", "v_info of the 4-connected components instead of watershed basins", FIJI),
        _partition("rand_error", "1 - Rand index over pairs of pixels inside the true cells, not thinned", FIJI,
                   higher=False),
        Metric(
            "warping_error", "warping.warping_error", "warping.warped", "membranes", False,
            "pixels that differ after warping the truth by simple points / N, smallest over thresholds",
            f"Jain 2010; {FIJI}", stack="pooled",
        ),
        _objects("object_precision", "TP / (TP + FP) of objects matched one to one at IoU >= t", "stardist", 0.5),
        _objects("object_recall", "TP / (TP + FN) of objects matched one to one at IoU >= t", "stardist", 0.5),
        _objects("f1", "2 TP / (2 TP + FP + FN) of objects matched one to one at IoU >= t", "stardist", 0.5),
        _objects("ap", "TP / (TP + FP + FN) of objects matched one to one at IoU >= t", "cellpose, stardist", 0.5),
        _objects("map", "mean of ap over IoU thresholds 0.50, 0.55, ... 0.95", "Data Science Bowl 2018; stardist"),
        _objects("mean_matched_iou", "mean IoU of the objects matched at IoU >= t", "stardist", 0.5),
        _objects("mean_true_iou", "IoU of the objects matched at IoU >= t / number of true objects", "stardist", 0.5),
        _objects("pq", "sum of IoU over matches with IoU > 0.5 / (TP + FP/2 + FN/2)", "Kirillov 2019; HoVer-Net"),
        _objects("sq", "segmentation part of pq: mean IoU of the matches", "Kirillov 2019; HoVer-Net"),
        _objects("rq", "detection part of pq: TP / (TP + FP/2 + FN/2)", "Kirillov 2019; HoVer-Net"),
        _objects("aji", "aggregated Jaccard index, each true object with its best prediction", "Kumar 2017; HoVer-Net"),
        _objects("aji_plus", "aggregated Jaccard index, objects matched one to one", "HoVer-Net"),
        Metric(
            "seg", "instances.seg", "instances.overlaps", "objects", True,
            "mean over true objects of the IoU with the prediction covering more than half of it, else 0",
            "Cell Tracking Challenge; py-ctcmetrics", stack="pooled",
        ),
        Metric(
            "det", "instances.det", "instances.overlaps", "objects", True,
            "1 - min(1, (5 merges + 10 FN + FP) / (10 true objects))",
            "Cell Tracking Challenge (Matula 2015)", stack="pooled",
        ),
    )
}  # fmt: skip

DEFAULTS: dict[str, tuple[str, ...]] = {
    "binary": ("pixel_error", "iou", "dice", "precision", "recall", "hd95", "nsd"),
    "classes": ("pixel_error", "iou", "dice", "precision", "recall", "hd95", "nsd"),
    "instances": ("dice", "f1@0.5", "ap@0.5", "ap@0.75", "map", "pq", "sq", "rq", "aji_plus", "seg", "det"),
    "membranes": ("pixel_error", "iou", "dice", "precision", "recall", "v_rand", "v_info"),
}


def find_metric(text: str) -> Metric:
    """Return the metric that `text` names, with its parameter set: "dice", "nsd@2", "ap@0.75".

    Raises
    ------
    ValueError : no such metric, or a parameter that it does not take; the message says which.
    """
    name, at, value = text.partition("@")
    metric = METRICS.get(name)
    if metric is None:
        raise ValueError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    if not at:
        return metric
    if metric.parameter is None:
        raise ValueError(f"{name} takes no @value")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{text}: {value!r} is not a number") from None
    if metric.parameter == "IoU threshold" and not 0 < number <= 1:
        raise ValueError(f"{text}: an IoU threshold lies above 0 and at most at 1")
    if not 0 <= number < math.inf:
        raise ValueError(f"{text}: the {metric.parameter} must be 0 or more")
    return Metric(**{**vars(metric), "name": text, "default": number})
