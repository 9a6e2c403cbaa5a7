"""What each choice of the default recipe is worth: one change at a time, in equal time, over folds and seeds.

    python tests/bench/experiments.py isbi2012 --seconds 600 --folds 1,2 --only "default,AdamW"

Trains on one thread each, several at a time, on folds of what the data set has for training: pages 0 to 19 of a folder
with ``train-volume.tif``, or the images that ``split.csv`` does not hold out. With ``--patches`` in place of the time,
a GPU sees in minutes what two CPU cores see in a day.

Prints a row of a Markdown table for each change: mean and SD over the folds of the last validation, in Dice,
cross-entropy and the steps that were made; of two classes the best threshold and the Dice there as well, of the stack
V_rand (the mean over eight turns and flips, as one gap in a membrane moves it by 0.01), that of their mean, V_info, and
the pixel error, and of instances PQ.
"""

import argparse
import csv
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from unetcli.dataset.augmentation import AugmentationSettings
from unetcli.dataset.pairs import collect_pairs
from unetcli.dataset.survey import survey
from unetcli.images import normalize
from unetcli.inference.instances import find_objects
from unetcli.inference.predict import EIGHT_TURNS, UNTURNED, Ensemble, predict_bands
from unetcli.metrics.instances import overlaps, pq
from unetcli.metrics.partition import Partition, partition, v_info, v_rand
from unetcli.models.device import set_threads
from unetcli.training import optimization
from unetcli.training.config import RECIPES, Recipe, TrainConfig
from unetcli.training.optimization import LEARNING_RATES, OPTIMIZERS, Muon
from unetcli.training.plan import plan
from unetcli.training.records import EpochRecord

FOLDS = 5
ADAMW = {"optimizer": "adamw", "learning_rate": LEARNING_RATES["adamw"]}
VARIANTS = {
    "default": {},
    "AdamW": ADAMW,
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 6e-3": {"learning_rate": 6e-3},
    "learning rate 1e-2": {"learning_rate": 1e-2},
    "no weight decay": {"weight_decay": 0.0},
    "polynomial schedule": {"schedule": "polynomial"},
    "constant learning rate": {"schedule": "constant"},
    "constant learning rate and averaging 0.997": {"schedule": "constant", "averaging": 0.997},
    "no warm-up": {"warm_up": 0.0},
    "warm-up 0.2": {"warm_up": 0.2},
    "no clipping": {"largest_gradient": 0.0},
    "no averaging": {"averaging": 0.0},
    "averaging 0.997": {"averaging": 0.997},
    "averaging 0.999": {"averaging": 0.999},
    "no dropout": {"dropout": 0.0},
    "dropout 0.5": {"dropout": 0.5},
    "no Dice term": {"dice_weight": 0.0},
    "no border weights": {"border_weight": 0.0},
    "border weight 2": {"border_weight": 2.0},
    "border weight 20": {"border_weight": 20.0},
    "border weights not smoothed": {"border_smoothing": 0.0},
    "border weights smoothed by 1.5": {"border_smoothing": 1.5},
    "border weights smoothed by 2": {"border_smoothing": 2.0},
    "no class balance": {"class_balance": "none"},
    "class balance inverse": {"class_balance": "inverse"},
    "background 4 times": {"class_balance": "2.41,0.60"},
    "classes raised to 35 %": {"smallest_share": 0.35},
    "classes raised to 50 %": {"smallest_share": 0.5},
    "no elastic": {"elastic": 0.0},
    "elastic 15 and gray values 0.4": {"elastic": 15.0, "intensity": 0.4},
    "no rotation": {"rotate": 0.0},
    "no gray values": {"intensity": 0.0},
    "gray values 0.1": {"intensity": 0.1},
    "scale 0.15": {"scale": 0.15},
    "scale 0.25": {"scale": 0.25},
    "patch 380": {"patch_size": 380},
    "one patch a batch": {"batch_pixels": 1},
    "four times the batch": {"batch_pixels": 4 * 388**2},
    "batch normalization": {"batch_norm": True},
    "as the plain loop": {
        **ADAMW,
        "dice_weight": 0.0,
        "border_weight": 0.0,
        "class_balance": "none",
        "elastic": 0.0,
        "rotate": 0.0,
        "intensity": 0.0,
    },
}


def paths_of(data, folder):
    """Return what to train on, and the pages that count."""
    if (data / "train-volume.tif").exists():
        return [data / "train-volume.tif", data / "train-labels.tif"], range(20)
    for row in csv.DictReader((data / "split.csv").read_text().splitlines()):
        if row["split"] == "train":
            for path in data.rglob(f"{row['id']}.*"):
                place = folder / path.relative_to(data)
                place.parent.mkdir(exist_ok=True)
                place.symlink_to(path.resolve())
    return [folder], None


