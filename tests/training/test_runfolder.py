"""The history of a training in its run folder."""

import csv
import json
import math

from unetcli.training.records import EpochRecord
from unetcli.training.runfolder import RunFolder


def record_of(epoch, **changed):
    values = {
        "epoch": epoch,
        "seconds": 12.3456789 * epoch,
        "learning_rate": 1e-3 / epoch,
        "train_loss": 1 / 3,
        "validation_loss": 0.5,
        "dice": 0.25 * epoch,
        "dice_per_class": (0.125 * epoch, math.nan),
        "foreground": 0.1,
        "best": epoch == 2,
        "patches_per_second": 7.0,
    }
    return EpochRecord(**{**values, **changed})


def test_a_new_training_removes_the_files_of_the_one_before_and_no_others(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_history([record_of(1)])
    folder.write_config({})
    folder.write_page("page")
    for name in ("state.safetensors", "best.safetensors", "notes.txt"):
        (tmp_path / name).write_text(name)
    folder.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_both_histories_say_the_same(tmp_path):
    history = [record_of(1), record_of(2), record_of(3, train_loss=math.inf)]
    RunFolder(tmp_path).write_history(history)
    with (tmp_path / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert len(table) == len(lines) == 3
    for row, line, record in zip(table, lines, history, strict=True):
        assert row.keys() == line.keys()
        assert int(row["epoch"]) == line["epoch"] == record.epoch
        assert row["best"] == str(line["best"])
        for name in row.keys() - {"epoch", "best"}:
            value = float(row[name])
            assert line[name] == (value if math.isfinite(value) else None), name
        assert abs(line["seconds"] - record.seconds) < 1e-3
        assert line["dice_class_2"] is None
    assert lines[2]["train_loss"] is None
