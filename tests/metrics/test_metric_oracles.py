"""Every metric against worked values of the field's reference implementations.

`FOLLOWED` says which of our metrics reproduces which reference. Where a reference differs on purpose, the entry stands
in `DIFFERENT` with the reason, and the test makes sure that it does differ.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from unetcli.metrics import METRICS, find_metric

ORACLES = {entry["name"]: entry for entry in json.loads((Path(__file__).parent / "oracles.json").read_text())}
SINGLE_PRECISION = 1e-6
WATERSHED = 2e-3  # the order of ties in the watershed is another than Fiji's

FOLLOWED = {
    "pixel_error": "pixel_error", "fiji_pixel_error": "pixel_error",
    "iou": "iou", "iou_mr": "iou", "monai_iou": "iou",
    "dice": "dice", "dice_mr": "dice", "monai_dice_ignore_empty": "dice", "monai_dice_no_ignore": "dice",
    "precision": "precision", "precision_mr": "precision", "recall": "recall", "recall_mr": "recall",
    "hd": "hd", "hd_mr": "hd", "monai_hd": "hd",
    "hd95": "hd95", "hd95_mr": "hd95", "hd95_sd": "hd95", "monai_hd95": "hd95",
    "assd": "assd", "assd_mr": "assd", "monai_assd_sym": "assd", "masd_mr": "masd",
    "nsd_mr_tau0": "nsd@0", "nsd_sd_tau0": "nsd@0", "monai_nsd0": "nsd@0",
    "nsd_mr_tau1": "nsd@1", "nsd_sd_tau1": "nsd@1", "monai_nsd1": "nsd@1", "monai_nsd1_subvoxel": "nsd@1",
    "boundary_iou_mr_d2": "boundary_iou@2", "boundary_f1_tol0": "boundary_f1@0", "boundary_f1_tol1": "boundary_f1@1",
    "cldice": "cldice",
    "ap@0.5": "ap@0.5", "ap_cellpose@0.5": "ap@0.5", "ap@0.7": "ap@0.7", "ap_cellpose@0.7": "ap@0.7",
    "f1@0.5": "f1@0.5", "f1@0.7": "f1@0.7",
    "mean_true_score@0.5": "mean_true_iou@0.5", "mean_true_score@0.7": "mean_true_iou@0.7",
    "pq@0.5": "pq", "pq_hn@0.5": "pq",
    "aji": "aji", "aji_plus": "aji_plus", "aji_cellpose": "aji", "ctc_seg": "seg", "map_50_95": "map",
    "fiji_v_rand_thinned": "v_rand", "fiji_v_rand_merge": "v_rand_merge", "fiji_v_rand_split": "v_rand_split",
    "fiji_v_rand_unthinned": "v_rand_unthinned", "fiji_v_info_thinned": "v_info",
    "fiji_v_info_unthinned": "v_info_unthinned", "fiji_warping_error": "warping_error",
    "fiji_fr_rand_error_old": "rand_error",
}  # fmt: skip

NOT_OFFERED = {
    "tp_fp_fn@0.5": "counts, checked below",
    "tp_fp_fn@0.7": "counts, checked below",
    "pq@0.7": "panoptic quality is defined at IoU > 0.5 only",
    "adapted_rand_error": "counts predicted background as one segment; v_rand is the field's measure",
    "adapted_rand_prec_rec_skimage": "precision and recall are exchanged there",
    "cremi_adapted_rand": "its normalization is wrong (cremi_python, issue 3)",
    "voi_split_merge": "v_info is the normalized form",
    "voi_split_merge_ignore0": "v_info is the normalized form",
    "fiji_warping_split_merge": "clusters mismatches by rules that are not published",
}

BOTH_EMPTY = "both empty is undefined here and left out of means, with the number of such images shown"
ONE_EMPTY = "exactly one empty is the worst score here: 0, or the image diagonal"
POOLED = "MedPy takes one percentile of both directions together; Metrics Reloaded and MONAI the larger of two"
CONTOUR = "weights by the length of a contour through pixel corners; ours counts border pixels"
TIE = "matches at IoU = 0.5 exactly; panoptic quality is defined with IoU > 0.5"
DIFFERENT = {
    "hd95/square_plus_far_pixel": POOLED,
    "hd95_sd/square_plus_far_pixel": CONTOUR,
    "nsd_sd_tau0/square_plus_far_pixel": CONTOUR,
    "nsd_sd_tau1/square_plus_far_pixel": CONTOUR,
    "nsd_sd_tau1/pred_inner_pixel": CONTOUR,
    "monai_nsd1_subvoxel/square_plus_far_pixel": CONTOUR,
    "pq@0.5/merge_two_equal": TIE,
    "pq@0.5/split_two_equal": TIE,
    "aji_cellpose/split_two_equal": "cellpose divides by the union of all foreground",
    **dict.fromkeys(
        (
            f"{name}/both_empty"
            for name in (
                "iou", "dice_mr", "monai_dice_no_ignore", "hd", "hd_mr", "hd95", "hd95_mr", "hd95_sd", "assd",
                "assd_mr", "masd_mr", "nsd_mr_tau0", "nsd_mr_tau1", "boundary_iou_mr_d2", "ap@0.5", "ap@0.7", "f1@0.5",
                "f1@0.7", "mean_true_score@0.5", "mean_true_score@0.7", "pq@0.5", "pq_hn@0.5", "aji", "ctc_seg",
                "map_50_95",
            )
        ),
        BOTH_EMPTY,
    ),
    **dict.fromkeys(
        (
            f"{name}/{case}"
            for name in ("hd", "hd_mr", "monai_hd", "hd95", "hd95_mr", "hd95_sd", "monai_hd95", "assd", "assd_mr",
                         "monai_assd_sym", "masd_mr", "cldice")
            for case in ("gt_empty", "pred_empty")
        ),
        ONE_EMPTY,
    ),
    **dict.fromkeys(
        ("recall/gt_empty", "recall_mr/gt_empty", "precision/pred_empty", "monai_dice_ignore_empty/gt_empty",
         "monai_iou/gt_empty", "aji/pred_empty"),
        ONE_EMPTY,
    ),
}  # fmt: skip


def value_of(entry, metric):
    truth, prediction = np.array(entry["truth"]), np.array(entry["prediction"])
    if metric.takes != "objects":
        truth, prediction = truth > 0.5, prediction > 0.5
    return metric(truth, prediction)


def agrees(value, expected, metric):
    if expected == "nan":
        return math.isnan(value)
    if isinstance(expected, str):  # "inf", "raises:..."
        return False
    thinned = metric.takes == "membranes" and "unthinned" not in metric.name and metric.name != "warping_error"
    return value == pytest.approx(expected, abs=WATERSHED if thinned else SINGLE_PRECISION)


@pytest.mark.parametrize("name", [name for name in ORACLES if name.split("/")[0] not in NOT_OFFERED])
def test_worked_value(name):
    entry = ORACLES[name]
    metric = find_metric(FOLLOWED[name.split("/")[0]])
    value = value_of(entry, metric)
    assert agrees(value, entry["expected"], metric) == (name not in DIFFERENT), f"{value} and {entry['expected']}"


def test_exceptions_name_entries_that_exist():
    assert set(DIFFERENT) <= set(ORACLES)
    assert set(NOT_OFFERED) <= {name.split("/")[0] for name in ORACLES}


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_match_counts(threshold):
    from unetcli.metrics.instances import match, overlaps

    entries = [entry for name, entry in ORACLES.items() if name.startswith(f"tp_fp_fn@{threshold}/")]
    assert len(entries) == 7
    for entry in entries:
        matches = match(overlaps(np.array(entry["truth"]), np.array(entry["prediction"])), threshold)
        counts = [matches.true_positives, matches.false_positives, matches.false_negatives]
        assert counts == entry["expected"], entry["name"]


def test_every_metric_names_its_source_and_computes():
    truth = np.zeros((8, 8), bool)
    truth[1:5, 1:5] = True
    for metric in METRICS.values():
        assert metric.definition
        assert metric.source
        perfect = metric(truth.astype(np.int32) if metric.takes == "objects" else truth, truth)
        if metric.name.startswith("v_info"):
            assert perfect == 0  # a single cell carries no information (Fiji)
        else:
            assert perfect == (1 if metric.higher_is_better else 0), metric.name


def test_hand_checked_merge_of_two_cells():
    """t = (12, 18)/30, sum p^2 = 0.52, s = 1: 2 x 0.52 / 1.52 (the reference's own worked example)."""
    truth = np.ones((6, 6), bool)
    truth[:, 2] = False
    assert METRICS["v_rand"](truth, np.ones((6, 6), bool)) == pytest.approx(2 * 0.52 / 1.52)
    assert METRICS["v_rand_split"](truth, np.ones((6, 6), bool)) == pytest.approx(1)  # no cell is split
    assert METRICS["v_rand_merge"](truth, np.ones((6, 6), bool)) == pytest.approx(0.52)  # two are merged