def train(data, changes, fold, seed, options):
    """Return how good a training was at its end, and its steps."""
    set_threads(1)
    changes = dict(changes)
    optimization.WARM_UP = changes.pop("warm_up", optimization.WARM_UP)
    if "weight_decay" in changes:
        OPTIMIZERS["muon"] = partial(Muon, weight_decay=changes.pop("weight_decay"))

    def taken(kind):
        return {field.name: changes.pop(field.name) for field in fields(kind) if field.name in changes}

    if options.patches:
        changes |= {"epochs": 1, "patches_per_epoch": options.patches, "workers": 0}
    else:
        changes |= {"max_seconds": options.seconds}
    recipe = replace(RECIPES["default"], **taken(Recipe))
    RECIPES["changed"] = replace(recipe, cuda_batch_pixels=recipe.batch_pixels)  # a GPU tells what a CPU would learn
    augmentation = AugmentationSettings(**taken(AugmentationSettings))
    with tempfile.TemporaryDirectory() as name:
        paths, pages = paths_of(data, Path(name))
        found = survey(collect_pairs(paths), pages=pages)
        found.check()
        config = TrainConfig(
            output=Path(name) / "unet.safetensors",
            recipe="changed",
            augmentation=augmentation,
            fold=(fold, FOLDS),
            seed=seed,
            **taken(TrainConfig),
            arguments={"features": options.features, **changes},
        )
        _, trainer = plan(config, found)
        steps = sum(not isinstance(record, EpochRecord) for record in trainer.run())
        last = trainer.history[-1]
        scores = {"Dice": last.dice, "cross-entropy": last.validation_loss, "steps": steps}
        if trainer.classes == 2:
            there = np.nanmean([image.dice_at for image in trainer.score.images], axis=0)
            scores |= {"best threshold": trainer.score.threshold or 0.5, "Dice there": float(there.max())}
        if pages is not None:
            return scores | membranes_apart(trainer)
        return scores | ({"PQ": panoptic_quality(trainer)} if found.coding.task == "instances" else {})


def predictions(trainer, turns=UNTURNED):
    """Yield the labels of each image that is held out, and what is predicted: classes and probabilities."""
    ensemble = Ensemble([trainer.average.average.eval()], trainer.device, turns)
    for sample in trainer.held_out:
        prepare = partial(normalize, intensity=sample.intensity)
        bands = list(predict_bands(ensemble, sample.image, prepare, trainer.tile, keep_probabilities=True))
        probabilities = np.concatenate([band.probabilities for band in bands], axis=1)
        yield sample.labels, np.concatenate([band.classes for band in bands]), probabilities


def membranes_apart(trainer):
    """Return scores of the slices together: V_rand, its mean over eight turns and flips, and those of their mean."""

    def scores(turns):
        predicted = [(labels == 1, found[1]) for labels, _, found in predictions(trainer, turns)]
        apart = Partition.merged([partition(truth, found) for truth, found in predicted])
        return v_rand(apart), v_info(apart), float(np.mean([(found > 0.5) != truth for truth, found in predicted]))

    single = statistics.mean(scores([turn])[0] for turn in EIGHT_TURNS)
    return {"V_rand": single} | dict(zip(("--tta", "V_info", "pixel error"), scores(EIGHT_TURNS), strict=True))


def panoptic_quality(trainer):
    """Return the mean PQ over the images."""
    return float(np.nanmean([pq(overlaps(labels, find_objects(found))) for labels, found, _ in predictions(trainer)]))


def main(options):
    """Print a row per change."""
    names = options.only.split(",") if options.only else list(VARIANTS)
    folds = [int(fold) for fold in options.folds.split(",")]
    with ProcessPoolExecutor(options.processes, get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = {
            name: [
                pool.submit(train, options.data, VARIANTS[name], fold, seed, options) for seed, fold in enumerate(folds)
            ]
            for name in names
        }
        for name, started in runs.items():
            scores = [run.result() for run in started]
            if name == names[0]:
                print(f"| change | {' | '.join(scores[0])} |\n{'|---' * (1 + len(scores[0]))}|")
            cells = [mean_and_sd([score[key] for score in scores]) for key in scores[0]]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def mean_and_sd(values):
    """Return how a cell of the table shows the values of the folds."""
    if isinstance(values[0], int):
        return f"{statistics.mean(values):.0f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--patches", type=int, help="of a training, in place of its time")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once")
    parser.add_argument("--folds", default="1,2", help="of five; each has a seed of its own")
    parser.add_argument("--only", help="the changes to try")
    parser.add_argument("--features", type=int, default=16)
    main(parser.parse_args())
