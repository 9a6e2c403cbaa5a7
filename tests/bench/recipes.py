"""Train with the default recipe, the paper's and a plain loop for the same time, and score all on what is held out.

    python tests/bench/recipes.py isbi2012 --seconds 2400 --seeds 0,1,2 --recipes default,plain

The data set is a folder with ``train-volume.tif`` and ``train-labels.tif``, of which pages 20 to 23 are held out, or
one with ``split.csv``. Prints a row of a Markdown table for each training, and another where it is scored with
test-time augmentation; at the end the medians.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from commands import run, validation_images

PLAIN_LOOP = Path(__file__).with_name("plain_loop.py")
HELD_OUT_PAGES = "20-23"


class Membranes:
    """ISBI 2012: a stack, scored by its probabilities, whose best threshold counts for V_rand and V_info."""

    metrics = ("pixel_error", "v_rand", "v_info")
    tta = ([], ["--tta"])

    def __init__(self, data: Path, folder: Path) -> None:
        self.scan, self.truth = data / "train-volume.tif", data / "train-labels.tif"
        self.training = [self.scan, self.truth]
        self.validation = HELD_OUT_PAGES
        self.predicted = folder / "probabilities.tif"

    def scores(self, model: Path, more: list[str]) -> dict[str, float]:
        """Predict the held-out pages and return the score of each metric."""
        pages = ["--pages", HELD_OUT_PAGES]
        kind = ["--output-kind", "probabilities"]
        run("infer", self.scan, *pages, "-m", model, "-o", self.predicted, *kind, *more)
        scored, _ = run("evaluate", self.predicted, self.truth, *pages, "--metrics", ",".join(self.metrics))
        return means(scored)


class Images:
    """Images in a folder, of which split.csv names those held out."""

    tta = ([],)

    def __init__(self, data: Path, folder: Path) -> None:
        self.training = [data]
        self.validation = str(data / "split.csv")
        self.images, self.truth = validation_images(data, folder)
        self.metrics = ("dice", "pq") if (data / "instances").is_dir() else ("dice",)
        self.predicted = folder / "predicted"

    def scores(self, model: Path, more: list[str]) -> dict[str, float]:
        """Predict the held-out images and return the score of each metric and class."""
        run("infer", self.images, "-m", model, "-o", f"{self.predicted}/", *more)
        scored, _ = run("evaluate", self.predicted, self.truth, "--metrics", ",".join(self.metrics))
        return means(scored)


def means(scored: dict[str, Any]) -> dict[str, float]:
    """Return the mean of each metric and class of an evaluation."""
    return {
        f"{metric} {name}": summary["mean"] for metric, classes in scored["summary"].items()
        for name, summary in classes.items()
    }  # fmt: skip


def train(recipe: str, data: Membranes | Images, model: Path, options: argparse.Namespace, seed: int) -> int:
    """Train a model and return with about how many patches."""
    common = [*map(str, data.training), "-o", str(model), "--validation", data.validation, "--seed", str(seed)]
    common += ["--features", str(options.features)]
    if recipe == "plain":
        command = [sys.executable, PLAIN_LOOP, *common, "--seconds", str(options.seconds)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])
    document, _ = run("train", *common, "--max-time", f"{options.seconds}s", "--recipe", recipe, "--overwrite")
    return len(document["history"]) * document["patches_per_epoch"]


def compare(options: argparse.Namespace) -> None:
    """Print a row per recipe, seed and way to predict, then the medians."""
    kind = Membranes if (options.data / "train-volume.tif").exists() else Images
    kept: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = kind(options.data, folder)
        for seed in map(int, options.seeds.split(",")):
            for recipe in options.recipes.split(","):
                model = (options.models or folder) / f"{recipe}-{seed}.safetensors"
                patches = train(recipe, data, model, options, seed)
                for more in data.tta:
                    scores = data.scores(model, more)
                    if not kept:
                        print(f"| recipe | seed | patches | {' | '.join(scores)} |\n{'|---' * (3 + len(scores))}|")
                    kept.setdefault((recipe, " ".join(more)), []).append(scores)
                    print_row(recipe, more, seed, patches, scores)
    for (recipe, more), rows in kept.items():
        print_row(recipe, [more], "median", "", {key: statistics.median(row[key] for row in rows) for key in rows[0]})


def print_row(recipe: str, more: list[str], seed: object, patches: object, scores: dict[str, float]) -> None:
    """Print a row of the table."""
    cells = [" ".join([recipe, *more]).strip(), str(seed), str(patches), *(f"{score:.4f}" for score in scores.values())]
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=int, default=2400)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--recipes", default="default,paper,plain")
    parser.add_argument("--models", type=Path, help="a folder that keeps them")
    parser.add_argument("--features", type=int, default=24)
    compare(parser.parse_args())
