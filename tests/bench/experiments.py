"""What each choice of the default recipe is worth: one change at a time, in equal time, over folds and seeds.

    python tests/bench/experiments.py isbi2012 --seconds 600 --folds 1,2 --only default,2e-3

Trains on one thread each, two at a time, on folds of what the data set has for training: pages 0 to 19 of a folder with
``train-volume.tif``, or the images that ``split.csv`` does not hold out. Prints a row of a Markdown table for each
change: mean and SD over the folds of the last validation, in Dice and cross-entropy, and the steps that were made.
"""

import argparse
import csv
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from unetcli.dataset.augmentation import AugmentationSettings
from unetcli.dataset.pairs import collect_pairs
from unetcli.dataset.survey import survey
from unetcli.models.device import set_threads
from unetcli.training import loop, optimization
from unetcli.training.config import RECIPES, Recipe, TrainConfig
from unetcli.training.loss import weighted_cross_entropy
from unetcli.training.plan import plan
from unetcli.training.records import EpochRecord

FOLDS = 5
VARIANTS = {
    "default": {},
    "learning rate 5e-4": {"learning_rate": 5e-4},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "polynomial schedule": {"schedule": "polynomial"},
    "constant learning rate": {"schedule": "constant"},
    "no warm-up": {"warm_up": 0.0},
    "no clipping": {"largest_gradient": 0.0},
    "no averaging": {"averaging": 0.0},
    "averaging 0.999": {"averaging": 0.999},
    "no dropout": {"dropout": 0.0},
    "a Dice term": {"dice_term": True},
    "no border weights": {"border_weight": 0.0},
    "no class balance": {"class_balance": "none"},
    "class balance inverse": {"class_balance": "inverse"},
    "no elastic": {"elastic": 0.0},
    "no rotation": {"rotate": 0.0},
    "no gray values": {"intensity": 0.0},
    "scale 0.25": {"scale": 0.25},
    "patch 380": {"patch_size": 380},
    "four times the batch": {"batch_pixels": 4 * 388**2},
    "batch normalization": {"batch_norm": True},
}


def with_dice_term(logits, target, weights):
    """Return the weighted cross-entropy plus one minus the soft Dice of the foreground."""
    inside = 1 - torch.softmax(logits.float(), dim=1)[:, 0]
    counted, truth = weights > 0, (target > 0).float()
    overlap = 2 * (inside * truth * counted).sum() / (((inside + truth) * counted).sum() + 1)
    return weighted_cross_entropy(logits, target, weights) + 1 - overlap


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


def train(data, changes, fold, seed, seconds, features):
    """Return the last record of a training and its steps."""
    set_threads(1)
    changes = dict(changes)
    optimization.WARM_UP = changes.pop("warm_up", optimization.WARM_UP)
    loop.weighted_cross_entropy = with_dice_term if changes.pop("dice_term", False) else weighted_cross_entropy

    def taken(kind):
        return {field.name: changes.pop(field.name) for field in fields(kind) if field.name in changes}

    RECIPES["changed"] = replace(RECIPES["default"], **taken(Recipe))
    augmentation = AugmentationSettings(**taken(AugmentationSettings))
    with tempfile.TemporaryDirectory() as name:
        paths, pages = paths_of(data, Path(name))
        found = survey(collect_pairs(paths), pages=pages)
        found.check()
        config = TrainConfig(
            output=Path(name) / "unet.safetensors",
            max_seconds=seconds,
            recipe="changed",
            augmentation=augmentation,
            fold=(fold, FOLDS),
            seed=seed,
            **taken(TrainConfig),
            arguments={"features": features, **changes},
        )
        _, trainer = plan(config, found)
        steps = sum(not isinstance(record, EpochRecord) for record in trainer.run())
        return trainer.history[-1], steps


def main(options):
    """Print a row per change."""
    names = options.only.split(",") if options.only else list(VARIANTS)
    folds = [int(fold) for fold in options.folds.split(",")]
    print("| change | Dice | cross-entropy | steps |\n|---|---|---|---|")
    with ProcessPoolExecutor(2, get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = {
            name: [
                pool.submit(train, options.data, VARIANTS[name], fold, seed, options.seconds, options.features)
                for seed, fold in enumerate(folds)
            ]
            for name in names
        }
        for name, started in runs.items():
            records, steps = zip(*(run.result() for run in started), strict=True)
            columns = [[record.dice for record in records], [record.validation_loss for record in records]]
            shown = [
                f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}"
                for values in columns
            ]
            print(f"| {name} | {' | '.join(shown)} | {statistics.mean(steps):.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--folds", default="1,2", help="of five; each has a seed of its own")
    parser.add_argument("--only", help="the changes to try")
    parser.add_argument("--features", type=int, default=16)
    main(parser.parse_args())
