"""``unet evaluate`` as people and pipelines meet it."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from unetcli.cli import run

CELLS = np.zeros((40, 50), np.uint16)
for number, (y, x) in enumerate(
    ((2, 2), (2, 15), (2, 30), (15, 2), (15, 15), (15, 30), (28, 2), (28, 15), (28, 30)), 1
):
    CELLS[y : y + 9, x : x + 9 + number % 3] = number
SHIFTED = np.roll(CELLS, 1, axis=1)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        Image.fromarray(array).save(path)
    return path


@pytest.fixture
def instances(tmp_path):
    """Three truths and predictions of objects: perfect, shifted by a pixel, and without three objects."""
    few = np.where(SHIFTED <= 6, SHIFTED, 0).astype(np.uint16)
    for name, prediction, first in (("a", CELLS, 0), ("b", SHIFTED, 20), ("c", few, 40)):
        save(tmp_path / "truth" / f"{name}.tif", np.where(CELLS > 0, CELLS + first, 0).astype(np.uint16))
        save(tmp_path / "predicted" / f"{name}_pred.tif", prediction)
    return tmp_path


def evaluate(*arguments):
    return run(["evaluate", *map(str, arguments)])


def document(capsys, *arguments):
    code = evaluate(*arguments, "--json", "-", "-q")
    return code, json.loads(capsys.readouterr().out)


def test_objects_of_a_folder(instances, capsys):
    code, found = document(capsys, instances / "predicted", instances / "truth")
    assert code == 0
    assert {"schema", "version", "command", "seconds", "warnings", "task", "cases", "rows", "summary"} <= set(found)
    assert (found["task"], found["cases"], found["command"]) == ("instances", 3, "evaluate")
    rows = {row["name"]: row["metrics"] for row in found["rows"]}
    assert rows["a"]["pq"] == 1
    assert rows["b"]["f1@0.5"] == 1
    assert 0.7 < rows["b"]["pq"] < 0.9
    assert rows["c"]["f1@0.5"] == pytest.approx(12 / 15)
    summary = found["summary"]["pq"]["object"]
    assert set(summary) == {"mean", "sd", "median", "n", "undefined", "ci_low", "ci_high"}
    assert summary["mean"] == pytest.approx(np.mean([rows[name]["pq"] for name in "abc"]))


def test_the_table_names_the_worst_cases(instances, capsys):
    assert evaluate(instances / "predicted", instances / "truth", "--metrics", "pq,dice") == 0
    out, err = capsys.readouterr()
    assert re.search(r"^b +0 +object +0\.\d{4} +0\.\d{4}$", out, re.M)
    assert "worst by pq: c (" in out
    assert "Student's t" in out
    assert "3 cases, 3 pages: instances" in err


def test_csv_has_a_row_per_page_class_and_metric(instances, tmp_path, capsys):
    target = tmp_path / "out" / "rows.csv"
    assert evaluate(instances / "predicted", instances / "truth", "--metrics", "pq,dice", "--csv", target) == 0
    lines = target.read_text().splitlines()
    assert lines[0] == "name,page,class,metric,value"
    assert len(lines) == 1 + 3 * 2
    assert "a,0,object,pq,1.0" in lines


def test_overlays_tell_false_positives_from_false_negatives(instances, tmp_path):
    assert evaluate(instances / "predicted", instances / "truth", "--overlays", tmp_path / "o", "-q") == 0
    pixels = np.array(Image.open(tmp_path / "o" / "b.png"))
    assert pixels.shape == (*CELLS.shape, 3)
    assert tuple(pixels[5, 2]) == (0, 114, 178)  # there, not predicted
    assert tuple(pixels[5, 12]) == (230, 120, 0)  # predicted, not there
    assert tuple(pixels[0, 0]) == (0, 0, 0)


def test_limits_end_with_nine_after_everything_is_written(instances, tmp_path, capsys):
    arguments = [instances / "predicted", instances / "truth", "--metrics", "pq", "--csv", tmp_path / "rows.csv"]
    assert evaluate(*arguments, "--fail-under", "pq=0.5") == 0
    capsys.readouterr()
    code, found = document(capsys, *arguments, "--fail-under", "pq=0.99", "--fail-over", "pixel_error=0.5")
    assert (code, found["exit"]) == (9, 9)
    assert "pq is 0." in found["error"]
    assert "pixel_error" in found["summary"]
    assert (tmp_path / "rows.csv").exists()


def test_comparison(instances, capsys):
    shutil.copytree(instances / "predicted", instances / "other")
    save(instances / "other" / "c_pred.tif", CELLS)
    code, found = document(capsys, instances / "predicted", instances / "truth", "--compare", instances / "other")
    assert code == 0
    entry = found["comparison"]["f1@0.5"]["object"]
    assert entry["n"] == 3
    assert entry["difference"] == pytest.approx((12 / 15 - 1) / 3)
    assert 0 <= entry["p"] <= 1
    assert evaluate(instances / "predicted", instances / "truth", "--compare", instances / "other", "-q") == 0
    assert "Wilcoxon p" in capsys.readouterr().out


def test_results_do_not_depend_on_workers_and_repeat(instances, capsys):
    documents = []
    for workers in (1, 2, 5):
        _, found = document(capsys, instances / "predicted", instances / "truth", "--workers", workers)
        documents.append({**found, "seconds": 0})
    assert documents[0] == documents[1] == documents[2]


def test_dry_run_writes_nothing(instances, tmp_path, capsys):
    target = tmp_path / "rows.csv"
    assert evaluate(instances / "predicted", instances / "truth", "--csv", target, "--dry-run") == 0
    assert not target.exists()
    assert capsys.readouterr().out == ""


def test_existing_outputs_are_replaced_or_left(instances, tmp_path):
    target = tmp_path / "rows.csv"
    target.write_text("old")
    assert evaluate(instances / "predicted", instances / "truth", "--csv", target, "--skip-existing", "-q") == 0
    assert target.read_text() == "old"
    assert evaluate(instances / "predicted", instances / "truth", "--csv", target, "-q") == 0
    assert target.read_text().startswith("name,")


BINARY = (CELLS > 0).astype(np.uint8)


@pytest.mark.parametrize("factor", [1, 255, 7])
def test_two_values_of_another_coding_are_mapped_and_said(tmp_path, capsys, factor):
    save(tmp_path / "m.tif", BINARY * np.uint8(factor))
    save(tmp_path / "t.tif", BINARY * np.uint8(255))
    assert evaluate(tmp_path / "m.tif", tmp_path / "t.tif", "--metrics", "dice,pixel_error") == 0
    out, err = capsys.readouterr()
    assert "1.0000" in out
    assert ("is read as the truth's 255" in err) == (factor != 255)


def test_class_indices_stand_for_the_truths_values(tmp_path, capsys):
    indices = (CELLS % 3).astype(np.uint8)
    for name in "ab":
        save(tmp_path / "t" / f"{name}.png", np.array([0, 128, 255], np.uint8)[indices])
        save(tmp_path / "p" / f"{name}.png", indices)
    code, found = document(capsys, tmp_path / "p", tmp_path / "t", "--metrics", "dice,recall")
    assert (code, found["task"]) == (0, "classes")
    assert {row["class"] for row in found["rows"]} == {"128", "255", "mean"}
    assert all(row["metrics"] == {"dice": 1, "recall": 1} for row in found["rows"])
    assert any("read as the classes" in note for note in found["notes"])


def test_values_that_the_truth_lacks_are_an_error_that_lists_all_files(tmp_path, capsys):
    indices = (CELLS % 3).astype(np.uint8)
    for name in "ab":
        save(tmp_path / "t" / f"{name}.png", np.array([0, 128, 255], np.uint8)[indices])
        save(tmp_path / "p" / f"{name}.png", np.array([0, 128, 77], np.uint8)[indices])
    assert evaluate(tmp_path / "p", tmp_path / "t") == 3
    err = capsys.readouterr().err
    assert len(re.findall("^error: .*77", err, re.M)) == 2
    assert "hint: " in err


def test_ignored_values_are_left_out(tmp_path, capsys):
    truth = BINARY * np.uint8(100)
    truth[:, 25:] = 255
    save(tmp_path / "t.tif", truth)
    prediction = BINARY * np.uint8(100)
    prediction[:, 25:] = 0
    save(tmp_path / "p.tif", prediction)
    code, found = document(
        capsys, tmp_path / "p.tif", tmp_path / "t.tif", "--ignore", 255, "--metrics", "pixel_error,dice"
    )
    assert code == 0
    assert found["rows"][0]["metrics"] == {"pixel_error": 0, "dice": 1}


def test_pages_select_from_the_truth(tmp_path, capsys):
    stack = np.stack([np.roll(BINARY, page, axis=0) for page in range(6)]) * np.uint8(255)
    save(tmp_path / "t.tif", stack)
    prediction = stack[2:5].copy()
    prediction[1, 0, :5] ^= 255
    save(tmp_path / "p.tif", prediction)
    arguments = [tmp_path / "p.tif", tmp_path / "t.tif", "--metrics", "pixel_error"]
    code, found = document(capsys, *arguments, "--pages", "2-4")
    assert code == 0
    assert [(row["page"], row["metrics"]["pixel_error"]) for row in found["rows"]] == [(2, 0), (3, 5 / 2000), (4, 0)]
    assert found["summary"]["pixel_error"]["foreground"]["n"] == found["cases"] == 1
    assert found["summary"]["pixel_error"]["foreground"]["ci_low"] is None
    code, found = document(capsys, *arguments, "--pages", "2-4", "--cases", "pages")
    assert found["summary"]["pixel_error"]["foreground"]["n"] == found["cases"] == 3
    assert any("too narrow" in note for note in found["notes"])
    assert evaluate(*arguments) == 3
    assert "has 3 pages, its truth 6" in capsys.readouterr().err
    assert evaluate(*arguments, "--pages", "4-9") == 2
    whole = save(tmp_path / "w.tif", stack)
    rows = document(capsys, whole, tmp_path / "t.tif", "--metrics", "dice", "--pages", "3")[1]["rows"]
    assert [(row["page"], row["metrics"]["dice"]) for row in rows] == [(3, 1)]


def test_empty_masks(tmp_path, capsys):
    blank = np.zeros_like(BINARY)
    for name, truth, prediction in (
        ("a", BINARY, BINARY),
        ("b", blank, blank),
        ("c", BINARY, blank),
        ("d", blank, BINARY),
    ):
        save(tmp_path / "t" / f"{name}.png", truth * 255)
        save(tmp_path / "p" / f"{name}.png", prediction * 255)
    code, found = document(capsys, tmp_path / "p", tmp_path / "t", "--metrics", "dice,hd95,recall")
    assert code == 0
    rows = {row["name"]: row["metrics"] for row in found["rows"]}
    assert rows["b"] == {"dice": None, "hd95": None, "recall": None}
    diagonal = pytest.approx(np.hypot(*BINARY.shape))
    assert rows["c"] == rows["d"] == {"dice": 0, "hd95": diagonal, "recall": 0}
    entry = found["summary"]["dice"]["foreground"]
    assert (entry["n"], entry["undefined"], entry["mean"]) == (3, 1, pytest.approx(1 / 3))
    assert any("--count-empty" in note for note in found["notes"])
    _, found = document(capsys, tmp_path / "p", tmp_path / "t", "--metrics", "dice,hd95", "--count-empty")
    assert found["summary"]["dice"]["foreground"]["mean"] == 0.5
    assert {row["name"]: row["metrics"] for row in found["rows"]}["b"] == {"dice": 1, "hd95": 0}


def test_nothing_but_empty_masks(tmp_path, capsys):
    save(tmp_path / "t.png", np.zeros_like(BINARY))
    save(tmp_path / "p.png", np.zeros_like(BINARY))
    code, found = document(capsys, tmp_path / "p.png", tmp_path / "t.png", "--metrics", "dice")
    assert code == 0
    assert found["summary"]["dice"]["foreground"]["undefined"] == 1


def test_probabilities_are_scored_at_the_best_threshold(tmp_path, capsys):
    truth = np.ones((64, 64), np.uint8) * 255
    truth[::16], truth[:, ::16] = 0, 0
    save(tmp_path / "t.tif", truth)
    save(tmp_path / "p.tif", np.where(truth > 0, 0.95, 0.62).astype(np.float32))
    code, found = document(capsys, tmp_path / "p.tif", tmp_path / "t.tif")
    assert (code, found["task"]) == (0, "membranes")
    metrics = found["rows"][0]["metrics"]
    assert metrics["v_rand"] == metrics["v_info"] == 1
    assert metrics["pixel_error"] == pytest.approx((truth == 0).mean())
    assert document(capsys, tmp_path / "p.tif", tmp_path / "t.tif", "--task", "semantic")[1]["task"] == "binary"


def test_a_mask_against_objects_is_taken_apart(instances, capsys):
    for name in "abc":
        save(instances / "masks" / f"{name}.tif", BINARY * np.uint8(255))
    code, found = document(capsys, instances / "masks", instances / "truth", "--metrics", "f1")
    assert code == 0
    assert found["summary"]["f1"]["object"]["mean"] == 1
    assert any("4-connected pieces" in note for note in found["notes"])


@pytest.mark.parametrize("added", [2**31 - 5, 2**32 - 10])
@pytest.mark.parametrize(("truth", "metric"), [(CELLS, "pq"), (BINARY * np.uint8(255), "dice")])
def test_ids_that_no_label_can_hold_are_objects_all_the_same(tmp_path, capsys, truth, metric, added):
    save(tmp_path / "t.tif", truth)
    save(tmp_path / "p.tif", np.where(CELLS > 0, CELLS + np.uint32(added), 0).astype(np.uint32))
    code, found = document(capsys, tmp_path / "p.tif", tmp_path / "t.tif", "--metrics", metric)
    assert (code, found["rows"][0]["metrics"][metric]) == (0, 1)


@pytest.mark.parametrize(
    ("truth", "predicted", "asked", "metric", "said"),
    [
        (BINARY, BINARY * np.uint8(255), [], "dice", "255 is read as the truth's 1"),
        (CELLS, BINARY * np.uint8(255), ["--task", "instances"], "f1", "its 4-connected pieces"),
        (BINARY, np.where(CELLS == 9, 255, BINARY * 200 + CELLS % 4).astype(np.uint8), [], "dice", "as probabilities"),
        (np.zeros_like(BINARY), BINARY * np.uint8(255), [], "pixel_error", "255 is read as the truth's 1"),
    ],
)
def test_a_prediction_may_have_the_value_that_the_truth_ignores(
    tmp_path, capsys, truth, predicted, asked, metric, said
):
    truth = truth.astype(np.uint8)
    truth[-2:] = 255
    save(tmp_path / "t.tif", truth)
    save(tmp_path / "p.tif", predicted)
    code, found = document(capsys, tmp_path / "p.tif", tmp_path / "t.tif", "--ignore", 255, *asked, "--metrics", metric)
    assert code == 0
    assert any(said in note for note in found["notes"])
    score = found["rows"][0]["metrics"][metric]
    assert score == (1 if metric != "pixel_error" else pytest.approx(BINARY[:-2].mean()))


def test_of_several_classes_the_ignored_value_is_none_of_them(tmp_path, capsys):
    truth = (CELLS % 3).astype(np.uint8)
    truth[-2:] = 255
    save(tmp_path / "t.tif", truth)
    save(tmp_path / "p.tif", BINARY * np.uint8(255))
    code, found = document(capsys, tmp_path / "p.tif", tmp_path / "t.tif", "--ignore", 255, "--metrics", "recall")
    assert (code, found["rows"][-1]["metrics"]["recall"]) == (0, 0)


@pytest.mark.parametrize(("predicted", "said"), [
    (BINARY * np.uint8(255), "its 4-connected pieces"),
    (np.where(CELLS > 0, CELLS + np.uint32(2**31), 0).astype(np.uint32), None),
])  # fmt: skip
def test_numbers_are_read_alike_where_the_truth_has_a_color_per_object(tmp_path, capsys, predicted, said):
    colors = np.random.default_rng(0).permutation(255)[: 3 * 9].reshape(9, 3).astype(np.uint8)
    save(tmp_path / "t.png", np.concatenate([np.zeros((1, 3), np.uint8), colors])[CELLS])
    save(tmp_path / "p.tif", predicted)
    arguments = [tmp_path / "p.tif", tmp_path / "t.png", "--task", "instances", "--metrics", "pq"]
    code, found = document(capsys, *arguments)
    assert (code, found["rows"][0]["metrics"]["pq"]) == (0, 1)
    assert said is None or any(said in note for note in found["notes"])
    save(tmp_path / "p.tif", -CELLS.astype(np.int16))
    assert evaluate(*arguments) == 3
    assert "p.tif: has negative ids (-9)" in capsys.readouterr().err


def test_negative_ids_are_those_of_the_file_that_has_them(instances, capsys):
    for name in "bc":
        save(instances / f"predicted/{name}_pred.tif", -CELLS.astype(np.int16))
    assert evaluate(instances / "predicted", instances / "truth") == 3
    err = capsys.readouterr().err
    assert "a_pred.tif" not in err
    assert err.count("has negative ids (-9)") == 2


def test_an_image_of_another_size_than_its_mask_is_not_shown(tmp_path, capsys):
    for name, image in (("x", CELLS), ("y", CELLS[:-1]), ("z", CELLS)):
        save(tmp_path / "data" / "images" / f"{name}.png", image.astype(np.uint8))
        save(tmp_path / "data" / "masks" / f"{name}.png", BINARY * np.uint8(255))
        save(tmp_path / "p" / f"{name}.png", BINARY * np.uint8(255))
    (tmp_path / "data/images/z.png").write_bytes(b"none")
    code, found = document(capsys, tmp_path / "p", tmp_path / "data", "--metrics", "dice", "--overlays", tmp_path / "o")
    assert (code, found["cases"]) == (0, 3)
    assert "the image of y is not shown: it is 39 x 50 pixels, its truth 40 x 50" in found["warnings"]
    assert any("the image of z is not shown: " in said for said in found["warnings"])
    assert not document(capsys, tmp_path / "p", tmp_path / "data", "--metrics", "dice")[1]["warnings"]
    assert len(list((tmp_path / "o").iterdir())) == 3


@pytest.mark.parametrize(("rows", "code"), [(40, 0), (39, 3)])
def test_the_pixels_of_an_image_of_another_size_measure_nothing(tmp_path, capsys, rows, code):
    (tmp_path / "data/images").mkdir(parents=True)
    resolution = {"resolution": (4, 4), "metadata": {"unit": "um"}, "imagej": True}
    tifffile.imwrite(tmp_path / "data/images/x.tif", CELLS[:rows], **resolution)
    save(tmp_path / "data/masks/x.png", BINARY * np.uint8(255))
    save(tmp_path / "p/x.png", BINARY * np.uint8(255))
    assert evaluate(tmp_path / "p", tmp_path / "data", "--metrics", "hd", "--unit", "image") == code
    assert ("states no pixel size" in capsys.readouterr().err) == bool(code)


def test_hidden_folders_hold_no_masks(instances, capsys):
    save(instances / "truth/.ipynb_checkpoints/a-checkpoint.tif", CELLS)
    assert evaluate(instances / "predicted", instances / "truth", "-q") == 0


def test_a_distance_that_equals_the_tolerance_is_within(tmp_path, capsys):
    """Three pixels of 0.1 are 0.30000000000000004."""
    for name, array in (("t", BINARY), ("p", np.roll(BINARY, 3, axis=1))):
        resolution = {"resolution": (10, 10), "metadata": {"unit": "um"}, "imagej": True}
        tifffile.imwrite(tmp_path / f"{name}.tif", array * np.uint8(255), **resolution)
    found = document(
        capsys, tmp_path / "p.tif", tmp_path / "t.tif", "--metrics", "nsd@0.3,boundary_f1@0.3", "--unit", "image"
    )[1]
    assert found["rows"][0]["metrics"] == {"nsd@0.3": 1, "boundary_f1@0.3": 1}


def test_distances_in_the_unit_of_the_image(tmp_path, capsys):
    for name, array in (("t", BINARY), ("p", np.roll(BINARY, 1, axis=1))):
        resolution = {"resolution": (4, 4), "metadata": {"unit": "um"}, "imagej": True}
        tifffile.imwrite(tmp_path / f"{name}.tif", array * np.uint8(255), **resolution)
    arguments = [tmp_path / "p.tif", tmp_path / "t.tif", "--metrics", "hd"]
    assert document(capsys, *arguments)[1]["rows"][0]["metrics"]["hd"] == 1
    found = document(capsys, *arguments, "--unit", "image")[1]
    assert (found["rows"][0]["metrics"]["hd"], found["unit"]) == (0.25, "µm")


def test_a_data_set_as_truth_gives_its_masks(tmp_path, capsys):
    for name in ("x", "y"):
        save(tmp_path / "data" / "images" / f"{name}.png", (SHIFTED * 20).astype(np.uint8))
        save(tmp_path / "data" / "masks" / f"{name}.png", BINARY * np.uint8(255))
        save(tmp_path / "p" / f"{name}.png", BINARY * np.uint8(255))
    code, found = document(
        capsys, tmp_path / "p", tmp_path / "data", "--metrics", "dice", "--report", tmp_path / "r.html"
    )
    assert (code, found["cases"]) == (0, 2)
    assert 'alt="image"' in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("prepare", "code", "message"),
    [
        (lambda f: (f / "truth" / "c.tif").unlink(), 3, "c_pred"),
        (lambda f: save(f / "predicted" / "b_pred.tif", CELLS[:, :-1]), 3, "40 x 49 pixels, its truth 40 x 50"),
        (lambda f: (f / "predicted" / "b_pred.tif").write_bytes(b""), 3, "is empty"),
        (lambda f: shutil.rmtree(f / "predicted"), 2, "predicted"),
        (lambda f: [path.unlink() for path in (f / "truth").iterdir()], 3, "truth"),
    ],
)
def test_bad_inputs(instances, capsys, prepare, code, message):
    prepare(instances)
    assert evaluate(instances / "predicted", instances / "truth") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert re.search("^error: ", err, re.M)
    assert re.search("^hint: ", err, re.M)
    assert "Traceback" not in err


def test_all_problems_are_listed_together(instances, capsys):
    save(instances / "predicted" / "b_pred.tif", CELLS[:, :-1])
    save(instances / "predicted" / "c_pred.tif", CELLS[:-1])
    assert evaluate(instances / "predicted", instances / "truth") == 3
    assert len(re.findall("^error: ", capsys.readouterr().err, re.M)) == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--metrics", "dyce"], "no metric 'dyce'"),
        (["--metrics", "dice,dice"], "twice"),
        (["--fail-under", "hd95=1"], "--fail-over"),
        (["--fail-under", "dice[nucleus]=0.5"], "there is no class 'nucleus'"),
        (["--pages", "3-1"], "--pages"),
        (["--axes", "YX"], "--axes"),
    ],
)
def test_wrong_usage(instances, capsys, extra, message):
    assert evaluate(instances / "predicted", instances / "truth", *extra) == 2
    assert message in capsys.readouterr().err


def test_no_input_is_overwritten(instances, capsys):
    target = instances / "truth" / "a.tif"
    before = target.read_bytes()
    assert evaluate(instances / "predicted" / "a_pred.tif", target, "--csv", target, "--task", "instances") == 2
    assert target.read_bytes() == before
    assert evaluate(target, target) == 2


def test_help_lists_every_metric_without_heavy_imports():
    code = (
        "import sys\nfrom unetcli.cli import run\nrun(['evaluate', '--help'])\n"
        "print('HEAVY', sorted({'torch', 'scipy', 'skimage', 'cv2', 'albumentations'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    from unetcli.metrics import METRICS

    assert all(re.search(rf"^ *{name}[@:]", out, re.M) for name in METRICS)
    assert "HEAVY []" in out


def test_a_reader_that_goes_away_is_no_error(instances):
    command = f'"{sys.executable}" -m unetcli evaluate predicted truth -q | sh -c "exec <&-"; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], cwd=instances, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["141"]
    assert done.stderr == ""


@pytest.mark.parametrize("option", ["--csv", "--report"])
def test_outputs_cannot_replace_images_below_an_input_folder(instances, option):
    target = instances / "truth" / "b.tif"
    before = target.read_bytes()
    assert evaluate(instances / "predicted", instances / "truth", option, target) == 2
    assert target.read_bytes() == before


def test_overlays_stay_out_of_the_inputs(instances, tmp_path, capsys):
    assert evaluate(instances / "predicted", instances / "truth", "--overlays", instances / "truth") == 2
    assert "--overlays" in capsys.readouterr().err
    mask = save(tmp_path / "one" / "t.png", (CELLS > 0) * np.uint8(255))
    prediction = save(tmp_path / "one" / "p.png", (CELLS > 0) * np.uint8(255))
    before = mask.read_bytes()
    assert evaluate(prediction, mask, "--overlays", tmp_path / "one") == 2
    assert mask.read_bytes() == before


def test_colors_of_masks_are_classes_and_palette_predictions_fit_them(tmp_path, capsys):
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
    classes = (CELLS % 3).astype(np.uint8)
    for name in "ab":
        save(tmp_path / "t" / f"{name}.png", colors[classes])
        (tmp_path / "p").mkdir(exist_ok=True)
        indexed = Image.fromarray(classes, "P")
        indexed.putpalette(colors.tobytes())
        indexed.save(tmp_path / "p" / f"{name}.png")
    code, found = document(capsys, tmp_path / "p", tmp_path / "t", "--metrics", "dice")
    assert code == 0
    assert {row["class"]: row["metrics"]["dice"] for row in found["rows"]} == {"#0000ff": 1, "#ff0000": 1, "mean": 1}


def test_a_mask_of_several_channels_is_refused(tmp_path, capsys):
    save(tmp_path / "t.tif", BINARY * np.uint8(255))
    tifffile.imwrite(tmp_path / "p.tif", np.stack([BINARY] * 2), metadata={"axes": "CYX"}, imagej=True)
    assert evaluate(tmp_path / "p.tif", tmp_path / "t.tif") == 3
    assert "has 2 channels" in capsys.readouterr().err


def test_probabilities_of_every_class(tmp_path, capsys):
    classes = (CELLS % 3).astype(np.uint8)
    for name in "ab":
        save(tmp_path / "t" / f"{name}.tif", classes)
        (tmp_path / "p").mkdir(exist_ok=True)
        shares = np.moveaxis(np.eye(3, dtype=np.float32)[classes] * 0.8 + np.float32(0.1), 2, 0)
        tifffile.imwrite(tmp_path / "p" / f"{name}.tif", shares, metadata={"axes": "CYX"}, imagej=True)
    code, found = document(capsys, tmp_path / "p", tmp_path / "t", "--metrics", "dice")
    assert code == 0
    assert {row["metrics"]["dice"] for row in found["rows"]} == {1}
    assert any("likeliest class" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("last", "message"),
    [(np.nan, "no finite numbers"), (np.inf, "no finite numbers"), (100, "from 0 to 100"), (-1, "from -1 to 0.98")],
)
def test_one_pixel_of_a_large_map_that_is_no_probability_is_seen(tmp_path, capsys, last, message):
    ramp = np.linspace(0, 0.99, 40_000, dtype=np.float32).reshape(200, 200)
    save(tmp_path / "t.tif", (ramp > 0.4) * np.uint8(255))
    save(tmp_path / "p.tif", ramp)
    assert evaluate(tmp_path / "p.tif", tmp_path / "t.tif", "-q") == 0
    ramp[-1, -1] = last
    save(tmp_path / "p.tif", ramp)
    assert evaluate(tmp_path / "p.tif", tmp_path / "t.tif") == 3
    assert message in capsys.readouterr().err


def test_one_pixel_of_a_large_map_that_is_no_whole_number_is_seen(tmp_path, capsys):
    numbers = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    save(tmp_path / "t.tif", (numbers > 0) * np.uint8(255))
    numbers[-1, -1] += 0.5
    save(tmp_path / "p.tif", numbers)
    assert evaluate(tmp_path / "p.tif", tmp_path / "t.tif") == 3
    assert "neither classes nor probabilities" in capsys.readouterr().err


def test_class_indices_that_share_a_value_with_the_truth_are_no_guess(tmp_path, capsys):
    indices = (CELLS % 3).astype(np.uint8)
    save(tmp_path / "t.png", np.array([0, 1, 3], np.uint8)[indices])
    save(tmp_path / "p.png", indices)
    assert evaluate(tmp_path / "p.png", tmp_path / "t.png", "--task", "semantic") == 3
    assert "has the values 2, which the truth does not have (it has 0, 1, 3)" in capsys.readouterr().err
    save(tmp_path / "p.png", np.array([0, 0, 2], np.uint8)[indices])  # nothing but the third class
    code, found = document(capsys, tmp_path / "p.png", tmp_path / "t.png", "--task", "semantic", "--metrics", "dice")
    assert code == 0
    assert {row["class"]: row["metrics"]["dice"] for row in found["rows"]} == {"1": 0, "3": 1, "mean": 0.5}


AFFINE = np.diag([0.5, 0.5, 2, 1])


def nifti(path, mask, affine):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.stack([mask, mask]).transpose(2, 1, 0), affine), path)
    return path


def test_a_prediction_that_lies_mirrored_in_space_is_refused(tmp_path, capsys):
    flipped = AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, 39], [0, 0, 1, 0], [0, 0, 0, 1]])
    truth = nifti(tmp_path / "t.nii", BINARY, AFFINE)
    assert evaluate(nifti(tmp_path / "p.nii", BINARY[::-1], flipped), truth) == 3
    err = capsys.readouterr().err
    assert "p.nii: its rows run in other directions in space than those of its truth" in err
    assert "affine" in err
    moved = AFFINE.copy()
    moved[0, 3] = 20
    assert evaluate(nifti(tmp_path / "p.nii", BINARY, moved), truth) == 0
    assert "p.nii: lies elsewhere in space than its truth" in capsys.readouterr().err


def test_what_a_data_set_says_of_its_masks_holds_for_the_truth(tmp_path, capsys):
    labels = {"background": 0, "cell": 1, "ignore": 2}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".png"}))
    for case in "ab":
        truth = BINARY.copy()
        truth[:, 25:] = 2
        save(tmp_path / "data" / "labelsTr" / f"{case}.png", truth)
        for channel in range(2):
            save(tmp_path / "data" / "imagesTr" / f"{case}_000{channel}.png", (SHIFTED * 20).astype(np.uint8))
        save(tmp_path / "p" / f"{case}.png", np.where(truth == 2, 0, truth).astype(np.uint8))
    code, found = document(
        capsys, tmp_path / "p", tmp_path / "data", "--metrics", "dice,pixel_error", "--overlays", tmp_path / "o"
    )
    assert (code, found["task"]) == (0, "binary")
    assert {row["class"] for row in found["rows"]} == {"cell"}
    assert all(row["metrics"] == {"dice": 1, "pixel_error": 0} for row in found["rows"])


@pytest.mark.parametrize("ending", ["", "_pred", "_xyz", "_xyz_pred"])
def test_predictions_have_the_names_of_the_images_of_a_data_set_or_of_its_masks(tmp_path, capsys, ending):
    for name, mask in (("cat", BINARY), ("dog", BINARY[::-1])):
        save(tmp_path / "data" / "images" / f"{name}.tif", (SHIFTED * 20).astype(np.uint8))
        save(tmp_path / "data" / "masks" / f"{name}_xyz.tif", mask * np.uint8(255))
        save(tmp_path / "p" / f"{name}{ending}.tif", mask * np.uint8(255))
    code, found = document(capsys, tmp_path / "p", tmp_path / "data", "--metrics", "dice")
    assert code == 0
    assert {row["name"]: row["metrics"]["dice"] for row in found["rows"]} == {"cat": 1, "dog": 1}


def test_several_masks_per_image_are_no_truth(tmp_path, capsys):
    for name in "ab":
        save(tmp_path / "data" / name / "images" / f"{name}.png", (SHIFTED * 20).astype(np.uint8))
        for number in (1, 2):
            save(tmp_path / "data" / name / "masks" / f"{number}.png", (number == CELLS) * np.uint8(255))
        save(tmp_path / "p" / f"{name}.png", CELLS.astype(np.uint8))
    assert evaluate(tmp_path / "p", tmp_path / "data") == 3
    assert "has a mask for each object of an image (2 of " in capsys.readouterr().err


def test_pieces_of_a_mask_are_counted_without_what_is_ignored(tmp_path, capsys):
    truth = np.zeros((5, 31), np.uint8)
    truth[1:4, ::5] = 1
    truth = truth * np.arange(31, dtype=np.uint8)  # objects 5, 10, ... 30
    truth[0] = 255
    save(tmp_path / "t.tif", truth)
    scores = []
    for beyond in (0, 1):
        prediction = (truth > 0) * np.uint8(1)
        prediction[0] = beyond  # joins all objects where it is 1
        save(tmp_path / "p.tif", prediction)
        code, found = document(
            capsys, tmp_path / "p.tif", tmp_path / "t.tif", "--task", "instances", "--ignore", 255, "--metrics", "f1"
        )
        assert code == 0
        scores.append(found["rows"][0]["metrics"]["f1"])
    assert scores == [1, 1]


@pytest.mark.parametrize(
    ("task", "predicted", "beyond"),
    [
        ("binary", lambda truth: (truth > 0).astype(np.uint8), [5, 255]),  # no probabilities of 8 bits
        ("binary", lambda truth: (truth > 0) * np.float32(0.8) + np.float32(0.1), [np.nan, 2]),
        ("classes", lambda truth: truth, [50, 255]),
        ("instances", lambda truth: (truth > 0).astype(np.uint8), [1, 2]),  # no ids
    ],
)
def test_what_is_predicted_where_pixels_are_ignored_does_not_say_how_it_is_read(
    task, predicted, beyond, tmp_path, capsys
):
    values = {"binary": (CELLS > 0) * 255, "classes": CELLS % 3, "instances": CELLS}
    truth = values[task].astype(np.uint16)
    prediction = predicted(np.roll(truth, 1, axis=1))
    truth[:4], prediction[:4] = 999, 0
    save(tmp_path / "t.tif", truth)
    rows = []
    for value in [None, *beyond]:
        if value is not None:
            prediction[:2, ::2] = value
            prediction[:2, 1::2] = beyond[0]
        save(tmp_path / "p.tif", prediction)
        asked = ["--task", "instances" if task == "instances" else "semantic", "--ignore", 999]
        code, found = document(capsys, tmp_path / "p.tif", tmp_path / "t.tif", *asked)
        assert code == 0
        rows.append(found["rows"])
    assert rows[1:] == rows[:1] * len(beyond)


def test_a_limit_of_no_class_is_found_before_anything_is_scored(instances, capsys):
    arguments = [instances / "predicted", instances / "truth", "--dry-run"]
    assert evaluate(*arguments, "--fail-under", "dice[object]=0.5") == 0
    assert evaluate(*arguments, "--fail-under", "dice[cell]=0.5", "--fail-over", "pixel_error[mean]=0.5") == 2
    err = capsys.readouterr().err
    assert "there is no class 'cell'" in err
    assert "there is no class 'mean'" in err
    assert "there are object" in err


def test_colors_that_the_truth_lacks_are_listed_with_all_files_before_scoring(tmp_path, capsys):
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
    classes = (CELLS % 3).astype(np.uint8)
    for name in "ab":
        save(tmp_path / "t" / f"{name}.png", colors[classes])
        save(tmp_path / "p" / f"{name}.png", (colors // 2)[classes])
    assert evaluate(tmp_path / "p", tmp_path / "t", "--dry-run") == 3
    err = capsys.readouterr().err
    for name in "ab":
        assert f"{name}.png: has the values #00007f, #7f0000, which the truth does not have" in err
    for name in "ab":
        save(tmp_path / "p" / f"{name}.png", classes)  # numbers are no colors
    assert evaluate(tmp_path / "p", tmp_path / "t", "--dry-run") == 3
    assert len(re.findall("^error: .*#010101, #020202", capsys.readouterr().err, re.M)) == 2


@pytest.mark.parametrize("truth", [BINARY, CELLS])
def test_colors_are_no_prediction_of_numbers(tmp_path, capsys, truth):
    save(tmp_path / "t.tif", truth)
    save(tmp_path / "p.png", BINARY[..., None] * np.array([1, 0, 0], np.uint8))
    assert evaluate(tmp_path / "p.png", tmp_path / "t.tif", "--dry-run") == 3
    assert "p.png: has colors, the truth has numbers" in capsys.readouterr().err


def test_dry_run_makes_no_folder(instances, tmp_path):
    targets = {"--overlays": "o", "--csv": "c/rows.csv", "--report": "r/report.html"}
    before = sorted(tmp_path.rglob("*"))
    options = [part for option, name in targets.items() for part in (option, tmp_path / "new" / name)]
    assert evaluate(instances / "predicted", instances / "truth", "--dry-run", *options) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert evaluate(instances / "predicted", instances / "truth", "--dry-run", "--json", tmp_path / "j" / "d.json") == 0
    assert json.loads((tmp_path / "j" / "d.json").read_text())["cases"] == 3


@pytest.mark.parametrize("option", ["--csv", "--report"])
def test_outputs_cannot_replace_the_description_of_a_data_set(instances, option):
    target = instances / "truth" / "dataset.json"
    target.write_text("{}")
    assert evaluate(instances / "predicted", instances / "truth", option, target) == 2
    assert target.read_text() == "{}"


def test_remedies_are_those_of_the_command(instances, capsys):
    save(instances / "predicted" / "a_pred.png", CELLS.astype(np.uint8))
    assert evaluate(instances / "predicted", instances / "truth") == 3
    assert "--images" not in capsys.readouterr().err
    assert evaluate(f"{instances}/pred*", instances / "truth") == 2
    assert "quote" not in capsys.readouterr().err
